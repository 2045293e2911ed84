use std::collections::BTreeMap;

use kafka_protocol::{
    messages::{
        GroupId, OffsetFetchRequest, offset_fetch_request::OffsetFetchRequestGroup,
        offset_fetch_response::OffsetFetchResponseGroup,
    },
    protocol::StrBytes,
};

use super::GroupError;
use crate::{Client, PartitionError, PartitionMap};

/// What a group has committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record to handle.
    pub offset: i64,
    /// Leader epoch of the last handled record, if the client said.
    pub leader_epoch: Option<i32>,
    /// What the client wrote beside the offset; empty if nothing.
    pub metadata: String,
}

/// Everything that a group has committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupOffsets {
    /// Topic → partition → committed offset; only partitions with a commit, or with an error in its place.
    pub partitions: PartitionMap<Result<CommittedOffset, PartitionError>>,
}

impl GroupOffsets {
    /// The committed offset of one partition; `None` if the group has never committed it (or the commit has expired).
    ///
    /// # Errors
    /// The partition could not be read: its offset is not known.
    pub fn committed(&self, topic: &str, partition: i32) -> Result<Option<&CommittedOffset>, &PartitionError> {
        self.of(topic).committed(partition)
    }

    /// What the group has committed of one topic: for whoever asks for many of its partitions.
    pub fn of(&self, topic: &str) -> TopicOffsets<'_> {
        TopicOffsets(self.partitions.get(topic))
    }
}

/// What a group has committed of one topic; by default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct TopicOffsets<'a>(Option<&'a BTreeMap<i32, Result<CommittedOffset, PartitionError>>>);

impl<'a> TopicOffsets<'a> {
    /// The committed offset of one partition; `None` if the group has never committed it (or the commit has expired).
    ///
    /// # Errors
    /// The partition could not be read: its offset is not known.
    pub fn committed(self, partition: i32) -> Result<Option<&'a CommittedOffset>, &'a PartitionError> {
        self.0.and_then(|partitions| partitions.get(&partition)).map(Result::as_ref).transpose()
    }
}

impl Client {
    /// Reads the committed offsets of these groups, all topics; each group asked for is in the map. A group that does not
    /// exist has committed nothing.
    ///
    /// One `OffsetFetch` request per coordinator for as many groups as fill half of [`crate::Options::max_response_bytes`] with what
    /// they answered last, at most 10,000. For groups that are new to this client, or failed, one per 1,000, and a `FindCoordinator`
    /// before. An answer that cannot be read is asked for in halves. To compute lag, call this before [`Client::list_offsets`]: the other way round a moving group seems to be ahead
    /// of the end.
    pub async fn committed_offsets(
        &self,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> BTreeMap<String, Result<GroupOffsets, GroupError>> {
        let request = |groups: &[String]| {
            let group = |id: &String| {
                OffsetFetchRequestGroup::default()
                    .with_group_id(GroupId(StrBytes::from_string(id.clone())))
                    .with_topics(None)
            };
            OffsetFetchRequest::default().with_groups(groups.iter().map(group).collect())
        };
        let read = self
            .ask_coordinators(
                groups.into_iter().map(Into::into),
                |known| known.committed,
                request,
                |response| {
                    response.groups.into_iter().map(|group| (group.group_id.to_string(), offsets(group))).collect()
                },
            )
            .await;
        let mut view = self.view();
        for (group, offsets) in &read {
            if let (Ok(offsets), Some(coordinator)) = (offsets, view.coordinators.get_mut(group)) {
                coordinator.committed = Some(group.len() + length(offsets));
            }
        }
        read
    }
}

fn offsets(group: OffsetFetchResponseGroup) -> Result<GroupOffsets, GroupError> {
    GroupError::check(group.error_code, None)?;
    let mut offsets = GroupOffsets::default();
    for topic in group.topics {
        let mut partitions = BTreeMap::new();
        for p in topic.partitions {
            let committed = PartitionError::check(p.error_code).map(|()| CommittedOffset {
                offset: p.committed_offset,
                leader_epoch: Some(p.committed_leader_epoch).filter(|epoch| *epoch >= 0),
                metadata: p.metadata.map(|m| m.to_string()).unwrap_or_default(),
            });
            // -1 is Kafka's way of saying that nothing is committed.
            if !matches!(&committed, Ok(committed) if committed.offset < 0) {
                partitions.insert(p.partition_index, committed);
            }
        }
        offsets.partitions.insert(topic.name.to_string(), partitions);
    }
    Ok(offsets)
}

/// Bytes that this took in the answer, or a few more.
fn length(offsets: &GroupOffsets) -> usize {
    let committed = |committed: &Result<CommittedOffset, _>| {
        24 + committed.as_ref().map_or(0, |committed: &CommittedOffset| committed.metadata.len())
    };
    let topic = |(name, partitions): (&String, &BTreeMap<i32, _>)| {
        name.len() + 8 + partitions.values().map(committed).sum::<usize>()
    };
    8 + offsets.partitions.iter().map(topic).sum::<usize>()
}
