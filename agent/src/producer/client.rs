//! One librdkafka producer and the thread that polls it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::credentials::Login;
use crate::error::{Error, SendError};
use crate::guard::guarded;
use crate::hook::Hooks;
use crate::librdkafka::{Health, Trouble};
use crate::message::{Ack, Message};
use crate::stats::ProducerCounters;

use super::space::Space;
use super::spare::Spare;

/// How long the last handle's messages are waited for in the background after it was dropped without `close`.
const FLUSH_ON_DROP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// What is told the outcome of one message.
pub(crate) enum Completion {
    Waiter(oneshot::Sender<Result<Ack, SendError>>),
    /// Behind a lock that is never taken, because librdkafka's wrapper asks for `Sync`.
    Callback(Mutex<Callback>),
}

pub(crate) type Callback = Box<dyn FnOnce(Result<Ack, SendError>) + Send>;

impl Completion {
    fn complete(self, outcome: Result<Ack, SendError>) {
        match self {
            // Nobody waits for it any more: that is how a caller says that it does not care.
            Self::Waiter(waiter) => drop(waiter.send(outcome)),
            Self::Callback(callback) => {
                let callback = callback.into_inner().unwrap_or_else(PoisonError::into_inner);
                // The thread that is told of deliveries serves every other message too.
                guarded("a delivery callback", || callback(outcome));
            }
        }
    }
}

/// A message that librdkafka holds.
pub(crate) struct Pending {
    pub(crate) completion: Completion,
    /// When it was sent, if that is to be known.
    pub(crate) since: Option<Instant>,
}

/// Why librdkafka did not take a message.
pub(crate) enum NotTaken {
    QueueFull(Pending),
    /// The client can send nothing any more; see [`Client::fatal_error`].
    Fatal(Pending),
    Refused(SendError),
}

#[derive(Debug)]
pub(crate) struct Deliveries {
    name: String,
    counters: Arc<ProducerCounters>,
    hooks: Hooks,
    space: Space,
    spare: Spare<Pending>,
    /// Requests that this client sent again, as librdkafka counted them last.
    retries: AtomicU64,
    health: Health,
}

/// What is read of librdkafka's statistics.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    #[serde(default)]
    txretries: u64,
}

pub(crate) struct Client {
    config: ClientConfig,
    base: Arc<BaseProducer<Deliveries>>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.logged(facility, message);
        crate::librdkafka::log(&self.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.health.told(code, reason);
        }
        tracing::warn!(producer = self.name, %error, reason, "librdkafka reports an error");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(Statistics { brokers }) => {
                let retries: u64 = brokers.values().map(|broker| broker.txretries).sum();
                self.counters.retried(retries.saturating_sub(self.retries.swap(retries, Ordering::Relaxed)));
            }
            Err(error) => tracing::debug!(producer = self.name, %error, "librdkafka's statistics cannot be read"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Option<Pending>>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Option<Pending>>) {
        let Some(Pending { completion, since }) = self.spare.emptied(pending) else {
            // Each is filled when it is handed over, and emptied here alone.
            tracing::error!(producer = self.name, "a message was delivered twice");
            return;
        };
        let (Ok(message) | Err((_, message))) = result;
        let outcome = match result {
            Ok(_) => {
                let bytes = message.key_len() + message.payload_len();
                self.counters.acknowledged(bytes, since.map(|since| since.elapsed()));
                let offset = Some(message.offset()).filter(|offset| *offset >= 0);
                let topic = message.topic().to_owned();
                Ok(Ack { topic, partition: message.partition(), offset, timestamp: message.timestamp().to_millis() })
            }
            Err((error, _)) => {
                self.counters.failed();
                // Time ran out; why it did is known from elsewhere.
                let trouble = self
                    .health
                    .trouble()
                    .filter(|_| error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut));
                Err(SendError::new(message.topic(), error).because(trouble.as_ref()))
            }
        };
        if let Some(since) = since.filter(|_| !self.hooks.is_empty()) {
            self.hooks.sent(&self.name, message.topic(), since, &outcome);
        }
        completion.complete(outcome);
        self.space.delivered();
    }
}

impl Client {
    pub(crate) fn new(
        name: &str,
        config: &ClientConfig,
        counters: Arc<ProducerCounters>,
        hooks: Hooks,
    ) -> Result<Self, Error> {
        let context = Deliveries {
            name: name.to_owned(),
            counters,
            hooks,
            space: Space::default(),
            spare: Spare::default(),
            retries: AtomicU64::default(),
            health: Health::default(),
        };
        let base: BaseProducer<Deliveries> = config
            .create_with_context(context)
            .map_err(|source| Error::Refused { what: format!("the producer {name}"), source })?;
        let base = Arc::new(base);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = format!("mq-producer-{name}");
        std::thread::Builder::new()
            .name(thread.clone())
            .spawn({
                let (base, stop) = (Arc::clone(&base), Arc::clone(&stop));
                move || poll(&base, &stop)
            })
            .map_err(|source| Error::Thread { name: thread, source })?;
        Ok(Self { config: config.clone(), base, stop })
    }

    /// Another client of the same configuration.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        let context = self.base.client().context();
        Self::new(&context.name, &self.config, Arc::clone(&context.counters), context.hooks.clone())
    }

    /// Hands a message to librdkafka, or gives it back. Never waits.
    pub(crate) fn send(
        &self,
        message: &Message,
        headers: Option<OwnedHeaders>,
        pending: Pending,
    ) -> Result<(), NotTaken> {
        let spare = &self.base.client().context().spare;
        let mut record: BaseRecord<'_, [u8], [u8], Box<Option<Pending>>> =
            BaseRecord::with_opaque_to(&message.topic, spare.boxed(pending));
        record.key = message.key.as_deref();
        record.payload = message.payload.as_deref();
        record.partition = message.partition;
        record.timestamp = message.timestamp;
        record.headers = headers;
        let counters = &self.base.client().context().counters;
        let (error, record) = match self.base.send(record) {
            Ok(()) => {
                counters.taken();
                return Ok(());
            }
            Err(not_taken) => not_taken,
        };
        let code = error.rdkafka_error_code();
        Err(match (code, *record.delivery_opaque) {
            (Some(RDKafkaErrorCode::QueueFull), Some(pending)) => NotTaken::QueueFull(pending),
            (Some(RDKafkaErrorCode::Fatal), Some(pending)) => NotTaken::Fatal(pending),
            (Some(RDKafkaErrorCode::MessageSizeTooLarge), _) => {
                counters.refused();
                let limit = self.property("message.max.bytes").unwrap_or_default();
                let detail = format!("it has {} bytes, the limit is {limit} (message.max.bytes)", message.size());
                NotTaken::Refused(SendError::TooLarge { topic: message.topic.clone(), detail })
            }
            _ => {
                counters.refused();
                NotTaken::Refused(SendError::new(&message.topic, &error))
            }
        })
    }

    /// Completes when there may be room for another message. Create it before the attempt that it is to wait for.
    pub(crate) fn space(&self) -> impl Future<Output = ()> + use<> {
        let context = self.base.client().context();
        context.space.wait(context.counters.waiting())
    }

    /// User name and password of connections from now on.
    pub(crate) fn log_in(&self, login: &Login) -> Result<(), KafkaError> {
        mq_kafka::ffi::set_sasl_credentials(self.base.client(), &login.username, login.password.reveal())
    }

    /// Asks the cluster for its metadata: proof that the brokers answer a client of this configuration. The error is what its
    /// connections suffer from.
    pub(crate) async fn probe(self: &Arc<Self>, timeout: Duration) -> Result<(), String> {
        self.topic_exists(crate::librdkafka::PROBE_TOPIC, timeout).await.map(drop)
    }

    /// Whether the cluster has the topic; errors as [`Client::probe`].
    pub(crate) async fn topic_exists(self: &Arc<Self>, topic: &str, timeout: Duration) -> Result<bool, String> {
        let (base, topic) = (Arc::clone(&self.base), topic.to_owned());
        crate::librdkafka::blocking(move || {
            let metadata = base
                .client()
                .fetch_metadata(Some(&topic), timeout)
                .map_err(|error| Trouble::explain(base.client().context().health.trouble().as_ref(), &error))?;
            Ok(metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none()))
        })
        .await
    }

    /// Waits until everything is acknowledged or failed; the number of messages that still wait otherwise.
    pub(crate) async fn flush(self: &Arc<Self>, timeout: Duration) -> Result<(), usize> {
        let base = Arc::clone(&self.base);
        match crate::librdkafka::blocking(move || mq_kafka::ffi::flush(base.client(), timeout)).await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    }

    /// Why the client can send nothing any more, if so: it can no longer promise order and no duplicates.
    pub(crate) fn fatal_error(&self) -> Option<String> {
        self.base.client().fatal_error().map(|(code, words)| format!("{code}: {words}"))
    }

    pub(crate) fn waiting(&self) -> usize {
        mq_kafka::ffi::waiting(self.base.client())
    }

    /// The value that the running client uses.
    pub(crate) fn property(&self, name: &str) -> Option<String> {
        mq_kafka::ffi::property(self.base.client(), name)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// librdkafka's own drop throws waiting messages away, so the thread that outlives the handle waits for them first. None waits for its
/// linger any more: that is what the flush is for, and as nobody else serves deliveries by now, it is this thread that does, in between.
fn poll(base: &BaseProducer<Deliveries>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        base.poll(POLL);
    }
    let deadline = Instant::now() + FLUSH_ON_DROP;
    while base.in_flight_count() > 0 && Instant::now() < deadline {
        mq_kafka::ffi::flush(base.client(), POLL);
        base.poll(Duration::ZERO);
    }
    if base.in_flight_count() > 0 {
        let producer = &base.client().context().name;
        let waiting = base.in_flight_count();
        tracing::error!(producer, waiting, "messages were lost: the producer was dropped without close");
    }
}
