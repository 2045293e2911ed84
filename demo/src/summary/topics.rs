//! Reads whole topics from the broker, with a client of its own that is in no group and commits nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::records::{Record, Topics};

const REQUEST: Duration = Duration::from_secs(10);
const WHOLE_TOPIC: Duration = Duration::from_secs(60);

/// Why a topic could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read topic {topic} from {brokers}: {source}")]
    Kafka { topic: String, brokers: String, source: KafkaError },
    #[error("topic {0} does not exist")]
    NoTopic(String),
    #[error("topic {topic}: {left} partitions were not read to their end within {} s", WHOLE_TOPIC.as_secs())]
    Slow { topic: String, left: usize },
}

/// Names of the three topics of a story.
#[derive(Debug, Clone)]
pub struct TopicNames {
    pub orders: String,
    pub notifications: String,
    pub dead_letters: String,
}

/// Reads the three topics up to the end that they have now. Blocking.
pub fn read_all(brokers: &str, names: &TopicNames) -> Result<Topics, ReadError> {
    Ok(Topics {
        orders: read(brokers, &names.orders)?,
        notifications: read(brokers, &names.notifications)?,
        dead_letters: read(brokers, &names.dead_letters)?,
    })
}

/// Messages in a topic now; what the story waits on.
pub fn count(brokers: &str, topic: &str) -> Result<i64, ReadError> {
    let consumer = client(brokers).map_err(|source| wrap(brokers, topic, source))?;
    Ok(ends(&consumer, brokers, topic)?.values().map(|(low, high)| high - low).sum())
}

fn wrap(brokers: &str, topic: &str, source: KafkaError) -> ReadError {
    ReadError::Kafka { topic: topic.to_owned(), brokers: brokers.to_owned(), source }
}

fn client(brokers: &str) -> Result<BaseConsumer, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "mq-demo-summary") // librdkafka wants one; nothing is subscribed or committed
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "error")
        .create()
}

/// (first, end) offset of each partition.
fn ends(consumer: &BaseConsumer, brokers: &str, topic: &str) -> Result<HashMap<i32, (i64, i64)>, ReadError> {
    let failed = |source| wrap(brokers, topic, source);
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).map_err(failed)?;
    let partitions =
        metadata.topics().iter().find(|t| t.name() == topic).map(rdkafka::metadata::MetadataTopic::partitions);
    let Some(partitions @ [_, ..]) = partitions else { return Err(ReadError::NoTopic(topic.to_owned())) };
    partitions
        .iter()
        .map(|p| Ok((p.id(), consumer.fetch_watermarks(topic, p.id(), REQUEST).map_err(failed)?)))
        .collect()
}

fn read(brokers: &str, topic: &str) -> Result<Vec<Record>, ReadError> {
    let failed = |source| wrap(brokers, topic, source);
    let consumer = client(brokers).map_err(failed)?;
    let mut left = ends(&consumer, brokers, topic)?;
    left.retain(|_, (low, high)| low < high);
    let mut assignment = TopicPartitionList::new();
    for (partition, (low, _)) in &left {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*low)).map_err(failed)?;
    }
    consumer.assign(&assignment).map_err(failed)?;

    let mut records = Vec::new();
    let started = Instant::now();
    while !left.is_empty() {
        if started.elapsed() > WHOLE_TOPIC {
            return Err(ReadError::Slow { topic: topic.to_owned(), left: left.len() });
        }
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.map_err(failed)?;
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
