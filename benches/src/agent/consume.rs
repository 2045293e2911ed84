//! Reading: one topic of keyed 100-byte records, read again by a new group in every run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mq_agent::Failure;
use mq_testkit::Broker;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tokio::sync::Notify;

use super::{PARTITIONS, agent, bare_producer, config, hand, payload};
use crate::measure::{Cost, Stopwatch, in_turn};
use crate::report::{Figure, Row};

const PATIENCE: Duration = Duration::from_mins(5);
/// Ten for each of the most slots.
const KEYS: usize = 50_000;

/// Handlers that wait, as they do for a database.
struct Waiting {
    id: &'static str,
    text: &'static str,
    slots: usize,
    wait: Duration,
    target: f64,
}

const WAITING: [Waiting; 3] = [
    Waiting {
        id: "agent.consume_10ms",
        text: "key order, 1,000 slots, the handler waits 10 ms",
        slots: 1_000,
        wait: Duration::from_millis(10),
        target: 0.90,
    },
    Waiting {
        id: "agent.consume_10ms_5000",
        text: "key order, 5,000 slots, the handler waits 10 ms",
        slots: 5_000,
        wait: Duration::from_millis(10),
        target: 0.60,
    },
    Waiting {
        id: "agent.consume_1ms",
        text: "key order, 1,000 slots, the handler waits 1 ms",
        slots: 1_000,
        wait: Duration::from_millis(1),
        target: 0.70,
    },
];

/// A topic with so many records of so many bytes.
pub(super) async fn filled(kafka: &Broker, records: usize, bytes: usize) -> Result<String> {
    let topic = kafka.unique("bench");
    kafka.create_topic(&topic, PARTITIONS).await?;
    eprintln!("mq: writing {records} records to read");
    let (settings, to) = (bare_producer(kafka), topic.clone());
    tokio::task::spawn_blocking(move || fill(&settings, &to, records, bytes)).await??;
    Ok(topic)
}

pub(super) async fn run(kafka: &Broker, topic: &str, records: usize) -> Result<Vec<Row>> {
    let id = "agent.consume_key_ordered";
    let sides = in_turn(
        id,
        async || ours(kafka, topic, records, 16, Duration::ZERO).await,
        async || {
            let (settings, topic) = (bare_consumer(kafka), topic.to_owned());
            tokio::task::spawn_blocking(move || bare(&settings, &topic, records)).await?
        },
    )
    .await?;
    let text = "100-byte records, key order, 16 slots, empty handler";
    let figure = Figure {
        id,
        text,
        peer: "BaseConsumer loop, no order of keys, no commits",
        records,
        wall_target: Some(0.85),
        cpu_target: Some(1.5),
    };
    let mut rows = figure.rows(&sides);

    for Waiting { id, text, slots, wait, target } in WAITING {
        let sides = in_turn(
            id,
            async || ours(kafka, topic, records, slots, wait).await,
            async || floor(records, slots, wait).await,
        )
        .await?;
        let figure = Figure {
            id,
            text,
            peer: "tokio tasks with the same wait, no Kafka",
            records,
            wall_target: Some(target),
            cpu_target: None,
        };
        rows.extend(figure.rows(&sides));
    }
    Ok(rows)
}

fn fill(settings: &ClientConfig, topic: &str, records: usize, bytes: usize) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = settings.create()?;
    for number in 0..records {
        let (key, payload) = (format!("k{}", number % KEYS), payload(number, bytes));
        hand(&producer, BaseRecord::to(topic).key(&key).payload(payload.as_slice()))?;
    }
    producer.flush(PATIENCE).context("filling the topic")
}

/// From the first record to the last; joining the group is not what is measured.
pub(super) async fn ours(kafka: &Broker, topic: &str, records: usize, slots: usize, wait: Duration) -> Result<Cost> {
    let mut config = config(kafka).group("bench", kafka.unique("bench"), [topic]);
    // Room for every slot, twice.
    config.consumer.max_poll_records = Some(i64::try_from(slots)?.max(500) * 2);
    let agent = agent(config, slots).await;
    let consumer = agent.consumer("bench").await?;
    let handled = Arc::new(AtomicUsize::new(0));
    let (first, last) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let subscription = {
        let (first, last) = (Arc::clone(&first), Arc::clone(&last));
        consumer.subscribe(move |_| {
            let (handled, first, last) = (Arc::clone(&handled), Arc::clone(&first), Arc::clone(&last));
            async move {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                match handled.fetch_add(1, Ordering::Relaxed) + 1 {
                    1 => first.notify_one(),
                    all if all == records => last.notify_one(),
                    _ => {}
                }
                Ok::<(), Failure>(())
            }
        })
    };
    let measured = async {
        first.notified().await;
        let watch = Stopwatch::start()?;
        last.notified().await;
        let cost = watch.stop();
        consumer.close(PATIENCE).await;
        cost
    };
    let (subscribed, cost) = tokio::time::timeout(PATIENCE, async { tokio::join!(subscription, measured) })
        .await
        .context("waiting until every record was handled")?;
    subscribed?;
    agent.drain(PATIENCE).await;
    cost
}

fn bare_consumer(kafka: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("group.id", kafka.unique("bench"));
    config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    config
}

fn bare(settings: &ClientConfig, topic: &str, records: usize) -> Result<Cost> {
    let consumer: BaseConsumer = settings.create()?;
    consumer.subscribe(&[topic])?;
    let mut watch = None;
    let deadline = Instant::now() + PATIENCE;
    let mut read = 0;
    while read < records {
        // A poll that served a rebalance returns nothing, early.
        if let Some(Ok(_)) = consumer.poll(Duration::from_secs(1)) {
            read += 1;
            if read == 1 {
                watch = Some(Stopwatch::start()?);
            }
        } else {
            ensure!(Instant::now() < deadline, "the bare consumer read {read} of {records} records");
        }
    }
    watch.context("no record to read")?.stop()
}

/// As many waits, by as many tasks as there are slots.
async fn floor(records: usize, slots: usize, wait: Duration) -> Result<Cost> {
    let taken = Arc::new(AtomicUsize::new(0));
    let watch = Stopwatch::start()?;
    try_join_all((0..slots).map(|_| {
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < records {
                tokio::time::sleep(wait).await;
            }
        })
    }))
    .await?;
    watch.stop()
}
