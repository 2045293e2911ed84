//! The librdkafka properties of resolved settings.

use std::collections::BTreeMap;

use super::{ResolvedConsumer, ResolvedProducer};
use crate::knobs;

/// Pause between heartbeats, in milliseconds. A member learns of a rebalance with its next heartbeat, so partitions that somebody left
/// have no owner for that long: librdkafka's own 3 s are too long.
const HEARTBEAT_MS: u32 = 1_000;

impl ResolvedProducer {
    /// Properties and their values, sorted by name, without addresses and credentials.
    pub fn to_librdkafka(&self) -> Vec<(String, String)> {
        let mut properties = BTreeMap::new();
        let mut set = |name: &str, value: String| properties.insert(name.to_owned(), value);
        set(property(&knobs::ACKS), self.acks.to_string());
        set(property(&knobs::RETRY_MAX), self.retry_max.to_string());
        set(property(&knobs::BATCH_SIZE), self.batch_size.to_string());
        set(property(&knobs::LINGER_MS), self.linger_ms.to_string());
        set(property(&knobs::COMPRESSION), self.compression.to_string());
        set("enable.idempotence", self.is_idempotent().to_string());
        // The partitioner of the Java client, so that a key has one partition whoever sends it.
        set("partitioner", "murmur2_random".to_owned());
        if self.needs_one_in_flight() {
            set("max.in.flight.requests.per.connection", "1".to_owned());
        }
        finish(properties, &self.overrides)
    }
}

impl ResolvedConsumer {
    /// Properties and their values, sorted by name, without addresses, credentials and group id.
    pub fn to_librdkafka(&self) -> Vec<(String, String)> {
        let mut properties = BTreeMap::new();
        let mut set = |name: &str, value: String| properties.insert(name.to_owned(), value);
        set(property(&knobs::AUTO_OFFSET_RESET), self.auto_offset_reset.to_string());
        set(property(&knobs::SESSION_TIMEOUT_MS), self.session_timeout_ms.to_string());
        set(property(&knobs::MAX_POLL_INTERVAL_MS), self.max_poll_interval_ms.to_string());
        // Three heartbeats must fit into a session, so that one lost packet does not cost the partitions.
        set("heartbeat.interval.ms", HEARTBEAT_MS.min(self.session_timeout_ms / 3).to_string());
        // The agent commits handled records itself.
        set("enable.auto.commit", "false".to_owned());
        set("enable.auto.offset.store", "false".to_owned());
        set("partition.assignment.strategy", "cooperative-sticky".to_owned());
        finish(properties, &self.overrides)
    }
}

fn property(knob: &knobs::Knob) -> &'static str {
    knob.librdkafka.unwrap_or(knob.name)
}

fn finish(mut properties: BTreeMap<String, String>, overrides: &BTreeMap<String, String>) -> Vec<(String, String)> {
    if overrides.contains_key("max.in.flight") {
        // The short name of the same property: both would leave the order of setting to chance.
        properties.remove("max.in.flight.requests.per.connection");
    }
    properties.extend(overrides.clone());
    properties.into_iter().collect()
}
