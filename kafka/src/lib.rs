//! Kafka for administrators: the requests that librdkafka's safe wrapper lacks or cannot batch.
//!
//! [`Client`] is the whole surface. Below it: `view` remembers which broker leads what, `connection` is one socket with many
//! requests in flight (inside TLS and after a login, where `security` says so), `frame` is the only place that reads bytes and trusts none of them, `api` lists the requests and the
//! versions spoken. Kafka 3.0 is the oldest broker that fits; older ones get [`ErrorKind::UnsupportedApi`]. Beside all that, and
//! only with the feature `librdkafka`, `ffi` holds the few calls of that library that its safe wrapper lacks.
//!
//! Answers about many things are maps with one result per thing: what could not be read is an error of its own, never a zero,
//! an empty list or a missing key.
//!
//! ```no_run
//! # async fn run() {
//! use mq_kafka::{Client, Options, TopicError};
//!
//! let kafka = Client::new(["kafka-0:9092", "kafka-1:9092"], Options::default());
//! for (name, topic) in kafka.describe_topics(["orders", "payments"]).await {
//!     match topic {
//!         Ok(topic) => println!("{name}: {} partitions, id {}", topic.partitions.len(), topic.id),
//!         Err(TopicError::Absent) => println!("{name} does not exist"),
//!         Err(error) if error.is_retryable() => println!("{name} is unknown for now: {error}"),
//!         Err(error) => println!("{name}: {error}"),
//!     }
//! }
//! # }
//! ```

mod api;
mod client;
mod connection;
mod error;
#[cfg(test)]
mod fake;
#[cfg(feature = "librdkafka")]
pub mod ffi;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod groups;
mod offsets;
mod options;
mod sasl;
mod scram;
mod security;
mod tail;
mod topics;
mod view;

pub use client::Client;
pub use error::{BrokerError, Error, ErrorKind};
pub use groups::{
    CommittedOffset, Group, GroupError, GroupKind, GroupListing, GroupOffsets, GroupState, ListedGroup, Member,
    TopicOffsets, TopicUsers,
};
pub use kafka_protocol::ResponseError;
pub use offsets::{Isolation, OffsetSpec, PartitionError, PartitionMap, Partitions};
pub use options::Options;
pub use security::{ClientCertificate, Security, SecurityError};
pub use tail::{Behind, Then};
pub use topics::{
    Broker, Cluster, ConfigChange, ConfigEntry, ConfigSource, CreatedTopic, InvalidTopicId, NewTopic, Partition, Topic,
    TopicError, TopicId,
};
