//! Sending.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use mq_agent::{Message, Producer, TRACE_HEADER, TraceId};
use mq_testkit::Broker;
use rdkafka::ClientContext;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::util::Timeout;

use super::{PARTITIONS, agent, bare_producer, config, hand, payload};
use crate::measure::{Cost, Stopwatch, in_turn};
use crate::report::{Figure, Row};

const FLUSH: Duration = Duration::from_mins(2);
const TASKS: usize = 1_000;

/// With another allocator than the system's, its name follows the ids; no targets were set for that.
pub(super) async fn run(kafka: &Broker, shrink: usize, allocator: Option<&str>) -> Result<Vec<Row>> {
    let suffix = allocator.map(|allocator| format!("_{allocator}")).unwrap_or_default();
    let target = |target| allocator.is_none().then_some(target);
    let mut rows = Vec::new();
    for (id, text, traced) in [
        ("agent.produce_100b", "100-byte records, outcome by callback", false),
        ("agent.produce_100b_traced", "the same with `X-Trace-ID`", true),
    ] {
        let id = &format!("{id}{suffix}");
        let records = 1_000_000 / shrink;
        let payloads: Vec<Bytes> = (0..records).map(|number| payload(number, 100).into()).collect();
        let sides = in_turn(
            id,
            async || ours(kafka, &payloads, traced).await,
            async || {
                let (config, topic) = (bare_producer(kafka), topic(kafka).await?);
                let payloads = payloads.clone();
                tokio::task::spawn_blocking(move || bare(&config, &topic, &payloads, traced)).await?
            },
        )
        .await?;
        let peer = if traced { "ThreadedProducer with the header" } else { "ThreadedProducer" };
        let figure = Figure { id, text, peer, records, wall_target: target(0.90), cpu_target: target(1.15) };
        rows.extend(figure.rows(&sides));
    }
    let each = (100 / shrink).max(1);
    let id = &format!("agent.send_sync_1000_tasks{suffix}");
    let sides = in_turn(id, async || ours_waiting(kafka, each).await, async || bare_waiting(kafka, each).await).await?;
    let text = "1,000 tasks, each waits for the acknowledgement of one record before the next";
    let figure =
        Figure { id, text, peer: "FutureProducer", records: TASKS * each, wall_target: target(1.2), cpu_target: None };
    rows.extend(figure.rows(&sides));
    Ok(rows)
}

async fn topic(kafka: &Broker) -> Result<String> {
    let topic = kafka.unique("bench");
    kafka.create_topic(&topic, PARTITIONS).await?;
    Ok(topic)
}

/// What both callbacks do: count.
#[derive(Debug, Default)]
struct Outcomes {
    written: AtomicUsize,
    failed: AtomicUsize,
}

impl Outcomes {
    fn add(&self, written: bool) {
        let counter = if written { &self.written } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn check(&self, expected: usize) -> Result<()> {
        let (written, failed) = (self.written.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        ensure!(written == expected && failed == 0, "{written} of {expected} records were written, {failed} failed");
        Ok(())
    }
}

async fn ours(kafka: &Broker, payloads: &[Bytes], traced: bool) -> Result<Cost> {
    let topic = topic(kafka).await?;
    let agent = agent(config(kafka), 1).await;
    let producer = agent.producer("bench").await?;
    warm(&producer, &topic).await?;
    // As the peer reaches its own: without counting references for each record.
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    let send = {
        let payloads = payloads.to_vec();
        async move {
            for payload in payloads {
                let message = Message::to(&topic).payload(payload);
                producer.send_with(message, move |outcome| outcomes.add(outcome.is_ok())).await?;
            }
            producer.flush(FLUSH).await.map_err(anyhow::Error::from)
        }
    };
    let watch = Stopwatch::start()?;
    // On a thread of the runtime, as a service does; the main thread's memory is another matter to glibc's allocator.
    if traced {
        tokio::spawn(TraceId::random().scope(send)).await??;
    } else {
        tokio::spawn(send).await??;
    }
    let cost = watch.stop()?;
    outcomes.check(payloads.len())?;
    agent.drain(FLUSH).await;
    Ok(cost)
}

/// Connections, the topic's metadata and the producer's id are not what is measured.
async fn warm(producer: &Producer, topic: &str) -> Result<()> {
    for partition in 0..PARTITIONS {
        producer.send_sync(Message::to(topic).partition(partition)).await?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Counting(Outcomes);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.add(result.is_ok());
    }
}

fn bare(config: &rdkafka::ClientConfig, topic: &str, payloads: &[Bytes], traced: bool) -> Result<Cost> {
    let producer: ThreadedProducer<Counting> = config.create_with_context(Counting::default())?;
    for partition in 0..PARTITIONS {
        hand(&producer, BaseRecord::<(), [u8]>::to(topic).payload(b"warm".as_slice()).partition(partition))?;
    }
    producer.flush(FLUSH)?;
    let before = producer.client().context().0.written.swap(0, Ordering::Relaxed);
    ensure!(before == usize::try_from(PARTITIONS)?, "the first records were not written");
    let trace = TraceId::random();
    let watch = Stopwatch::start()?;
    for payload in payloads {
        let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).payload(payload);
        if traced {
            let header = Header { key: TRACE_HEADER, value: Some(trace.as_str()) };
            record = record.headers(OwnedHeaders::new_with_capacity(1).insert(header));
        }
        hand(&producer, record)?;
    }
    producer.flush(FLUSH)?;
    let cost = watch.stop()?;
    producer.client().context().0.check(payloads.len())?;
    Ok(cost)
}

async fn ours_waiting(kafka: &Broker, each: usize) -> Result<Cost> {
    let topic = topic(kafka).await?;
    let agent = agent(config(kafka), 1).await;
    let producer = agent.producer("bench").await?;
    warm(&producer, &topic).await?;
    let watch = Stopwatch::start()?;
    try_join_all((0..TASKS).map(|task| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            for number in 0..each {
                producer.send_sync(Message::to(&topic).payload(payload(task * each + number, 100))).await?;
            }
            Ok::<_, mq_agent::SendError>(())
        })
    }))
    .await?
    .into_iter()
    .collect::<Result<(), _>>()?;
    let cost = watch.stop()?;
    agent.drain(FLUSH).await;
    Ok(cost)
}

async fn bare_waiting(kafka: &Broker, each: usize) -> Result<Cost> {
    let topic = topic(kafka).await?;
    let producer: FutureProducer = bare_producer(kafka).create()?;
    for partition in 0..PARTITIONS {
        let record: FutureRecord<'_, (), [u8]> =
            FutureRecord::to(&topic).payload(b"warm".as_slice()).partition(partition);
        producer.send(record, Timeout::Never).await.map_err(|(error, _)| anyhow!(error))?;
    }
    let watch = Stopwatch::start()?;
    try_join_all((0..TASKS).map(|task| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            for number in 0..each {
                let payload = payload(task * each + number, 100);
                let record: FutureRecord<'_, (), _> = FutureRecord::to(&topic).payload(&payload);
                producer.send(record, Timeout::Never).await.map_err(|(error, _)| anyhow!(error))?;
            }
            anyhow::Ok(())
        })
    }))
    .await?
    .into_iter()
    .collect::<Result<()>>()?;
    watch.stop()
}
