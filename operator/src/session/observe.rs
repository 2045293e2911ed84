//! Looks at Kafka: few requests, each answer a value or the reason why there is none.

use futures::future::join;
use mq_core::{
    condition::{Observed, Unknown},
    reason::Reason,
    topic::{ConfigEntry, DesiredTopic, TopicState, Topics, Usage},
};
use mq_kafka::{
    Client, ConfigSource, ErrorKind, Isolation, OffsetSpec, PartitionError, PartitionMap, Partitions, Topic, TopicError,
};
use std::collections::{BTreeMap, BTreeSet};

type Config = BTreeMap<String, ConfigEntry>;

/// A cluster that answered.
pub(super) struct Cluster {
    pub(super) id: String,
    pub(super) brokers: usize,
}

pub(super) async fn cluster(client: &Client) -> Observed<Cluster> {
    let failed = |error: mq_kafka::Error| Unknown::new(unanswered(&error), error.to_string());
    let cluster = client.describe_cluster().await.map_err(failed)?;
    let nameless = || Unknown::new(Reason::ClusterUnreachable, "the brokers name no cluster id");
    let id = cluster.id.ok_or_else(nameless)?;
    Ok(Cluster { id, brokers: cluster.brokers.len() })
}

/// Why there was no answer. Of several brokers, the one that was reached the farthest tells most.
pub(super) fn unanswered(error: &mq_kafka::Error) -> Reason {
    match &error.kind {
        ErrorKind::NoBroker(tried) => {
            let reasons = tried.iter().map(unanswered);
            reasons.max_by_key(|reason| farthest(*reason)).unwrap_or(Reason::ClusterUnreachable)
        }
        ErrorKind::Authentication(_) | ErrorKind::BrokerNotTrusted(_) => Reason::AuthenticationFailed,
        ErrorKind::Tls(_) => Reason::TlsFailed,
        ErrorKind::Unresolved(_) => Reason::AddressNotResolved,
        _ => Reason::ClusterUnreachable,
    }
}

fn farthest(reason: Reason) -> u8 {
    match reason {
        Reason::AddressNotResolved => 0,
        Reason::TlsFailed => 2,
        Reason::AuthenticationFailed => 3,
        _ => 1,
    }
}

/// The topics of `desired`, and of `others` no more than that they exist and how large they are.
pub(super) async fn topics(client: &Client, desired: &[DesiredTopic], others: &BTreeSet<String>) -> Topics {
    let names: BTreeSet<&str> = desired.iter().map(|topic| topic.topic.as_str()).collect();
    let described = client.describe_topics(names.iter().copied().chain(others.iter().map(String::as_str))).await;
    let existing = described.iter().filter(|(name, topic)| topic.is_ok() && names.contains(name.as_str()));
    let existing = existing.map(|(name, _)| name);
    let guarded = desired.iter().filter(|topic| topic.needs_usage()).filter_map(|topic| {
        let found = described.get(&topic.topic)?.as_ref().ok()?;
        Some((topic.topic.as_str(), found))
    });
    let (mut configs, mut usage) = join(configs(client, existing.collect()), usage(client, guarded.collect())).await;
    let by_name = described.iter().map(|(name, topic)| {
        let state = match topic {
            Ok(topic) => state(topic, configs.remove(name), usage.remove(name.as_str())).map(Some),
            Err(TopicError::Absent) => Ok(None),
            Err(error) => Err(unknown(error)),
        };
        (name.clone(), state)
    });
    Topics { by_name: by_name.collect(), otherwise: partial("the topic was not asked for") }
}

fn state(topic: &Topic, config: Option<Observed<Config>>, usage: Option<Observed<Usage>>) -> Observed<TopicState> {
    let partitions = i32::try_from(topic.partitions.len()).ok();
    let replicas = topic.partitions.values().map(|partition| partition.replicas.len()).min();
    Ok(TopicState {
        id: topic.id.to_string(),
        partitions: partitions.filter(|n| *n > 0).ok_or_else(|| partial("the number of partitions is not known"))?,
        replication_factor: replicas
            .and_then(|n| i16::try_from(n).ok())
            .ok_or_else(|| partial("the number of replicas is not known"))?,
        config: config.unwrap_or_else(|| Err(partial("the configuration is not known"))),
        usage: usage.unwrap_or_else(|| Err(partial("it is not known what uses the topic"))),
    })
}

async fn configs(client: &Client, names: Vec<&String>) -> BTreeMap<String, Observed<Config>> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    let entry = |found: mq_kafka::ConfigEntry| ConfigEntry {
        value: found.value,
        topic_level: found.source == ConfigSource::Topic,
    };
    let described = client.describe_configs(names).await.into_iter().map(|(name, configs)| {
        let configs = configs.map(|all| all.into_iter().map(|(key, found)| (key, entry(found))).collect());
        (name, configs.map_err(|error| unknown(&error)))
    });
    described.collect()
}

/// Records and users of topics that shall be deleted.
async fn usage<'a>(client: &Client, topics: BTreeMap<&'a str, &Topic>) -> BTreeMap<&'a str, Observed<Usage>> {
    if topics.is_empty() {
        return BTreeMap::new();
    }
    let partitions: Partitions =
        topics.iter().map(|(name, topic)| ((*name).to_owned(), topic.partitions.keys().copied().collect())).collect();
    let first = client.list_offsets(&partitions, OffsetSpec::Earliest, Isolation::ReadUncommitted);
    let end = client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted);
    let ((first, end), users) = join(join(first, end), client.topic_users()).await;
    let groups = |name: &str| -> Observed<Vec<String>> {
        let users = users.as_ref().map_err(|error| partial(error.to_string()))?;
        Ok(users.of(name).map_err(partial)?.into_iter().map(str::to_owned).collect())
    };
    let usage = |name: &str, topic: &Topic| {
        let mut records = 0_i64;
        for partition in topic.partitions.keys() {
            let held = offset(&end, name, *partition)?.saturating_sub(offset(&first, name, *partition)?);
            records = records.saturating_add(held);
        }
        Ok(Usage { records, groups: groups(name)? })
    };
    topics.into_iter().map(|(name, topic)| (name, usage(name, topic))).collect()
}

fn offset(offsets: &PartitionMap<Result<Option<i64>, PartitionError>>, topic: &str, partition: i32) -> Observed<i64> {
    match offsets.get(topic).and_then(|partitions| partitions.get(&partition)) {
        Some(Ok(Some(offset))) => Ok(*offset),
        Some(Err(error)) => Err(partial(format!("partition {partition} of {topic}: {error}"))),
        Some(Ok(None)) | None => Err(partial(format!("partition {partition} of {topic}: its offsets are not known"))),
    }
}

fn partial(message: impl Into<String>) -> Unknown {
    Unknown::new(Reason::PartialObservation, message)
}

fn unknown(error: &TopicError) -> Unknown {
    let reason = match error {
        TopicError::Unauthorized { .. } => Reason::NotAuthorized,
        TopicError::Request(error) => unanswered(error),
        _ => Reason::PartialObservation,
    };
    Unknown::new(reason, error.to_string())
}
