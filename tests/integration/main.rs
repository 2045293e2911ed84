//! Integration suite: a real API server and a real Kafka broker, no root. One module per subject.

#![forbid(unsafe_code)]

mod agent;
mod crds;
mod groups;
mod kafka_groups;
mod kafka_topics;
mod push;
mod servers;
