//! Members that join and leave while records flow, partitions that are added, and handlers that outlast every timeout.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Config, Options, Producer};
use mq_kafka::GroupState;
use mq_testkit::{Broker, TestEnv, wait_until};
use mq_tests::{Group, Writer, check_handled, check_written};
use tokio::time::Instant;

use super::stage::{Log, Stage, subscribe, subscribe_log};
use super::{DRAIN, PATIENCE, create_topic};

const PARTITIONS: i32 = 6;
const KEYS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);
const LEAVE: Duration = Duration::from_secs(20);
/// How long a partition may be without an owner while members leave in order.
const UNOWNED: Duration = Duration::from_secs(2);

struct Load {
    kafka: Broker,
    client: mq_kafka::Client,
    group: Group,
    writer: Writer,
}

impl Load {
    async fn start(name: &str, settings: &str) -> Result<Self> {
        let kafka = TestEnv::kafka().await?;
        let (topic, id) = (kafka.unique(name), kafka.unique(name));
        create_topic(&kafka, &topic, PARTITIONS, &[]).await?;
        let client = client(&kafka);
        let group = Group::new(env!("CARGO_BIN_EXE_mq-member"), &id, &topic, settings)?;
        let config = Config::default().brokers([kafka.bootstrap()]);
        let producer = Producer::new(&config, &Options::default()).await?;
        let writer = Writer::start(producer, &topic, KEYS, PAUSE);
        Ok(Self { kafka, client, group, writer })
    }

    /// Ends the writing and checks that everything was handled, in order. How many records were handled again.
    async fn end(self) -> Result<usize> {
        let Self { kafka, client, group, writer } = self;
        let sent = writer.stop().await?;
        let log = kafka.read_all(&group.topic).await?;
        let written = check_written(&sent, &log)?;
        ensure!(written.failed == 0, "{written:?}");
        group.wait_committed(&client, log.len(), PATIENCE).await?;
        let repeats = check_handled(&log, &group.handled()?)?;
        println!("{written:?}, {repeats} handled again");
        Ok(repeats)
    }
}

fn client(kafka: &Broker) -> mq_kafka::Client {
    mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default())
}

/// Every two to five seconds somebody joins or leaves.
async fn come_and_go(time: Duration) -> Result<()> {
    let load = Load::start("come-and-go", r#"{"autoCommitIntervalMs": 500}"#).await?;
    let brokers = load.kafka.bootstrap().to_owned();
    let story = async {
        let mut members = vec![load.group.join(&brokers)?];
        load.group.wait_all_handle(&members, 0, PATIENCE).await?;
        let (end, mut changes) = (Instant::now() + time, 0);
        while Instant::now() < end {
            if members.len() == 1 || (members.len() < 4 && fastrand::bool()) {
                members.push(load.group.join(&brokers)?);
            } else {
                members.remove(fastrand::usize(0..members.len())).leave(LEAVE).await?;
            }
            changes += 1;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(2_000..5_000))).await;
        }
        println!("{changes} changes");
        let beyond = load.group.handled()?.len();
        load.group.wait_all_handle(&members, beyond, PATIENCE).await?;
        anyhow::Ok(members)
    };
    let members = tokio::select! {
        members = story => members?,
        broken = load.group.watch(client(&load.kafka)) => return broken,
    };
    assert_eq!(load.end().await?, 0, "every move was drained");
    drop(members);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_all_the_time_lose_repeat_and_reorder_nothing() -> Result<()> {
    come_and_go(Duration::from_secs(20)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: members come and go for five minutes"]
async fn members_that_come_and_go_for_minutes_lose_repeat_and_reorder_nothing() -> Result<()> {
    come_and_go(Duration::from_mins(5)).await
}

/// The member that owns each partition, and when it was last seen to.
type Owners = BTreeMap<i32, (String, Instant)>;

/// While a group rebalances it tells nobody's partitions, and members keep and read theirs.
fn note_owners(owners: &mut Owners, found: &mq_kafka::Group, topic: &str) {
    for member in &found.members {
        for partition in member.assigned.iter().filter_map(|assigned| assigned.get(topic)).flatten() {
            owners.entry(*partition).or_insert_with(|| (String::new(), Instant::now())).0.clone_from(&member.id);
        }
    }
}

/// Asks the coordinator until one member owns everything. The longest time for which a partition had no owner.
async fn longest_unowned(load: &Load, mut owners: Owners) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    loop {
        let id = &load.group.id;
        let found = load.client.describe_groups([id]).await.remove(id).context("no answer")??;
        let now = Instant::now();
        note_owners(&mut owners, &found, &load.group.topic);
        for (owner, since) in owners.values_mut() {
            longest = longest.max(now - *since);
            if found.members.iter().any(|member| member.id == *owner) {
                *since = now;
            }
        }
        let owned_by_one = owners.values().all(|(owner, _)| found.members.iter().all(|member| member.id == *owner));
        if found.state == GroupState::Stable && found.members.len() == 1 && owned_by_one {
            return Ok(longest);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_in_leaves_no_partition_without_an_owner() -> Result<()> {
    // A member learns from the answer to a heartbeat that others have left: within a second, without any override.
    let load = Load::start("scale-in", "{}").await?;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(load.group.join(load.kafka.bootstrap())?);
    }
    let owners = wait_until("three members share the partitions", PATIENCE, async || {
        let id = &load.group.id;
        let found = load.client.describe_groups([id]).await.remove(id).context("no answer")??;
        let mut owners = Owners::new();
        note_owners(&mut owners, &found, &load.group.topic);
        let who: std::collections::BTreeSet<_> = owners.values().map(|(owner, _)| owner).collect();
        ensure!(who.len() == 3 && i32::try_from(owners.len())? == PARTITIONS, "{found:?}");
        Ok(owners)
    })
    .await?;
    let leaving = async {
        let (one, other) = (members.remove(0), members.remove(0));
        tokio::try_join!(one.leave(LEAVE), other.leave(LEAVE))
    };
    let (left, longest) = tokio::join!(leaving, tokio::time::timeout(PATIENCE, longest_unowned(&load, owners)));
    left?;
    let longest = longest??;
    println!("without an owner for at most {longest:?}");
    ensure!(longest < UNOWNED, "a partition had no owner for {longest:?}");
    assert_eq!(load.end().await?, 0, "every move was drained");
    Ok(())
}

/// The consumer asks for the partitions of its topics once a second.
const REFRESH: &str = r#"{"topic.metadata.refresh.interval.ms": "1000"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_added_partition_is_read_from_its_first_record_and_keys_go_on() -> Result<()> {
    let stage = Stage::new("added", 1, &format!(r#"{{"overrides": {REFRESH}}}"#)).await?;
    read_added(&stage, 0).await
}

/// What was there before the group began is skipped, and nothing of what came later.
#[tokio::test(flavor = "multi_thread")]
async fn an_added_partition_is_read_from_its_first_record_also_where_the_group_began_at_the_end() -> Result<()> {
    let settings = format!(r#"{{"autoOffsetReset": "latest", "overrides": {REFRESH}}}"#);
    let stage = Stage::new("added-latest", 1, &settings).await?;
    super::produce_numbered(&stage.kafka, &stage.topic, 10, 5).await?;
    read_added(&stage, 50).await
}

/// Where the group begins is committed before there is a record.
async fn read_added(stage: &Stage, skipped: i64) -> Result<()> {
    let (_agent, consumer) = stage.consumer(4).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::from_millis(1));
    let write = async |from: u32| {
        let config = Config::default().brokers([stage.kafka.bootstrap()]);
        let producer = Producer::new(&config, &Options::default()).await?;
        let messages = (from..from + 20).flat_map(|number| (0..10).map(move |key| (format!("k{key}"), number)));
        let messages =
            messages.map(|(key, number)| mq_agent::Message::to(&stage.topic).key(key).payload(number.to_string()));
        let acks = producer.send_batch(messages.collect::<Vec<_>>()).await;
        acks.into_iter().map(|ack| Ok(ack?.partition)).collect::<Result<std::collections::BTreeSet<_>>>()
    };
    if skipped > 0 {
        stage.wait_committed(skipped).await?;
    }
    write(0).await?;
    stage.wait_committed(skipped + 200).await?;
    let client = client(&stage.kafka);
    let totals = BTreeMap::from([(stage.topic.clone(), 4)]);
    client.create_partitions(&totals, false).await.remove(&stage.topic).context("no answer")??;
    // A producer that begins now knows them before the consumer does.
    ensure!(write(20).await?.len() > 1, "no key has moved");
    stage.wait_committed(skipped + 400).await?;
    assert_eq!(super::check_handled(&log.entries(), 10, 40)?, 0);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

/// Both handlers outlast the session and the poll interval; one of them holds its thread as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "a handler that blocks its thread")]
async fn handlers_that_block_or_overrun_keep_their_partitions() -> Result<()> {
    let settings = r#"{"sessionTimeoutMs": 6000, "maxPollIntervalMs": 6000, "maxPollRecords": 2}"#;
    let stage = Stage::new("overrun", 1, settings).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let subscription = subscribe(&consumer, {
        let log = log.clone();
        move |record| {
            let log = log.clone();
            async move {
                match (record.key(), record.payload()) {
                    (Some(b"k0"), b"0") => std::thread::sleep(Duration::from_secs(9)),
                    (Some(b"k1"), b"0") if record.attempt() == 1 => tokio::time::sleep(Duration::from_secs(9)).await,
                    _ => {}
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    super::produce_numbered(&stage.kafka, &stage.topic, 2, 5).await?;
    stage.wait_committed(10).await?;
    assert_eq!(super::check_handled(&log.entries(), 2, 5)?, 0, "the partition was lost");
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}
