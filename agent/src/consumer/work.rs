//! Running handlers: slots that take records from the ready-key queue.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tracing::Instrument as _;

use super::deadline::Deadline;
use super::desk::{Desk, Start};
use super::lanes::Claim;
use super::slots::{HOLD, Slot};
use super::state::{Job, State};
use crate::error::{Failure, FailureKind};
use crate::hook::panicked;
use crate::record::Record;
use crate::trace::{TraceContext, TraceId};

/// After so many takes a slot lets other tasks of its thread run: handlers that never wait would keep it for themselves.
const TAKES: u32 = 64;

/// Runs a handler of single records.
pub(super) struct Work<H> {
    pub(super) desk: Desk,
    pub(super) handler: H,
}

/// Of records whose handlers do not wait, after how many the clock is read: it costs as much as the rest of what is done for one.
const READ_CLOCK: u32 = 8;

/// What a slot has in hand.
struct Run {
    slot: Slot,
    /// The time that the handlers of `attempts` records ran.
    time: Duration,
    attempts: u32,
    /// When the last handler ended.
    now: Instant,
    /// How long a handler may run.
    limit: Duration,
    deadline: Deadline,
}

impl Run {
    /// The time since it was read last, handlers ran.
    fn read_clock(&mut self) {
        let before = std::mem::replace(&mut self.now, Instant::now());
        self.time += self.now.saturating_duration_since(before);
    }
}

impl<H, F> Start for Work<H>
where
    H: Fn(Record) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
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

impl<H, F> Work<H>
where
    H: Fn(Record) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    async fn slot(self: Arc<Self>, slot: Slot) {
        let (time, now, deadline) = (Duration::ZERO, Instant::now(), Deadline::default());
        let mut run = Run { slot, time, attempts: 0, now, limit: time, deadline };
        let mut takes = 0;
        while self.take(&mut run) {
            run.now = Instant::now();
            let began = run.now;
            let mut handled = None;
            while let Some(Job { claim, record }) = run.slot.hand.next(handled.take()) {
                let mut attempt = pin!(self.attempt(record));
                let outcome = match futures::poll!(attempt.as_mut()) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        if run.attempts > 0 {
                            run.read_clock();
                        }
                        self.step_aside(&mut run, true);
                        let ended = run.deadline.within(run.limit, attempt).await;
                        run.read_clock();
                        ended.unwrap_or_else(|| Err(too_long(run.limit)))
                    }
                };
                run.attempts += 1;
                if run.attempts.is_multiple_of(READ_CLOCK) {
                    run.read_clock();
                }
                match outcome {
                    Ok(()) => handled = Some(claim),
                    Err(Failure { kind: FailureKind::Abandon, .. }) => return self.abandon(&claim, run),
                    Err(failure) => {
                        self.settle_before(&mut run);
                        (Arc::clone(&self) as Arc<dyn Start>).failed(claim, failure);
                    }
                }
                if run.now - began > HOLD {
                    run.slot.hand.lock().handled.extend(handled.take());
                    self.step_aside(&mut run, false);
                }
            }
            run.read_clock();
            takes += 1;
            if takes % TAKES == 0 {
                self.step_aside(&mut run, false);
                tokio::task::yield_now().await;
            }
        }
    }

    /// One attempt. A panic is a failure like any other.
    async fn attempt(&self, record: Record) -> Result<(), Failure> {
        let trace = record.trace_context();
        let span = tracing::info_span!(
            "handle",
            topic = record.topic(),
            partition = record.partition(),
            offset = record.offset(),
            trace_id = trace.as_ref().and_then(TraceContext::trace_id).map(TraceId::as_str)
        );
        let call = AssertUnwindSafe(async { (self.handler)(record).await }).catch_unwind().instrument(span);
        let ended = match trace {
            Some(trace) => trace.scope(call).await,
            None => call.await,
        };
        ended.unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// Says what was handled, and takes the next records for the slot. Whether there are any; if not, the slot is free.
    fn take(self: &Arc<Self>, run: &mut Run) -> bool {
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, run);
        run.limit = state.limits.max_poll_interval;
        let any = state.take(&run.slot, run.now);
        // What was held by the breaker may be ready all at once.
        let slots = state.claim_slots(run.now);
        self.desk.release(state);
        Arc::clone(self).start(slots);
        any
    }

    /// Says what was handled, and gives back what was not begun: the slot is at one record for longer, because its handler waits or
    /// because it computes.
    fn step_aside(self: &Arc<Self>, run: &mut Run, waits: bool) {
        let jobs = {
            let mut hand = run.slot.hand.lock();
            if hand.waiting.is_empty() && hand.handled.is_empty() {
                return;
            }
            std::mem::take(&mut hand.waiting)
        };
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, run);
        if waits {
            state.slots.waits();
        }
        for Job { claim, .. } in jobs.into_iter().rev() {
            state.give_back(claim);
        }
        let slots = state.claim_slots(run.now);
        self.desk.release(state);
        Arc::clone(self).start(slots);
    }

    /// Says what was handled before the record that failed: the breaker has to see them in their order.
    fn settle_before(&self, run: &mut Run) {
        if run.slot.hand.lock().handled.is_empty() {
            return;
        }
        run.read_clock();
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, run);
        self.desk.release(state);
    }

    fn settle(&self, state: &mut State, run: &mut Run) {
        state.note_occupancy(run.now);
        let (time, attempts) = (std::mem::take(&mut run.time), std::mem::take(&mut run.attempts));
        state.slots.measured(time, attempts);
        self.desk.shared.counters.attempts(time, attempts);
        state.finish_all(run.slot.hand.lock().handled.drain(..), &self.desk.shared.counters);
    }

    /// The consumer is about to close. Its drain does not wait for the record, and the slot takes no other one.
    fn abandon(self: &Arc<Self>, claim: &Claim, mut run: Run) {
        self.step_aside(&mut run, false);
        self.desk.shared.counters.failed();
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, &mut run);
        state.lanes.stop(claim);
        state.slots.free(&run.slot);
        self.desk.release(state);
    }
}

pub(super) fn too_long(limit: Duration) -> Failure {
    Failure::retry(format!(
        "the handler ran longer than maxPollIntervalMs = {} ms and was cancelled",
        limit.as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, PoisonError};

    use tokio::sync::Semaphore;

    use super::super::breaker::DeadLetterBreaker;
    use super::super::stage::Stage;
    use super::*;

    fn stage<H, F>(concurrency: usize, handler: H) -> Stage
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        Stage::new(concurrency, |desk| Arc::new(Work { desk, handler }))
    }

    fn keys(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
        numbers.map(|number| format!("k{number}"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn as_many_handlers_run_as_there_are_slots_and_never_more() {
        let (running, most, gate) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let mut stage = stage(300, {
            let (running, most, gate) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
            move |_| {
                let (running, most, gate) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
                async move {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    gate.acquire().await?.forget();
                    running.fetch_sub(1, SeqCst);
                    Ok(())
                }
            }
        });
        // First handlers that do not wait, so that slots take many records at once; then all of them wait.
        gate.add_permits(2_000);
        stage.read(keys(0..2_000));
        stage.finished(2_000).await;
        stage.read(keys(0..1_000));
        let reached = async {
            while running.load(SeqCst) < 300 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("slots were left free");
        gate.add_permits(1_000);
        stage.finished(3_000).await;
        assert!(most.load(SeqCst) <= 300, "{most:?}");
        // What a slot has handled may be settled before it comes to see that there is no more.
        let free = async {
            while stage.shared().lock().slots.used() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), free).await.expect("a slot was not given back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_handler_that_waits_or_computes_holds_up_nobody_else() {
        struct Stop(Arc<AtomicUsize>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.store(0, SeqCst);
            }
        }
        let (gate, spin) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(1)));
        let stop = Stop(Arc::clone(&spin));
        let mut stage = stage(4, {
            let (gate, spin) = (Arc::clone(&gate), Arc::clone(&spin));
            move |record: Record| {
                let (gate, spin) = (Arc::clone(&gate), Arc::clone(&spin));
                async move {
                    match record.payload() {
                        b"waits" => gate.acquire().await?.forget(),
                        b"computes" => {
                            while spin.load(SeqCst) > 0 {
                                std::hint::spin_loop();
                            }
                        }
                        _ => {}
                    }
                    Ok(())
                }
            }
        });
        stage.read(keys(0..5_000));
        stage.finished(5_000).await;
        stage.read(["waits".to_owned()].into_iter().chain(keys(0..40)));
        stage.finished(5_040).await;
        // Short handlers again, so that a slot takes many records: those that it handled before do not wait either.
        stage.read(keys(0..2_000));
        stage.finished(7_040).await;
        stage.read(keys(0..20).chain(["computes".to_owned()]).chain(keys(20..40)));
        stage.finished(7_080).await;
        drop(stop);
        gate.add_permits(1);
        stage.finished(7_082).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_keep_their_order_whatever_their_handlers_do() {
        let seen: Arc<Mutex<HashMap<String, Vec<i64>>>> = Arc::default();
        let mut stage = stage(16, {
            let seen = Arc::clone(&seen);
            move |record: Record| {
                let seen = Arc::clone(&seen);
                async move {
                    match fastrand::u8(..) {
                        0..10 => tokio::time::sleep(Duration::from_millis(1)).await,
                        10..40 => tokio::task::yield_now().await,
                        _ => {}
                    }
                    let key = String::from_utf8(record.payload().to_vec())?;
                    seen.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(record.offset());
                    Ok(())
                }
            }
        });
        for _ in 0..100 {
            stage.read((0..200).map(|_| format!("k{}", fastrand::u8(..50))));
            tokio::task::yield_now().await;
        }
        stage.finished(20_000).await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 20_000);
        assert!(seen.values().all(|offsets| offsets.is_sorted()));
        let left = stage.shared().lock();
        assert_eq!((left.budget.records(), left.lanes.ready(), left.slots.used()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_hangs_is_cancelled_and_the_record_tried_again() {
        let seen: Arc<Mutex<Vec<(String, u32, u64)>>> = Arc::default();
        let began = tokio::time::Instant::now();
        let mut stage = stage(1, {
            let seen = Arc::clone(&seen);
            move |record: Record| {
                let seen = Arc::clone(&seen);
                async move {
                    let key = String::from_utf8(record.payload().to_vec())?;
                    let hangs = key == "hangs" && record.attempt() < 3;
                    seen.lock().unwrap().push((key, record.attempt(), began.elapsed().as_secs()));
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
            }
        });
        stage.read(["hangs", "other"].map(str::to_owned));
        stage.finished(2).await;
        let all = [("hangs", 1, 0), ("other", 1, 6), ("hangs", 2, 7), ("hangs", 3, 15)];
        assert_eq!(*seen.lock().unwrap(), all.map(|(key, attempt, at)| (key.to_owned(), attempt, at)));
        assert_eq!(stage.stats().processing_errors, 2);
    }

    /// Keys and offsets.
    type Seen = Arc<Mutex<Vec<(String, i64)>>>;

    #[tokio::test]
    async fn rejects_scattered_over_what_a_slot_took_are_no_outage() {
        let mut stage = Stage::with_breaker(DeadLetterBreaker::new(2, 101), 1, |desk| {
            let handler = async |record: Record| {
                if record.offset() % 3 == 0 { Err(Failure::reject("bad")) } else { Ok(()) }
            };
            Arc::new(Work { desk, handler })
        });
        for _ in 0..200 {
            stage.shared().lock().slots.measured(Duration::ZERO, 1);
        }
        stage.read(keys(0..64));
        stage.finished(42).await;
        let stats = stage.stats();
        assert_eq!((stats.processing_errors, stats.held_dead_letters), (22, 0));
    }

    /// All records fail until it is mended: 0. Else the failures, from 1.
    fn outage(breaker: DeadLetterBreaker) -> (Stage, Arc<AtomicUsize>, Seen) {
        let (broken, seen) = (Arc::new(AtomicUsize::new(1)), Seen::default());
        let stage = Stage::with_breaker(breaker, 4, |desk| {
            let (broken, seen) = (Arc::clone(&broken), Arc::clone(&seen));
            let handler = move |record: Record| {
                let (broken, seen) = (Arc::clone(&broken), Arc::clone(&seen));
                async move {
                    if broken.load(SeqCst) > 0 {
                        broken.fetch_add(1, SeqCst);
                        return Err(Failure::reject("no database"));
                    }
                    let key = String::from_utf8(record.payload().to_vec())?;
                    seen.lock().unwrap().push((key, record.offset()));
                    Ok(())
                }
            };
            Arc::new(Work { desk, handler })
        });
        (stage, broken, seen)
    }

    async fn held(stage: &Stage, records: usize) {
        let held = async {
            while stage.stats().held_dead_letters != records {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), held).await.expect("other records are held");
    }

    #[tokio::test]
    async fn what_an_outage_held_is_tried_one_at_a_time_and_goes_on_in_order_after_it() {
        let (mut stage, broken, seen) = outage(DeadLetterBreaker::new(1, 1));
        stage.read(keys(0..10).chain(keys(0..10)));
        held(&stage, 10).await;
        let now = Instant::now();
        assert_eq!(broken.load(SeqCst), 1 + 10, "their keys stand still");
        stage.serve(now + Duration::from_secs(1));
        stage.serve(now + Duration::from_secs(7));
        held(&stage, 9).await;
        held(&stage, 10).await;
        assert_eq!(broken.load(SeqCst), 1 + 10 + 1);
        broken.store(0, SeqCst);
        stage.serve(now + Duration::from_mins(1));
        stage.finished(20).await;
        let seen = seen.lock().unwrap();
        for key in keys(0..10) {
            let of_key: Vec<_> = seen.iter().filter(|(of, _)| *of == key).map(|(_, offset)| *offset).collect();
            assert!(of_key.len() == 2 && of_key.is_sorted(), "{key}: {of_key:?}");
        }
        assert_eq!(stage.stats().dead_letters, 0);
    }

    /// As in a drain, in which the poll thread starts no slots.
    #[tokio::test]
    async fn what_was_held_is_handled_side_by_side_although_nobody_but_slots_starts_slots() {
        let (gate, running, broken) =
            (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        let mut stage = Stage::with_breaker(DeadLetterBreaker::new(1, 1), 4, |desk| {
            let (gate, running, broken) = (Arc::clone(&gate), Arc::clone(&running), Arc::clone(&broken));
            let handler = move |record: Record| {
                let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
                let (broken, first) = (broken.load(SeqCst) > 0, record.offset() == 0);
                async move {
                    if broken {
                        return Err(Failure::reject("no database"));
                    }
                    if !first {
                        running.fetch_add(1, SeqCst);
                        gate.acquire().await?.forget();
                    }
                    Ok(())
                }
            };
            Arc::new(Work { desk, handler })
        });
        stage.read(keys(0..10));
        held(&stage, 10).await;
        broken.store(0, SeqCst);
        // The slot is to take one record: those that it would give back start others too.
        stage.shared().lock().slots.waits();
        stage.serve(Instant::now() + Duration::from_secs(6));
        let all = async {
            while running.load(SeqCst) < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // Before the one that waits is cancelled: its next attempt would start others too.
        tokio::time::timeout(Duration::from_secs(4), all).await.expect("slots were left free");
        gate.add_permits(10);
        stage.finished(10).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_held_records_and_they_leave_with_their_partition() {
        let (mut stage, ..) = outage(DeadLetterBreaker::new(1, 1));
        stage.read(keys(0..10));
        held(&stage, 10).await;
        let shared = stage.shared();
        let all = shared.lock().all();
        assert!(shared.wait_idle(&all, Instant::now()));
        let mut left = shared.lock();
        left.release(&all);
        assert_eq!((left.held_back(), left.budget.records(), left.lanes.stopped()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_breaker_whose_held_records_left_closes_and_a_single_bad_record_is_no_outage() {
        let (mut stage, broken, _) = outage(DeadLetterBreaker::new(2, 101));
        stage.read(keys(0..2));
        held(&stage, 1).await;
        stage.reassign();
        stage.serve(Instant::now() + Duration::from_secs(6));
        broken.store(0, SeqCst);
        stage.read(keys(0..1));
        stage.finished(1).await;
        broken.store(1, SeqCst);
        stage.read(keys(0..1));
        while stage.stats().processing_errors < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.stats().held_dead_letters, 0);
    }
}
