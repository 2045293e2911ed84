//! `mq-agent` beside bare librdkafka, with the same settings: production's, which are idempotent, lz4, `lingerMs` 10.

mod consume;
mod held;
mod parallel_consumer;
mod produce;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mq_agent::{Agent, Config, Env, Options};
use mq_testkit::{Broker, TestEnv};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use crate::peers::Peers;
use crate::report::Section;

const PARTITIONS: i32 = 12;

pub(crate) async fn run(shrink: usize, peers: &Peers) -> Result<Section> {
    let kafka = TestEnv::kafka().await?;
    let mut rows = produce::run(&kafka, shrink, None).await?;
    let records = 1_000_000 / shrink;
    let topic = consume::filled(&kafka, records, 100).await?;
    rows.extend(consume::run(&kafka, &topic, records).await?);
    rows.extend(parallel_consumer::run(&kafka, peers, &topic, records).await?);
    rows.extend(held::run(&kafka, &topic, records).await?);
    Ok(Section { name: "agent", rows, notes: String::new() })
}

/// The rows of sending once more, in a program whose allocator is mimalloc.
pub(crate) async fn sending_with_mimalloc(shrink: usize) -> Result<Section> {
    let rows = produce::run(&TestEnv::kafka().await?, shrink, Some("mimalloc")).await?;
    let notes = "\nSending, with mimalloc instead of glibc's allocator under both sides, librdkafka's C included. What the thread that sends \
                 allocates, the one that is told of deliveries frees, and allocators differ most in that. The targets are for glibc's.\n";
    Ok(Section { name: "agent-mimalloc", rows, notes: notes.to_owned() })
}

/// An agent without operator and files: it takes its configuration from here at once.
async fn agent(config: Config, concurrency: usize) -> Agent {
    let nowhere = Path::new("/nonexistent");
    Agent::connect_with(Options::in_folders(nowhere, nowhere).config(config).concurrency(concurrency)).await
}

fn config(kafka: &Broker) -> Config {
    Config::for_env(Env::Production).brokers([kafka.bootstrap()])
}

/// The producer settings of [`config`], in librdkafka's words.
fn bare_producer(kafka: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("acks", "all").set("enable.idempotence", "true");
    config
        .set("linger.ms", "10")
        .set("batch.size", "65536")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random");
    config
}

/// Gives the bare producer a record, when its queue has room.
fn hand<C: ProducerContext<DeliveryOpaque = ()>, K: ToBytes + ?Sized>(
    producer: &ThreadedProducer<C>,
    mut record: BaseRecord<'_, K, [u8]>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                record = returned;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error).context("giving the bare producer a record"),
        }
    }
}

/// The payload of a record: bytes that differ, so that compression has something to do.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{number:020}").into_bytes();
    let mut state = number as u64 | 1;
    while payload.len() < bytes {
        // xorshift: cheap, and the same for both sides.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        payload.push(b' ' + (state % 64) as u8);
    }
    payload
}
