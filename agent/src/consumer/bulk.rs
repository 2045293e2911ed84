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
use crate::hook::panicked;
use crate::record::Record;

/// Why a handler did not handle all records of a batch.
///
/// Any error, and any [`Failure`], stands for the whole batch: its records are handed out again alone, each under the rules of
/// [`Failure`], so that only what fails alone becomes a dead letter. [`BatchFailure::of`] names the records that failed; the others are
/// done, except later ones of the same key, which come again after it.
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

impl Consumer {
    /// As [`Consumer::subscribe`], with a handler that gets up to `max_records` records at once, for example to write them to a database
    /// in one statement. There is no waiting for a batch to fill: it has what is ready when a slot is free, so batches grow with the
    /// load. Up to `concurrency` batches are handled at a time.
    ///
    /// Records that wait for each other ([`Ordering`](crate::Ordering)) are in one batch in their order, or the later ones wait until the
    /// earlier ones are finished. A record that failed before is alone in its batch. A [`Hook`](crate::Hook) sees no batches. What the handler sends carries on no trace, since a
    /// batch has many.
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
    pub async fn subscribe_batch<H, F>(&self, max_records: usize, handler: H) -> Result<(), ConsumeError>
    where
        H: Fn(Vec<Record>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
    {
        self.subscribe_to(|desk| {
            desk.shared.lock().slots.take_at_once(max_records);
            Arc::new(Bulk { desk, handler })
        })
        .await
    }
}

/// Runs a handler of batches.
pub(super) struct Bulk<H> {
    pub(super) desk: Desk,
    pub(super) handler: H,
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
            let (began, count) = (Instant::now(), records.len());
            let call = pin!(AssertUnwindSafe(async { (self.handler)(records).await }).catch_unwind());
            let outcome = match deadline.within(limit, call).await {
                Some(Ok(outcome)) => outcome,
                Some(Err(panic)) => Err(panicked(&*panic).into()),
                None => Err(too_long(limit).into()),
            };
            self.desk.shared.counters.attempts(began.elapsed(), 1);
            self.settle(handouts, count, &outcome);
            tokio::task::coop::consume_budget().await;
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

    fn settle(self: &Arc<Self>, handouts: Vec<Handout>, count: usize, outcome: &Result<(), BatchFailure>) {
        let mut failed = Vec::new();
        let (mut place, mut bytes, mut done) = (0, 0, 0);
        let mut state = self.desk.shared.lock();
        for Handout { claim, records } in handouts {
            let failures = (place..).take(records.len()).map(|at| outcome.as_ref().err()?.at(at, count));
            let failures: Vec<Option<Failure>> = failures.collect();
            place += records.len();
            let fine = failures.iter().take_while(|failure| failure.is_none()).count();
            if outcome.as_ref().is_err_and(BatchFailure::is_whole) {
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
                    failed.push((claim, failure));
                }
                None => state.end(claim),
            }
        }
        self.desk.shared.counters.consumed(done, bytes);
        let slots = state.claim_slots(Instant::now());
        self.desk.release(state);
        for (claim, failure) in failed {
            (Arc::clone(self) as Arc<dyn Start>).failed(claim, failure);
        }
        Arc::clone(self).start(slots);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::super::stage::Stage;
    use super::*;

    /// Key and offset of each record, batch by batch.
    type Seen = Arc<Mutex<Vec<Vec<(String, i64)>>>>;

    fn stage<F>(
        most: usize,
        handler: impl Fn(Vec<Record>, Vec<(String, i64)>) -> F + Send + Sync + 'static,
    ) -> (Stage, Seen)
    where
        F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
    {
        let seen = Seen::default();
        let stage = Stage::new(1, |desk| {
            desk.shared.lock().slots.take_at_once(most);
            let seen = Arc::clone(&seen);
            let handler = move |records: Vec<Record>| {
                let text = |record: &Record| String::from_utf8(record.payload().to_vec()).unwrap();
                let batch: Vec<_> = records.iter().map(|record| (text(record), record.offset())).collect();
                seen.lock().unwrap().push(batch.clone());
                handler(records, batch)
            };
            Arc::new(Bulk { desk, handler })
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
}
