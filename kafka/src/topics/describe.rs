use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::{
    BrokerId,
    metadata_response::{MetadataResponsePartition, MetadataResponseTopic},
};

use super::{TopicError, TopicId};
use crate::{Client, Error, ErrorKind};

/// A cluster as its brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Kafka's id of the cluster; `None` if the broker gave none.
    pub id: Option<String>,
    /// Broker that takes the place of the controller. With `KRaft` it only forwards, and changes from call to call.
    pub controller: Option<i32>,
    /// The live brokers, by id.
    pub brokers: BTreeMap<i32, Broker>,
}

/// A live broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Advertised host name or IP address.
    pub host: String,
    /// Advertised port.
    pub port: i32,
    /// `broker.rack`, if set.
    pub rack: Option<String>,
}

/// A topic as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// True for topics of Kafka itself, such as `__consumer_offsets`.
    pub internal: bool,
    /// Its partitions by number.
    pub partitions: BTreeMap<i32, Partition>,
}

/// A partition as the brokers describe it; lists are broker ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The leader; `None` while there is none.
    pub leader: Option<i32>,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Replicas in sync.
    pub isr: Vec<i32>,
    /// Replicas on brokers or disks that are down.
    pub offline: Vec<i32>,
}

impl Topic {
    /// The largest number of replicas of any partition (during a reassignment a partition has more than it will have).
    pub fn replication_factor(&self) -> usize {
        self.partitions.values().map(|p| p.replicas.len()).max().unwrap_or_default()
    }
}

impl Client {
    /// Describes the cluster. One Metadata request.
    ///
    /// # Errors
    /// No broker gave an answer.
    pub async fn describe_cluster(&self) -> Result<Cluster, Error> {
        let metadata = self.metadata(Some(&BTreeSet::new())).await?;
        let broker = |b: kafka_protocol::messages::metadata_response::MetadataResponseBroker| {
            (b.node_id.0, Broker { host: b.host.to_string(), port: b.port, rack: b.rack.map(|r| r.to_string()) })
        };
        Ok(Cluster {
            id: metadata.cluster_id.map(|id| id.to_string()),
            controller: Some(metadata.controller_id.0).filter(|id| *id >= 0),
            brokers: metadata.brokers.into_iter().map(broker).collect(),
        })
    }

    /// Describes every topic that this user may see, internal ones included. One Metadata request.
    ///
    /// # Errors
    /// No broker gave an answer.
    pub async fn list_topics(&self) -> Result<BTreeMap<String, Result<Topic, TopicError>>, Error> {
        let topics: BTreeMap<_, _> = self.metadata(None).await?.topics.into_iter().filter_map(named).collect();
        self.view().leaders.retain(|name, _| topics.contains_key(name));
        Ok(topics)
    }

    /// Describes these topics; each name asked for is in the map. A missing topic is [`TopicError::Absent`]. No topic is
    /// created by asking. One Metadata request.
    pub async fn describe_topics(
        &self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> BTreeMap<String, Result<Topic, TopicError>> {
        let names: BTreeSet<String> = names.into_iter().map(Into::into).collect();
        if names.is_empty() {
            return BTreeMap::new();
        }
        let (mut topics, failure) = match self.metadata(Some(&names)).await {
            Ok(metadata) => {
                let failure = ErrorKind::Malformed("no answer for this topic".to_owned());
                (
                    metadata.topics.into_iter().filter_map(named).collect(),
                    Error::new("Metadata", self.cluster_name(), failure),
                )
            }
            Err(error) => (BTreeMap::new(), error),
        };
        for name in names {
            topics.entry(name).or_insert_with(|| Err(failure.clone().into()));
        }
        topics
    }
}

fn named(topic: MetadataResponseTopic) -> Option<(String, Result<Topic, TopicError>)> {
    let name = topic.name.as_ref()?.to_string();
    Some((name, described(topic)))
}

fn described(topic: MetadataResponseTopic) -> Result<Topic, TopicError> {
    TopicError::check(topic.error_code, None, "Describe")?;
    let id = TopicId::known(topic.topic_id).ok_or_else(|| {
        let kind = ErrorKind::Malformed("a topic without an id; the brokers' metadata.version is too old".to_owned());
        Error::new("Metadata", "broker", kind)
    })?;
    Ok(Topic { id, internal: topic.is_internal, partitions: topic.partitions.into_iter().map(partition).collect() })
}

// Codes of a partition only say what its lists say too (no leader, a replica or listener missing).
fn partition(p: MetadataResponsePartition) -> (i32, Partition) {
    let ids = |ids: Vec<BrokerId>| ids.into_iter().map(|id| id.0).collect();
    let leader = Some(p.leader_id.0).filter(|id| *id >= 0);
    let (replicas, isr, offline) = (ids(p.replica_nodes), ids(p.isr_nodes), ids(p.offline_replicas));
    (p.partition_index, Partition { leader, replicas, isr, offline })
}
