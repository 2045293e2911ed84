//! Where the logs of partitions begin and end.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, ListOffsetsRequest, ListOffsetsResponse, TopicName,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
    protocol::StrBytes,
};

use crate::{BrokerError, Client, Error, ErrorKind, TopicError, api::Api, client::ATTEMPTS};

/// Topic → its partitions.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

/// Topic → partition → something about it.
pub type PartitionMap<V> = BTreeMap<String, BTreeMap<i32, V>>;

/// Which offset of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset that can be read.
    Earliest,
    /// The offset after the last record. With [`Isolation::ReadCommitted`], the first offset of the oldest open transaction.
    Latest,
    /// The first record whose timestamp is not before this, in milliseconds since 1970.
    Timestamp(i64),
}

/// Whether records of open transactions count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// They count.
    #[default]
    ReadUncommitted,
    /// They, and all behind them, do not.
    ReadCommitted,
}

/// Why nothing is known about one partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// There is no such topic or no such partition.
    #[error("the partition does not exist")]
    Absent,
    /// The broker's answer for this partition.
    #[error("{0}")]
    Broker(BrokerError),
    /// The request that carried this partition brought no usable answer, or the partition has no leader.
    #[error(transparent)]
    Request(#[from] Error),
}

impl PartitionError {
    /// Whether the same may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Broker(error) => error.is_retryable(),
            Self::Request(error) => error.is_retryable(),
        }
    }

    pub(crate) fn check(code: i16) -> Result<(), Self> {
        match BrokerError::from_code(code, None) {
            None => Ok(()),
            Some(BrokerError { code: ResponseError::UnknownTopicOrPartition, .. }) => Err(Self::Absent),
            Some(error) => Err(Self::Broker(error)),
        }
    }
}

type Offsets = PartitionMap<Result<Option<i64>, PartitionError>>;

impl Client {
    /// Looks up one offset of each partition; each partition asked for is in the map. `None`: no record is that young.
    ///
    /// One `ListOffsets` request per broker that leads any of them, all brokers at the same time. Leaders are remembered;
    /// partitions that have moved are looked up and asked again.
    pub async fn list_offsets(&self, partitions: &Partitions, spec: OffsetSpec, isolation: Isolation) -> Offsets {
        let mut results = Offsets::new();
        let mut open = partitions.clone();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.options().backoff(attempt)).await;
            }
            let mut answered = Offsets::new();
            let routes = self.leaders(&open, &mut answered).await;
            let asked = routes.iter().map(async |(leader, partitions)| {
                (partitions, self.at_node(*leader, &request(partitions, spec, isolation)).await)
            });
            for (partitions, outcome) in join_all(asked).await {
                collect(partitions, outcome, &mut answered);
            }
            open = self.moved(&answered);
            for (topic, offsets) in answered {
                results.entry(topic).or_default().extend(offsets);
            }
            if open.is_empty() {
                break;
            }
        }
        results
    }

    /// Whether any partition of the topic holds a record (or a marker of a transaction, which cannot be told apart).
    ///
    /// # Errors
    /// The topic could not be described, or one of its partitions not be read while none of the others holds a record.
    pub async fn holds_records(&self, topic: &str) -> Result<bool, TopicError> {
        let Some(described) = self.describe_topics([topic]).await.remove(topic) else { return Err(TopicError::Absent) };
        let partitions = Partitions::from([(topic.to_owned(), described?.partitions.into_keys().collect())]);
        let first = self.list_offsets(&partitions, OffsetSpec::Earliest, Isolation::ReadUncommitted);
        let end = self.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted);
        let (first, end) = tokio::join!(first, end);
        let mut unknown = None;
        for (first, end) in first.into_values().flatten().zip(end.into_values().flatten()) {
            match (first.1, end.1) {
                (Ok(first), Ok(end)) if first < end => return Ok(true),
                (Ok(_), Ok(_)) => {}
                (Err(error), _) | (_, Err(error)) => unknown = Some(error),
            }
        }
        match unknown {
            None => Ok(false),
            Some(PartitionError::Absent) => Err(TopicError::Absent),
            Some(PartitionError::Broker(error)) => Err(TopicError::Broker(error)),
            Some(PartitionError::Request(error)) => Err(TopicError::Request(error)),
        }
    }

    /// Sorts partitions by leader; those without one get their error in `failed`.
    pub(crate) async fn leaders(&self, partitions: &Partitions, failed: &mut Offsets) -> BTreeMap<i32, Partitions> {
        let unknown: BTreeSet<String> = {
            let view = self.view();
            let known =
                |topic: &String, partition: &i32| view.leaders.get(topic).is_some_and(|l| l.contains_key(partition));
            let unknown = partitions.iter().filter(|(topic, ids)| !ids.iter().all(|id| known(topic, id)));
            unknown.map(|(topic, _)| topic.clone()).collect()
        };
        let described = self.describe_topics(unknown).await;
        let mut routes: BTreeMap<i32, Partitions> = BTreeMap::new();
        let view = self.view();
        for (topic, ids) in partitions {
            for id in ids {
                if let Some(leader) = view.leaders.get(topic).and_then(|leaders| leaders.get(id)) {
                    routes.entry(*leader).or_default().entry(topic.clone()).or_default().insert(*id);
                    continue;
                }
                let error = match described.get(topic) {
                    Some(Ok(topic)) if !topic.partitions.contains_key(id) => PartitionError::Absent,
                    Some(Err(TopicError::Absent)) => PartitionError::Absent,
                    Some(Err(TopicError::Request(error))) => PartitionError::Request(error.clone()),
                    Some(Err(
                        TopicError::Broker(error) | TopicError::Unauthorized { error, .. } | TopicError::Invalid(error),
                    )) => PartitionError::Broker(error.clone()),
                    _ => {
                        let reason = format!("partition {id} of {topic} has no leader");
                        PartitionError::Request(self.unrouted(ListOffsetsRequest::NAME, reason))
                    }
                };
                failed.entry(topic.clone()).or_default().insert(*id, Err(error));
            }
        }
        routes
    }

    /// Partitions that another broker leads by now, or will in a moment; their leader is forgotten.
    fn moved(&self, answered: &Offsets) -> Partitions {
        use ResponseError as E;
        let mut view = self.view();
        let mut moved = Partitions::new();
        for (topic, offsets) in answered {
            for (id, offset) in offsets {
                let again = match offset {
                    Err(PartitionError::Broker(error)) => matches!(
                        error.code,
                        E::NotLeaderOrFollower
                            | E::FencedLeaderEpoch
                            | E::UnknownLeaderEpoch
                            | E::LeaderNotAvailable
                            | E::OffsetNotAvailable
                    ),
                    // The answer of a broker that no longer has it; the brokers' metadata decides.
                    Err(PartitionError::Absent) => {
                        view.leaders.get(topic).is_some_and(|leaders| leaders.contains_key(id))
                    }
                    Err(PartitionError::Request(_)) | Ok(_) => false,
                };
                if again {
                    moved.entry(topic.clone()).or_default().insert(*id);
                }
                if (again || matches!(offset, Err(PartitionError::Request(_))))
                    && let Some(leaders) = view.leaders.get_mut(topic)
                {
                    leaders.remove(id);
                }
            }
        }
        moved
    }
}

fn request(partitions: &Partitions, spec: OffsetSpec, isolation: Isolation) -> ListOffsetsRequest {
    let timestamp = match spec {
        OffsetSpec::Earliest => -2,
        OffsetSpec::Latest => -1,
        // Negative times would be read as one of Kafka's special values.
        OffsetSpec::Timestamp(milliseconds) => milliseconds.max(0),
    };
    let topic = |(name, ids): (&String, &BTreeSet<i32>)| {
        let partition = |id: &i32| ListOffsetsPartition::default().with_partition_index(*id).with_timestamp(timestamp);
        ListOffsetsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.clone())))
            .with_partitions(ids.iter().map(partition).collect())
    };
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(i8::from(isolation == Isolation::ReadCommitted))
        .with_topics(partitions.iter().map(topic).collect())
}

/// One result per partition asked for, whatever the broker answered.
fn collect(partitions: &Partitions, outcome: Result<ListOffsetsResponse, Error>, into: &mut Offsets) {
    let missing = match outcome {
        Ok(response) => {
            for topic in response.topics {
                let offsets = topic.partitions.into_iter().map(|p| {
                    (
                        p.partition_index,
                        PartitionError::check(p.error_code).map(|()| Some(p.offset).filter(|o| *o >= 0)),
                    )
                });
                into.entry(topic.name.to_string()).or_default().extend(offsets);
            }
            Error::new(
                ListOffsetsRequest::NAME,
                "leader",
                ErrorKind::Malformed("no answer for this partition".to_owned()),
            )
        }
        Err(error) => error,
    };
    for (topic, ids) in partitions {
        let offsets = into.entry(topic.clone()).or_default();
        for id in ids {
            offsets.entry(*id).or_insert_with(|| Err(missing.clone().into()));
        }
    }
}
