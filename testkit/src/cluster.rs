//! Three brokers that keep copies of each other's data, and faults of one at a time.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::records::read_all;
use crate::{Broker, Link, Record, unique, wait_until};

const ANSWER: Duration = Duration::from_secs(10);
const RECOVERY: Duration = Duration::from_mins(1);
/// As the launcher configures it.
const OFFSETS_PARTITIONS: u32 = 3;

/// A cluster of three brokers, with the ids 1 to 3. Kafka's own topics have a copy on each; two must have what is acknowledged.
#[derive(Clone, Debug)]
pub struct KafkaCluster {
    brokers: Vec<Broker>,
    /// Where each broker's clients come by, and where it listens for them.
    links: Vec<(String, String)>,
}

impl KafkaCluster {
    pub(crate) fn attach(brokers: Vec<Broker>, links: Vec<(String, String)>) -> Self {
        Self { brokers, links }
    }

    /// The addresses of all brokers, separated by commas.
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// The broker with this id.
    ///
    /// # Errors
    /// There is none.
    pub fn broker(&self, id: i32) -> Result<&Broker> {
        let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        index.and_then(|index| self.brokers.get(index)).with_context(|| format!("there is no broker {id}"))
    }

    /// Every broker, in the order of their ids.
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// A network of its own between the cluster and those clients that are given its addresses, to be cut by the test. There can be one
    /// at a time.
    ///
    /// # Errors
    /// Somebody else listens there.
    pub async fn link(&self) -> Result<Link> {
        Link::open(&self.links).await
    }

    /// A topic or group name that no other test uses.
    pub fn unique(&self, base: &str) -> String {
        unique(base)
    }

    /// Creates a topic with this many copies of each partition, and returns once every partition has all of them.
    ///
    /// # Errors
    /// The cluster does not answer or refuses.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replicas: i32,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        let attempt = || format!("creating the topic {name}");
        let admin: AdminClient<DefaultClientContext> = self.config().create().with_context(attempt)?;
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        for result in admin.create_topics([&topic], &options).await.with_context(attempt)? {
            result.map_err(|(_, code)| anyhow!("{}: the cluster refuses: {code}", attempt()))?;
        }
        self.wait_in_sync(name).await
    }

    /// The id of the broker that leads this partition.
    ///
    /// # Errors
    /// The cluster does not answer, or the partition has no leader.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        let partitions = self.partitions(topic).await?;
        let found = partitions.iter().find(|found| found.id == partition);
        found
            .filter(|found| found.leader > 0)
            .map(|found| found.leader)
            .with_context(|| format!("{topic} {partition} has no leader: {partitions:?}"))
    }

    /// The ids of the brokers whose copy of this partition is complete.
    ///
    /// # Errors
    /// The cluster does not answer, or the partition does not exist.
    pub async fn in_sync(&self, topic: &str, partition: i32) -> Result<Vec<i32>> {
        let partitions = self.partitions(topic).await?;
        let found = partitions.into_iter().find(|found| found.id == partition);
        Ok(found.with_context(|| format!("{topic} has no partition {partition}"))?.in_sync)
    }

    /// The id of the broker that coordinates this group: the leader of the partition that holds its offsets.
    ///
    /// # Errors
    /// The cluster does not answer, or no group has ever been there.
    pub async fn coordinator(&self, group: &str) -> Result<i32> {
        // Java's hash of a string, without its sign.
        let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
        let partition = (hash.cast_unsigned() & 0x7fff_ffff) % OFFSETS_PARTITIONS;
        self.leader("__consumer_offsets", i32::try_from(partition)?).await
    }

    /// Waits until every copy of every partition of this topic is complete.
    ///
    /// # Errors
    /// They are not within a minute.
    pub async fn wait_in_sync(&self, topic: &str) -> Result<()> {
        wait_until(&format!("all copies of {topic} are complete"), RECOVERY, async || {
            let partitions = self.partitions(topic).await?;
            let behind: Vec<_> = partitions.iter().filter(|found| found.in_sync.len() < found.replicas).collect();
            ensure!(!partitions.is_empty() && behind.is_empty(), "behind: {behind:?}");
            Ok(())
        })
        .await
    }

    /// As [`Broker::read_all`].
    ///
    /// # Errors
    /// As [`Broker::read_all`].
    pub async fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        read_all(self.config(), topic).await
    }

    /// Starts what is stopped and resumes what is frozen, and waits until all copies of all topics are complete.
    ///
    /// # Errors
    /// They are not within a minute.
    pub async fn restore(&self) -> Result<()> {
        // All at once: a broker serves when most of them run. Refused where there is nothing to do; whether all is well shows below.
        let restored = self.brokers.iter().map(async |broker| {
            let _refused = broker.resume().await;
            let _refused = broker.start().await;
        });
        futures::future::join_all(restored).await;
        wait_until("three brokers serve, with complete copies of all topics", RECOVERY, async || {
            let (brokers, topics) = self.metadata(None).await?;
            ensure!(brokers == self.brokers.len(), "{brokers} brokers are known");
            for (topic, partitions) in topics {
                let behind: Vec<_> = partitions
                    .iter()
                    .filter(|found| found.leader < 0 || found.in_sync.len() < found.replicas)
                    .collect();
                ensure!(behind.is_empty(), "{topic} is behind: {behind:?}");
            }
            Ok(())
        })
        .await
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<Partition>> {
        let (_, topics) = self.metadata(Some(topic)).await?;
        topics.into_iter().find(|(name, _)| name == topic).map(|(_, partitions)| partitions).context("no such topic")
    }

    /// How many brokers there are, and the topics with their partitions.
    async fn metadata(&self, topic: Option<&str>) -> Result<(usize, Vec<(String, Vec<Partition>)>)> {
        let (config, topic) = (self.config(), topic.map(ToOwned::to_owned));
        let asked = tokio::task::spawn_blocking(move || {
            let client: BaseConsumer = config.create()?;
            let metadata = client.fetch_metadata(topic.as_deref(), ANSWER)?;
            let topics = metadata
                .topics()
                .iter()
                .map(|topic| (topic.name().to_owned(), topic.partitions().iter().map(Partition::of).collect()));
            anyhow::Ok((metadata.brokers().len(), topics.collect()))
        });
        asked.await?.context("asking the cluster for its metadata")
    }
}

#[derive(Debug)]
struct Partition {
    id: i32,
    /// Negative if there is none.
    leader: i32,
    replicas: usize,
    in_sync: Vec<i32>,
}

impl Partition {
    fn of(found: &rdkafka::metadata::MetadataPartition) -> Self {
        Self { id: found.id(), leader: found.leader(), replicas: found.replicas().len(), in_sync: found.isr().to_vec() }
    }
}
