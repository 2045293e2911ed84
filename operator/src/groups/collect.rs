//! Reads the offsets of many groups in few requests.
//!
//! Per cycle: one `OffsetFetch` per coordinator for all groups, then one `ListOffsets` per leader. Committed offsets first, ends
//! second: the other way round a busy group would seem to be ahead of its log. What changes rarely (partitions of topics, log
//! starts, members) is read in turns, so that no cycle sends more than three requests to a broker for it all.

use std::collections::{BTreeMap, BTreeSet};

use mq_core::{
    lag::{Reading, ResetPolicy, TopicPartition},
    scaling::Members,
};
use mq_kafka::{
    Client, Group, GroupError, GroupOffsets, GroupState, Isolation, OffsetSpec, PartitionError, PartitionMap,
    Partitions, TopicError,
};

/// What a cycle has to read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Group → its topics and where it starts without a commit.
    pub(super) groups: BTreeMap<String, (BTreeSet<String>, ResetPolicy)>,
    /// The groups whose members are looked at.
    pub(super) members: BTreeSet<String>,
    /// Read the partitions of all topics anew.
    pub(super) topics_anew: bool,
    /// Read all log starts anew.
    pub(super) starts_anew: bool,
}

/// What was read, and what earlier cycles read of the things that change rarely.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    partitions: BTreeMap<String, Result<BTreeSet<i32>, String>>,
    starts: PartitionMap<i64>,
    committed: BTreeMap<String, Result<GroupOffsets, GroupError>>,
    ends: PartitionMap<Result<Option<i64>, PartitionError>>,
    members: BTreeMap<String, Result<Group, GroupError>>,
}

impl Offsets {
    /// Reads. Whatever fails is a value in the readings.
    pub(super) async fn read(&mut self, client: &Client, wanted: &Wanted) {
        let topics: BTreeSet<&String> = wanted.groups.values().flat_map(|(topics, _)| topics).collect();
        self.read_partitions(client, wanted, &topics).await;
        let committed = client.committed_offsets(wanted.groups.keys().cloned());
        let members = async {
            if wanted.members.is_empty() {
                return BTreeMap::new();
            }
            client.describe_groups(wanted.members.iter().cloned()).await
        };
        (self.committed, self.members) = futures::future::join(committed, members).await;
        let partitions: Partitions = topics
            .iter()
            .filter_map(|topic| Some(((*topic).clone(), self.partitions.get(*topic)?.clone().ok()?)))
            .collect();
        self.ends = if partitions.is_empty() {
            PartitionMap::new()
        } else {
            client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await
        };
        self.read_starts(client, wanted, &partitions).await;
    }

    async fn read_partitions(&mut self, client: &Client, wanted: &Wanted, topics: &BTreeSet<&String>) {
        self.partitions.retain(|topic, _| topics.contains(topic));
        let ask: BTreeSet<&String> = topics
            .iter()
            .copied()
            .filter(|topic| wanted.topics_anew || !matches!(self.partitions.get(*topic), Some(Ok(_))))
            .chain(self.vanished())
            .filter(|topic| topics.contains(topic))
            .collect();
        if ask.is_empty() {
            return;
        }
        for (topic, described) in client.describe_topics(ask.into_iter().cloned().collect::<Vec<_>>()).await {
            let partitions = match described {
                Ok(described) => Ok(described.partitions.into_keys().collect()),
                Err(TopicError::Absent) => Err("the topic does not exist".to_owned()),
                // The partitions of before are asked for their ends; if the brokers are away, that fails and says so.
                Err(error) if matches!(self.partitions.get(&topic), Some(Ok(_))) => {
                    tracing::debug!(topic, %error, "partitions of a topic not read");
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            self.partitions.insert(topic, partitions);
        }
    }

    /// Topics of which a partition was gone in the cycle before.
    fn vanished(&self) -> impl Iterator<Item = &String> {
        let gone = |ends: &BTreeMap<i32, Result<_, PartitionError>>| {
            ends.values().any(|end| matches!(end, Err(PartitionError::Absent)))
        };
        self.ends.iter().filter(move |(_, ends)| gone(ends)).map(|(topic, _)| topic)
    }

    /// Log starts are needed where nothing is committed and the group begins with the earliest record; the rest in its turn.
    async fn read_starts(&mut self, client: &Client, wanted: &Wanted, partitions: &Partitions) {
        let ask = if wanted.starts_anew { partitions.clone() } else { self.missing_starts(wanted) };
        if ask.is_empty() {
            return;
        }
        let found = client.list_offsets(&ask, OffsetSpec::Earliest, Isolation::ReadUncommitted).await;
        if wanted.starts_anew {
            self.starts.clear();
        }
        for (topic, starts) in found {
            let known = self.starts.entry(topic).or_default();
            known.extend(starts.into_iter().filter_map(|(partition, start)| Some((partition, start.ok()??))));
        }
    }

    fn missing_starts(&self, wanted: &Wanted) -> Partitions {
        let mut missing = Partitions::new();
        for (group, (topics, reset)) in &wanted.groups {
            let Some(Ok(committed)) = self.committed.get(group) else { continue };
            if *reset != ResetPolicy::Earliest {
                continue;
            }
            for topic in topics {
                for partition in self.partitions.get(topic).and_then(|found| found.as_ref().ok()).into_iter().flatten()
                {
                    let known = self.starts.get(topic).is_some_and(|starts| starts.contains_key(partition));
                    if !known && matches!(committed.committed(topic, *partition), Ok(None)) {
                        missing.entry(topic.clone()).or_default().insert(*partition);
                    }
                }
            }
        }
        missing
    }

    /// What was read for one group, all partitions of its topics.
    pub(super) fn readings(&self, group: &str, topics: &BTreeSet<String>) -> Vec<Reading> {
        let committed = self.committed.get(group);
        let mut readings = Vec::new();
        for topic in topics {
            let name: std::sync::Arc<str> = topic.as_str().into();
            let failed = |why: &str| Reading {
                of: TopicPartition { topic: name.clone(), partition: 0 },
                committed: Ok(None),
                end: Err(why.to_owned()),
                start: None,
            };
            let partitions = match self.partitions.get(topic) {
                Some(Ok(partitions)) if !partitions.is_empty() => partitions,
                Some(Err(why)) => {
                    readings.push(failed(why));
                    continue;
                }
                Some(Ok(_)) | None => {
                    readings.push(failed("its partitions are not known"));
                    continue;
                }
            };
            readings.extend(partitions.iter().map(|partition| Reading {
                of: TopicPartition { topic: name.clone(), partition: *partition },
                committed: committed_of(committed, topic, *partition),
                end: end_of(&self.ends, topic, *partition),
                start: self.starts.get(topic).and_then(|starts| starts.get(partition)).copied(),
            }));
        }
        readings
    }

    /// What was seen of the members, if they were asked for and the answer says it all.
    pub(super) fn members(&self, group: &str, topics: &BTreeSet<String>) -> Option<Members> {
        let group = match self.members.get(group)? {
            Ok(group) => group,
            Err(GroupError::Absent) => {
                return Some(Members { count: 0, stable: true, unowned: self.count(topics, None) });
            }
            Err(error) => {
                tracing::debug!(group, %error, "members not read");
                return None;
            }
        };
        let stable = matches!(group.state, GroupState::Stable | GroupState::Empty)
            && group.members.iter().all(|member| member.assigned.is_some());
        let mut owned = Partitions::new();
        for (topic, partitions) in group.members.iter().filter_map(|member| member.assigned.as_ref()).flatten() {
            owned.entry(topic.clone()).or_default().extend(partitions);
        }
        let count = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
        Some(Members { count, stable, unowned: self.count(topics, Some(&owned)) })
    }

    /// Partitions of these topics that are not among the owned.
    fn count(&self, topics: &BTreeSet<String>, owned: Option<&Partitions>) -> u32 {
        let is_owned = |topic: &String, partition: &i32| {
            owned.and_then(|owned| owned.get(topic)).is_some_and(|partitions| partitions.contains(partition))
        };
        let unowned = topics.iter().flat_map(|topic| {
            let partitions = self.partitions.get(topic).and_then(|found| found.as_ref().ok()).into_iter().flatten();
            partitions.filter(move |partition| !is_owned(topic, partition))
        });
        u32::try_from(unowned.count()).unwrap_or(u32::MAX)
    }
}

fn committed_of(
    group: Option<&Result<GroupOffsets, GroupError>>,
    topic: &str,
    partition: i32,
) -> Result<Option<i64>, String> {
    match group {
        Some(Ok(offsets)) => match offsets.committed(topic, partition) {
            Ok(committed) => Ok(committed.map(|committed| committed.offset)),
            Err(error) => Err(error.to_string()),
        },
        // A group that nobody joined yet.
        Some(Err(GroupError::Absent)) => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the group was not asked for".to_owned()),
    }
}

fn end_of(
    ends: &PartitionMap<Result<Option<i64>, PartitionError>>,
    topic: &str,
    partition: i32,
) -> Result<i64, String> {
    match ends.get(topic).and_then(|partitions| partitions.get(&partition)) {
        Some(Ok(Some(end))) => Ok(*end),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(None)) | None => Err("the broker names no end".to_owned()),
    }
}
