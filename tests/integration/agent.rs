//! The agent against a real broker, configured by a stream server that the tests hold in their hands.

#![allow(
    clippy::unwrap_used,
    reason = "in what tests share, a poisoned lock or a payload that is no number fails the test"
)]

mod alone;
mod batches;
mod blocked;
mod commits;
mod consumer;
mod dead_letters;
mod deliveries;
mod examples;
mod fake_operator;
mod finished;
mod hooks;
mod ordering;
mod partitions;
mod patterns;
mod processes;
mod producer;
mod rebalances;
mod records;
mod rotation;
mod security;
mod settings;
mod sources;
mod stage;
mod static_members;
mod steer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_core::presets::PRESET_VERSION;
use mq_core::settings::{ConsumerSettings, ProducerSettings};
use mq_kafka::NewTopic;
use mq_protocol::body::{Connection, ConsumerBody, DeadLetter, ProducerBody, encode};
use mq_testkit::{Broker, wait_until};

/// Long enough for anything that happens at all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(10);

fn connection(brokers: &str) -> Connection {
    Connection::plaintext(vec![brokers.to_owned()])
}

fn producer_body(brokers: &str, settings: &ProducerSettings) -> Result<String> {
    Ok(encode(&ProducerBody { connection: connection(brokers), settings: settings.resolve(PRESET_VERSION)? })?.json)
}

fn consumer_body(brokers: &str, group: &str, topic: &str, settings: &ConsumerSettings) -> Result<String> {
    Ok(encode(&ConsumerBody {
        connection: connection(brokers),
        group_id: group.to_owned(),
        topics: vec![topic.to_owned()],
        dead_letter: DeadLetter { topic: dead_letters(group) },
        settings: settings.resolve(PRESET_VERSION)?,
    })?
    .json)
}

/// Creates a topic without replicas and with these topic configs.
async fn create_topic(kafka: &Broker, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
    let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: name.to_owned(), partitions, replication_factor: 1, configs };
    let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
    client.create_topics(&[topic], false).await.remove(name).context("no answer for the topic")??;
    Ok(())
}

fn dead_letters(group: &str) -> String {
    format!("{group}.dlq")
}

/// Settings of a consumer from the JSON that a user would write.
fn consumer_settings(json: &str) -> Result<ConsumerSettings> {
    Ok(serde_json::from_str(json)?)
}

fn producer_settings(json: &str) -> Result<ProducerSettings> {
    Ok(serde_json::from_str(json)?)
}

/// What the broker has committed for the group, by the partitions of the topic that have a commit.
async fn positions(kafka: &Broker, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
    let mut found = client.committed_offsets([group]).await;
    let offsets = found.remove(group).context("the broker did not answer for the group")??;
    let partitions = offsets.partitions.get(topic).into_iter().flatten();
    let known = partitions.map(|(partition, committed)| {
        let committed = committed.as_ref().map_err(|error| anyhow::anyhow!("partition {partition}: {error}"))?;
        Ok((*partition, committed.offset))
    });
    known.collect()
}

/// The same, summed over the partitions.
async fn committed(kafka: &Broker, group: &str, topic: &str) -> Result<i64> {
    Ok(positions(kafka, group, topic).await?.values().sum())
}

async fn wait_committed(kafka: &Broker, group: &str, topic: &str, expected: i64) -> Result<()> {
    wait_until(&format!("{expected} records are committed"), PATIENCE, async || {
        let now = committed(kafka, group, topic).await?;
        ensure!(now == expected, "{now} are");
        Ok(())
    })
    .await
}

/// Keys and ascending numbers: `k0 0`, `k1 0`, …, `k0 1`, …
fn numbered(keys: usize, each: usize) -> Vec<(String, String)> {
    (0..each).flat_map(|number| (0..keys).map(move |key| (format!("k{key}"), number.to_string()))).collect()
}

async fn produce_numbered(kafka: &Broker, topic: &str, keys: usize, each: usize) -> Result<()> {
    let records = numbered(keys, each);
    kafka.produce(topic, records.iter().map(|(key, value)| (key.as_str(), value.as_str()))).await
}

/// Checks what was handled, in the order in which it was handled: every number of every key came, and first handlings of a key
/// ascend. Returns how many came more than once.
fn check_handled(handled: &[(String, u32)], keys: usize, each: usize) -> Result<usize> {
    let mut next: BTreeMap<&str, u32> = BTreeMap::new();
    let mut seen: BTreeSet<(&str, u32)> = BTreeSet::new();
    for (key, number) in handled {
        if seen.insert((key, *number)) {
            let expected = next.entry(key).or_default();
            ensure!(number == expected, "{key} was handled with {number} where {expected} was next");
            *expected += 1;
        }
    }
    ensure!(seen.len() == keys * each, "{} distinct records were handled, not {}", seen.len(), keys * each);
    Ok(handled.len() - seen.len())
}
