//! The librdkafka configuration of a body.

use mq_core::resolve::{ResolvedConsumer, ResolvedProducer};
use mq_protocol::body::{
    BodyError, Connection, ConsumerBody, Decoded, ProducerBody, SecurityProtocol, decode, decode_unhashed,
};
use mq_protocol::message::NackReason;
use rdkafka::config::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};

use crate::consumer::Target;
use crate::drive::{NotApplied, rejected};
use crate::source::{Source, Value};

/// How long a new client may take to prove that it reaches the cluster.
pub(crate) const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) type Producer = ProducerBody<ResolvedProducer>;
pub(crate) type Consumer = ConsumerBody<ResolvedConsumer>;

/// librdkafka's own fetch queue, on top of the agent's budget.
const FETCH_QUEUE_KIB: &str = "16384";
/// After a full fetch queue; librdkafka's second makes a slow consumer stall.
const FETCH_BACKOFF_MS: &str = "50";
/// How often librdkafka tells what only it counts.
const STATISTICS_MS: &str = "5000";
/// How long a dead letter may take.
const DEAD_LETTER_TIMEOUT_MS: &str = "15000";
/// What came through Kafka must fit: brokers take no request above 100 MiB (`socket.request.max.bytes`). The topic has its own limit.
const DEAD_LETTER_MAX_BYTES: &str = "104857600";

/// Reads the body of a value. Only what the operator sends carries a hash that was made by somebody else.
pub(crate) fn read<B: Serialize + DeserializeOwned>(value: &Value) -> Result<Decoded<B>, NotApplied> {
    let decoded = match value.source {
        Source::Stream => decode(&value.body, &value.version.hash),
        Source::Code | Source::File | Source::LastGood => decode_unhashed(&value.body),
    };
    decoded.map_err(|error: BodyError| rejected(NackReason::Unreadable, error.to_string()))
}

pub(crate) fn producer(name: &str, body: &Producer) -> ClientConfig {
    let mut config = connection(name, &body.connection);
    config.set("statistics.interval.ms", STATISTICS_MS);
    for (key, value) in body.settings.to_librdkafka() {
        config.set(key, value);
    }
    config
}

pub(crate) fn consumer(name: &str, body: &Consumer) -> ClientConfig {
    let mut config = connection(name, &body.connection);
    config.set("group.id", &body.group_id);
    config.set("statistics.interval.ms", STATISTICS_MS);
    config.set("queued.max.messages.kbytes", FETCH_QUEUE_KIB);
    config.set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS);
    for (key, value) in body.settings.to_librdkafka() {
        config.set(key, value);
    }
    config
}

pub(crate) fn dead_letters(name: &str, body: &Consumer) -> Target {
    let mut config = connection(&format!("{name}-dead-letters"), &body.connection);
    config.set("acks", "all").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
    config.set("message.timeout.ms", DEAD_LETTER_TIMEOUT_MS).set("linger.ms", "0");
    config.set("message.max.bytes", DEAD_LETTER_MAX_BYTES);
    // A topic that nobody declared would have neither the retention nor the readers that dead letters need.
    config.set("allow.auto.create.topics", "false");
    Target { topic: body.dead_letter.topic.clone(), group: body.group_id.clone(), config }
}

fn connection(name: &str, connection: &Connection) -> ClientConfig {
    let SecurityProtocol::Plaintext = connection.security_protocol;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", connection.brokers.join(","));
    config.set("security.protocol", "plaintext");
    config.set("client.id", format!("mq-{name}"));
    config
}
