//! What is committed is what was handled: when a topic begins anew, and when the service itself asks for the commit.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Consumer, Failure};
use mq_kafka::GroupState;
use mq_testkit::wait_until;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::stage::{Log, Stage, Subscription, subscribe, subscribe_log};
use super::{DRAIN, PATIENCE, check_handled, create_topic, produce_numbered};

/// Deletes the topic and creates it again with one partition, without a pause between them.
async fn create_anew(stage: &Stage) -> Result<()> {
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    let id = client.describe_topics([&stage.topic]).await.remove(&stage.topic).context("no answer")??.id;
    client.delete_topics([id]).await.remove(&id).context("no answer")??;
    wait_until("the topic is there again", PATIENCE, async || create_topic(&stage.kafka, &stage.topic, 1, &[]).await)
        .await
}

/// The member keeps its partition; the offsets of the new topic begin at 0 and stay below those that it has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_anew_is_handled_from_its_first_record() -> Result<()> {
    let stage = Stage::new("anew", 1, r#"{"autoCommitIntervalMs": 100}"#).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    produce_numbered(&stage.kafka, &stage.topic, 4, 25).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    stage.wait_committed(100).await?;
    for (round, each) in [10, 5].into_iter().enumerate() {
        create_anew(&stage).await?;
        let before = log.len();
        produce_numbered(&stage.kafka, &stage.topic, 4, each).await?;
        log.wait_len(before + 4 * each).await?;
        stage.wait_committed(i64::try_from(4 * each)?).await?;
        let new = log.entries().split_off(before);
        ensure!(check_handled(&new, 4, each)? == 0, "round {round}: {new:?}");
    }
    consumer.close(DRAIN).await;
    subscription.await??;
    stage.wait_committed(20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_pauses_far_beyond_a_record_that_does_not_end_and_goes_on_after_it() -> Result<()> {
    const AHEAD: usize = 50_000;
    let stage = Stage::new("ahead", 2, "{}").await?;
    let (_agent, consumer) = stage.consumer(8).await?;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let subscription = subscribe(&consumer, {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        move |record| {
            let (log, gate) = (log.clone(), Arc::clone(&gate));
            async move {
                if record.key() == Some(b"stuck") {
                    gate.acquire().await.map_err(Failure::reject)?.forget();
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    // A key of its own, so that no record waits for it in line. Then more in each of the two partitions than one may be ahead, in
    // parts that fit into the queue of a client.
    stage.kafka.produce(&stage.topic, [("stuck", "0")]).await?;
    for _ in 0..4 {
        produce_numbered(&stage.kafka, &stage.topic, 8, 4_000).await?;
    }
    wait_until("one partition is paused and the other one done", PATIENCE, async || {
        let (stats, handled) = (consumer.stats(), log.len());
        let beyond = handled.saturating_sub(64_000);
        // Sooner if so much is in hand that the map of what is finished could not tell it all; and what is taken in at one go comes whole.
        let far = (AHEAD * 4 / 5..AHEAD + 256).contains(&beyond);
        ensure!(stats.paused_partitions == 1 && far && stats.in_flight == 1, "{handled} and {stats:?}");
        Ok(())
    })
    .await?;
    gate.add_permits(1);
    stage.wait_committed(128_001).await?;
    assert_eq!((log.len(), consumer.stats().paused_partitions), (128_001, 0));
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

/// Handles records into the log. Those with number 3 first wait for the gate, and then for many commits of their own.
fn subscribe_committing(
    consumer: &Consumer,
    log: &Log,
    gate: &Arc<Semaphore>,
    reached: &Arc<Semaphore>,
) -> Subscription {
    let (this, log, gate, reached) = (consumer.clone(), log.clone(), Arc::clone(gate), Arc::clone(reached));
    subscribe(consumer, move |record| {
        let (this, log, gate, reached) = (this.clone(), log.clone(), Arc::clone(&gate), Arc::clone(&reached));
        async move {
            if record.payload() == b"3" {
                reached.add_permits(1);
                gate.acquire().await.map_err(Failure::reject)?.forget();
                for _ in 0..20 {
                    this.commit().await?;
                }
            }
            log.add(&record);
            Ok(())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_answered_its_commit_while_the_drain_waits_for_it() -> Result<()> {
    let stage = Stage::new("commit-drain", 1, r#"{"enableAutoCommit": false}"#).await?;
    produce_numbered(&stage.kafka, &stage.topic, 2, 10).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let (log, gate, reached) = (Log::default(), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let subscription = subscribe_committing(&consumer, &log, &gate, &reached);
    reached.acquire_many(2).await?.forget();
    let began = Instant::now();
    let close = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.close(DRAIN).await }
    });
    gate.add_permits(2);
    close.await?;
    subscription.await??;
    ensure!(began.elapsed() < DRAIN, "the drain budget was used up: {:?}", began.elapsed());
    let handled = log.len();
    assert_eq!(handled, 8, "the handlers ended, and nothing was begun after them");
    assert_eq!(usize::try_from(stage.committed().await?)?, handled, "what was handled is committed");

    let (_agent, next) = stage.consumer(2).await?;
    let _subscription = subscribe_log(&next, &log, Duration::ZERO);
    log.wait_len(20).await?;
    next.close(DRAIN).await;
    stage.wait_committed(20).await?;
    assert_eq!(check_handled(&log.entries(), 2, 10)?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_answered_its_commit_while_a_rebalance_waits_for_it() -> Result<()> {
    // One of the two partitions moves, whichever it is: both hold keys.
    let stage = Stage::new("commit-move", 2, r#"{"enableAutoCommit": false, "sessionTimeoutMs": 6000}"#).await?;
    produce_numbered(&stage.kafka, &stage.topic, 8, 10).await?;
    let (_agent, consumer) = stage.consumer(8).await?;
    let (log, gate, reached) = (Log::default(), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let subscription = subscribe_committing(&consumer, &log, &gate, &reached);
    reached.acquire_many(8).await?.forget();
    let (_other_agent, other) = stage.consumer(2).await?;
    let others = Log::default();
    let _others = subscribe_log(&other, &others, Duration::ZERO);
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    wait_until("one member was told to give a partition away", PATIENCE, async || {
        let group = client.describe_groups([&stage.group]).await.remove(&stage.group).context("no answer")??;
        ensure!(group.members.len() == 2 && group.state == GroupState::Stable, "{group:?}");
        Ok(())
    })
    .await?;
    let began = Instant::now();
    gate.add_permits(8);
    wait_until("the other member goes on where the first one stopped", PATIENCE, async || {
        let (one, two) = (log.len(), others.len());
        ensure!(two > 0 && one + two >= 80, "{one} and {two}");
        Ok(())
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(8), "the revoke budget was used up: {:?}", began.elapsed());
    let handled: Vec<_> = log.entries().into_iter().chain(others.entries()).collect();
    assert_eq!(check_handled(&handled, 8, 10)?, 0);
    consumer.close(DRAIN).await;
    subscription.await??;
    other.close(DRAIN).await;
    stage.wait_committed(80).await
}
