//! The poll thread: the only one that talks to the Kafka consumer. Nothing blocks it longer than a moment, except what waits for
//! handlers inside a budget: a revocation, a seek, an exchange, the end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mq_kafka::ffi::{Fetched, RecordQueue, Taken};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::arrivals::Arrivals;
use super::budget::Room;
use super::context::{Context, KafkaConsumer, LAST_COMMIT, SLICE, offsets, refusal};
use super::desk::Start;
use super::intake::Intake;
use super::offsets::Offsets;
use super::state::{Accepted, AssignmentId, Shared};
use super::turns::Doing;
use crate::credentials::Login;
use crate::error::ConsumeError;

/// How long a poll waits for a record, and so how late a command can be.
const POLL: Duration = Duration::from_millis(50);
/// The same while an answer is waited for that does not come through the consumer.
const ARRIVAL_POLL: Duration = Duration::from_millis(5);
/// How long a full consumer stops polling before it pauses its partitions. Most budgets clear within it, and a pause throws away
/// what was fetched.
const HOLD: Duration = Duration::from_secs(1);
/// How often partitions are directed to the queue again, and so how long one can be silent that librdkafka took out of it.
const DIRECT: Duration = Duration::from_millis(200);
/// For so long a commit waits for the answer to the one before, because librdkafka sends one again that failed, and so after a later one
/// if there is one. That is longer than librdkafka itself goes without an answer: three tries of `socket.timeout.ms` (60 s), and a
/// coordinator awaited for a session. A coordinator that hangs costs less: an unanswered heartbeat ends the connection to it.
const COMMIT_ANSWER: Duration = Duration::from_mins(5);
/// How long the broker may take to answer where a time is, and librdkafka to go there.
const SEEK: Duration = Duration::from_secs(5);

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
        Self {
            consumer,
            records,
            arrivals,
            shared,
            work,
            commands,
            intake,
            last_commit: now,
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

    /// Waits for a record, and takes in with it what librdkafka has fetched already.
    fn take_in(&mut self, room: Room) -> Result<(), ConsumeError> {
        let mut wait = if self.arrivals.is_reading() { ARRIVAL_POLL } else { POLL };
        // One that has waited long enough waits for a slot now, and not for a timer.
        let (gathers_until, now) = {
            let (mut state, now) = (self.shared.lock(), Instant::now());
            let waits = if state.paused { Doing::Full } else { Doing::Idle };
            state.turns.turn_to(waits, now);
            (state.gathers_until(), now)
        };
        self.gathers_until = gathers_until.filter(|until| *until > now);
        if let Some(until) = self.gathers_until {
            wait = wait.min(until - now);
        }
        self.records.wait(wait);
        self.shared.turn_to(Doing::Working);
        self.poll_events()?;
        let (intake, shared, mut failed) = (&mut self.intake, &self.shared, Vec::new());
        self.records.take(intake.burst(room), |taken| match taken {
            Taken::Record(record) => intake.add(record, shared),
            Taken::Failed { at, error } => {
                failed.extend(at.map(|at| (at.topic().to_owned(), at.partition(), at.offset())));
                tracing::warn!(consumer = shared.name, %error, "a fetch failed; the consumer goes on");
            }
        });
        let batches = self.intake.end();
        if !batches.is_empty() {
            let Accepted { slots, went_back } = self.shared.lock().accept(batches, Instant::now());
            Arc::clone(&self.work).start(slots);
            for record in went_back {
                tracing::warn!(
                    consumer = self.shared.name,
                    topic = record.topic(),
                    partition = record.partition(),
                    offset = record.offset(),
                    "the log of the partition went back: its topic was created anew or lost its end; reading goes on from here, and records can come again"
                );
            }
        }
        for (topic, partition, offset) in failed {
            let mut state = self.shared.lock();
            if let Some((id, _)) = state.find(&topic, partition).filter(|_| offset >= 0)
                && let Some(offsets) = state.offsets(id)
            {
                offsets.misplace(offset);
            }
        }
        Ok(())
    }

    /// Rebalances, answers to commits, statistics: the context takes them.
    fn poll_events(&mut self) -> Result<(), ConsumeError> {
        loop {
            match self.consumer.poll(Duration::ZERO) {
                // Of a partition that was not directed to the queue at that moment: older than what lies there.
                Some(Ok(message)) => {
                    self.intake.add(Fetched::from(&message), &self.shared);
                    return Ok(());
                }
                Some(Err(error)) => self.failed(&error)?,
                None => {}
            }
            if !self.records.has_events() {
                return Ok(());
            }
        }
    }

    /// Now and then, as the queue wants it.
    fn direct(&mut self) {
        if self.directed.elapsed() < DIRECT {
            return;
        }
        self.directed = Instant::now();
        let assigned = {
            let state = self.shared.lock();
            state.partitions(state.all().difference(&state.arriving).copied())
        };
        for (topic, partition) in &assigned {
            if let Err(error) = self.records.direct(topic, *partition) {
                tracing::warn!(consumer = self.shared.name, %error, %topic, partition, "records of a partition may be late; tried again");
            }
        }
    }

    /// First librdkafka goes there: if it cannot, everything is as before. Then what was read before is finished or dropped.
    fn seek(&self, topic: &str, to: &SeekTo) -> Result<(), String> {
        let targets = match to {
            SeekTo::Offset(partition, offset) => vec![(*partition, Offset::Offset(*offset))],
            SeekTo::Time(milliseconds) => self.find_time(topic, *milliseconds)?,
        };
        let mut moved = Vec::new();
        let mut outcome = Ok(());
        for (partition, offset) in targets {
            let Some((id, name)) = self.shared.lock().find(topic, partition) else {
                outcome = Err(format!("{topic} {partition} is not assigned to this consumer"));
                break;
            };
            if let Err(error) = self.consumer.seek(topic, partition, offset, SEEK) {
                outcome = Err(format!("librdkafka did not go to {offset:?} of {topic} {partition}: {error}"));
                break;
            }
            moved.push((id, name, partition));
        }
        let ids = moved.iter().map(|(id, ..)| *id).collect();
        let partitions: Vec<_> = moved.iter().map(|(_, name, partition)| (Arc::clone(name), *partition)).collect();
        let (paused, mut elsewhere): (HashSet<AssignmentId>, HashMap<AssignmentId, Offsets>) = {
            let mut state = self.shared.lock();
            let elsewhere = moved.iter().filter_map(|(id, ..)| Some((*id, state.offsets(*id)?.elsewhere()))).collect();
            (state.held.intersection(&ids).copied().collect(), elsewhere)
        };
        self.consumer.client().context().retire(&self.consumer, &list(&partitions), &ids);
        let mut state = self.shared.lock();
        for (old, name, partition) in moved {
            let new = state.assign(&name, partition);
            if let Some((offsets, elsewhere)) = state.offsets(new).zip(elsewhere.remove(&old)) {
                *offsets = elsewhere;
            }
            // A seek does not resume.
            if paused.contains(&old) {
                state.held.insert(new);
            }
        }
        outcome
    }

    fn find_time(&self, topic: &str, milliseconds: i64) -> Result<Vec<(i32, Offset)>, String> {
        let mut times = TopicPartitionList::new();
        for partition in self.shared.lock().assigned(topic) {
            // Fails for special offsets alone; a time is none.
            let _ = times.add_partition_offset(topic, partition, Offset::Offset(milliseconds.max(0)));
        }
        if times.count() == 0 {
            return Err(format!("no partition of {topic} is assigned to this consumer"));
        }
        let found = self.consumer.offsets_for_times(times, SEEK);
        let found = found.map_err(|error| format!("the broker did not say where that time is in {topic}: {error}"))?;
        Ok(found.elements().iter().map(|element| (element.partition(), element.offset())).collect())
    }

    fn failed(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        let name = &self.shared.name;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(ConsumeError::Fatal { name: name.clone(), detail: error.to_string() });
        }
        tracing::warn!(consumer = name, %error, "a poll failed; the consumer goes on");
        Ok(())
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

    /// librdkafka goes on from its position, which after a failed fetch can be beyond what was read.
    fn resume(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        for element in partitions.elements() {
            let next = {
                let mut state = self.shared.lock();
                let id = state.find(element.topic(), element.partition()).map(|(id, _)| id);
                id.and_then(|id| state.offsets(id)).and_then(|offsets| offsets.misplaced())
            };
            if let Some(next) = next {
                // Without waiting: what is asked of a partition is done in the order in which it was asked.
                self.consumer.seek(element.topic(), element.partition(), Offset::Offset(next), Duration::ZERO)?;
            }
        }
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

    /// `taking`: everything that was polled was taken in.
    fn commit_if_due(&mut self, taking: bool) {
        let due = {
            let mut state = self.shared.lock();
            state.turn = Instant::now();
            state.waiters.is_due(state.turn)
                || state.limits.auto_commit.is_some_and(|interval| self.last_commit.elapsed() >= interval)
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
            if let Some((id, _)) = state.find(element.topic(), element.partition())
                && let Some(offsets) = state.offsets(id)
            {
                offsets.pass(next);
            }
        }
    }

    /// Sends the finished prefixes to the broker; the answer comes through the commit callback.
    fn commit(&mut self) {
        let now = Instant::now();
        let positions = {
            let mut state = self.shared.lock();
            if state.committing.is_some_and(|since| now.saturating_duration_since(since) < COMMIT_ANSWER) {
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
            // What a poll returns now is not taken: it is beyond the last commit and will be read again.
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
