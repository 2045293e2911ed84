//! What both kinds of handlers need, and what follows when a record was not handled: another attempt, or the dead-letter topic.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::dead_letter::DeadLetters;
use super::lanes::Claim;
use super::slots::Slot;
use super::state::{Shared, State};
use crate::error::{Failure, FailureKind};
use crate::record::Record;

/// Attempts in all before a record goes to the dead-letter topic.
const ATTEMPTS: u32 = 3;
/// The pause before attempt n + 1 is n times this.
const RETRY_STEP: Duration = Duration::from_secs(1);
/// How soon a dead letter that could not be delivered is tried again.
const DEAD_LETTER_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) runtime: Handle,
}

/// What runs the handler, whatever its type.
pub(super) trait Start: Send + Sync {
    fn desk(&self) -> &Desk;

    /// Starts these slots.
    fn start(self: Arc<Self>, slots: Vec<Slot>);
}

impl Desk {
    /// Wakes the poll thread if it waits for what there is now.
    pub(super) fn release(&self, mut state: MutexGuard<'_, State>) {
        let wakes = state.wakes();
        drop(state);
        if wakes {
            self.shared.notify();
        }
    }

    /// `None`: the record belongs to somebody else by now.
    fn undelivered(&self, claim: Claim, needs_a_person: bool) -> Option<Claim> {
        let mut state = self.shared.lock();
        let kept = if state.lanes.is_removed(&claim) {
            state.end(claim);
            None
        } else {
            if needs_a_person {
                state.lanes.stop(&claim);
            }
            Some(claim)
        };
        self.release(state);
        kept
    }
}

impl dyn Start {
    /// The first record of the lane failed.
    pub(super) fn failed(self: Arc<Self>, claim: Claim, failure: Failure) {
        let desk = self.desk();
        desk.shared.counters.failed();
        let mut state = desk.shared.lock();
        let Some(record) = state.failed(&claim) else { return };
        let attempt = record.attempt();
        let again = failure.kind == FailureKind::Retry && attempt < ATTEMPTS;
        let claim = if again { Some(claim) } else { state.may_bury(claim, &failure.message, Instant::now()) };
        desk.release(state);
        tracing::warn!(
            consumer = desk.shared.name,
            topic = record.topic(),
            partition = record.partition(),
            offset = record.offset(),
            attempt,
            error = failure.message,
            "a record was not handled"
        );
        match claim {
            Some(claim) if again => drop(desk.runtime.spawn(Arc::clone(&self).retry(claim, RETRY_STEP * attempt))),
            Some(claim) => drop(desk.runtime.spawn(Arc::clone(&self).bury(claim, record, failure))),
            // The breaker holds it.
            None => {}
        }
    }

    async fn retry(self: Arc<Self>, claim: Claim, pause: Duration) {
        tokio::time::sleep(pause).await;
        let desk = self.desk();
        let mut state = desk.shared.lock();
        state.end(claim);
        let slots = state.claim_slots(Instant::now());
        desk.release(state);
        Arc::clone(&self).start(slots);
    }

    /// Delivers a dead letter. Until that succeeds its key stands still and nothing beyond the record is committed.
    async fn bury(self: Arc<Self>, mut claim: Claim, record: Record, failure: Failure) {
        let desk = self.desk();
        while let Err(undelivered) = desk.dead_letters.deliver(&record, &failure).await {
            let Some(kept) = desk.undelivered(claim, undelivered.needs_a_person()) else { return };
            claim = kept;
            tracing::error!(
                consumer = desk.shared.name,
                reason = undelivered.reason(),
                topic = record.topic(),
                partition = record.partition(),
                offset = record.offset(),
                "{undelivered}; the key of this record stands still and nothing after it is committed"
            );
            tokio::time::sleep(DEAD_LETTER_AGAIN).await;
        }
        desk.shared.counters.dead_letter();
        let mut state = desk.shared.lock();
        let size = state.buried(claim);
        desk.shared.counters.consumed(1, size);
        let slots = state.claim_slots(Instant::now());
        desk.release(state);
        Arc::clone(&self).start(slots);
    }
}
