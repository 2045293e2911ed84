//! For the tests of services: records to hand to a handler, and a broker inside the process.
//!
//! ```
//! use mq_agent::{Failure, Message, Record, testing};
//!
//! async fn handle(record: Record) -> Result<(), Failure> {
//!     std::str::from_utf8(record.payload()).map(drop).map_err(Failure::reject)
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! assert!(handle(testing::record(Message::to("orders").payload("text"))).await.is_ok());
//! assert!(handle(testing::record(Message::to("orders").payload([0xff].to_vec()))).await.is_err());
//! # });
//! ```

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use thiserror::Error;

use crate::config::{Config, Env};
use crate::message::Message;
use crate::record::Record;

/// The message as the record that a handler gets: at offset 0 of the partition that the message chose, else of 0.
pub fn record(message: Message) -> Record {
    Record::of(message, 0)
}

/// A broker in the memory of this process, gone when it is dropped: librdkafka's own, which speaks Kafka's protocol on a port of
/// loopback. Producers, consumers, groups and offsets work as on a real one; a new group takes 3 s to form. It knows no access
/// control, no retention and no transactions.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mq_agent::{Message, Options, Producer, testing};
///
/// let broker = testing::Broker::start()?;
/// broker.create_topic("orders", 3)?;
/// let producer = Producer::new(&broker.config(), &Options::default()).await?;
/// producer.send_sync(Message::to("orders").key("7").payload("{}")).await?;
/// # Ok(()) }
/// ```
pub struct Broker(MockCluster<'static, DefaultProducerContext>);

/// The broker in memory could not do what was asked.
#[derive(Debug, Error)]
#[error("{attempt}: {source}")]
pub struct BrokerError {
    attempt: String,
    source: KafkaError,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Broker").field(&self.0.bootstrap_servers()).finish()
    }
}

impl Broker {
    /// Starts one.
    ///
    /// # Errors
    /// librdkafka's words, for example when there is no port left.
    pub fn start() -> Result<Self, BrokerError> {
        let attempt = || "starting a broker in memory".to_owned();
        MockCluster::new(1).map(Self).map_err(|source| BrokerError { attempt: attempt(), source })
    }

    /// Creates a topic. A dead-letter topic needs to be created like any other.
    ///
    /// # Errors
    /// librdkafka's words, for example when the topic exists.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), BrokerError> {
        let attempt = || format!("creating the topic {name} with {partitions} partitions in memory");
        self.0.create_topic(name, partitions, 1).map_err(|source| BrokerError { attempt: attempt(), source })
    }

    /// The development preset on this broker.
    pub fn config(&self) -> Config {
        Config::for_env(Env::Development).brokers(self.0.bootstrap_servers().split(','))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{Consumer, Failure, Options, Producer};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_runs_on_the_broker_in_memory() {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 3).unwrap();
        broker.create_topic("g.dlq", 1).unwrap();
        let producer = Producer::new(&broker.config(), &Options::default()).await.unwrap();
        for number in 0..10 {
            let message = Message::to("orders").key(number.to_string()).payload(number.to_string());
            producer.send_sync(message).await.unwrap();
        }
        let consumer = Consumer::new(&broker.config(), "g", ["orders"], &Options::default()).await.unwrap();
        let (sender, mut seen) = mpsc::unbounded_channel();
        let subscription = tokio::spawn({
            let consumer = consumer.clone();
            async move {
                let handler = move |record: Record| {
                    let poison = record.payload() == b"5";
                    sender.send(record).unwrap();
                    async move { if poison { Err(Failure::reject("poison")) } else { Ok(()) } }
                };
                consumer.subscribe(handler).await
            }
        });
        let mut keys = std::collections::BTreeSet::new();
        while keys.len() < 10 {
            let record = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await.unwrap().unwrap();
            keys.insert(record.key().unwrap().to_vec());
        }
        consumer.close(Duration::from_secs(10)).await;
        subscription.await.unwrap().unwrap();
        let stats = consumer.stats();
        assert_eq!((stats.messages_consumed, stats.dead_letters), (10, 1), "{stats:?}");
    }
}
