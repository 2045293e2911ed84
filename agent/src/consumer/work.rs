//! Running handlers: slots that take records from the ready-key queue.

use std::collections::VecDeque;
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
    /// It took several records: only then there can be anything in its hand, and else that memory is not touched.
    several: bool,
    /// What it handled last, until that is said or in its hand.
    handled: Option<Claim>,
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
    /// The next record in its hand, where what was handled is kept meanwhile.
    fn next(&mut self) -> Option<Job> {
        if self.several { self.slot.hand.next(self.handled.take()) } else { None }
    }

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
        let mut run = Run { slot, several: false, handled: None, time, attempts: 0, now, limit: time, deadline };
        let (mut takes, mut waited) = (0, false);
        while let Some(first) = self.take(&mut run) {
            // After a handler that waited it was read a moment ago.
            if !std::mem::take(&mut waited) {
                run.now = Instant::now();
            }
            let began = run.now;
            let mut next = Some(first);
            while let Some(Job { claim, record }) = next {
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
                        waited = true;
                        ended.unwrap_or_else(|| Err(too_long(run.limit)))
                    }
                };
                run.attempts += 1;
                if run.attempts.is_multiple_of(READ_CLOCK) {
                    run.read_clock();
                }
                match outcome {
                    Ok(()) => run.handled = Some(claim),
                    Err(Failure { kind: FailureKind::Abandon, .. }) => return self.abandon(&claim, run),
                    Err(failure) => {
                        self.settle_before(&mut run);
                        (Arc::clone(&self) as Arc<dyn Start>).failed(claim, failure);
                    }
                }
                if run.now - began > HOLD {
                    self.step_aside(&mut run, false);
                }
                next = run.next();
            }
            if !waited {
                run.read_clock();
            }
            takes += 1;
            if takes % TAKES == 0 {
                self.tell(&mut run, VecDeque::new(), false);
                tokio::task::yield_now().await;
                waited = false;
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

    /// Says what was handled, and takes the next records for the slot: the first of them. If there is none, the slot is free.
    fn take(self: &Arc<Self>, run: &mut Run) -> Option<Job> {
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, run);
        run.limit = state.limits.max_poll_interval;
        let first = state.take(&run.slot, run.now);
        run.several = first.as_ref().is_some_and(|(_, several)| *several);
        // What was held by the breaker may be ready all at once.
        let slots = state.claim_slots(run.now);
        self.desk.release(state);
        Arc::clone(self).start(slots);
        first.map(|(first, _)| first)
    }

    /// Says what was handled, and gives back what was not begun: the slot is at one record for longer, because its handler waits or
    /// because it computes.
    fn step_aside(self: &Arc<Self>, run: &mut Run, waits: bool) {
        if !run.several {
            return;
        }
        let jobs = {
            let mut hand = run.slot.hand.lock();
            hand.handled.extend(run.handled.take());
            if hand.waiting.is_empty() && hand.handled.is_empty() {
                return;
            }
            std::mem::take(&mut hand.waiting)
        };
        self.tell(run, jobs, waits);
    }

    /// Says what was handled, and gives these records back.
    fn tell(self: &Arc<Self>, run: &mut Run, not_begun: VecDeque<Job>, waits: bool) {
        let mut state = self.desk.shared.lock();
        self.settle(&mut state, run);
        if waits {
            state.slots.waits();
        }
        for Job { claim, .. } in not_begun.into_iter().rev() {
            state.give_back(claim);
        }
        let slots = state.claim_slots(run.now);
        self.desk.release(state);
        Arc::clone(self).start(slots);
    }

    /// Says what was handled before the record that failed: the breaker has to see them in their order.
    fn settle_before(&self, run: &mut Run) {
        if !run.several || run.slot.hand.lock().handled.is_empty() {
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
        let counters = &self.desk.shared.counters;
        if run.several {
            state.finish_all(run.slot.hand.lock().handled.drain(..), counters);
        }
        state.finish_all(run.handled.take().into_iter(), counters);
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
mod tests;
