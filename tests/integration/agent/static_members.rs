//! Members that keep their partitions over a restart, and give them away when they leave.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Agent, Config, ConsumeError, Consumer, Options, StaticMember};
use mq_kafka::GroupState;
use mq_testkit::wait_until;
use mq_tests::{Group, check_handled};
use tokio::time::Instant;

use super::stage::{Log, Stage, Subscription, subscribe_log};
use super::{DRAIN, PATIENCE, produce_numbered};

const PARTITIONS: i32 = 4;
/// How long a partition may be without an owner when a member leaves in order.
const UNOWNED: Duration = Duration::from_secs(2);

/// The partitions of each instance. An error while the group rebalances.
type Owned = BTreeMap<String, Vec<i32>>;

async fn owned(stage: &Stage) -> Result<Owned> {
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    let found = client.describe_groups([&stage.group]).await.remove(&stage.group).context("no answer")??;
    ensure!(found.state == GroupState::Stable, "{found:?}");
    let mut owned = Owned::new();
    for member in found.members {
        let partitions = member.assigned.context("an unknown assignment")?;
        let partitions = partitions.get(&stage.topic).into_iter().flatten().copied().collect();
        owned.insert(member.instance_id.context("a dynamic member")?, partitions);
    }
    Ok(owned)
}

async fn wait_owned(stage: &Stage, members: usize) -> Result<Owned> {
    wait_until("the members own everything", PATIENCE, async || {
        let owned = owned(stage).await?;
        let all = owned.values().flatten().count();
        ensure!(owned.len() == members && all == usize::try_from(PARTITIONS)?, "{owned:?}");
        Ok(owned)
    })
    .await
}

/// A static member beside the agent's.
async fn join(stage: &Stage, member: StaticMember, log: &Log) -> Result<(Consumer, Subscription)> {
    let config = Config::default().brokers([stage.kafka.bootstrap()]);
    let options = Options::default().static_membership(member);
    let consumer = Consumer::new(&config, &stage.group, [&stage.topic], &options).await?;
    let subscription = subscribe_log(&consumer, log, Duration::ZERO);
    Ok((consumer, subscription))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_is_closed_gives_its_partitions_away_at_once() -> Result<()> {
    let stage = Stage::new("static-leaves", PARTITIONS, "{}").await?;
    let log = Log::default();
    let (stays, staying) = join(&stage, StaticMember::new("a"), &log).await?;
    let (leaves, leaving) = join(&stage, StaticMember::new("b"), &log).await?;
    wait_owned(&stage, 2).await?;
    produce_numbered(&stage.kafka, &stage.topic, 20, 5).await?;
    log.wait_len(100).await?;
    let began = Instant::now();
    leaves.close(DRAIN).await;
    leaving.await??;
    let owned = wait_owned(&stage, 1).await?;
    let unowned = began.elapsed();
    println!("without an owner for at most {unowned:?}");
    ensure!(owned.contains_key("a") && unowned < UNOWNED, "{owned:?} after {unowned:?}");
    produce_numbered(&stage.kafka, &stage.topic, 20, 5).await?;
    stage.wait_committed(200).await?;
    assert_eq!(log.len(), 200, "each record once");
    stays.close(DRAIN).await;
    staying.await??;
    Ok(())
}

/// As often as the coordinator answers: nothing is rebalanced and everybody has what it had.
async fn watch(stage: &Stage, before: &Owned) -> anyhow::Error {
    loop {
        match owned(stage).await {
            Ok(now) if now == *before => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(now) => return anyhow::anyhow!("{before:?} became {now:?}"),
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_with_its_id_moves_no_partition_and_a_second_one_takes_its_place() -> Result<()> {
    let stage = Stage::new("static-stays", PARTITIONS, "{}").await?;
    let log = Log::default();
    let (other, others) = join(&stage, StaticMember::new("a"), &log).await?;
    let member = || StaticMember::new("b").stay_after_close();
    let agent = Agent::connect_with(stage.operator.options().static_membership(member())).await;
    let first = agent.consumer("c").await?;
    let reading = subscribe_log(&first, &log, Duration::ZERO);
    let before = wait_owned(&stage, 2).await?;
    let story = async {
        let records = async |each: usize| {
            produce_numbered(&stage.kafka, &stage.topic, 20, 5).await?;
            stage.wait_committed(i64::try_from(each)?).await
        };
        records(100).await?;
        // A setting for which the agent has to join again.
        let again = stage.push(2, r#"{"sessionTimeoutMs": 31000}"#)?;
        stage.operator.acknowledged(&again).await?;
        records(200).await?;
        first.close(DRAIN).await;
        reading.await??;
        let (second, reading) = join(&stage, member(), &log).await?;
        records(300).await?;
        anyhow::Ok((second, reading))
    };
    let (_second, reading) = tokio::select! {
        done = story => done?,
        moved = watch(&stage, &before) => return Err(moved),
    };
    assert_eq!(log.len(), 300, "each record once");

    let (third, thirds) = join(&stage, StaticMember::new("b"), &log).await?;
    let ended = tokio::time::timeout(PATIENCE, reading).await??.unwrap_err();
    ensure!(matches!(&ended, ConsumeError::Fatal { detail, .. } if detail.contains("instance")), "{ended}");
    produce_numbered(&stage.kafka, &stage.topic, 20, 5).await?;
    stage.wait_committed(400).await?;
    for (consumer, subscription) in [(third, thirds), (other, others)] {
        consumer.close(DRAIN).await;
        subscription.await??;
    }
    Ok(())
}

const SESSION: Duration = Duration::from_secs(6);

/// A member that dies keeps its place for as long as its session lasts: for whoever is started with its id, or for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_killed_static_member_is_its_successors_at_once_or_everybodys_after_the_session() -> Result<()> {
    let settings = r#"{"sessionTimeoutMs": 6000, "autoCommitIntervalMs": 500, "maxPollRecords": 50}"#;
    let stage = Stage::new("static-killed", PARTITIONS, settings).await?;
    let group = Group::new(env!("CARGO_BIN_EXE_mq-member"), &stage.group, &stage.topic, settings)?;
    let brokers = stage.kafka.bootstrap();
    let agent = Agent::connect_with(stage.operator.options()).await;
    let writer = stage.write(&agent, 20, Duration::from_millis(100));
    let stays = group.join_as("a", brokers)?;
    let mut dies = group.join_as("b", brokers)?;
    let client = || mq_kafka::Client::new([brokers], mq_kafka::Options::default());
    let story = async {
        let before = wait_owned(&stage, 2).await?;
        let moved = watch(&stage, &before);
        let succeeds = async {
            dies.kill().await?;
            let since = Instant::now();
            let beyond = group.handled()?.len();
            let successor = group.join_as("b", brokers)?;
            group.wait_all_handle(std::slice::from_ref(&successor), beyond, PATIENCE).await?;
            println!("the successor handled a record {:?} after the death", since.elapsed());
            ensure!(since.elapsed() < SESSION, "it had to wait {:?}", since.elapsed());
            anyhow::Ok(successor)
        };
        let mut successor = tokio::select! { done = succeeds => done?, moved = moved => return Err(moved) };

        successor.kill().await?;
        let since = Instant::now();
        let owned = wait_owned(&stage, 1).await?;
        println!("the other member owned everything {:?} after the death", since.elapsed());
        ensure!(owned.contains_key("a") && since.elapsed() > SESSION / 2, "{owned:?}");
        let each = writer.stop().await?;
        let log = stage.kafka.read_all(&stage.topic).await?;
        group.wait_committed(&client(), 20 * each, PATIENCE).await?;
        println!("{} of {} were handled again", check_handled(&log, &group.handled()?)?, log.len());
        anyhow::Ok(())
    };
    tokio::select! { done = story => done?, broken = group.watch(client()) => return broken }
    stays.leave(PATIENCE).await
}
