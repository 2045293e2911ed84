//! Records that nobody expects: at the limits of size, without content, and with bytes that are no text.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use mq_agent::{Config, Consumer, Failure, Header, Message, Options, Producer, Record};
use mq_testkit::TestEnv;

use super::stage::{Log, Stage, subscribe, subscribe_log};
use super::{DRAIN, create_topic, dead_letters, producer_settings, wait_committed};

/// Beyond what a topic takes by default, by far.
const LIMIT: usize = 10_000_000;
const NO_TEXT: &[u8] = &[0xff, 0xfe, 0x00, 0x80];

/// Key, payload and headers.
type Content = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn odd_messages(topic: &str) -> Vec<Message> {
    let to = || Message::to(topic);
    let many = (0..200).fold(to().key("many"), |message, number| message.header(format!("h{number}"), "v"));
    vec![
        to().key("empty payload").payload(""),
        to().key("").payload("empty key"),
        to().key("").payload("").header("", ""),
        to().key("tombstone"),
        to(),
        to().key(NO_TEXT).payload(NO_TEXT).header("no text", NO_TEXT),
        to().key("twice").payload("1").header("twice", "1").header("twice", "2"),
        many.payload("many headers"),
        to().key("large header").payload("1").header("large", vec![b'h'; 8 * 1024 * 1024]),
        to().key("large payload").payload(vec![b'p'; LIMIT - 1_000]),
        to().key(vec![b'k'; 1024 * 1024]).payload("large key"),
        to().key("last").payload("1"),
    ]
}

fn content(message: &Message) -> Content {
    let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let headers = message.headers().iter().map(|Header { name, value }| (name.clone(), bytes(value.as_deref())));
    (bytes(message.key_bytes()), bytes(message.payload_bytes()), headers.collect())
}

/// Sorted, as records of several keys come in any order.
fn sorted(mut contents: Vec<Content>) -> Vec<Content> {
    contents.sort();
    contents
}

/// What is no longer than a line.
fn shown(contents: &[Content]) -> Vec<String> {
    contents.iter().map(|content| format!("{content:?}").chars().take(100).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_records_are_handled_and_buried_byte_by_byte() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group) = (kafka.unique("odd"), kafka.unique("odd"));
    let large = [("max.message.bytes", "20000000")];
    create_topic(&kafka, &topic, 2, &large).await?;
    create_topic(&kafka, &dead_letters(&group), 2, &large).await?;
    let mut config = Config::default().brokers([kafka.bootstrap()]);
    config.producer = producer_settings(r#"{"compression": "none", "overrides": {"message.max.bytes": "10000000"}}"#)?;
    let producer = Producer::new(&config, &Options::default()).await?;
    for outcome in producer.send_batch(odd_messages(&topic)).await {
        outcome?;
    }
    let too_large = producer.send_sync(Message::to(&topic).payload(vec![0; LIMIT])).await.unwrap_err();
    ensure!(matches!(too_large, mq_agent::SendError::TooLarge { .. }), "{too_large}");

    let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let subscription = subscribe(&consumer, {
        let handled = Arc::clone(&handled);
        move |record: Record| {
            handled.lock().unwrap().push(content(&record.to_message()));
            async { Err(Failure::reject("odd")) }
        }
    });
    let expected = sorted(odd_messages(&topic).iter().map(content).collect());
    wait_committed(&kafka, &group, &topic, i64::try_from(expected.len())?).await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    let found = sorted(handled.lock().unwrap().clone());
    ensure!(found == expected, "{:?} were sent and {:?} handled", shown(&expected), shown(&found));

    let buried = kafka.read_all(&dead_letters(&group)).await?.into_iter().map(|letter| {
        let theirs = letter.headers.into_iter().filter(|(name, _)| !name.starts_with("mq-") && name != "Retry-Count");
        (letter.key, letter.value, theirs.collect())
    });
    let buried = sorted(buried.collect());
    ensure!(buried == expected, "{:?} were sent and {:?} buried", shown(&expected), shown(&buried));
    Ok(())
}

/// Kafka takes any bytes for the name of a header, and other clients write them.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_whose_name_is_no_text_stops_nobody() -> Result<()> {
    let stage = Stage::new("header", 1, "{}").await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, std::time::Duration::ZERO);
    stage.kafka.produce(&stage.topic, [("k", "0")]).await?;
    stage.kafka.produce_with_header((&stage.topic, 0), "k", "1", NO_TEXT).await?;
    stage.kafka.produce_with_header((&stage.topic, 0), "k", "2", b"text").await?;
    stage.wait_committed(3).await?;
    assert_eq!(log.entries().iter().map(|(_, number)| *number).collect::<Vec<_>>(), [0, 1, 2]);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

/// Another client may have left anything beside its offset.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_commit_that_is_no_text_stops_nobody() -> Result<()> {
    let stage = Stage::new("metadata", 1, "{}").await?;
    stage.kafka.produce(&stage.topic, [("k", "0"), ("k", "1")]).await?;
    stage.kafka.commit_with_metadata(&stage.group, (&stage.topic, 0), 1, NO_TEXT).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, std::time::Duration::ZERO);
    stage.kafka.produce(&stage.topic, [("k", "2")]).await?;
    stage.wait_committed(3).await?;
    assert_eq!(log.entries().iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2]);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}
