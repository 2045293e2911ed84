//! The consumer that a service holds: at least once, in order per key, and only finished work is committed.

#[cfg(any(test, fuzzing))]
mod any_metadata;
mod apply;
mod arrivals;
mod breaker;
mod budget;
mod bulk;
mod context;
mod dead_letter;
mod deadline;
mod deliveries;
mod desk;
mod finished;
mod fixed;
mod health;
mod intake;
mod lanes;
mod offsets;
mod ordering;
pub(crate) mod pattern;
mod poll;
mod prepared;
mod reconfigure;
mod slots;
#[cfg(test)]
mod stage;
mod state;
mod steer;
#[cfg(test)]
mod tests;
mod turns;
mod waiters;
mod work;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

#[cfg(any(test, fuzzing))]
pub use any_metadata::commit_metadata;
pub(crate) use apply::ApplyConsumer;
pub use breaker::DeadLetterBreaker;
pub use bulk::{BatchFailure, Batches};
use context::KafkaConsumer;
use dead_letter::DeadLetters;
pub(crate) use dead_letter::Target;
pub use deliveries::{Acker, Delivered, Deliveries};
use desk::{Desk, Start};
use fixed::Fixed;
pub use fixed::StaticMember;
pub use ordering::Ordering;
use poll::{Command, Poller};
pub(crate) use prepared::Prepared;
pub(crate) use state::Limits;
use state::Shared;
use work::Work;

use crate::config::Config;
use crate::credentials::CredentialFiles;
use crate::drive::Apply as _;
use crate::error::{ConsumeError, Error, Failure};
use crate::hook::Hooks;
use crate::options::Options;
use crate::record::Record;

/// How long leaving the group may take after the drain, the last commit included.
const LEAVE: Duration = Duration::from_secs(10);
/// How often a consumer that is not subscribed is served.
const IDLE: Duration = Duration::from_secs(30);
/// Drain budget of a consumer whose `subscribe` future was dropped.
const DROP_BUDGET: Duration = Duration::from_secs(10);

/// Reads the topics of a consumer group. Cheap to clone: clones are the same consumer.
///
/// Made by [`Agent::consumer`](crate::Agent::consumer). What it promises:
///
/// * *At least once.* Only the contiguous prefix of finished records is committed, per partition, and with it which records beyond it
///   are finished. After a crash, what was handled since the last commit is handled again.
/// * *Order per key.* Records of one key and partition are handled one at a time, in their order; a slow or failing key delays
///   only itself. Records without a key have no order. [`Ordering`] has the alternatives.
/// * *Bounded memory.* At most `maxPollRecords` records (and four fifths of [`Options::memory_mib`](crate::Options::memory_mib) of them)
///   are taken from Kafka and not yet finished; intake goes on when half of them are. Where a slow key is all that there is to wait for,
///   what waits for it counts by its bytes alone, so that other keys are taken in. A partition is read at most 50 000 records beyond
///   its first unfinished one, fewer if so many of it are in hand that what is finished among them might not fit into a commit; then it
///   pauses.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use futures::StreamExt as _;
/// use mq_agent::{Consumer, Delivered, Options, testing};
///
/// let broker = testing::Broker::start()?; // of a test; a service names its own brokers
/// broker.create_topic("orders", 3)?;
/// let consumer = Consumer::new(&broker.config(), "notifications", ["orders"], &Options::default()).await?;
/// # let producer = mq_agent::Producer::new(&broker.config(), &Options::default()).await?;
/// # producer.send_sync(mq_agent::Message::to("orders").payload("{}")).await?;
/// let mut records = consumer.stream(); // or a handler: Consumer::subscribe
/// if let Some(delivered) = records.next().await {
///     let Delivered { record, acker } = delivered?;
///     println!("{:?}", record.payload());
///     acker.ack();
/// }
/// consumer.close(Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Consumer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    dead_letters: Arc<DeadLetters>,
    hooks: Hooks,
    phase: Mutex<Phase>,
    /// Whether there is, and will be, no poll thread.
    ended: watch::Sender<bool>,
}

/// A consumer that is not kept alive.
#[derive(Debug)]
pub(crate) struct WeakConsumer(Weak<Inner>);

impl WeakConsumer {
    pub(crate) fn upgrade(&self) -> Option<Consumer> {
        self.0.upgrade().map(Consumer)
    }
}

#[derive(Debug)]
enum Phase {
    /// Configured and not subscribed: the Kafka consumer has not joined its group.
    Idle {
        consumer: Box<Prepared>,
        topics: Vec<String>,
    },
    Running(Sender<Command>),
    Closed,
}

/// Takes the events of a consumer that nobody has subscribed yet: librdkafka's statistics would pile up.
async fn serve_idle(consumer: WeakConsumer) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(consumer) = consumer.upgrade() else { return };
        let Phase::Idle { consumer: prepared, .. } = &*consumer.phase() else { return };
        // More than come in the meantime. It is in no group, so there are no records among them.
        for _ in 0..IDLE.as_secs() {
            let _ = prepared.0.poll(Duration::ZERO);
        }
    }
}

/// Closes the consumer when the future of `subscribe` is dropped.
struct CloseOnDrop(Option<Consumer>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(consumer) = self.0.take() {
            consumer.tell_to_close(Instant::now() + DROP_BUDGET);
        }
    }
}

impl Consumer {
    /// A consumer without an agent: configured by `config` alone, for as long as it lives. Its dead letters go to `<group id>.dlq`. Of
    /// the options it takes the metrics, where its name is the group id, who is told of them, the hooks, the concurrency, the ordering, the
    /// memory, the dead-letter breaker, the static membership, and the folder of credentials, which is read once.
    ///
    /// A topic that begins with `^` is a pattern, a POSIX extended regular expression: the consumer reads every topic in whose name it is
    /// found, and those made later within 30 s (`topic.metadata.refresh.interval.ms` of the overrides). End it with `$` if the whole name
    /// is meant. The group's own dead-letter topic and Kafka's own topics (`__…`) are never among them; those of other groups may be.
    ///
    /// Needs a running tokio runtime and contacts no broker: a service starts while its brokers are down.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use mq_agent::{Config, Consumer, Env, Options};
    ///
    /// let config = Config::for_env(Env::Production).brokers(["kafka:9092"]);
    /// let consumer = Consumer::new(&config, "notifications", ["orders"], &Options::default()).await?;
    /// consumer.subscribe(|record| async move { println!("{:?}", record.key()); Ok(()) }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without brokers or topics, for a pattern that cannot be read, or for settings that cannot be used.
    pub async fn new<T: Into<String>>(
        config: &Config,
        group_id: &str,
        topics: impl IntoIterator<Item = T>,
        options: &Options,
    ) -> Result<Self, Error> {
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        let credentials = CredentialFiles::new(&options.credentials_folder, config).read();
        ApplyConsumer::new(group_id, options)?.only(&config.consumer_value(group_id, &topics)?, &credentials).await
    }

    pub(crate) fn with_client(
        shared: Arc<Shared>,
        consumer: Prepared,
        topics: Vec<String>,
        target: Target,
        hooks: Hooks,
    ) -> Self {
        let dead_letters = Arc::new(DeadLetters::new(&shared.name, target));
        let phase = Mutex::new(Phase::Idle { consumer: Box::new(consumer), topics });
        let consumer = Self(Arc::new(Inner { shared, dead_letters, hooks, phase, ended: watch::Sender::new(false) }));
        tokio::spawn(serve_idle(consumer.downgrade()));
        consumer
    }

    /// Joins the group and calls `handler` with every record until the consumer is closed or drained.
    ///
    /// The handler runs inside the calling runtime, in up to `concurrency` slots (see [`Options::concurrency`](crate::Options::concurrency)).
    /// It returns `Ok` when the record is done; a [`Failure`] is tried again or goes to the dead-letter topic; a panic counts as
    /// [`Failure::retry`]. A handler should be idempotent: a record can come again after a crash or when its partition moves.
    ///
    /// A handler that waits for longer than `maxPollIntervalMs` is cancelled: its future is dropped, which counts as [`Failure::retry`].
    /// One that keeps its thread instead cannot be cancelled; see [`Consumer::live`].
    ///
    /// Dropping this future closes the consumer in the background.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// # producer.send_sync(mq_agent::Message::to("orders").key("7").payload("{}")).await?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// use std::time::Duration;
    ///
    /// use mq_agent::{Failure, Record};
    ///
    /// let this = consumer.clone();
    /// let handler = move |record: Record| {
    ///     let this = this.clone();
    ///     async move {
    ///         let text = std::str::from_utf8(record.payload()).map_err(Failure::reject)?; // no retry helps
    ///         println!("{text}");
    ///         tokio::spawn(async move { this.close(Duration::from_secs(10)).await }); // one is enough here
    ///         Ok(())
    ///     }
    /// };
    /// consumer.subscribe(handler).await?; // until it is closed
    /// assert_eq!(consumer.stats().messages_consumed, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConsumeError::AlreadySubscribed`], [`ConsumeError::Closed`], or [`ConsumeError::Fatal`] when librdkafka cannot go on.
    pub async fn subscribe<H, F>(&self, handler: H) -> Result<(), ConsumeError>
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        if self.0.hooks.is_empty() {
            return self.subscribe_to(|desk| Arc::new(Work { desk, handler })).await;
        }
        let handler = self.hooked(handler);
        self.subscribe_to(|desk| Arc::new(Work { desk, handler })).await
    }

    async fn subscribe_to<W: Start + 'static>(&self, work: impl FnOnce(Desk) -> Arc<W>) -> Result<(), ConsumeError> {
        let (commands, received) = mpsc::channel();
        let (consumer, topics) = self.begin(commands)?;
        let close = CloseOnDrop(Some(self.clone()));
        let outcome = self.run(consumer.0, &topics, received, work).await;
        drop(close);
        self.end();
        outcome
    }

    /// Stops intake, waits for running handlers up to `budget`, commits, leaves the group. `subscribe` then returns `Ok`.
    /// A second call waits for the same end. A cluster that does not answer delays it by at most 10 s.
    ///
    /// Records whose handler has not ended by then are not committed and will be read again by another member.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// use mq_agent::ConsumeError;
    ///
    /// consumer.close(std::time::Duration::from_secs(10)).await;
    /// let closed = consumer.subscribe(|_| async { Ok(()) }).await;
    /// assert!(matches!(closed, Err(ConsumeError::Closed { .. })));
    /// # Ok(()) }
    /// ```
    pub async fn close(&self, budget: Duration) {
        let mut ended = self.0.ended.subscribe();
        if self.tell_to_close(Instant::now() + budget) {
            // The sender lives in `self`.
            let ended = tokio::time::timeout(budget + LEAVE, ended.wait_for(|ended| *ended)).await;
            if ended.is_err() {
                tracing::error!(
                    consumer = self.name(),
                    "the group was not left in time; its coordinator does not answer"
                );
            }
        }
    }

    /// Handlers that may run at the same time, from now on. More: records that wait begin at once. Fewer: the surplus ends as
    /// handlers end.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// consumer.set_concurrency(64); // also while it runs
    /// # Ok(()) }
    /// ```
    pub fn set_concurrency(&self, concurrency: usize) {
        let limits = self.0.shared.limits();
        self.set_limits(Limits { concurrency, ..limits });
    }

    /// The name under which the consumer is configured.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// assert_eq!(consumer.name(), "g"); // without an agent, the group id
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        &self.0.shared.name
    }

    /// The handler with the hooks around it.
    fn hooked<H, F>(
        &self,
        handler: H,
    ) -> impl Fn(Record) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (name, group): (Arc<str>, Arc<str>) = (self.name().into(), self.0.dead_letters.group().into());
        let (hooks, handler) = (self.0.hooks.clone(), Arc::new(handler));
        move |record| {
            let (hooks, handler, name, group) =
                (hooks.clone(), Arc::clone(&handler), Arc::clone(&name), Arc::clone(&group));
            async move {
                let call = async { handler(record.clone()).await };
                hooks.handle(&name, &group, &record, call).await
            }
            .boxed()
        }
    }

    async fn run<W: Start + 'static>(
        &self,
        consumer: KafkaConsumer,
        topics: &[String],
        commands: mpsc::Receiver<Command>,
        work: impl FnOnce(Desk) -> Arc<W>,
    ) -> Result<(), ConsumeError> {
        let name = self.name().to_owned();
        let fatal = |detail: String| ConsumeError::Fatal { name: name.clone(), detail };
        poll::subscribe(&consumer, topics).map_err(|error| fatal(error.to_string()))?;
        let work = work(Desk {
            shared: Arc::clone(&self.0.shared),
            dead_letters: Arc::clone(&self.0.dead_letters),
            runtime: Handle::current(),
        });
        let poller = Poller::new(consumer, Arc::clone(&self.0.shared), work, commands);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("mq-consumer-{name}"))
            .spawn({
                let consumer = self.clone();
                move || {
                    let outcome = poller.run();
                    consumer.end();
                    let _ = end.send(outcome);
                }
            })
            .map_err(|error| fatal(format!("its poll thread could not be started: {error}")))?;
        ended.await.unwrap_or_else(|_| Err(fatal("its poll thread ended unexpectedly".to_owned())))
    }

    /// There is no poll thread any more.
    fn end(&self) {
        *self.phase() = Phase::Closed;
        {
            let mut state = self.0.shared.lock();
            state.waiters.close();
            state.lag = None;
        }
        self.0.ended.send_replace(true);
    }

    fn begin(&self, commands: Sender<Command>) -> Result<(Prepared, Vec<String>), ConsumeError> {
        let mut phase = self.phase();
        match std::mem::replace(&mut *phase, Phase::Closed) {
            Phase::Idle { consumer, topics } => {
                self.0.shared.lock().turn = Instant::now();
                *phase = Phase::Running(commands);
                Ok((*consumer, topics))
            }
            running @ Phase::Running(_) => {
                *phase = running;
                Err(ConsumeError::AlreadySubscribed { name: self.name().to_owned() })
            }
            Phase::Closed => Err(self.closed()),
        }
    }

    fn tell(&self, command: Command) -> Result<(), ConsumeError> {
        match &*self.phase() {
            Phase::Running(commands) => commands.send(command).map_err(|_| self.closed()),
            Phase::Idle { .. } | Phase::Closed => Err(self.closed()),
        }
    }

    /// Whether there is a poll thread to wait for.
    fn tell_to_close(&self, deadline: Instant) -> bool {
        let mut phase = self.phase();
        match &*phase {
            Phase::Running(commands) => {
                let mut state = self.0.shared.lock();
                state.close_by = Some(state.close_by.map_or(deadline, |close_by| close_by.min(deadline)));
                commands.send(Command::Close(deadline)).is_ok()
            }
            Phase::Closed => false,
            Phase::Idle { .. } => {
                let idle = std::mem::replace(&mut *phase, Phase::Closed);
                drop(phase);
                self.0.ended.send_replace(true);
                // Dropping a Kafka consumer blocks for a moment.
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn_blocking(move || drop(idle));
                }
                false
            }
        }
    }

    fn closed(&self) -> ConsumeError {
        ConsumeError::Closed { name: self.name().to_owned() }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn downgrade(&self) -> WeakConsumer {
        WeakConsumer(Arc::downgrade(&self.0))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.phase(), Phase::Closed)
    }

    /// Completes once it handles no more records.
    pub(crate) async fn wait_closed(&self) {
        // The sender lives in `self`.
        let _ = self.0.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }
}
