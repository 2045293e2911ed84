//! The client library that a workload links: producers and consumers that are configured by name, from the operator, from files or
//! from code, and that change their configuration while they run.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use mq_agent::{Agent, Failure, Message};
//!
//! # async fn work(_: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::connect().await; // never fails for lack of an operator
//! let drained = agent.drain_on(mq_agent::sigterm(), Duration::from_secs(20));
//!
//! let producer = agent.producer("orders").await?; // MqProducerConfig/orders
//! let delivery = producer.send(Message::to("orders").key("7").payload("{}")).await?;
//! let ack = delivery.await?;
//! println!("written to partition {} at offset {:?}", ack.partition, ack.offset);
//!
//! let consumer = agent.consumer("notifications").await?; // MqConsumerGroup/notifications
//! consumer.subscribe(|record| async move { work(record.payload()).await.map_err(Failure::retry) }).await?;
//! drained.await?;
//! # Ok(()) }
//! ```
//!
//! # Features
//! None is on by default. `json` and `protobuf`: payloads of those forms. `prometheus`: [`Metrics`] is a collector of that crate.
//! `opentelemetry`: metrics by the names of its conventions. `testing`: records, a broker and configurations for the tests of services.
//!
//! # Shape
//! ```text
//! agent      the named clients of the process      options, config   how they are set up
//! source/    code < files < own < last good < stream    hub, stream       the one stream to the operator
//! drive      one task per client: take the strongest configuration, apply it, answer
//! connect, security, credentials, effective        a body and secrets to librdkafka's properties, and what it really runs with
//! producer/  gate (exchange without loss), client (librdkafka), apply
//! record     batches of records in one buffer
//! consumer/  poll (one thread), intake, lanes (ready-key queue), slots, offsets, budget, work and bulk (handlers), desk (retries),
//!            dead_letter, context, apply
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod agent;
mod cloud_event;
mod config;
mod connect;
mod consumer;
mod credentials;
mod drive;
mod effective;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
mod hook;
mod hub;
mod librdkafka;
mod message;
mod metrics;
#[cfg(feature = "opentelemetry")]
mod open_telemetry;
mod options;
mod payload;
mod producer;
mod record;
mod report;
mod security;
mod source;
mod stats;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;

pub use agent::{Agent, sigterm};
pub use cloud_event::{CloudEvent, CloudEventError};
pub use config::{
    Acks, AutoOffsetReset, Compression, Config, ConsumerSettings, Env, ProducerSettings, SaslMechanism,
    SecurityProtocol,
};
pub use consumer::{
    Acker, BatchFailure, Batches, Consumer, DeadLetterBreaker, Delivered, Deliveries, Ordering, StaticMember,
};
pub use credentials::Password;
pub use error::{ConsumeError, Error, Failure, FlushError, SendError, SendErrorKind};
pub use hook::{Handled, Hook, Sent};
pub use message::{Ack, Header, Message};
pub use metrics::{ClientStats, Metrics};
pub use mq_protocol::message::{ClientRef, Kind as ClientKind};
#[cfg(feature = "opentelemetry")]
pub use open_telemetry::OpenTelemetry;
pub use options::Options;
pub use payload::{CONTENT_TYPE_HEADER, EVENT_TYPE_HEADER, RETRY_COUNT_HEADER, VERSION_HEADER};
pub use producer::{Delivery, Producer};
pub use record::{ConsumerMetadata, Record};
pub use source::{ConfigBody, ConfigOutcome, ConfigSource};
pub use stats::{ConsumerStats, HotKey, ProducerStats};
pub use trace::{TRACE_HEADER, TraceContext, TraceId};
