//! Dead letters that do not fit, or that their topic does not take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Failure, Message};
use mq_protocol::message::Kind;
use mq_testkit::wait_until;

use super::stage::{Log, Stage, subscribe};
use super::{
    DRAIN, PATIENCE, check_handled, create_topic, dead_letters, produce_numbered, producer_body, producer_settings,
};

const LARGE: usize = 2_000_000;

/// Two records that no handler takes, the first larger than a client takes by default, and then the committed end.
async fn reject_two(stage: &Stage) -> Result<Vec<mq_testkit::Record>> {
    let settings = producer_settings(r#"{"overrides": {"message.max.bytes": "3000000"}}"#)?;
    stage.operator.push(Kind::Producer, "p", 1, &producer_body(stage.kafka.bootstrap(), &settings)?);
    let (agent, consumer) = stage.consumer(2).await?;
    let subscription = subscribe(&consumer, |_| async { Err(Failure::reject("never")) });
    let producer = agent.producer("p").await?;
    producer.send_sync(Message::to(&stage.topic).key("k").payload(vec![7_u8; LARGE])).await?;
    producer.send_sync(Message::to(&stage.topic).key("k").payload("small")).await?;
    stage.wait_committed(2).await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    stage.kafka.read_all(&dead_letters(&stage.group)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_record_is_buried_whole_where_the_topic_takes_it() -> Result<()> {
    let large = [("max.message.bytes", "3000000")];
    let stage = Stage::with_topic("large", 1, &large, "{}").await?;
    create_topic(&stage.kafka, &dead_letters(&stage.group), 1, &large).await?;
    let buried = reject_two(&stage).await?;
    assert_eq!(buried.iter().map(|r| r.value.as_ref().map_or(0, Vec::len)).collect::<Vec<_>>(), [LARGE, 5]);
    ensure!(buried.iter().all(|r| r.header_str("mq-value-omitted-bytes").is_none()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_for_the_dead_letter_topic_is_buried_without_its_value() -> Result<()> {
    let stage = Stage::with_topic("larger", 1, &[("max.message.bytes", "3000000")], "{}").await?;
    stage.kafka.create_topic(&dead_letters(&stage.group), 1).await?;
    let buried = reject_two(&stage).await?;
    assert_eq!(buried.iter().map(|r| r.value_str()).collect::<Vec<_>>(), [None, Some("small")], "in their order");
    assert_eq!(buried[0].key_str(), Some("k"));
    assert_eq!(buried[0].header_str("mq-value-omitted-bytes"), Some(LARGE.to_string().as_str()));
    assert_eq!(buried[0].header_str("mq-original-offset"), Some("0"));
    assert_eq!(buried[1].header_str("mq-value-omitted-bytes"), None);
    Ok(())
}

/// A compacted topic takes no record without a key: for a person to mend, and seen as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dead_letter_stops_its_key_in_sight_and_holds_no_drain() -> Result<()> {
    let stage = Stage::new("refuses", 1, "{}").await?;
    create_topic(&stage.kafka, &dead_letters(&stage.group), 1, &[("cleanup.policy", "compact")]).await?;
    let (agent, consumer) = stage.consumer(2).await?;
    let subscription = subscribe(&consumer, |_| async { Err(Failure::reject("never")) });
    let producer = agent.producer("p").await?;
    producer.send_sync(Message::to(&stage.topic).key("k").payload("0")).await?;
    producer.send_sync(Message::to(&stage.topic).payload("1")).await?;
    wait_until("the key is reported as stopped", PATIENCE, async || {
        ensure!(consumer.stats().stopped_keys == 1, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    stage.wait_committed(1).await?;
    let began = tokio::time::Instant::now();
    consumer.close(DRAIN).await;
    subscription.await??;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(stage.committed().await?, 1, "nothing is committed past it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_what_handlers_need_does_not_empty_the_topic_into_the_dead_letter_topic() -> Result<()> {
    const BURIED: usize = 19;
    let stage = Stage::new("outage", 2, r#"{"maxPollRecords": 40}"#).await?;
    stage.kafka.create_topic(&dead_letters(&stage.group), 1).await?;
    let (_agent, consumer) = stage.consumer(4).await?;
    let (log, broken) = (Log::default(), Arc::new(AtomicBool::new(true)));
    let subscription = subscribe(&consumer, {
        let (log, broken) = (log.clone(), Arc::clone(&broken));
        move |record| {
            let (log, broken) = (log.clone(), Arc::clone(&broken));
            async move {
                if broken.load(Ordering::SeqCst) {
                    return Err(Failure::reject("no database"));
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    produce_numbered(&stage.kafka, &stage.topic, 60, 10).await?;
    wait_until("so many keys are held that nothing is taken in", PATIENCE, async || {
        let stats = consumer.stats();
        ensure!(stats.held_dead_letters > 20 && stats.dead_letters == BURIED as u64, "{stats:?}");
        Ok(())
    })
    .await?;
    // What waits for them does not count, but they do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stats = consumer.stats();
    ensure!(stats.held_dead_letters <= 40 && stats.dead_letters == BURIED as u64, "{stats:?}");
    broken.store(false, Ordering::SeqCst);
    stage.wait_committed(600).await?;
    let buried = stage.kafka.read_all(&dead_letters(&stage.group)).await?;
    assert_eq!((buried.len(), log.len()), (BURIED, 600 - BURIED));
    let text = |text: Option<&str>| text.map(str::to_owned).unwrap_or_default();
    let mut all: Vec<(String, u32)> =
        buried.iter().map(|r| (text(r.key_str()), text(r.value_str()).parse().unwrap())).collect();
    all.extend(log.entries());
    ensure!(check_handled(&all, 60, 10)? == 0, "{all:?}");
    assert_eq!(consumer.stats().held_dead_letters, 0);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}
