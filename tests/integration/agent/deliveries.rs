//! Records as a stream, acknowledged by hand.

use anyhow::{Context, Result};
use futures::{FutureExt as _, StreamExt as _};
use mq_agent::{Config, Consumer, Delivered, Deliveries, Env, Failure, Message, Options, Producer};
use mq_testkit::{Broker, TestEnv};

use super::{DRAIN, PATIENCE, committed, dead_letters, wait_committed};

/// A topic that holds one record each of `a`, `b` and `c`, and a consumer of it.
async fn three_records(kafka: &Broker) -> Result<(String, String, Consumer)> {
    let (topic, group) = (kafka.unique("stream"), kafka.unique("stream"));
    kafka.create_topic(&topic, 1).await?;
    kafka.create_topic(&dead_letters(&group), 1).await?;
    let config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    let producer = Producer::new(&config, &Options::default()).await?;
    for outcome in producer.send_batch(["a", "b", "c"].map(|key| Message::to(&topic).key(key).payload(key))).await {
        outcome?;
    }
    let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
    Ok((topic, group, consumer))
}

async fn next(deliveries: &mut Deliveries) -> Result<Delivered> {
    let next = tokio::time::timeout(PATIENCE, deliveries.next()).await.context("waiting for a record")?;
    Ok(next.context("the stream ended")??)
}

#[tokio::test]
async fn records_may_be_acknowledged_in_any_order_and_only_the_prefix_is_committed() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group, consumer) = three_records(&kafka).await?;
    let mut deliveries = consumer.stream();
    let [first, second, third] =
        [next(&mut deliveries).await?, next(&mut deliveries).await?, next(&mut deliveries).await?];
    third.acker.ack();
    second.acker.ack();
    // The stream is what drives the consumer.
    let ended = tokio::spawn(async move { deliveries.next().await });
    consumer.commit().await?;
    assert_eq!(committed(&kafka, &group, &topic).await?, 0, "the first record is not acknowledged");
    first.acker.ack();
    wait_committed(&kafka, &group, &topic, 3).await?;
    consumer.close(DRAIN).await;
    assert!(ended.await?.is_none(), "a consumer that was closed ends its stream without an error");
    Ok(())
}

#[tokio::test]
async fn a_record_that_fails_comes_again_and_one_that_is_rejected_becomes_a_dead_letter() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group, consumer) = three_records(&kafka).await?;
    let mut deliveries = consumer.stream();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let Delivered { record, acker } = next(&mut deliveries).await?;
        let key = String::from_utf8(record.key().unwrap_or_default().to_vec())?;
        match (key.as_str(), seen.contains(&key)) {
            ("a", false) => drop(acker),
            ("b", _) => acker.fail(Failure::reject("poison")),
            _ => acker.ack(),
        }
        seen.push(key);
    }
    assert_eq!(seen, ["a", "b", "c", "a"]);
    let ended = tokio::spawn(async move { deliveries.next().map(|next| next.is_none()).await });
    wait_committed(&kafka, &group, &topic, 3).await?;
    let letters = kafka.read_all(&dead_letters(&group)).await?;
    assert_eq!(letters.len(), 1);
    consumer.close(DRAIN).await;
    assert!(ended.await?);
    Ok(())
}

#[tokio::test]
async fn what_a_dropped_stream_did_not_acknowledge_is_neither_committed_nor_a_dead_letter() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group, consumer) = three_records(&kafka).await?;
    let mut deliveries = consumer.stream();
    next(&mut deliveries).await?.acker.ack();
    drop(deliveries);
    let begun = std::time::Instant::now();
    consumer.close(DRAIN).await;
    assert!(begun.elapsed() < DRAIN, "nothing is left to wait for");
    assert_eq!(committed(&kafka, &group, &topic).await?, 1);
    assert!(kafka.read_all(&dead_letters(&group)).await?.is_empty());
    let config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    let again = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
    let mut deliveries = again.stream();
    assert_eq!(next(&mut deliveries).await?.record.key(), Some(b"b".as_slice()));
    Ok(())
}

#[tokio::test]
async fn a_handler_may_take_the_message_and_its_metadata_apart() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, _, consumer) = three_records(&kafka).await?;
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let subscription = tokio::spawn({
        let consumer = consumer.clone();
        async move {
            let handler = move |message: Message, metadata| {
                let _ = sender.send((message.key_bytes().map(<[u8]>::to_vec), metadata));
                async { Ok(()) }
            };
            consumer.subscribe_with_metadata(handler).await
        }
    });
    for (offset, expected) in (0..).zip(["a", "b", "c"]) {
        let (key, metadata) = tokio::time::timeout(PATIENCE, seen.recv()).await?.context("the handler ended")?;
        assert_eq!(key.as_deref(), Some(expected.as_bytes()));
        assert_eq!((metadata.topic.as_str(), metadata.partition, metadata.offset), (topic.as_str(), 0, offset));
    }
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}
