//! Reads whole topics from the broker, with a client of its own that is in no group and commits nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message;
use rdkafka::metadata::MetadataPartition;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::records::{Record, Topics};

const REQUEST: Duration = Duration::from_secs(10);
const WHOLE_TOPIC: Duration = Duration::from_mins(1);

/// Names of the three topics of a story.
#[derive(Debug, Clone)]
pub struct TopicNames {
    pub orders: String,
    pub notifications: String,
    pub dead_letters: String,
}

/// Reads the three topics up to the end that they have now. Blocking.
///
/// # Errors
/// A topic cannot be read whole.
pub fn read_all(brokers: &str, names: &TopicNames) -> anyhow::Result<Topics> {
    Ok(Topics {
        orders: read(brokers, &names.orders)?,
        notifications: read(brokers, &names.notifications)?,
        dead_letters: read(brokers, &names.dead_letters)?,
    })
}

/// Messages in a topic now; what the story waits on. Blocking.
///
/// # Errors
/// The broker does not say.
pub fn count(brokers: &str, topic: &str) -> anyhow::Result<i64> {
    let counted = client(brokers).and_then(|consumer| ends(&consumer, topic));
    let ends = counted.with_context(|| format!("cannot count the messages of topic {topic} at {brokers}"))?;
    Ok(ends.values().map(|(low, high)| high - low).sum())
}

fn client(brokers: &str) -> KafkaResult<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "mq-demo-summary") // librdkafka wants one; nothing is subscribed or committed
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "error")
        .create()
}

/// (first, end) offset of each partition.
fn ends(consumer: &BaseConsumer, topic: &str) -> KafkaResult<HashMap<i32, (i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let topics = metadata.topics().iter().filter(|found| found.name() == topic);
    let partitions = topics.flat_map(|found| found.partitions().iter().map(MetadataPartition::id));
    partitions.map(|id| Ok((id, consumer.fetch_watermarks(topic, id, REQUEST)?))).collect()
}

fn read(brokers: &str, topic: &str) -> anyhow::Result<Vec<Record>> {
    let attempt = || format!("cannot read topic {topic} at {brokers}");
    let consumer = client(brokers).with_context(attempt)?;
    let mut left = ends(&consumer, topic).with_context(attempt)?;
    ensure!(!left.is_empty(), "topic {topic} does not exist at {brokers}");
    left.retain(|_, (low, high)| low < high);
    let mut assignment = TopicPartitionList::new();
    for (partition, (low, _)) in &left {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*low)).with_context(attempt)?;
    }
    consumer.assign(&assignment).with_context(attempt)?;

    let mut records = Vec::new();
    let started = Instant::now();
    while !left.is_empty() {
        let waited = started.elapsed();
        ensure!(
            waited < WHOLE_TOPIC,
            "topic {topic}: {} partitions not read to their end within {waited:?}",
            left.len()
        );
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.with_context(attempt)?;
        let (partition, offset) = (message.partition(), message.offset());
        let Some((_, high)) = left.get(&partition) else { continue };
        if offset < *high {
            records.push(Record {
                partition,
                offset,
                at: message.timestamp().to_millis().unwrap_or_default(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().unwrap_or_default().to_vec(),
            });
        }
        if offset + 1 >= *high {
            left.remove(&partition);
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}
