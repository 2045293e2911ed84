//! The poll thread: the only one that talks to the Kafka consumer. Nothing blocks it longer than a moment, except what waits for
//! handlers inside a budget: a revocation, a seek, an exchange, the end.

mod seek;
mod take;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mq_kafka::ffi::RecordQueue;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::arrivals::Arrivals;
use super::budget::Room;
use super::context::{Context, KafkaConsumer, LAST_COMMIT, SLICE, correct, offsets, refusal};
use super::desk::Start;
use super::intake::Intake;
use super::state::{Shared, State};
use super::turns::Doing;
use crate::credentials::Login;
use crate::error::ConsumeError;

/// How long the poll thread waits for records and events, and so how late a command can be.
const POLL: Duration = Duration::from_millis(50);
/// How long a full consumer stops polling before it pauses its partitions. Most budgets clear within it, and a pause throws away
/// what was fetched.
const HOLD: Duration = Duration::from_secs(1);
pub(super) enum Command {
    /// Subscribe to these topics from now on.
    Subscribe(Vec<String>, oneshot::Sender<KafkaResult<()>>),
    /// Use this login for connections from now on.
    LogIn(Login, oneshot::Sender<KafkaResult<()>>),
    /// Drain, commit, leave, go on with another Kafka consumer.
    Exchange(Box<Exchange>),
    /// Read these partitions of the topic from elsewhere.
    Seek(String, SeekTo, oneshot::Sender<Result<(), String>>),
    /// Drain until the deadline, commit, leave.
    Close(Instant),
}

pub(super) enum SeekTo {
    /// This offset of this partition.
    Offset(i32, i64),
    /// The first record of that time or later, in milliseconds since the Unix epoch, in every assigned partition.
    Time(i64),
}

pub(super) struct Exchange {
    pub(super) consumer: KafkaConsumer,
    pub(super) topics: Vec<String>,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<KafkaResult<()>>,
}

pub(super) struct Poller {
    consumer: Arc<KafkaConsumer>,
    records: RecordQueue<Context>,
    arrivals: Arrivals,
    shared: Arc<Shared>,
    work: Arc<dyn Start>,
    commands: Receiver<Command>,
    intake: Intake,
    last_commit: Instant,
    /// How long librdkafka may take to answer a commit.
    commit_answer: Duration,
    served: Instant,
    directed: Instant,
    /// Until when a batch gathered when this was last looked at.
    gathers_until: Option<Instant>,
    full_since: Option<Instant>,
}

impl Poller {
    pub(super) fn new(
        consumer: KafkaConsumer,
        shared: Arc<Shared>,
        work: Arc<dyn Start>,
        commands: Receiver<Command>,
    ) -> Self {
        let (arrivals, consumer) = (Arrivals::new(&consumer), Arc::new(consumer));
        let records = RecordQueue::new(Arc::clone(&consumer));
        let (intake, now) = (Intake::default(), Instant::now());
        let commit_answer = longest_answer(&consumer);
        Self {
            consumer,
            records,
            arrivals,
            shared,
            work,
            commands,
            intake,
            last_commit: now,
            commit_answer,
            served: now,
            directed: now,
            gathers_until: None,
            full_since: None,
        }
    }

    /// Runs until it is told to close or until librdkafka gives up.
    pub(super) fn run(mut self) -> Result<(), ConsumeError> {
        loop {
            loop {
                match self.commands.try_recv() {
                    Ok(Command::Subscribe(topics, done)) => {
                        let _ = done.send(subscribe(&self.consumer, &topics));
                        self.arrivals.subscribed();
                    }
                    Ok(Command::LogIn(login, done)) => {
                        let _ = done.send(log_in(&self.consumer, &login));
                    }
                    Ok(Command::Exchange(exchange)) => self = self.exchange(*exchange),
                    Ok(Command::Seek(topic, to, done)) => {
                        let _ = done.send(self.seek(&topic, &to));
                    }
                    Ok(Command::Close(deadline)) => {
                        self.leave(deadline);
                        return Ok(());
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.leave(Instant::now());
                        return Ok(());
                    }
                }
            }
            self.serve();
            self.arrivals.step(&self.consumer, &self.records, &self.shared);
            self.direct();
            self.commit_if_due(true);
            self.hold();
            if let Some(room) = self.room() {
                self.take_in(room)?;
            }
        }
    }

    /// Back-pressure. Under the budget: poll. Above it: first only wait for handlers, then pause and poll for events alone.
    fn room(&mut self) -> Option<Room> {
        let (room, paused) = {
            let mut state = self.shared.lock();
            (state.room(), state.paused)
        };
        if room.is_some() {
            self.full_since = None;
            if paused {
                self.set_paused(false);
            }
        } else if !paused {
            let since = *self.full_since.get_or_insert_with(Instant::now);
            if since.elapsed() < HOLD {
                self.shared.turn_to(Doing::Full);
                self.shared.wait_for_room(POLL);
                self.shared.turn_to(Doing::Working);
                return None;
            }
            self.set_paused(true);
        }
        // While all is paused no record comes. One that comes all the same is not lost.
        Some(room.unwrap_or(Room { records: 1, bytes: 0 }))
    }

    fn set_paused(&self, paused: bool) {
        let partitions = {
            let state = self.shared.lock();
            list(&state.partitions(state.all().into_iter().filter(|id| paused || !state.held.contains(id))))
        };
        let outcome = if paused { self.consumer.pause(&partitions) } else { self.resume(&partitions) };
        match outcome {
            Ok(()) => self.shared.lock().paused = paused,
            Err(error) => {
                tracing::warn!(consumer = self.shared.name, %error, paused, "could not pause or resume; tried again at the next poll");
            }
        }
    }

    fn resume(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        correct(&self.consumer, &self.shared);
        self.consumer.resume(partitions)
    }

    /// Pauses the partitions that are to be, because they are far ahead of their first unfinished record or because the service said
    /// so, and resumes those that are no longer.
    fn hold(&self) {
        let (wanted, hold, go_on, far_ahead, paused) = {
            let state = self.shared.lock();
            let wanted = state.to_hold();
            if wanted == state.held {
                return;
            }
            let hold = state.partitions(wanted.difference(&state.held).copied());
            let go_on = state.partitions(state.held.difference(&wanted).copied());
            let far_ahead = state.partitions(state.far_ahead.difference(&state.held).copied());
            (wanted, hold, go_on, far_ahead, state.paused)
        };
        for (topic, partition) in &far_ahead {
            tracing::warn!(
                consumer = self.shared.name,
                %topic,
                partition,
                "as many records were taken in beyond one that is not finished as may be; the partition is paused until it is"
            );
        }
        // While everything is paused nothing is resumed alone.
        let resumed = if paused { Ok(()) } else { self.resume(&list(&go_on)) };
        match self.consumer.pause(&list(&hold)).and(resumed) {
            Ok(()) => self.shared.lock().held = wanted,
            Err(error) => {
                tracing::warn!(consumer = self.shared.name, %error, "could not pause or resume a partition; tried again");
            }
        }
    }

    /// Now and then: nobody waits for it but those whose slot is with a handler that does not end.
    fn serve(&mut self) {
        let now = Instant::now();
        if now - self.served >= POLL || self.gathers_until.is_some_and(|until| until <= now) {
            self.served = now;
            let slots = self.shared.serve(now);
            Arc::clone(&self.work).start(slots);
        }
    }

    /// Whether the commit before may still be answered. librdkafka sends one again that failed, and so after a later one if there is one.
    fn awaits_answer(&self, state: &State) -> bool {
        state.committing.is_some_and(|since| since.elapsed() < self.commit_answer)
    }

    /// `taking`: everything that was polled was taken in.
    fn commit_if_due(&mut self, taking: bool) {
        let due = {
            let mut state = self.shared.lock();
            state.turn = Instant::now();
            let wanted = state.waiters.is_due(state.turn)
                || state.limits.auto_commit.is_some_and(|interval| self.last_commit.elapsed() >= interval);
            wanted && !self.awaits_answer(&state)
        };
        if due && taking {
            self.pass_markers();
        }
        if due {
            self.commit();
        }
    }

    /// The end of a log is reached where only markers of transactions follow the last record, too.
    fn pass_markers(&self) {
        let mut partitions = list(&self.shared.lock().idle());
        mq_kafka::ffi::positions(&self.consumer, &mut partitions);
        let mut state = self.shared.lock();
        for element in partitions.elements() {
            let Offset::Offset(next) = element.offset() else { continue };
            if let Some(offsets) = state.offsets_of(element.topic(), element.partition()) {
                offsets.pass(next);
            }
        }
    }

    /// Sends the finished prefixes to the broker; the answer comes through the commit callback.
    fn commit(&mut self) {
        let now = Instant::now();
        let positions = {
            let mut state = self.shared.lock();
            if self.awaits_answer(&state) {
                return;
            }
            let positions = state.take_commit();
            state.committing = (!positions.is_empty()).then_some(now);
            positions
        };
        self.last_commit = now;
        let list = offsets(&positions);
        if positions.is_empty() {
            return;
        }
        if let Err(error) = mq_kafka::ffi::commit_async(&self.consumer, &list) {
            self.shared.counters.commit_failed();
            let refused = refusal(&error);
            let mut state = self.shared.lock();
            state.committing = None;
            for position in &positions {
                state.committed(&position.topic, position.partition, position.offset, Some(&refused));
            }
            drop(state);
            tracing::warn!(consumer = self.shared.name, %error, "offsets were not committed; they go with the next commit");
        }
    }

    /// Stops intake, waits for handlers until the deadline, commits. Polls meanwhile, so that rebalances go on.
    fn drain(&mut self, deadline: Instant) {
        self.shared.turn_to(Doing::Draining);
        self.set_paused(true);
        let all = {
            let mut state = self.shared.lock();
            let all = state.all();
            state.wind_down(&all);
            all
        };
        let mut idle = false;
        while !idle && Instant::now() < self.until(deadline) {
            idle = self.shared.wait_idle(&all, deadline.min(Instant::now() + SLICE));
            // A handler that is waited for may itself wait for its commit.
            self.commit_if_due(false);
            // Records stay where they are: they are beyond the last commit and will be read again.
            let _ = self.consumer.poll(Duration::ZERO);
        }
        if !idle {
            tracing::warn!(
                consumer = self.shared.name,
                "handlers did not end in the drain budget; their records will be handled again"
            );
        }
        let until = Instant::now() + LAST_COMMIT;
        while !self.shared.lock().is_committed() && Instant::now() < until {
            // Sends what was refused again: a rebalance may stand in the way of it for a moment.
            self.commit();
            let _ = self.consumer.poll(SLICE);
        }
        // Leaving revokes every partition; there is nothing left to wait for.
        let mut state = self.shared.lock();
        state.turns.turn_to(Doing::Working, Instant::now());
        let all = state.all();
        state.release(&all);
    }

    /// A close that was asked for meanwhile may come earlier.
    fn until(&self, deadline: Instant) -> Instant {
        self.shared.lock().close_by.map_or(deadline, |close_by| close_by.min(deadline))
    }

    fn leave(mut self, deadline: Instant) {
        self.drain(deadline);
        self.arrivals.end();
        if self.shared.fixed.leaves_by_hand() {
            self.leave_place();
        }
        drop(self.records);
        // Leaves the group, and blocks until the broker knows.
        drop(self.consumer);
    }

    /// A static member keeps its place when librdkafka closes it, but not when it unsubscribes before.
    fn leave_place(&self) {
        self.consumer.unsubscribe();
        let until = Instant::now() + LAST_COMMIT;
        while mq_kafka::ffi::is_member(self.consumer.client()) {
            if Instant::now() >= until {
                tracing::warn!(
                    consumer = self.shared.name,
                    "the static member could not leave its group; its partitions have no owner until its session ends"
                );
                return;
            }
            let _ = self.consumer.poll(SLICE);
        }
    }

    fn exchange(mut self, exchange: Exchange) -> Self {
        let Exchange { consumer, topics, deadline, done } = exchange;
        self.drain(deadline);
        self.arrivals.end();
        let Self { consumer: old, records, shared, work, commands, .. } = self;
        drop(records);
        drop(old);
        {
            let mut state = shared.lock();
            state.paused = false;
            state.committing = None;
            // What its last callbacks assigned is not the new one's.
            let all = state.all();
            state.release(&all);
        }
        let _ = done.send(subscribe(&consumer, &topics));
        Self::new(consumer, shared, work, commands)
    }
}

/// Longer than librdkafka goes without an answer to a commit: three tries, and a coordinator awaited for a session. One that hangs costs
/// less, because an unanswered heartbeat ends the connection to it.
fn longest_answer(consumer: &KafkaConsumer) -> Duration {
    let property = |name| mq_kafka::ffi::property(consumer.client(), name).and_then(|value| value.parse().ok());
    let [socket, session] = ["socket.timeout.ms", "session.timeout.ms"].map(|name| property(name).unwrap_or(60_000));
    Duration::from_millis(3 * socket + session) + Duration::from_secs(30)
}

pub(super) fn list(partitions: &[(Arc<str>, i32)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

pub(super) fn log_in(consumer: &KafkaConsumer, login: &Login) -> KafkaResult<()> {
    mq_kafka::ffi::set_sasl_credentials(consumer.client(), &login.username, login.password.reveal())
}

pub(super) fn subscribe(consumer: &KafkaConsumer, topics: &[String]) -> KafkaResult<()> {
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}
