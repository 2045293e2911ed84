//! The agent of a process: its named clients and the tasks behind them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mq_protocol::limits::MAX_NAME_BYTES;
use mq_protocol::message::{ClientRef, Kind};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::consumer::{ApplyConsumer, Consumer};
use crate::credentials::CredentialFiles;
use crate::drive::{Apply, Driver};
use crate::error::Error;
use crate::hub::Hub;
use crate::options::Options;
use crate::producer::{ApplyProducer, Producer};
use crate::source::{ConfigFiles, Given, LastGood, Source, Sources, Value, watch as watch_files};
use crate::stream;

/// How often a client without any configuration says so in the log.
const REMIND: Duration = Duration::from_secs(10);

/// The agent of a process. Cheap to clone: clones are the same agent. One is enough for a process, and its clients share one stream
/// to the operator. Its clients outlive its handles and stay configured; [`Agent::drain`] ends them.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// use std::time::Duration;
///
/// use mq_agent::{Agent, Message, Options};
///
/// let options = Options::in_pod().config(broker.config().group("notifications", "notifications", ["orders"]));
/// let agent = Agent::connect_with(options).await;
/// agent.producer("orders").await?.send_sync(Message::to("orders").payload("{}")).await?;
/// let consumer = agent.consumer("notifications").await?;
/// agent.drain(Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Agent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    hub: Arc<Hub>,
    given: Given,
    credentials: CredentialFiles,
    last_good: LastGood,
    clients: Mutex<Clients>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Clients {
    closed: bool,
    producers: HashMap<String, Named<Producer>>,
    consumers: HashMap<String, Named<Consumer>>,
}

/// A client that was asked for by name, and the task that configures it.
#[derive(Debug)]
struct Named<C> {
    ready: watch::Receiver<Option<C>>,
    task: JoinHandle<()>,
}

impl<C> Named<C> {
    fn runs(&self, is_closed: impl Fn(&C) -> bool) -> bool {
        self.ready.borrow().as_ref().is_some_and(|client| !is_closed(client))
    }
}

impl Agent {
    /// Starts the agent of a pod. Never fails and never waits: an operator that is not there is looked for in the background.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let agent = mq_agent::Agent::connect().await;
    /// assert!(agent.ready(), "no client was asked for");
    /// # Ok(()) }
    /// ```
    pub async fn connect() -> Self {
        Self::connect_with(Options::in_pod()).await
    }

    /// Starts an agent with other files, folders or defaults.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use mq_agent::{Agent, Config, Env, Options};
    ///
    /// let config = Config::for_env(Env::Development).brokers(["kafka:9092"]);
    /// let agent = Agent::connect_with(Options::in_pod().config(config)).await;
    /// # Ok(()) }
    /// ```
    #[expect(clippy::unused_async, reason = "it starts tasks, which needs a runtime; `async` says so in the signature")]
    pub async fn connect_with(options: Options) -> Self {
        let hub = Arc::new(Hub::default());
        let files = Arc::new(ConfigFiles::new(options.config_folder.clone()));
        let credentials = CredentialFiles::new(&options.credentials_folder, &options.config);
        let watch_config = {
            let files = Arc::clone(&files);
            watch_files(files.watched(), move || files.refresh())
        };
        let watch_credentials = {
            let (hub, credentials) = (Arc::clone(&hub), credentials.clone());
            watch_files(credentials.watched(), move || hub.credentials(&credentials.read()))
        };
        let mut tasks = vec![tokio::spawn(watch_config), tokio::spawn(watch_credentials)];
        tasks.push(tokio::spawn(stream::run(Arc::clone(&hub), options.clone())));
        let last_good = LastGood::new(options.state_folder.clone());
        let given = Given::new(files, options.source.clone().map(|source| source.0));
        Self(Arc::new(Inner { options, hub, given, credentials, last_good, clients: Mutex::default(), tasks }))
    }

    /// The producer that `MqProducerConfig/<name>` of the pod's namespace configures, or a [`ConfigSource`](crate::ConfigSource), or files, or
    /// the code's own [`Config`](crate::Config).
    /// The same name gives the same producer.
    ///
    /// Waits until there is a configuration; the log says every 10 s where none was found. It may be dropped and called again.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let agent = mq_agent::Agent::connect_with(mq_agent::Options::in_pod().config(broker.config())).await;
    /// let (one, two) = (agent.producer("orders").await?, agent.producer("orders").await?);
    /// one.send_sync(mq_agent::Message::to("orders").payload("{}")).await?;
    /// assert_eq!(two.stats().messages_sent, 1, "one name is one producer");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::InvalidConfig`] for settings in code that cannot be used, [`Error::Closed`] after a drain.
    pub async fn producer(&self, name: &str) -> Result<Producer, Error> {
        let client = check(Kind::Producer, name)?;
        let apply = ApplyProducer::new(name, &self.0.options)?;
        let ready = self.named(&client, apply, |clients| &mut clients.producers, Producer::is_closed)?;
        self.wait(&client, ready).await
    }

    /// The consumer that `MqConsumerGroup/<name>` of the pod's namespace configures, or a [`ConfigSource`](crate::ConfigSource), or files, or
    /// the code's own [`Config`](crate::Config).
    /// The same name gives the same consumer. It joins its group in [`Consumer::subscribe`].
    ///
    /// Waits until there is a configuration; the log says every 10 s where none was found. It may be dropped and called again.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// let config = broker.config().group("notifications", "group-7", ["orders"]);
    /// let agent = mq_agent::Agent::connect_with(mq_agent::Options::in_pod().config(config)).await;
    /// let consumer = agent.consumer("notifications").await?;
    /// assert_eq!(consumer.name(), "notifications");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::InvalidConfig`] for settings in code that cannot be used, [`Error::Closed`] after a drain.
    pub async fn consumer(&self, name: &str) -> Result<Consumer, Error> {
        let client = check(Kind::Consumer, name)?;
        let apply = ApplyConsumer::new(name, &self.0.options)?;
        let ready = self.named(&client, apply, |clients| &mut clients.consumers, Consumer::is_closed)?;
        self.wait(&client, ready).await
    }

    /// Whether every client that was asked for is configured and none is closed, for a readiness probe. False once a drain has begun.
    ///
    /// A service that has asked for no client is ready. A broker that does not answer makes nobody unready: all pods would be taken out
    /// at once, and what they have to do besides Kafka with them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let agent = mq_agent::Agent::connect().await;
    /// let status = if agent.ready() { "200 OK" } else { "503 Service Unavailable" };
    /// assert_eq!(status, "200 OK");
    /// agent.drain(std::time::Duration::from_secs(1)).await;
    /// assert!(!agent.ready());
    /// # Ok(()) }
    /// ```
    pub fn ready(&self) -> bool {
        let clients = self.clients();
        !clients.closed
            && clients.producers.values().all(|named| named.runs(Producer::is_closed))
            && clients.consumers.values().all(|named| named.runs(Consumer::is_closed))
    }

    /// Whether every consumer is alive, for a liveness probe; see [`Consumer::live`].
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let agent = mq_agent::Agent::connect().await;
    /// assert!(agent.live(), "there is no consumer that could stand still");
    /// # Ok(()) }
    /// ```
    pub fn live(&self) -> bool {
        self.clients().consumers.values().all(|named| named.ready.borrow().as_ref().is_none_or(Consumer::live))
    }

    /// Ends every client in order when `signal` completes: consumers stop intake, let running handlers end, commit and leave; then
    /// producers flush. The whole takes at most `budget`: three quarters of it for handlers, half of the rest for the last commit and
    /// for leaving the groups, and what is left, an eighth at least, for the producers.
    ///
    /// The returned task ends when all is done; await it at the end of `main`, or let [`Consumer::subscribe`] return and await it then.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let agent = mq_agent::Agent::connect().await;
    /// let drained = agent.drain_on(mq_agent::sigterm(), Duration::from_secs(20));
    /// // … subscribe and serve …
    /// drained.await?;
    /// # Ok(()) }
    /// ```
    pub fn drain_on(&self, signal: impl Future<Output = ()> + Send + 'static, budget: Duration) -> JoinHandle<()> {
        let agent = self.clone();
        tokio::spawn(async move {
            signal.await;
            tracing::info!(budget_ms = budget.as_millis(), "draining");
            agent.drain(budget).await;
        })
    }

    /// As [`Agent::drain_on`], now. Ends the agent: it gives no clients afterwards. A second call returns at once.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let agent = mq_agent::Agent::connect().await;
    /// agent.drain(std::time::Duration::from_secs(20)).await;
    /// assert!(agent.producer("orders").await.is_err(), "it gives no clients any more");
    /// # Ok(()) }
    /// ```
    pub async fn drain(&self, budget: Duration) {
        let began = Instant::now();
        let Clients { producers, consumers, .. } = {
            let mut clients = self.clients();
            std::mem::replace(&mut *clients, Clients { closed: true, ..Clients::default() })
        };
        let (producers, consumers) = (settle(producers).await, settle(consumers).await);
        // Consumers first: their handlers may still send.
        let (handlers, leave) = (budget * 3 / 4, budget * 7 / 8);
        let closed = join_all(consumers.iter().map(|consumer| consumer.close(handlers)));
        if tokio::time::timeout(leave.saturating_sub(began.elapsed()), closed).await.is_err() {
            tracing::error!("groups were not left in time; the producers flush beside that");
        }
        let left = budget.saturating_sub(began.elapsed());
        for outcome in join_all(producers.iter().map(|producer| producer.close(left))).await {
            if let Err(error) = outcome {
                tracing::error!(%error, "messages may be lost");
            }
        }
        for client in self.0.hub.clients() {
            self.0.hub.close(&client);
        }
        self.0.tasks.iter().for_each(JoinHandle::abort);
    }

    /// The running task of that name, or a new one if there is none or the service closed its client.
    fn named<A: Apply>(
        &self,
        client: &ClientRef,
        apply: A,
        of: impl Fn(&mut Clients) -> &mut HashMap<String, Named<A::Client>>,
        is_closed: impl Fn(&A::Client) -> bool,
    ) -> Result<watch::Receiver<Option<A::Client>>, Error> {
        let mut clients = self.clients();
        if clients.closed {
            return Err(Error::Closed);
        }
        let named = of(&mut clients);
        if let Some(known) = named.get(&client.name) {
            if !known.ready.borrow().as_ref().is_some_and(is_closed) {
                return Ok(known.ready.clone());
            }
            known.task.abort();
        }
        let started = self.start(client, apply)?;
        let ready = started.ready.clone();
        named.insert(client.name.clone(), started);
        Ok(ready)
    }

    fn start<A: Apply>(&self, client: &ClientRef, apply: A) -> Result<Named<A::Client>, Error> {
        let inner = &self.0;
        let mut sources = Sources {
            credentials: inner.credentials.read(),
            code: inner.options.config.for_client(client)?.map(|value| Value::of(Source::Code, value)),
            last_good: inner.last_good.load(client),
            ..Sources::default()
        };
        let mut watched = inner.given.watch(client);
        for source in &mut watched {
            let value = source.now();
            sources.give(source.rank, value);
        }
        let (ready, receiver) = watch::channel(None);
        let driver = Driver {
            client: client.clone(),
            apply,
            hub: Arc::clone(&inner.hub),
            sources: inner.hub.open(client, sources),
            ready,
            given: inner.given.clone(),
            last_good: inner.last_good.clone(),
            patience: if inner.options.endpoint.exists() { inner.options.patience } else { Duration::ZERO },
        };
        let (hub, client) = (Arc::clone(&inner.hub), client.clone());
        let task = async move {
            let follow = watched.into_iter().map(|source| source.follow(|rank, value| hub.give(&client, rank, value)));
            tokio::select! {
                () = driver.run() => {}
                () = async { join_all(follow).await; std::future::pending().await } => {}
            }
        };
        Ok(Named { ready: receiver, task: tokio::spawn(task) })
    }

    async fn wait<C: Clone>(&self, client: &ClientRef, mut ready: watch::Receiver<Option<C>>) -> Result<C, Error> {
        loop {
            match tokio::time::timeout(REMIND, ready.wait_for(Option::is_some)).await {
                Ok(Ok(found)) => return found.clone().ok_or(Error::Closed),
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) => tracing::warn!(
                    %client,
                    file = %self.0.options.config_folder.join(client.file_name()).display(),
                    endpoint = %self.0.options.endpoint.display(),
                    "this client has no configuration that works yet: not from the operator, not from a source of the service, not in its file, not in code"
                ),
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the configuring of clients, in whatever change they are, and returns those that run.
async fn settle<C: Clone>(named: HashMap<String, Named<C>>) -> Vec<C> {
    let mut running = Vec::new();
    for Named { ready, task } in named.into_values() {
        task.abort();
        // Cancelled: that is what was asked for.
        let _ = task.await;
        running.extend(ready.borrow().clone());
    }
    running
}

fn check(kind: Kind, name: &str) -> Result<ClientRef, Error> {
    let client = ClientRef::new(kind, name);
    // The file name is the strictest use of a name.
    if name.len() <= MAX_NAME_BYTES && ClientRef::from_file_name(&client.file_name()).as_ref() == Some(&client) {
        Ok(client)
    } else {
        Err(Error::InvalidName { name: name.to_owned() })
    }
}

/// Completes at the first SIGTERM. For [`Agent::drain_on`]; the library installs no signal handler unasked.
///
/// ```no_run
/// # async fn example() -> () {
/// mq_agent::sigterm().await;
/// println!("the pod is to end");
/// # }
/// ```
///
/// # Panics
/// Never. If the handler cannot be installed, the log says so and the future never completes.
pub async fn sigterm() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, "SIGTERM cannot be noticed; the process will end without a drain");
            std::future::pending::<()>().await;
        }
    }
}
