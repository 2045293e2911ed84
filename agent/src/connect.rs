//! The librdkafka configuration of a body.

use std::collections::BTreeMap;

use mq_core::resolve::{ResolvedConsumer, ResolvedProducer};
use mq_protocol::body::{BodyError, Connection, ConsumerBody, Decoded, ProducerBody, decode, decode_unhashed};
use mq_protocol::message::NackReason;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use serde::{Serialize, de::DeserializeOwned};

use crate::consumer::{Target, pattern};
use crate::credentials::{Credentials, Login};
use crate::drive::{NotApplied, rejected};
use crate::security;
use crate::source::{Source, Value};

/// How long a new client may take to prove that it reaches the cluster.
pub(crate) const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) type Producer = ProducerBody<ResolvedProducer>;
pub(crate) type Consumer = ConsumerBody<ResolvedConsumer>;

/// After a full fetch queue; librdkafka's second makes a slow consumer stall.
const FETCH_BACKOFF_MS: &str = "10";
/// How late a consumer finds an added partition, or a new topic of its pattern; librdkafka's own five minutes are long for what waits there.
const REFRESH_MS: &str = "30000";
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
        Source::Code | Source::File | Source::Own | Source::LastGood => decode_unhashed(&value.body),
    };
    decoded.map_err(|error: BodyError| rejected(NackReason::Unreadable, error.to_string()))
}

pub(crate) fn producer(name: &str, body: &Producer, credentials: &Credentials) -> Result<ClientConfig, NotApplied> {
    let mut config = connection(name, &body.connection, credentials)?;
    config.set("statistics.interval.ms", STATISTICS_MS);
    for (key, value) in body.settings.to_librdkafka() {
        config.set(key, value);
    }
    Ok(config)
}

pub(crate) fn consumer(name: &str, body: &Consumer, credentials: &Credentials) -> Result<ClientConfig, NotApplied> {
    let mut config = connection(name, &body.connection, credentials)?;
    config.set("group.id", &body.group_id);
    config.set("statistics.interval.ms", STATISTICS_MS);
    config.set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS);
    config.set("topic.metadata.refresh.interval.ms", REFRESH_MS);
    for (key, value) in body.settings.to_librdkafka() {
        config.set(key, value);
    }
    if body.topics.iter().any(|topic| pattern::is_pattern(topic)) {
        pattern::hide(&mut config, &body.dead_letter.topic);
    }
    Ok(config)
}

pub(crate) fn dead_letters(name: &str, body: &Consumer, credentials: &Credentials) -> Result<Target, NotApplied> {
    let mut config = connection(&format!("{name}-dead-letters"), &body.connection, credentials)?;
    config.set("acks", "all").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
    config.set("message.timeout.ms", DEAD_LETTER_TIMEOUT_MS).set("linger.ms", "0");
    config.set("message.max.bytes", DEAD_LETTER_MAX_BYTES);
    // A topic that nobody declared would have neither the retention nor the readers that dead letters need.
    config.set("allow.auto.create.topics", "false");
    Ok(Target { topic: body.dead_letter.topic.clone(), group: body.group_id.clone(), config })
}

fn connection(name: &str, connection: &Connection, credentials: &Credentials) -> Result<ClientConfig, NotApplied> {
    let security = security::properties(connection, credentials);
    let security = security.map_err(|detail| rejected(NackReason::Invalid, detail))?;
    let mut config = ClientConfig::new();
    // librdkafka's own default. The wrapper's follows the crate `log`: without a logger there it would never tell why a connection ended.
    if (config.log_level as i32) < RDKafkaLogLevel::Info as i32 {
        config.set_log_level(RDKafkaLogLevel::Info);
    }
    config.set("bootstrap.servers", connection.brokers.join(","));
    config.set("client.id", format!("mq-{name}"));
    for (key, value) in security {
        config.set(key, value);
    }
    Ok(config)
}

/// What it takes to make a running client one of another configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// The running client can be told.
    Login(Login),
    Recreate,
}

pub(crate) fn change(running: &ClientConfig, wanted: &ClientConfig) -> Change {
    // The map itself hides passwords: of those only `get` tells the truth.
    let login = |config: &ClientConfig| {
        let username = config.get(security::USERNAME)?.to_owned();
        Some(Login { username, password: config.get(security::PASSWORD)?.into() })
    };
    let others = |config: &ClientConfig| {
        let all = config.config_map().into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let others = all.filter(|(key, _)| ![security::USERNAME, security::PASSWORD].contains(&key.as_str()));
        others.collect::<BTreeMap<String, String>>()
    };
    let (before, after) = (login(running), login(wanted));
    match after {
        _ if others(running) != others(wanted) => Change::Recreate,
        after if before == after => Change::Nothing,
        Some(after) if before.is_some() => Change::Login(after),
        _ => Change::Recreate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in pairs {
            config.set(*key, *value);
        }
        config
    }

    #[test]
    fn only_a_login_can_be_told_to_a_running_client() {
        let sasl = |username: &str, password: &str| {
            config(&[("linger.ms", "5"), (security::USERNAME, username), (security::PASSWORD, password)])
        };
        let plain = config(&[("linger.ms", "5")]);
        let login = |username: &str, password: &str| {
            Change::Login(Login { username: username.to_owned(), password: password.into() })
        };
        assert_eq!(change(&sasl("u", "p"), &sasl("u", "p")), Change::Nothing);
        assert_eq!(change(&sasl("u", "p"), &sasl("u", "new")), login("u", "new"));
        assert_eq!(change(&sasl("u", "p"), &sasl("v", "p")), login("v", "p"));
        assert_eq!(change(&sasl("u", "p"), &plain), Change::Recreate);
        assert_eq!(change(&plain, &sasl("u", "p")), Change::Recreate);
        let key = |key: &str| config(&[("ssl.key.pem", key)]);
        assert_eq!(change(&key("one"), &key("one")), Change::Nothing);
        assert_eq!(change(&key("one"), &key("two")), Change::Recreate);
    }
}
