//! Handlers that get several records at once.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;

use super::Consumer;
use super::deadline::Deadline;
use super::desk::{Desk, Start};
use super::slots::Slot;
use super::state::Handout;
use super::work::too_long;
use crate::error::{ConsumeError, Failure, FailureKind};
use crate::hook::{Handled, Hooks, panicked};
use crate::record::Record;

/// Why a handler did not handle all records of a batch.
///
/// Any error, and any [`Failure`], stands for the whole batch: its records are handed out again alone, each under the rules of
/// [`Failure`], so that only what fails alone becomes a dead letter. [`BatchFailure::of`] names the records that failed; the others are
/// done, except later ones of the same key, which come again after it.
///
/// ```
/// use mq_agent::{BatchFailure, Failure, Record};
///
/// async fn insert_all(records: Vec<Record>) -> Result<(), BatchFailure> {
///     let empty = records.iter().enumerate().filter(|(_, record)| record.payload().is_empty());
///     let failed: Vec<_> = empty.map(|(place, _)| (place, Failure::reject("it is empty"))).collect();
///     if failed.is_empty() { Ok(()) } else { Err(BatchFailure::of(failed)) }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFailure(Failed);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Failed {
    All(Failure),
    Some(Vec<(usize, Failure)>),
}

impl BatchFailure {
    /// The records at these places of the batch, from 0, failed.
    pub fn of(failed: impl IntoIterator<Item = (usize, Failure)>) -> Self {
        Self(Failed::Some(failed.into_iter().collect()))
    }

    fn is_whole(&self) -> bool {
        matches!(self.0, Failed::All(_))
    }

    /// Why the record at this place failed, in a batch of so many.
    fn at(&self, place: usize, records: usize) -> Option<Failure> {
        match &self.0 {
            // Which of them cannot be handled is not known yet.
            Failed::All(failure) if records > 1 && failure.kind == FailureKind::Reject => {
                Some(Failure::retry(&failure.message))
            }
            Failed::All(failure) => Some(failure.clone()),
            Failed::Some(failed) => failed.iter().find(|(at, _)| *at == place).map(|(_, failure)| failure.clone()),
        }
    }
}

impl From<Failure> for BatchFailure {
    fn from(failure: Failure) -> Self {
        Self(Failed::All(failure))
    }
}

impl<E: std::error::Error> From<E> for BatchFailure {
    fn from(error: E) -> Self {
        Self(Failed::All(Failure::retry(error)))
    }
}

/// How many records a handler gets at once, and how long they may gather. A number alone is that many, without gathering.
///
/// ```
/// use std::time::Duration;
///
/// let batches = mq_agent::Batches::of(500).max_wait(Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    records: usize,
    wait: Duration,
}

impl Batches {
    /// Up to so many records; 0 counts as 1.
    ///
    /// ```
    /// let batches = mq_agent::Batches::of(500);
    /// assert_eq!(batches, mq_agent::Batches::from(500));
    /// ```
    pub fn of(records: usize) -> Self {
        Self { records, wait: Duration::ZERO }
    }

    /// A batch that is not full is handed over once its oldest record has waited for so long since it was taken from Kafka. A record
    /// that failed before does not wait, and nothing waits while the consumer holds all that it may. 0, the default: whatever is ready
    /// when a slot is free.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let batches = mq_agent::Batches::of(500).max_wait(Duration::from_millis(200));
    /// ```
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

impl From<usize> for Batches {
    fn from(records: usize) -> Self {
        Self::of(records)
    }
}

impl Consumer {
    /// As [`Consumer::subscribe`], with a handler that gets many records at once, for example to write them to a database in one
    /// statement. `batches` is how many at most. Unless it says how long they may gather ([`Batches::max_wait`]) there is no waiting for
    /// a batch to fill: it has what is ready when a slot is free, so batches grow with the load. Up to `concurrency` batches are handled
    /// at a time.
    ///
    /// Records that wait for each other ([`Ordering`](crate::Ordering)) are in one batch in their order, or the later ones wait until the
    /// earlier ones are finished. A record that failed before is alone in its batch. A [`Hook`](crate::Hook) sees each record of a batch, and
    /// may keep it from the handler. What the handler sends carries on no trace, since a batch has many.
    ///
    /// ```no_run
    /// # async fn example(consumer: mq_agent::Consumer) -> Result<(), mq_agent::ConsumeError> {
    /// # async fn insert(_: Vec<mq_agent::Record>) -> Result<(), std::io::Error> { Ok(()) }
    /// consumer.subscribe_batch(500, |records| async move { Ok(insert(records).await?) }).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::subscribe`].
    pub async fn subscribe_batch<H, F>(&self, batches: impl Into<Batches>, handler: H) -> Result<(), ConsumeError>
    where
        H: Fn(Vec<Record>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
    {
        let (batches, hooks) = (batches.into(), self.0.hooks.clone());
        self.subscribe_to(|desk| Arc::new(Bulk::new(desk, batches, hooks, handler))).await
    }
}

/// Runs a handler of batches.
pub(super) struct Bulk<H> {
    desk: Desk,
    group: String,
    hooks: Hooks,
    handler: H,
}

impl<H> Bulk<H> {
    fn new(desk: Desk, Batches { records, wait }: Batches, hooks: Hooks, handler: H) -> Self {
        let mut state = desk.shared.lock();
        state.slots.take_at_once(records);
        state.gather = (!wait.is_zero()).then_some(wait);
        drop(state);
        Self { group: desk.dead_letters.group(), desk, hooks, handler }
    }
}

/// What became of the records of a batch, in their order.
struct Ended {
    outcomes: Vec<Result<(), Failure>>,
    /// It is not known which of them failed.
    whole: bool,
}

impl<H, F> Start for Bulk<H>
where
    H: Fn(Vec<Record>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
{
    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn start(self: Arc<Self>, slots: Vec<Slot>) {
        for slot in slots {
            self.desk.runtime.spawn(Arc::clone(&self).slot(slot));
        }
    }
}

impl<H, F> Bulk<H>
where
    H: Fn(Vec<Record>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
{
    async fn slot(self: Arc<Self>, slot: Slot) {
        let mut deadline = Deadline::default();
        while let Some((handouts, limit)) = self.take(&slot) {
            let records: Vec<Record> = handouts.iter().flat_map(|handout| handout.records.clone()).collect();
            let began = Instant::now();
            let ended = self.attempt(records, &mut deadline, limit).await;
            self.desk.shared.counters.attempts(began.elapsed(), 1);
            self.settle(handouts, ended);
            tokio::task::coop::consume_budget().await;
        }
    }

    /// One attempt: the hooks, and the handler with the records that they left to it.
    async fn attempt(&self, records: Vec<Record>, deadline: &mut Deadline, limit: Duration) -> Ended {
        if self.hooks.is_empty() {
            let count = records.len();
            let outcome = self.call(records, deadline, limit).await;
            let whole = outcome.as_ref().is_err_and(BatchFailure::is_whole);
            let outcomes = (0..count)
                .map(|at| outcome.as_ref().err().and_then(|failure| failure.at(at, count)).map_or(Ok(()), Err));
            return Ended { outcomes: outcomes.collect(), whole };
        }
        let (began, name) = (Instant::now(), self.desk.shared.name.as_str());
        let seen: Vec<_> = records.iter().map(|record| self.hooks.before_handle(name, record)).collect();
        let left = records.iter().zip(&seen).filter(|(_, (_, stopped))| stopped.is_none());
        let left: Vec<Record> = left.map(|(record, _)| record.clone()).collect();
        let count = left.len();
        let outcome = if left.is_empty() { Ok(()) } else { self.call(left, deadline, limit).await };
        let whole = outcome.as_ref().is_err_and(BatchFailure::is_whole);
        let mut place = 0;
        let mut outcomes = Vec::with_capacity(records.len());
        for (record, (called, stopped)) in records.iter().zip(seen) {
            let outcome = stopped.unwrap_or_else(|| {
                place += 1;
                outcome.as_ref().err().and_then(|failure| failure.at(place - 1, count)).map_or(Ok(()), Err)
            });
            let (consumer, group, duration) = (name, self.group.as_str(), began.elapsed());
            self.hooks.handled(
                called,
                &Handled { consumer, group, record, outcome: &outcome, duration, batch: count.max(1) },
            );
            outcomes.push(outcome);
        }
        Ended { outcomes, whole }
    }

    async fn call(&self, records: Vec<Record>, deadline: &mut Deadline, limit: Duration) -> Result<(), BatchFailure> {
        let call = pin!(AssertUnwindSafe(async { (self.handler)(records).await }).catch_unwind());
        match deadline.within(limit, call).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(panicked(&*panic).into()),
            None => Err(too_long(limit).into()),
        }
    }

    /// `None`: nothing is ready, and the slot is free.
    fn take(&self, slot: &Slot) -> Option<(Vec<Handout>, Duration)> {
        let mut state = self.desk.shared.lock();
        let now = Instant::now();
        state.note_occupancy(now);
        let handouts = state.take_batch(slot, now);
        let limit = state.limits.max_poll_interval;
        self.desk.release(state);
        (!handouts.is_empty()).then_some((handouts, limit))
    }

    fn settle(self: &Arc<Self>, handouts: Vec<Handout>, ended: Ended) {
        let shared = &self.desk.shared;
        let (mut bytes, mut done) = (0, 0);
        let mut outcomes = ended.outcomes.into_iter();
        let mut state = shared.lock();
        for Handout { claim, records } in handouts {
            let failures: Vec<Option<Failure>> = outcomes.by_ref().take(records.len()).map(Result::err).collect();
            let fine = failures.iter().take_while(|failure| failure.is_none()).count();
            if ended.whole {
                state.isolate(&claim);
            }
            for _ in 0..fine {
                bytes += state.finish_first(&claim);
            }
            done += fine as u64;
            match failures.into_iter().nth(fine).flatten() {
                Some(failure) => {
                    state.lanes.hold_first(&claim);
                    state.isolate(&claim);
                    // At once: the breaker has to see what failed and what did not in their order.
                    drop(state);
                    (Arc::clone(self) as Arc<dyn Start>).failed(claim, failure);
                    state = shared.lock();
                }
                None => state.end(claim),
            }
        }
        shared.counters.consumed(done, bytes);
        let slots = state.claim_slots(Instant::now());
        self.desk.release(state);
        Arc::clone(self).start(slots);
    }
}

#[cfg(test)]
mod tests;
