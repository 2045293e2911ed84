//! Running handlers: slots that take records from the ready-key queue, retries, dead letters.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::runtime::Handle;
use tracing::Instrument as _;

use super::dead_letter::DeadLetters;
use super::state::{Accepted, Job, LaneKey, Shared};
use crate::error::{Failure, FailureKind};
use crate::hook::panicked;
use crate::message::Record;
use crate::trace::{TraceContext, TraceId};

/// Attempts in all before a record goes to the dead-letter topic.
const ATTEMPTS: u32 = 3;
/// The pause before attempt n + 1 is n times this.
const RETRY_STEP: Duration = Duration::from_secs(1);
/// How soon a dead letter that could not be delivered is tried again.
const DEAD_LETTER_AGAIN: Duration = Duration::from_secs(5);

pub(super) type Handler = Box<dyn Fn(Record) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) handler: Handler,
    pub(super) runtime: Handle,
}

impl Work {
    /// Queues a record that was read. Called by the poll thread, which alone assigns and revokes. Whether another one may be taken
    /// in at once.
    pub(super) fn accept(&self, message: &BorrowedMessage<'_>) -> bool {
        // Unknown: left over from before a revocation.
        let Some((assignment, topic)) = self.shared.lock().find(message.topic(), message.partition()) else {
            return true;
        };
        let record = Record::copied(message, topic);
        let Accepted { went_back, room } = self.shared.lock().accept(assignment, record);
        if went_back {
            tracing::warn!(
                consumer = self.shared.name,
                topic = message.topic(),
                partition = message.partition(),
                offset = message.offset(),
                "the log of the partition went back: its topic was created anew or lost its end; reading goes on from here, and records can come again"
            );
        }
        room
    }

    /// Starts what free slots can take.
    pub(super) fn fill(self: &Arc<Self>) {
        loop {
            let Some(next) = self.shared.lock().start() else { return };
            self.runtime.spawn(Arc::clone(self).slot(next));
        }
    }

    async fn slot(self: Arc<Self>, first: (LaneKey, Job)) {
        let mut next = Some(first);
        while let Some((key, job)) = next {
            let outcome = self.attempt(&job).await;
            next = self.settle(key, job, outcome);
        }
    }

    /// One attempt. A panic is a failure like any other.
    async fn attempt(&self, job: &Job) -> Result<(), Failure> {
        let record = job.record.attempted(job.attempt);
        let trace = record.trace_context();
        let span = tracing::info_span!(
            "handle",
            topic = record.topic(),
            partition = record.partition(),
            offset = record.offset(),
            trace_id = trace.as_ref().and_then(TraceContext::trace_id).map(TraceId::as_str)
        );
        let call = AssertUnwindSafe(async { (self.handler)(record).await }).catch_unwind().instrument(span);
        let began = Instant::now();
        let ended = match trace {
            Some(trace) => trace.scope(call).await,
            None => call.await,
        };
        let outcome = ended.unwrap_or_else(|panic| Err(panicked(&*panic)));
        self.shared.counters.attempt(began.elapsed(), outcome.is_err());
        outcome
    }

    /// Does what follows from the outcome and takes the next record for the slot.
    fn settle(self: &Arc<Self>, key: LaneKey, mut job: Job, outcome: Result<(), Failure>) -> Option<(LaneKey, Job)> {
        let mut state = self.shared.lock();
        state.note_occupancy();
        match outcome {
            Ok(()) => {
                state.finished(&job);
                state.lanes.finish(&key);
                self.shared.counters.consumed(job.size);
            }
            Err(Failure { kind: FailureKind::Abandon, .. }) => {
                // The consumer is about to close. Its drain does not wait for the record, and the slot takes no other one.
                state.lanes.park(&key);
                state.stopped.insert(key);
                drop(state);
                self.shared.notify();
                return None;
            }
            Err(failure) => {
                state.lanes.park(&key);
                tracing::warn!(
                    consumer = self.shared.name,
                    topic = job.record.topic(),
                    partition = job.record.partition(),
                    offset = job.record.offset(),
                    attempt = job.attempt,
                    error = failure.message,
                    "a record was not handled"
                );
                if failure.kind == FailureKind::Retry && job.attempt < ATTEMPTS {
                    let pause = RETRY_STEP * job.attempt;
                    job.attempt += 1;
                    self.runtime.spawn(Arc::clone(self).retry(key, job, pause));
                } else {
                    self.runtime.spawn(Arc::clone(self).bury(key, job, failure));
                }
            }
        }
        let next = state.start();
        drop(state);
        self.shared.notify();
        next
    }

    async fn retry(self: Arc<Self>, key: LaneKey, job: Job, pause: Duration) {
        tokio::time::sleep(pause).await;
        {
            let mut state = self.shared.lock();
            if let Some(job) = state.lanes.unpark(&key, job) {
                state.budget.give_back(job.size);
            }
        }
        self.shared.notify();
        self.fill();
    }

    /// Delivers a dead letter. Until that succeeds its key stands still and nothing beyond the record is committed.
    async fn bury(self: Arc<Self>, key: LaneKey, job: Job, failure: Failure) {
        while let Err(undelivered) = self.dead_letters.deliver(&job.record, job.attempt, &failure).await {
            {
                let mut state = self.shared.lock();
                if !state.lanes.is_busy(|busy| *busy == key) {
                    state.budget.give_back(job.size);
                    return;
                }
                if undelivered.needs_a_person() {
                    state.stopped.insert(key.clone());
                }
            }
            self.shared.notify();
            tracing::error!(
                consumer = self.shared.name,
                reason = undelivered.reason(),
                topic = job.record.topic(),
                partition = job.record.partition(),
                offset = job.record.offset(),
                "{undelivered}; the key of this record stands still and nothing after it is committed"
            );
            tokio::time::sleep(DEAD_LETTER_AGAIN).await;
        }
        self.shared.counters.dead_letter();
        self.shared.counters.consumed(job.size);
        {
            let mut state = self.shared.lock();
            state.stopped.remove(&key);
            state.finished(&job);
            state.lanes.finish_parked(&key);
        }
        self.shared.notify();
        self.fill();
    }
}
