//! The dead-letter topic: the record as it was, with headers that say where it came from and why it is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::connect;
use crate::error::{Failure, SendError};
use crate::hook::Hooks;
use crate::message::{Header, Message};
use crate::payload::RETRY_COUNT_HEADER;
use crate::producer::{Client, Completion, NotTaken, Pending};
use crate::record::Record;
use crate::stats::ProducerCounters;
use crate::trace::Missing;

const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of an error that goes into a header.
const MAX_ERROR_BYTES: usize = 1024;

pub(super) const TOPIC: &str = "mq-original-topic";
pub(super) const PARTITION: &str = "mq-original-partition";
pub(super) const OFFSET: &str = "mq-original-offset";
pub(super) const TIMESTAMP: &str = "mq-original-timestamp";
pub(super) const GROUP: &str = "mq-original-group";
pub(super) const ATTEMPTS: &str = "mq-attempts";
pub(super) const ERROR: &str = "mq-exception-message";
/// How many bytes the value had that was left out; absent if it is there.
pub(super) const VALUE_OMITTED: &str = "mq-value-omitted-bytes";

/// Where dead letters go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) topic: String,
    pub(crate) group: String,
    /// A client that waits for all replicas.
    pub(crate) config: ClientConfig,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        let parts = |target: &Self| (target.topic.clone(), target.group.clone());
        parts(self) == parts(other) && connect::change(&self.config, &other.config) == connect::Change::Nothing
    }
}

/// Without the configuration, which holds a password or a key.
impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Target").field("topic", &self.topic).field("group", &self.group).finish_non_exhaustive()
    }
}

/// Why a dead letter is not in its topic yet.
#[derive(Debug, Error)]
pub(super) enum Undelivered {
    #[error(
        "the dead-letter topic {topic} does not exist; create it, or let the operator (an MqConsumerGroup with deadLetter) do it"
    )]
    TopicMissing { topic: String },
    #[error("the dead letter could not be delivered: {0}")]
    NotSent(#[from] SendError),
    #[error("the dead-letter client could not be made or did not reach the cluster: {0}")]
    Unreachable(String),
}

impl Undelivered {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TopicMissing { .. } => "DeadLetterTopicMissing",
            Self::NotSent(_) | Self::Unreachable(_) => "DeadLetterNotDelivered",
        }
    }

    /// Whether it stays so until somebody mends it.
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            Self::TopicMissing { .. } => true,
            Self::NotSent(error) => !error.is_retryable(),
            Self::Unreachable(_) => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct DeadLetters {
    name: String,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    target: Target,
    /// Made with the first dead letter: most consumers never need it.
    client: Option<Arc<Client>>,
    /// The topic was there when the last dead letter was delivered.
    topic_seen: bool,
}

impl DeadLetters {
    pub(crate) fn new(name: &str, target: Target) -> Self {
        Self { name: name.to_owned(), current: Mutex::new(Current { target, client: None, topic_seen: false }) }
    }

    /// Dead letters go there from now on. The client before flushes what it holds and ends.
    pub(crate) fn set_target(&self, target: Target) {
        *self.lock() = Current { target, client: None, topic_seen: false };
    }

    /// The group whose dead letters these are.
    pub(super) fn group(&self) -> String {
        self.lock().target.group.clone()
    }

    /// Delivers a dead letter and waits until all replicas have it. One that is too large for the topic goes without its value: the
    /// headers say where the record lies, and a record that nobody can bury would stop its key and every later commit.
    pub(super) async fn deliver(&self, record: &Record, failure: &Failure) -> Result<(), Undelivered> {
        let (client, target, topic_seen) = self.client()?;
        if !topic_seen {
            // Asked first, because librdkafka holds messages for an unknown topic for half a minute before it says so.
            match client.topic_exists(&target.topic, METADATA_TIMEOUT).await {
                Ok(true) => {}
                Ok(false) => return Err(Undelivered::TopicMissing { topic: target.topic }),
                Err(error) => return Err(Undelivered::Unreachable(error)),
            }
        }
        let mut message = letter(record, &target, failure);
        let mut outcome = send(&client, &message).await;
        if let Err(Undelivered::NotSent(SendError::TooLarge { .. })) = outcome
            && omit_value(&mut message)
        {
            tracing::warn!(
                consumer = self.name,
                topic = record.topic(),
                partition = record.partition(),
                offset = record.offset(),
                "the record is too large for the dead-letter topic {}; its dead letter goes without the value",
                target.topic
            );
            outcome = send(&client, &message).await;
        }
        let mut current = self.lock();
        if current.client.as_ref().is_some_and(|known| Arc::ptr_eq(known, &client)) {
            current.topic_seen = outcome.is_ok();
        }
        outcome
    }

    fn client(&self) -> Result<(Arc<Client>, Target, bool), Undelivered> {
        let mut current = self.lock();
        let usable = current.client.as_ref().filter(|client| client.fatal_error().is_none()).map(Arc::clone);
        let client = if let Some(client) = usable {
            client
        } else {
            let (name, counters) = (format!("{}-dead-letters", self.name), Arc::new(ProducerCounters::default()));
            let client = Client::new(&name, &current.target.config, counters, Hooks::default());
            let client = Arc::new(client.map_err(|error| Undelivered::Unreachable(error.to_string()))?);
            current.client = Some(Arc::clone(&client));
            current.topic_seen = false;
            client
        };
        Ok((client, current.target.clone(), current.topic_seen))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(client: &Client, message: &Message) -> Result<(), Undelivered> {
    let (sender, outcome) = oneshot::channel();
    let pending = Pending { completion: Completion::Waiter(sender), since: None };
    match client.send(message, message.with_headers(&Missing::default()), pending) {
        Ok(()) => {}
        Err(NotTaken::Refused(error)) => return Err(error.into()),
        Err(NotTaken::QueueFull(_)) => {
            return Err(Undelivered::Unreachable(RDKafkaErrorCode::QueueFull.to_string()));
        }
        // The next attempt makes a new one.
        Err(NotTaken::Fatal(_)) => return Err(Undelivered::Unreachable(client.fatal_error().unwrap_or_default())),
    }
    match outcome.await {
        Ok(outcome) => outcome.map(drop).map_err(Undelivered::from),
        Err(_) => Err(Undelivered::Unreachable("the client ended".to_owned())),
    }
}

/// Whether there was a value.
fn omit_value(letter: &mut Message) -> bool {
    let Some(value) = letter.payload.take() else { return false };
    let bytes = Bytes::from(value.len().to_string());
    letter.headers.push(Header { name: VALUE_OMITTED.to_owned(), value: Some(bytes) });
    true
}

/// The record as it was. Headers of an earlier burial are replaced, never appended: readers differ in which of two they take.
fn letter(record: &Record, target: &Target, failure: &Failure) -> Message {
    let mut error = failure.message.as_str();
    error = &error[..error.floor_char_boundary(MAX_ERROR_BYTES)];
    let mut ours = vec![
        (TOPIC, record.topic().to_owned()),
        (PARTITION, record.partition().to_string()),
        (OFFSET, record.offset().to_string()),
        (GROUP, target.group.clone()),
        (ATTEMPTS, record.attempt().to_string()),
        (RETRY_COUNT_HEADER, record.retry_count().to_string()),
        (ERROR, error.to_owned()),
    ];
    ours.extend(record.timestamp().map(|timestamp| (TIMESTAMP, timestamp.to_string())));
    let mut message = Message::to(&target.topic);
    message.key = record.key_bytes();
    message.payload = record.payload_bytes();
    message.timestamp = record.timestamp();
    message.headers = record.headers().iter().filter(|header| !is_ours(&header.name)).cloned().collect();
    message.headers.extend(
        ours.into_iter().map(|(name, value)| Header { name: name.to_owned(), value: Some(Bytes::from(value)) }),
    );
    message
}

fn is_ours(name: &str) -> bool {
    [TOPIC, PARTITION, OFFSET, TIMESTAMP, GROUP, ATTEMPTS, RETRY_COUNT_HEADER, ERROR, VALUE_OMITTED].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { topic: "orders.dlq".into(), group: "notifications".into(), config: ClientConfig::new() }
    }

    fn values<'a>(message: &'a Message, name: &str) -> Vec<&'a [u8]> {
        message
            .headers
            .iter()
            .filter(|header| header.name == name)
            .filter_map(|header| header.value.as_deref())
            .collect()
    }

    #[test]
    fn a_second_burial_replaces_the_headers_of_the_first() {
        let header = |name: &str, value: &str| Header {
            name: name.to_owned(),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
        };
        let headers = vec![
            header("X-Trace-ID", "t1"),
            header(OFFSET, "3"),
            header(RETRY_COUNT_HEADER, "9"),
            header(ERROR, "old"),
        ];
        let record = Record::for_test("orders", 2, 41, Some("7"), headers).at_attempt(3);
        let message = letter(&record, &target(), &Failure::retry("no such user"));
        assert_eq!(message.topic(), "orders.dlq");
        assert_eq!(message.key.as_deref(), Some(b"7".as_slice()));
        assert_eq!(values(&message, "X-Trace-ID"), [b"t1".as_slice()]);
        for (name, value) in [
            (TOPIC, "orders"),
            (PARTITION, "2"),
            (OFFSET, "41"),
            (TIMESTAMP, "1700000000000"),
            (GROUP, "notifications"),
            (ATTEMPTS, "3"),
            (RETRY_COUNT_HEADER, "11"),
            (ERROR, "no such user"),
        ] {
            assert_eq!(values(&message, name), [value.as_bytes()], "{name}");
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let record = Record::for_test("orders", 0, 0, None, Vec::new());
        let message = letter(&record, &target(), &Failure::reject("é".repeat(2_000)));
        let error = std::str::from_utf8(values(&message, ERROR)[0]).unwrap();
        assert!(error.len() <= MAX_ERROR_BYTES && error.chars().all(|c| c == 'é'));
    }
}
