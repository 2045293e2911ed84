//! For the tests of services: records to hand to a handler, a broker inside the process, and configurations to push.
//!
//! ```
//! use mq_agent::{Failure, Message, Record, testing};
//!
//! async fn handle(record: Record) -> Result<(), Failure> {
//!     std::str::from_utf8(record.payload()).map(drop).map_err(Failure::reject)
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! assert!(handle(testing::record(Message::to("orders").payload("text"))).await.is_ok());
//! assert!(handle(testing::record(Message::to("orders").payload([0xff].to_vec()))).await.is_err());
//! # });
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mq_protocol::message::ClientRef;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::sync::watch;

use crate::config::{Config, Env};
use crate::error::Error;
use crate::message::Message;
use crate::record::Record;
use crate::source::{ConfigBody, ConfigOutcome, ConfigSource};

/// The message as the record that a handler gets: at offset 0 of the partition that the message chose, else of 0.
///
/// ```
/// use mq_agent::{Message, testing};
///
/// let record = testing::record(Message::to("orders").key("7").partition(3));
/// assert_eq!((record.key(), record.partition()), (Some(&b"7"[..]), 3));
/// ```
pub fn record(message: Message) -> Record {
    Record::of(message, 0)
}

/// A broker in the memory of this process, gone when it is dropped: librdkafka's own, which speaks Kafka's protocol on a port of
/// loopback. Producers, consumers, groups and offsets work as on a real one; a new group takes 3 s to form. It knows no access
/// control, no retention and no transactions.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mq_agent::{Message, Options, Producer, testing};
///
/// let broker = testing::Broker::start()?;
/// broker.create_topic("orders", 3)?;
/// let producer = Producer::new(&broker.config(), &Options::default()).await?;
/// producer.send_sync(Message::to("orders").key("7").payload("{}")).await?;
/// # Ok(()) }
/// ```
pub struct Broker(MockCluster<'static, DefaultProducerContext>);

/// The broker in memory could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {source}")]
pub struct BrokerError {
    attempt: String,
    source: KafkaError,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Broker").field(&self.0.bootstrap_servers()).finish()
    }
}

impl Broker {
    /// Starts one.
    ///
    /// # Errors
    /// librdkafka's words, for example when there is no port left.
    pub fn start() -> Result<Self, BrokerError> {
        let attempt = || "starting a broker in memory".to_owned();
        MockCluster::new(1).map(Self).map_err(|source| BrokerError { attempt: attempt(), source })
    }

    /// Creates a topic. A dead-letter topic needs to be created like any other.
    ///
    /// # Errors
    /// librdkafka's words, for example when the topic exists.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), BrokerError> {
        let attempt = || format!("creating the topic {name} with {partitions} partitions in memory");
        self.0.create_topic(name, partitions, 1).map_err(|source| BrokerError { attempt: attempt(), source })
    }

    /// The development preset on this broker.
    pub fn config(&self) -> Config {
        Config::for_env(Env::Development).brokers(self.0.bootstrap_servers().split(','))
    }
}

/// A [`ConfigSource`] in the hands of a test: configurations are pushed by name, and what became of them can be waited for. Cheap to
/// clone: clones are the same.
///
/// ```
/// use mq_agent::{Agent, ClientKind, ClientRef, ConfigOutcome, Options, testing};
///
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// let (broker, source) = (testing::Broker::start()?, testing::Configurations::default());
/// let orders = ClientRef::new(ClientKind::Producer, "orders");
/// let mut config = broker.config();
/// let first = source.push(&orders, &config)?;
/// let agent = Agent::connect_with(Options::in_pod().source(source.clone())).await;
/// let producer = agent.producer("orders").await?;
/// assert!(matches!(source.outcome(&orders, &first).await, ConfigOutcome::Applied { .. }));
///
/// config.producer.linger_ms = Some(7);
/// let edited = source.push(&orders, &config)?;
/// let ConfigOutcome::Applied { effective, .. } = source.outcome(&orders, &edited).await else { panic!("refused") };
/// assert_eq!(effective["lingerMs"], "7");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Configurations(Arc<Pushed>);

#[derive(Debug)]
struct Pushed {
    values: Mutex<BTreeMap<ClientRef, watch::Sender<Option<ConfigBody>>>>,
    /// What was told last of each value.
    outcomes: watch::Sender<Vec<(ClientRef, ConfigBody, ConfigOutcome)>>,
}

impl Default for Pushed {
    fn default() -> Self {
        Self { values: Mutex::default(), outcomes: watch::Sender::new(Vec::new()) }
    }
}

impl Configurations {
    /// Configures the client with what [`Config::for_client`] says of it; without brokers, or for a consumer that
    /// [`Config::group`] does not name, that is an error.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use mq_agent::{ClientKind, ClientRef, testing};
    ///
    /// let (broker, source) = (testing::Broker::start()?, testing::Configurations::default());
    /// let body = source.push(&ClientRef::new(ClientKind::Producer, "orders"), &broker.config())?;
    /// assert!(body.as_json().contains("settings"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn push(&self, client: &ClientRef, config: &Config) -> Result<ConfigBody, Error> {
        let missing = || Error::InvalidConfig {
            detail: format!("it says nothing of {client}: it needs brokers, and for a consumer Config::group"),
        };
        let value = config.for_client(client)?.ok_or_else(missing)?;
        self.push_body(client, value.clone());
        Ok(value)
    }

    /// Configures the client with any body, be it one that no client can run with.
    pub fn push_body(&self, client: &ClientRef, value: ConfigBody) {
        self.set(client, Some(value));
    }

    /// Says nothing of the client any more. One that runs keeps what it has.
    pub fn remove(&self, client: &ClientRef) {
        self.set(client, None);
    }

    /// What became of the value last, as soon as it is known. Waits for ever for a value that the client never looks at: one that was
    /// replaced at once, one of a client that nobody asked the agent for, or one behind a stronger source.
    pub async fn outcome(&self, client: &ClientRef, value: &ConfigBody) -> ConfigOutcome {
        let mut outcomes = self.0.outcomes.subscribe();
        loop {
            let known =
                outcomes.borrow_and_update().iter().find(|(of, what, _)| (of, what) == (client, value)).cloned();
            if let Some((_, _, outcome)) = known {
                return outcome;
            }
            if outcomes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn set(&self, client: &ClientRef, value: Option<ConfigBody>) {
        let mut values = self.0.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.entry(client.clone()).or_default().send_replace(value);
    }
}

impl ConfigSource for Configurations {
    fn watch(&self, client: &ClientRef) -> watch::Receiver<Option<ConfigBody>> {
        let mut values = self.0.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.entry(client.clone()).or_default().subscribe()
    }

    fn outcome(&self, client: &ClientRef, value: &ConfigBody, outcome: &ConfigOutcome) {
        self.0.outcomes.send_modify(|outcomes| {
            outcomes.retain(|(of, what, _)| (of, what) != (client, value));
            outcomes.push((client.clone(), value.clone(), outcome.clone()));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{Agent, ClientKind, Consumer, Failure, Options, Producer};

    fn nowhere() -> Options {
        let nowhere = std::path::Path::new("/nonexistent");
        Options::in_folders(nowhere, nowhere)
    }

    /// What a service sees of a pushed configuration, without an operator and without files: taken, refused in words with the old one
    /// in force, and kept when the source falls silent.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pushed_configuration_is_applied_or_refused_in_words() {
        let (broker, source) = (Broker::start().unwrap(), Configurations::default());
        broker.create_topic("t", 1).unwrap();
        let client = ClientRef::new(ClientKind::Producer, "orders");
        // The code leads nowhere: if a message arrives, the source was taken.
        let code = Config::for_env(Env::Development).brokers(["127.0.0.1:1"]);
        let agent = Agent::connect_with(nowhere().config(code).source(source.clone())).await;
        let mut config = broker.config();
        let first = source.push(&client, &config).unwrap();
        let producer = agent.producer("orders").await.unwrap();
        producer.send_sync(Message::to("t").payload("1")).await.unwrap();
        assert!(matches!(source.outcome(&client, &first).await, ConfigOutcome::Applied { .. }));

        let wrong = first.as_json().replace(r#""lingerMs":0"#, r#""lingerMs":-1"#);
        for (wrong, words) in
            [(wrong, "integer `-1`"), ("{}".to_owned(), "missing field"), ("[]".to_owned(), "cannot be read")]
        {
            let wrong = ConfigBody::from_json(&wrong).unwrap();
            source.push_body(&client, wrong.clone());
            let ConfigOutcome::Rejected { detail } = source.outcome(&client, &wrong).await else { panic!("{wrong:?}") };
            assert!(detail.contains(words), "{detail}");
        }
        config.producer.linger_ms = Some(7);
        let edited = source.push(&client, &config).unwrap();
        let ConfigOutcome::Applied { effective, not_applied } = source.outcome(&client, &edited).await else {
            panic!()
        };
        assert_eq!((effective["lingerMs"].as_str(), not_applied.as_slice()), ("7", &[][..]));
        source.remove(&client);
        producer.send_sync(Message::to("t").payload("2")).await.unwrap();
        assert_eq!(producer.stats().recreated, 1);
        assert!(
            source
                .push(&ClientRef::new(ClientKind::Consumer, "c"), &config)
                .unwrap_err()
                .to_string()
                .contains("Config::group")
        );
    }

    /// A source that panics is one that says nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_panics_leaves_the_client_to_the_others() {
        struct Broken(Configurations, bool);
        impl ConfigSource for Broken {
            fn watch(&self, client: &ClientRef) -> watch::Receiver<Option<ConfigBody>> {
                assert!(self.1, "a bug of the service");
                self.0.watch(client)
            }
            fn outcome(&self, _: &ClientRef, _: &ConfigBody, _: &ConfigOutcome) {
                panic!("a bug of the service");
            }
        }
        let broker = Broker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        for watches in [false, true] {
            let source = Configurations::default();
            let options = nowhere().config(broker.config()).source(Broken(source.clone(), watches));
            let agent = Agent::connect_with(options).await;
            let producer = agent.producer("p").await.unwrap();
            let mut config = broker.config();
            for edit in 1..3_u32 {
                config.producer.linger_ms = Some(edit.into());
                source.push(&ClientRef::new(ClientKind::Producer, "p"), &config).unwrap();
                let applied = async {
                    while watches && producer.stats().recreated < u64::from(edit) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(30), applied).await.unwrap();
                producer.send_sync(Message::to("t").payload("1")).await.unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_runs_on_the_broker_in_memory() {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 3).unwrap();
        broker.create_topic("g.dlq", 1).unwrap();
        let producer = Producer::new(&broker.config(), &Options::default()).await.unwrap();
        for number in 0..10 {
            let message = Message::to("orders").key(number.to_string()).payload(number.to_string());
            producer.send_sync(message).await.unwrap();
        }
        let consumer = Consumer::new(&broker.config(), "g", ["orders"], &Options::default()).await.unwrap();
        let (sender, mut seen) = mpsc::unbounded_channel();
        let subscription = tokio::spawn({
            let consumer = consumer.clone();
            async move {
                let handler = move |record: Record| {
                    let poison = record.payload() == b"5";
                    sender.send(record).unwrap();
                    async move { if poison { Err(Failure::reject("poison")) } else { Ok(()) } }
                };
                consumer.subscribe(handler).await
            }
        });
        let mut keys = std::collections::BTreeSet::new();
        while keys.len() < 10 {
            let record = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await.unwrap().unwrap();
            keys.insert(record.key().unwrap().to_vec());
        }
        consumer.close(Duration::from_secs(10)).await;
        subscription.await.unwrap().unwrap();
        let stats = consumer.stats();
        assert_eq!((stats.messages_consumed, stats.dead_letters), (10, 1), "{stats:?}");
    }
}
