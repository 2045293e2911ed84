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
mod tests {
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::super::stage::Stage;
    use super::*;
    use crate::hook::Hook;

    /// Key and offset of each record, batch by batch.
    type Seen = Arc<Mutex<Vec<Vec<(String, i64)>>>>;

    fn stage<F>(
        batches: impl Into<Batches>,
        handler: impl Fn(Vec<Record>, Vec<(String, i64)>) -> F + Send + Sync + 'static,
    ) -> (Stage, Seen)
    where
        F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
    {
        hooked(batches, Hooks::default(), handler)
    }

    fn hooked<F>(
        batches: impl Into<Batches>,
        hooks: Hooks,
        handler: impl Fn(Vec<Record>, Vec<(String, i64)>) -> F + Send + Sync + 'static,
    ) -> (Stage, Seen)
    where
        F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
    {
        let seen = Seen::default();
        let stage = Stage::new(1, |desk| {
            let seen = Arc::clone(&seen);
            let handler = move |records: Vec<Record>| {
                let text = |record: &Record| String::from_utf8(record.payload().to_vec()).unwrap();
                let batch: Vec<_> = records.iter().map(|record| (text(record), record.offset())).collect();
                seen.lock().unwrap().push(batch.clone());
                handler(records, batch)
            };
            Arc::new(Bulk::new(desk, batches.into(), hooks, handler))
        });
        (stage, seen)
    }

    fn keys(keys: &str) -> Vec<String> {
        keys.chars().map(String::from).collect()
    }

    fn offsets(seen: &Seen) -> Vec<Vec<i64>> {
        seen.lock().unwrap().iter().map(|batch| batch.iter().map(|(_, offset)| *offset).collect()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_has_what_is_ready_up_to_its_limit_and_keys_in_order() {
        let (mut stage, seen) = stage(4, |_, _| async { Ok(()) });
        stage.read(keys("abacab"));
        stage.finished(6).await;
        // All of a, then b; c and what came later of b are the next ones.
        assert_eq!(offsets(&seen), [vec![0, 2, 4, 1], vec![3, 5]]);
        let left = stage.shared().lock();
        assert_eq!((left.budget.records(), left.lanes.ready(), left.slots.used()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_records_of_a_batch_that_failed_come_again_alone() {
        let (mut stage, seen) = stage(10, |_, batch| async move {
            if batch.len() > 1 && batch.contains(&("b".to_owned(), 1)) {
                return Err(Failure::reject("one of them").into());
            }
            Ok(())
        });
        stage.read(keys("abc"));
        stage.finished(3).await;
        let mut all = offsets(&seen);
        assert_eq!(all.remove(0), [0, 1, 2]);
        all.sort();
        assert_eq!(all, [[0], [1], [2]]);
        assert_eq!((stage.stats().processing_errors, stage.stats().dead_letters), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_in_a_batch_comes_again_with_the_later_ones_of_its_key() {
        let (mut stage, seen) = stage(10, |records, _| async move {
            let failed = records.iter().position(|record| record.offset() == 2 && record.attempt() == 1);
            failed.map_or(Ok(()), |at| Err(BatchFailure::of([(at, Failure::retry("not yet"))])))
        });
        stage.read(keys("abaabb"));
        stage.finished(6).await;
        assert_eq!(offsets(&seen), [vec![0, 2, 3, 1, 4, 5], vec![2], vec![3]]);
        assert_eq!(stage.stats().messages_consumed, 6);
    }

    #[tokio::test]
    async fn rejects_scattered_over_a_batch_are_no_outage() {
        let (mut stage, seen) = stage(500, |records, _| async move {
            let bad = (0..records.len()).step_by(20).map(|at| (at, Failure::reject("bad")));
            Err(BatchFailure::of(bad))
        });
        stage.read((0..500).map(|number| format!("k{number}")));
        stage.finished(475).await;
        let stats = stage.stats();
        assert_eq!((offsets(&seen).len(), stats.processing_errors, stats.held_dead_letters), (1, 25, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_keep_their_order_whatever_fails() {
        let gate = Arc::new(Semaphore::new(1));
        let handled: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
        let (mut stage, _) = stage(7, {
            let handled = Arc::clone(&handled);
            move |records, batch| {
                let (gate, handled) = (Arc::clone(&gate), Arc::clone(&handled));
                async move {
                    let alone = gate.try_acquire()?;
                    let failed = records.iter().position(|record| record.attempt() == 1 && fastrand::u8(..) < 8);
                    let upto = failed.unwrap_or(batch.len());
                    for (at, (key, offset)) in batch.into_iter().enumerate() {
                        if at < upto {
                            handled.lock().unwrap().entry(key).or_default().push(offset);
                        }
                    }
                    tokio::task::yield_now().await;
                    drop(alone);
                    let failed = (upto..records.len()).map(|at| (at, Failure::retry("not yet")));
                    if upto < records.len() { Err(BatchFailure::of(failed)) } else { Ok(()) }
                }
            }
        });
        for _ in 0..10 {
            stage.read((0..50).map(|_| format!("k{}", fastrand::u8(..20))));
        }
        stage.finished(500).await;
        let handled = handled.lock().unwrap();
        assert_eq!(handled.values().map(Vec::len).sum::<usize>(), 500);
        assert!(handled.values().all(|offsets| offsets.is_sorted()), "{handled:?}");
    }

    #[tokio::test]
    async fn a_batch_is_handed_over_when_it_is_full_or_its_oldest_record_has_waited() {
        let wait = Duration::from_millis(200);
        let (mut stage, seen) = stage(Batches::of(4).max_wait(wait), |_, _| async { Ok(()) });
        let began = Instant::now();
        stage.read(keys("aa"));
        stage.serve(began);
        stage.read(keys("bcd"));
        stage.finished(4).await;
        assert!(began.elapsed() < wait, "the first batch was full");
        stage.finished(5).await;
        assert!(began.elapsed() >= wait);
        assert_eq!(offsets(&seen), [vec![0, 1, 2, 3], vec![4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_fills_a_batch() {
        let (mut stage, seen) = stage(Batches::of(4).max_wait(Duration::from_mins(1)), |_, _| async { Ok(()) });
        stage.read(keys("aaa"));
        stage.serve(Instant::now());
        assert!(offsets(&seen).is_empty());
        stage.read(keys("a"));
        stage.finished(4).await;
        assert_eq!(offsets(&seen), [vec![0, 1, 2, 3]]);
    }

    #[tokio::test]
    async fn what_gathers_is_dropped_when_its_partition_leaves() {
        let (mut stage, seen) = stage(Batches::of(4).max_wait(Duration::from_mins(1)), |_, _| async { Ok(()) });
        stage.read(keys("abcde"));
        stage.finished(4).await;
        let shared = stage.shared();
        let all = shared.lock().all();
        shared.lock().wind_down(&all);
        assert!(shared.wait_idle(&all, Instant::now()), "nobody would take it");
        assert_eq!((offsets(&seen), shared.lock().budget.records()), (vec![vec![0, 1, 2, 3]], 0));
    }

    /// Keeps the records of one key from the handler, and writes down what came of each.
    #[derive(Clone, Default)]
    struct Audit(Arc<Mutex<Vec<String>>>);

    impl Hook for Audit {
        fn before_handle(&self, _consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
            if record.key() == Some(b"b") { ControlFlow::Break(Ok(())) } else { ControlFlow::Continue(()) }
        }

        fn handled(&self, handled: &Handled<'_>) {
            let said = handled.outcome.as_ref().map_or_else(Failure::message, |()| "ok");
            self.0.lock().unwrap().push(format!("{} of {}: {said}", handled.record.offset(), handled.batch));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_see_each_record_of_a_batch_and_may_keep_it_from_the_handler() {
        let (audit, mut hooks) = (Audit::default(), Hooks::default());
        hooks.add(audit.clone());
        let (mut stage, seen) = hooked(10, hooks, |records, _| async move {
            let failed = records.iter().position(|record| record.offset() == 3 && record.attempt() == 1);
            failed.map_or(Ok(()), |at| Err(BatchFailure::of([(at, Failure::retry("not yet"))])))
        });
        stage.read(keys("abcd"));
        stage.finished(4).await;
        assert_eq!(offsets(&seen), [vec![0, 2, 3], vec![3]]);
        let said = ["0 of 3: ok", "1 of 3: ok", "2 of 3: ok", "3 of 3: not yet", "3 of 1: ok"];
        assert_eq!(*audit.0.lock().unwrap(), said);
    }
}
