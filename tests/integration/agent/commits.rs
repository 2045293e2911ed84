//! What is committed is what was handled: when a topic begins anew, and when the service itself asks for the commit.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_kafka::NewTopic;
use mq_testkit::wait_until;

use super::stage::{Log, Stage, subscribe_log};
use super::{DRAIN, PATIENCE, check_handled, produce_numbered};

/// Deletes the topic and creates it again with one partition, without a pause between them.
async fn create_anew(stage: &Stage) -> Result<()> {
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    let id = client.describe_topics([&stage.topic]).await.remove(&stage.topic).context("no answer")??.id;
    client.delete_topics([id]).await.remove(&id).context("no answer")??;
    let again = NewTopic {
        name: stage.topic.clone(),
        partitions: 1,
        replication_factor: 1,
        configs: std::collections::BTreeMap::default(),
    };
    wait_until("the topic is there again", PATIENCE, async || {
        client.create_topics(std::slice::from_ref(&again), false).await.remove(&stage.topic).context("no answer")??;
        Ok(())
    })
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
