//! Integration suite: a real API server and a real Kafka broker, no root. One module per subject.

#![forbid(unsafe_code)]

mod agent;
mod at_rest;
mod cluster;
mod crds;
mod dead_letters;
mod groups;
mod kafka_groups;
mod kafka_topics;
mod lease;
mod push;
mod rights;
mod secure;
mod servers;
mod topics;
mod world;
