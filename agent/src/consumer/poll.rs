//! The poll thread: the only one that talks to the Kafka consumer. Nothing blocks it longer than a moment, except a revocation,
//! which waits for handlers inside its budget.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::sync::oneshot;

use super::context::{KafkaConsumer, LAST_COMMIT, SLICE, offsets, refusal};
use super::work::Work;
use crate::error::ConsumeError;

/// How long a poll waits for a record, and so how late a command can be.
const POLL: Duration = Duration::from_millis(50);
/// How long a full consumer stops polling before it pauses its partitions. Most budgets clear within it, and a pause throws away
/// what was fetched.
const HOLD: Duration = Duration::from_secs(1);

pub(super) enum Command {
    /// Subscribe to these topics from now on.
    Subscribe(Vec<String>, oneshot::Sender<KafkaResult<()>>),
    /// Drain, commit, leave, go on with another Kafka consumer.
    Exchange(Box<Exchange>),
    /// Drain until the deadline, commit, leave.
    Close(Instant),
}

pub(super) struct Exchange {
    pub(super) consumer: KafkaConsumer,
    pub(super) topics: Vec<String>,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<KafkaResult<()>>,
}

pub(super) struct Poller {
    pub(super) consumer: KafkaConsumer,
    pub(super) work: Arc<Work>,
    pub(super) commands: Receiver<Command>,
    pub(super) last_commit: Instant,
    pub(super) full_since: Option<Instant>,
}

impl Poller {
    /// Runs until it is told to close or until librdkafka gives up.
    pub(super) fn run(mut self) -> Result<(), ConsumeError> {
        loop {
            loop {
                match self.commands.try_recv() {
                    Ok(Command::Subscribe(topics, done)) => {
                        let _ = done.send(subscribe(&self.consumer, &topics));
                    }
                    Ok(Command::Exchange(exchange)) => self = self.exchange(*exchange),
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
            self.commit_if_due();
            if self.may_poll() {
                match self.consumer.poll(POLL) {
                    Some(Ok(message)) => self.work.accept(&message),
                    Some(Err(error)) => self.failed(&error)?,
                    None => {}
                }
            }
        }
    }

    fn failed(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        let name = &self.work.shared.name;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(ConsumeError::Fatal { name: name.clone(), detail: error.to_string() });
        }
        tracing::warn!(consumer = name, %error, "a poll failed; the consumer goes on");
        Ok(())
    }

    /// Back-pressure. Under the budget: poll. Above it: first only wait for handlers, then pause and poll for events alone.
    fn may_poll(&mut self) -> bool {
        let (room, paused) = {
            let mut state = self.work.shared.lock();
            (state.budget.has_room(), state.paused)
        };
        match (room, paused) {
            (true, false) => self.full_since = None,
            (true, true) => {
                self.full_since = None;
                self.set_paused(false);
            }
            (false, true) => {}
            (false, false) => {
                let since = *self.full_since.get_or_insert_with(Instant::now);
                if since.elapsed() < HOLD {
                    self.work.shared.wait(POLL);
                    return false;
                }
                self.set_paused(true);
            }
        }
        true
    }

    fn set_paused(&self, paused: bool) {
        let outcome = self
            .consumer
            .assignment()
            .and_then(|all| if paused { self.consumer.pause(&all) } else { self.consumer.resume(&all) });
        match outcome {
            Ok(()) => self.work.shared.lock().paused = paused,
            Err(error) => {
                tracing::warn!(consumer = self.work.shared.name, %error, paused, "could not pause or resume; tried again at the next poll");
            }
        }
    }

    fn commit_if_due(&mut self) {
        let due = {
            let state = self.work.shared.lock();
            state.waiters.is_due(Instant::now())
                || state.limits.auto_commit.is_some_and(|interval| self.last_commit.elapsed() >= interval)
        };
        if due {
            self.commit();
        }
    }

    /// Sends the finished prefixes to the broker; the answer comes through the commit callback.
    fn commit(&mut self) {
        self.last_commit = Instant::now();
        let positions = self.work.shared.lock().take_commit();
        let list = offsets(&positions);
        if positions.is_empty() {
            return;
        }
        if let Err(error) = mq_kafka::ffi::commit_async(&self.consumer, &list) {
            self.work.shared.counters.commit_failed();
            let refused = refusal(&error);
            let mut state = self.work.shared.lock();
            for position in &positions {
                state.committed(&position.topic, position.partition, position.offset, Some(&refused));
            }
            drop(state);
            tracing::warn!(consumer = self.work.shared.name, %error, "offsets were not committed; they go with the next commit");
        }
    }

    /// Stops intake, waits for handlers until the deadline, commits. Polls meanwhile, so that rebalances go on.
    fn drain(&mut self, deadline: Instant) {
        self.set_paused(true);
        let all = {
            let mut state = self.work.shared.lock();
            let all = state.all();
            state.wind_down(&all);
            all
        };
        let mut idle = false;
        while !idle && Instant::now() < deadline {
            idle = self.work.shared.wait_idle(&all, deadline.min(Instant::now() + SLICE));
            // A handler that is waited for may itself wait for its commit.
            self.commit_if_due();
            // What a poll returns now is not taken: it is beyond the last commit and will be read again.
            let _ = self.consumer.poll(Duration::ZERO);
        }
        if !idle {
            tracing::warn!(
                consumer = self.work.shared.name,
                "handlers did not end in the drain budget; their records will be handled again"
            );
        }
        let until = Instant::now() + LAST_COMMIT;
        while !self.work.shared.lock().is_committed() && Instant::now() < until {
            // Sends what was refused again: a rebalance may stand in the way of it for a moment.
            self.commit();
            let _ = self.consumer.poll(SLICE);
        }
        // Leaving revokes every partition; there is nothing left to wait for.
        let mut state = self.work.shared.lock();
        let all = state.all();
        state.release(&all);
    }

    fn leave(mut self, deadline: Instant) {
        self.drain(deadline);
        // Leaves the group, and blocks until the broker knows.
        drop(self.consumer);
    }

    fn exchange(mut self, exchange: Exchange) -> Self {
        let Exchange { consumer, topics, deadline, done } = exchange;
        self.drain(deadline);
        let Self { consumer: old, work, commands, .. } = self;
        drop(old);
        work.shared.lock().paused = false;
        let _ = done.send(subscribe(&consumer, &topics));
        Self { consumer, work, commands, last_commit: Instant::now(), full_since: None }
    }
}

pub(super) fn subscribe(consumer: &KafkaConsumer, topics: &[String]) -> KafkaResult<()> {
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}
