//! The producer that a service holds: it survives the clients inside it.

mod apply;
mod client;
mod gate;
mod sending;
mod space;
mod spare;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::config::ClientConfig;
use tokio::sync::{oneshot, watch};

pub(crate) use apply::ApplyProducer;
pub(crate) use client::{Client, Completion, NotTaken, Pending};
use gate::Gate;

use crate::config::Config;
use crate::credentials::CredentialFiles;
use crate::drive::Apply as _;
use crate::error::{Error, FlushError, SendError};
use crate::hook::Hooks;
use crate::message::{Ack, Message};
use crate::options::Options;
use crate::stats::{ProducerCounters, ProducerStats};

/// Sends messages. Cheap to clone: clones are the same producer.
///
/// Made by [`Agent::producer`](crate::Agent::producer). A new configuration exchanges the Kafka client inside while the service goes
/// on sending: sends wait for the moment in which the old client is emptied, nothing is lost, and messages of one key keep their order.
///
/// Call [`Producer::close`] (or use [`Agent::drain_on`](crate::Agent::drain_on)) before the process ends: messages that wait in
/// memory end with it.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use mq_agent::{Message, Options, Producer, testing};
///
/// let broker = testing::Broker::start()?; // of a test; a service names its own brokers
/// broker.create_topic("orders", 3)?;
/// let producer = Producer::new(&broker.config(), &Options::default()).await?;
/// let ack = producer.send_sync(Message::to("orders").key("7").payload("{}")).await?;
/// println!("written to partition {} at offset {:?}", ack.partition, ack.offset);
/// producer.close(Duration::from_secs(10)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Producer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    gate: Gate<Client>,
    counters: Arc<ProducerCounters>,
    hooks: Hooks,
    closed: watch::Sender<bool>,
    /// When a client last took over from one with a fatal error. Locked while one does.
    renewed: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

/// A producer that is not kept alive.
#[derive(Debug)]
pub(crate) struct WeakProducer(Weak<Inner>);

impl WeakProducer {
    pub(crate) fn upgrade(&self) -> Option<Producer> {
        self.0.upgrade().map(Producer)
    }
}

/// The pending acknowledgement of one message. Dropping it does not take the message back.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
/// use mq_agent::Message;
///
/// let mut deliveries = Vec::new();
/// for number in 0..100 {
///     deliveries.push(producer.send(Message::to("orders").key("7").payload(number.to_string())).await?);
/// }
/// for delivery in deliveries {
///     delivery.await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "the message is sent either way, but only this tells whether it arrived"]
pub struct Delivery {
    topic: String,
    outcome: oneshot::Receiver<Result<Ack, SendError>>,
}

impl Future for Delivery {
    type Output = Result<Ack, SendError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.outcome).poll(context).map(|outcome| {
            outcome.unwrap_or_else(|_| {
                let detail = "the producer was dropped before the broker answered".to_owned();
                Err(SendError::NotAcknowledged { topic: self.topic.clone(), detail })
            })
        })
    }
}

/// Why a producer did not change its client.
#[derive(Debug)]
pub(crate) enum NotRecreated {
    /// Still this many messages after the budget; the old client goes on.
    NotDrained(usize),
    Closed,
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Producer {
    /// A producer without an agent: configured by `config` alone, for as long as it lives. Of the options it takes the metrics,
    /// where its name is `producer-1`, `producer-2` and so on, who is told of them, the hooks, and the folder of credentials, which is read
    /// once.
    ///
    /// Needs a running tokio runtime and contacts no broker: a service starts while its brokers are down.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use mq_agent::{Config, Env, Message, Options, Producer};
    ///
    /// let config = Config::for_env(Env::Production).brokers(["kafka:9092"]);
    /// let producer = Producer::new(&config, &Options::default()).await?;
    /// producer.send_sync(Message::to("orders").payload("{}")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without brokers, or for settings that cannot be used.
    pub async fn new(config: &Config, options: &Options) -> Result<Self, Error> {
        static MADE: AtomicU64 = AtomicU64::new(1);
        let name = format!("producer-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let credentials = CredentialFiles::new(&options.credentials_folder, config).read();
        ApplyProducer::new(&name, options)?.only(&config.producer_value()?, &credentials).await
    }

    pub(crate) fn with_client(name: &str, config: &ClientConfig, hooks: &Hooks) -> Result<Self, Error> {
        let counters = Arc::new(ProducerCounters::default());
        let client = Client::new(name, config, Arc::clone(&counters), hooks.clone())?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            gate: Gate::open_on(client),
            counters,
            hooks: hooks.clone(),
            closed: watch::Sender::new(false),
            renewed: tokio::sync::Mutex::default(),
        })))
    }

    /// Takes the message and returns its pending acknowledgement. Waits only while the client is being exchanged or its queue is full.
    ///
    /// After a fatal error of the client its messages fail, and a new client takes over for those that follow.
    ///
    /// Messages of one key arrive in the order in which their `send` calls *returned*; two calls that run at the same time have
    /// no order. If the future is dropped before it is done, the message was not taken.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// use mq_agent::Message;
    ///
    /// let delivery = producer.send(Message::to("orders").key("7").payload("{}")).await?; // it is the client's now
    /// let ack = delivery.await?; // the broker has it
    /// assert_eq!(ack.topic, "orders");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`SendError::Refused`] and [`SendError::TooLarge`] for a message that can never be sent, [`SendError::Closed`] after `close`,
    /// [`SendError::Fatal`]. Everything that happens later is told by the [`Delivery`].
    pub async fn send(&self, message: Message) -> Result<Delivery, SendError> {
        let message = self.0.hooks.before_send(&self.0.name, message);
        let topic = message.topic.clone();
        let (sender, outcome) = oneshot::channel();
        self.take(message, Completion::Waiter(sender)).await?;
        Ok(Delivery { topic, outcome })
    }

    /// As [`Producer::send`], but `callback` is told the outcome. It runs on the client's own thread: it must be quick and never
    /// block. A panic in it is logged.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// use mq_agent::Message;
    ///
    /// producer
    ///     .send_with(Message::to("orders").payload("{}"), |outcome| match outcome {
    ///         Ok(ack) => println!("at offset {:?}", ack.offset),
    ///         Err(error) => eprintln!("{error}"),
    ///     })
    ///     .await?;
    /// producer.flush(std::time::Duration::from_secs(10)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::send`]; the callback is then not called.
    pub async fn send_with(
        &self,
        message: Message,
        callback: impl FnOnce(Result<Ack, SendError>) + Send + 'static,
    ) -> Result<(), SendError> {
        let message = self.0.hooks.before_send(&self.0.name, message);
        self.take(message, Completion::Callback(Mutex::new(Box::new(callback)))).await
    }

    /// Sends and waits for the acknowledgement: one message per round trip and `lingerMs`. For throughput, `send` many and await
    /// their deliveries together.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// let ack = producer.send_sync(mq_agent::Message::to("orders").payload("{}")).await?;
    /// assert_eq!(ack.offset, Some(0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Any [`SendError`]. If the future is dropped while it waits, the message may still be written.
    pub async fn send_sync(&self, message: Message) -> Result<Ack, SendError> {
        self.send(message).await?.await
    }

    /// Sends all messages, in their order, and waits for all acknowledgements: one outcome per message, in the order of the messages.
    /// One that is refused does not hold up those after it.
    ///
    /// If the future is dropped while it waits, messages that were taken are still written.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// use mq_agent::Message;
    ///
    /// let messages = ["a", "b", "c"].map(|key| Message::to("orders").key(key).payload("{}"));
    /// for outcome in producer.send_batch(messages).await {
    ///     println!("at offset {:?}", outcome?.offset);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn send_batch<M>(&self, messages: M) -> Vec<Result<Ack, SendError>>
    where
        M: IntoIterator<Item = Message, IntoIter: Send> + Send,
    {
        let mut deliveries = Vec::new();
        for message in messages {
            deliveries.push(self.send(message).await);
        }
        join_all(deliveries.into_iter().map(async |delivery| delivery?.await)).await
    }

    /// Waits until every message taken so far is acknowledged or failed. New messages may be sent meanwhile and are waited for too.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// let delivery = producer.send(mq_agent::Message::to("orders").payload("{}")).await?;
    /// producer.flush(std::time::Duration::from_secs(10)).await?;
    /// assert_eq!(producer.stats().current_queue_size, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`FlushError`] if messages still wait after `timeout`; they go on being sent.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let deadline = Instant::now() + timeout;
        match tokio::time::timeout(timeout, self.0.gate.current()).await {
            Ok(Some(client)) => self.flush_client(&client, left(deadline), timeout).await,
            Ok(None) => Ok(()),
            Err(_) => Err(self.not_flushed(self.stats().current_queue_size, timeout)),
        }
    }

    /// Takes no more messages and waits for those taken. A second call returns at once.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// use mq_agent::{Message, SendError};
    ///
    /// producer.close(std::time::Duration::from_secs(10)).await?;
    /// let refused = producer.send_sync(Message::to("orders").payload("{}")).await;
    /// assert!(matches!(refused, Err(SendError::Closed { .. })));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`FlushError`] if messages still wait after `timeout`. They go on being sent while the process lives, up to 30 s.
    pub async fn close(&self, timeout: Duration) -> Result<(), FlushError> {
        let deadline = Instant::now() + timeout;
        // The client is being exchanged for at most as long as its queue takes to empty.
        let shut = tokio::time::timeout(timeout, self.0.gate.shut()).await;
        self.0.closed.send_replace(true);
        match shut {
            Ok(Some(client)) => self.flush_client(&client, left(deadline), timeout).await,
            Ok(None) => Ok(()),
            Err(_) => {
                let producer = self.clone();
                tokio::spawn(async move { producer.0.gate.shut().await });
                Err(self.not_flushed(self.stats().current_queue_size, timeout))
            }
        }
    }

    /// The producer's counters.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// producer.send_sync(mq_agent::Message::to("orders").payload("{}")).await?;
    /// let stats = producer.stats();
    /// assert_eq!((stats.messages_sent, stats.bytes_sent, stats.send_errors), (1, 2, 0));
    /// # Ok(()) }
    /// ```
    pub fn stats(&self) -> ProducerStats {
        self.0.counters.read()
    }

    /// The name under which the producer is configured.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let source = mq_agent::testing::Configurations::default();
    /// # let orders = mq_agent::ClientRef::new(mq_agent::ClientKind::Producer, "orders");
    /// # source.push(&orders, &mq_agent::testing::Broker::start()?.config())?;
    /// let agent = mq_agent::Agent::connect_with(mq_agent::Options::in_pod().source(source)).await;
    /// assert_eq!(agent.producer("orders").await?.name(), "orders");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        &self.0.name
    }

    async fn flush_client(&self, client: &Arc<Client>, left: Duration, timeout: Duration) -> Result<(), FlushError> {
        client.flush(left).await.map_err(|waiting| self.not_flushed(waiting, timeout))
    }

    fn not_flushed(&self, waiting: usize, timeout: Duration) -> FlushError {
        FlushError::TimedOut { name: self.0.name.clone(), waiting, milliseconds: timeout.as_millis() }
    }

    pub(crate) fn downgrade(&self) -> WeakProducer {
        WeakProducer(Arc::downgrade(&self.0))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.gate.is_shut()
    }

    /// Completes once it takes no more messages.
    pub(crate) async fn wait_closed(&self) {
        // The sender lives in `self`.
        let _ = self.0.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A client of this producer that takes no messages yet.
    pub(crate) fn prepare(&self, config: &ClientConfig) -> Result<Arc<Client>, Error> {
        Client::new(&self.0.name, config, Arc::clone(&self.0.counters), self.0.hooks.clone()).map(Arc::new)
    }

    pub(crate) async fn client(&self) -> Option<Arc<Client>> {
        self.0.gate.current().await
    }
}
