//! A topic with three copies, a producer that writes to it without a pause, and the members of a group that read it.

use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Config, Options, Producer};
use mq_testkit::{Broker, KafkaCluster, TestEnv, wait_until};
use mq_tests::{Group, Member, Sent, Writer, Written, check_handled, check_written};

use super::commits;

/// Long enough for what happens at all on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const KEYS: usize = 20;
const PAUSE_MS: usize = 50;
const PAUSE: Duration = Duration::from_millis(PAUSE_MS as u64);
const SETTINGS: &str =
    r#"{"sessionTimeoutMs": 6000, "maxPollIntervalMs": 6000, "autoCommitIntervalMs": 500, "maxPollRecords": 50}"#;
/// A member that cannot commit goes on for as long as its session lasts, after the last commit that got through an interval before. What
/// it handles meanwhile comes again: for all members together as much as is written in that time, and what each has in its hands.
const REPEATS: usize = KEYS * (6_000 + 500) / PAUSE_MS + 2 * 50;
/// Two of three copies make a message acknowledged.
pub(crate) const TWO: (&str, &str) = ("min.insync.replicas", "2");

/// Runs a story of a scene while what its group commits is watched.
macro_rules! watched {
    ($scene:expr, $story:expr) => {
        tokio::select! { done = $story => done, broken = $scene.watch() => broken }
    };
}
pub(crate) use watched;

pub(crate) struct Scene {
    pub(crate) cluster: KafkaCluster,
    pub(crate) client: mq_kafka::Client,
    pub(crate) group: Group,
}

/// What a scene came to.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) sent: Vec<Sent>,
    pub(crate) written: Written,
    /// Handlings of records that had been handled before.
    pub(crate) repeats: usize,
}

impl Scene {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let cluster = TestEnv::kafka_cluster().await?;
        let (topic, id) = (cluster.unique(name), cluster.unique(name));
        cluster.create_topic(&topic, PARTITIONS, 3, &[TWO]).await?;
        let client = client(&cluster);
        let group = Group::new(env!("CARGO_BIN_EXE_mq-member"), &id, &topic, SETTINGS)?;
        Ok(Self { cluster, client, group })
    }

    /// As [`Group::watch`].
    pub(crate) fn watch(&self) -> impl Future<Output = Result<()>> + use<> {
        self.group.watch(client(&self.cluster))
    }

    pub(crate) fn join(&self) -> Result<Member> {
        self.group.join(&self.cluster.bootstrap())
    }

    /// Writes through a producer with these settings.
    pub(crate) async fn write(&self, brokers: &str, settings: &str) -> Result<Writer> {
        Ok(Writer::start(producer(brokers, settings).await?, &self.group.topic, KEYS, PAUSE))
    }

    /// Waits until messages are acknowledged again and each of these members handles some.
    pub(crate) async fn flows(&self, writer: &Writer, members: &[Member]) -> Result<()> {
        writer.wait_more(5 * KEYS, PATIENCE).await?;
        let beyond = self.group.handled()?.len();
        self.group.wait_all_handle(members, beyond, PATIENCE).await
    }

    /// Waits until every partition is committed further than now: the coordinator serves and all partitions have an owner.
    pub(crate) async fn commits(&self) -> Result<()> {
        let before = wait_until("the coordinator answers", PATIENCE, async || self.group.committed(&self.client).await);
        let before = before.await?;
        wait_until("every partition is committed further", PATIENCE, async || {
            let now = self.group.committed(&self.client).await?;
            let further =
                now.iter().filter(|(partition, offset)| before.get(partition).is_none_or(|old| *offset > old));
            ensure!(i32::try_from(further.count())? == PARTITIONS, "{before:?}, now {now:?}");
            Ok(())
        })
        .await
    }

    /// Ends the writing and holds what was sent, written, handled and committed against each other.
    pub(crate) async fn tell(&self, writer: Writer) -> Result<Told> {
        let sent = writer.stop().await?;
        self.cluster.restore().await?;
        let log = self.cluster.read_all(&self.group.topic).await?;
        let written = check_written(&sent, &log)?;
        self.group.wait_committed(&self.client, log.len(), PATIENCE).await?;
        let commits = commits::of_group(&self.cluster.read_all(commits::TOPIC).await?, &self.group.id)?;
        let repeats = check_handled(&log, &self.group.handled()?)?;
        println!("{written:?}, {repeats} handled again");
        commits::check_ascending(&commits)?;
        Ok(Told { sent, written, repeats })
    }

    /// As [`Self::tell`], where every message has to arrive.
    pub(crate) async fn tell_all(&self, writer: Writer) -> Result<()> {
        let Told { sent, written, repeats } = self.tell(writer).await?;
        let failed: Vec<_> = sent.iter().filter_map(|sent| sent.outcome.as_ref().err()).take(3).collect();
        ensure!(failed.is_empty(), "{} messages failed, such as {failed:?}", written.failed);
        ensure!(repeats <= REPEATS, "{repeats} records were handled again");
        Ok(())
    }
}

pub(crate) async fn producer(brokers: &str, settings: &str) -> Result<Producer> {
    let mut config = Config::default().brokers(brokers.split(','));
    config.producer = serde_json::from_str(settings)?;
    Ok(Producer::new(&config, &Options::default()).await?)
}

/// A client that leaves a broker that hangs while it hangs.
fn client(cluster: &KafkaCluster) -> mq_kafka::Client {
    let limit = Duration::from_secs(2);
    let options = mq_kafka::Options { connect_timeout: limit, request_timeout: limit, ..mq_kafka::Options::default() };
    mq_kafka::Client::new(cluster.brokers().iter().map(Broker::bootstrap), options)
}
