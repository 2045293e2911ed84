//! Writing and reading whole topics, for tests of something else.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::future::try_join_all;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer, StreamConsumer},
    message::{Headers, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};

use crate::Broker;

const TIMEOUT: Duration = Duration::from_secs(30);

/// One record as it lies in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In the order of the record; a header without a value is `None`.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
}

impl Record {
    /// The key, if it is UTF-8 text.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value, if it is UTF-8 text.
    pub fn value_str(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }

    /// The first header of this name, if its value is UTF-8 text.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    fn of(message: &OwnedMessage) -> Self {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            timestamp: message.timestamp().to_millis(),
        }
    }
}

impl Broker {
    /// A client configuration that names this broker and nothing else.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    /// Creates a topic without replicas and returns once the broker has it.
    ///
    /// # Errors
    /// The broker does not answer or refuses, for example because the topic exists.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let attempt = || format!("creating the topic {name}");
        let admin: AdminClient<DefaultClientContext> = self.client_config().create().with_context(attempt)?;
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for result in admin.create_topics([&topic], &options).await.with_context(attempt)? {
            result.map_err(|(topic, code)| anyhow!("creating the topic {topic}: the broker refuses: {code}"))?;
        }
        Ok(())
    }

    /// Writes records of (key, value) in this order and returns once the broker has acknowledged all of them.
    ///
    /// # Errors
    /// A record was not acknowledged within 30 s.
    pub async fn produce<'a>(&self, topic: &str, records: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let attempt = || format!("producing to {topic}");
        let mut config = self.client_config();
        let producer: FutureProducer = config.set("enable.idempotence", "true").create().with_context(attempt)?;
        let mut deliveries = Vec::new();
        for (key, value) in records {
            let record = FutureRecord::to(topic).key(key).payload(value);
            deliveries.push(producer.send_result(record).map_err(|(error, _)| error).with_context(attempt)?);
        }
        for delivery in try_join_all(deliveries).await.with_context(attempt)? {
            delivery.map_err(|(error, _)| error).with_context(attempt)?;
        }
        Ok(())
    }

    /// Reads every partition from its first offset to the end that it had when the call began, without joining a group.
    /// Ordered by partition and offset. Aborted transactional records are left out.
    ///
    /// # Errors
    /// The topic does not exist, or its end was not reached within 30 s.
    pub async fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        read_all(self.client_config(), topic).await
    }
}

pub(crate) async fn read_all(mut config: ClientConfig, topic: &str) -> Result<Vec<Record>> {
    let attempt = || format!("reading {topic} to its end");
    let reader: StreamConsumer = config
        .set("group.id", "mq-testkit-reader") // never joined: librdkafka wants one even for assigned partitions
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .with_context(attempt)?;
    let metadata = reader.fetch_metadata(Some(topic), TIMEOUT).with_context(attempt)?;
    let partitions = metadata.topics().first().map(|found| found.partitions().len()).unwrap_or_default();
    ensure!(partitions > 0, "{}: there is no such topic", attempt());

    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    reader.assign(&assignment).with_context(attempt)?;
    let read = tokio::time::timeout(TIMEOUT, to_the_end(&reader, partitions));
    let mut records = read.await.with_context(attempt)?.with_context(attempt)?;
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

async fn to_the_end(reader: &StreamConsumer, mut open: usize) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    while open > 0 {
        match reader.recv().await {
            Ok(message) => records.push(Record::of(&message.detach())),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(records)
}
