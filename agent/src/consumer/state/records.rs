//! The way of a record: taken in, handed to a slot, finished, tried again, held or buried.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::super::breaker::Held;
use super::super::lanes::Claim;
use super::super::slots::Slot;
use super::super::waiters::Refusal;
use super::{Assignments, Handout, Item, Job, Open, State};
use crate::record::{Batch, Record};
use crate::stats::ConsumerCounters;

/// What became of a burst of records.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// To be started.
    pub(crate) slots: Vec<Slot>,
    /// Records that show that their log went back.
    pub(crate) went_back: Vec<Record>,
}

/// Notes that a handler gets the record, as it is handed out.
fn begin(assignments: &mut Assignments, batches: &Slab<Open>, item: &Item) -> Record {
    if let Some(assignment) = assignments.get_mut(&item.assignment) {
        assignment.offsets.begin(item.sequence);
    }
    batches[item.batch].batch.record(item.index, item.attempt)
}

impl State {
    /// Queues the records of a burst.
    pub(crate) fn accept(&mut self, batches: Vec<Arc<Batch>>, now: Instant) -> Accepted {
        let mut went_back = Vec::new();
        for batch in batches {
            let (records, memory) = (batch.len(), batch.memory());
            let key = self.batches.insert(Open { batch: Arc::clone(&batch), unfinished: records, since: now });
            self.budget.take(records as usize, memory);
            for index in 0..records {
                if self.queue(key, &batch, index) {
                    went_back.push(batch.record(index, 1));
                }
            }
        }
        for record in &went_back {
            // What they wait for is no longer in the log.
            let refusal = Refusal::Error("the log of a partition went back; commit again".to_owned());
            let id = self.find(record.topic(), record.partition()).map(|(id, _)| id);
            self.answer_waiters(id.map(|id| (id, &refusal)));
        }
        self.has_room();
        Accepted { slots: self.claim_slots(now), went_back }
    }

    /// Whether the record shows that its log went back.
    fn queue(&mut self, key: usize, batch: &Batch, index: u32) -> bool {
        let assignment = batch.source(index).assignment;
        let Some(known) = self.assignments.get_mut(&assignment) else {
            // Revoked since it was read.
            self.forget(key);
            return false;
        };
        let went_back = known.offsets.goes_back(batch.offset(index));
        let was_finished = known.offsets.was_finished(batch.offset(index));
        let sequence = known.offsets.accept(batch.offset(index));
        if was_finished {
            known.offsets.finish(sequence);
        }
        if known.offsets.is_far_ahead() {
            self.far_ahead.insert(assignment);
        }
        if was_finished {
            self.forget(key);
            return went_back;
        }
        let (batches, ordering) = (&self.batches, self.ordering);
        let lane = ordering.lane(batch.key(index));
        let hash = lane.map(|lane| self.hasher.hash_one((assignment, lane)));
        let item = Item { batch: key, index, assignment, sequence, attempt: 1, alone: false, held: false };
        self.lanes.push(hash, item, |first| {
            first.assignment == assignment && ordering.lane(batches[first.batch].batch.key(first.index)) == lane
        });
        went_back
    }

    /// Free slots that what is ready is enough for.
    pub(crate) fn claim_slots(&mut self, now: Instant) -> Vec<Slot> {
        self.note_occupancy(now);
        if self.gathers_until().is_some_and(|until| until > now) {
            return Vec::new();
        }
        self.slots.claim(self.lanes.ready())
    }

    /// Until when no batch is taken, because more records may come to those that wait: until the oldest of them has waited long enough.
    pub(crate) fn gathers_until(&self) -> Option<Instant> {
        let (full, mut left) = (self.budget.is_full(), self.slots.at_once());
        let gather = self.gather.filter(|_| !full && self.lanes.ready() < left)?;
        let mut oldest = None;
        for (first, records) in self.lanes.waiting() {
            let since = self.batches[first.batch].since;
            oldest = Some(oldest.map_or(since, |oldest: Instant| oldest.min(since)));
            left = left.saturating_sub(records);
            // Alone in its batch, and then it is the first of its lane; or the batch is full.
            if first.alone || left == 0 {
                return None;
            }
        }
        Some(oldest? + gather)
    }

    /// The next records for a slot, as many as it should take at once: the first, and whether there are more, in its hand. If there is
    /// none, the slot is free.
    pub(crate) fn take(&mut self, slot: &Slot, now: Instant) -> Option<(Job, bool)> {
        let share = self.slots.take(slot, now);
        let Some(first) = (share > 0).then(|| self.next_job()).flatten() else {
            self.slots.free(slot);
            return None;
        };
        let mut several = false;
        if share > 1 {
            let hand = &mut slot.hand.lock().waiting;
            hand.extend((1..share).map_while(|_| self.next_job()));
            several = !hand.is_empty();
        }
        Some((first, several))
    }

    fn next_job(&mut self) -> Option<Job> {
        let claim = self.lanes.take()?;
        let record = begin(&mut self.assignments, &self.batches, self.lanes.first(&claim)?);
        Some(Job { claim, record })
    }

    /// The records of the next batch. A record that failed before is alone in one. If there are none, the slot is free.
    pub(crate) fn take_batch(&mut self, slot: &Slot, now: Instant) -> Vec<Handout> {
        let mut left = self.slots.take(slot, now);
        if self.gathers_until().is_some_and(|until| until > now) {
            left = 0;
        }
        let mut handouts = Vec::new();
        while left > 0 {
            let Some(claim) = self.lanes.take() else { break };
            let alone = self.lanes.first(&claim).is_some_and(|item| item.alone);
            if alone && !handouts.is_empty() {
                self.give_back(claim);
                break;
            }
            let mut records = Vec::new();
            for item in self.lanes.hand_out(&claim, if alone { 1 } else { left }, |item| !item.alone) {
                records.push(begin(&mut self.assignments, &self.batches, item));
            }
            left = if alone { 0 } else { left - records.len() };
            handouts.push(Handout { claim, records });
        }
        if handouts.is_empty() {
            self.slots.free(slot);
        }
        handouts
    }

    /// What is handed out of the lane comes again alone.
    pub(crate) fn isolate(&mut self, claim: &Claim) {
        self.lanes.change(claim, |item| item.alone = true);
    }

    /// Frees what waits for handlers that do not end: records that others can handle, and those that were handled before.
    pub(super) fn relieve(&mut self, now: Instant, counters: &ConsumerCounters) {
        let (waiting, handled) = self.slots.held_up(now);
        for job in waiting.into_iter().rev() {
            self.give_back(job.claim);
        }
        self.finish_all(handled.into_iter(), counters);
    }

    /// As [`State::finish`], of records that were handled, and counts them.
    pub(crate) fn finish_all(&mut self, handled: impl Iterator<Item = Claim>, counters: &ConsumerCounters) {
        let mut consumed = (0, 0);
        for claim in handled {
            consumed = (consumed.0 + 1, consumed.1 + self.finish(claim));
        }
        counters.consumed(consumed.0, consumed.1);
    }

    /// The record is handled: the next one of its lane may begin. Its size.
    pub(crate) fn finish(&mut self, claim: Claim) -> usize {
        let size = self.finish_first(&claim);
        self.end(claim);
        size
    }

    /// The record is safe in the dead-letter topic: the next one of its lane may begin. Its size.
    pub(crate) fn buried(&mut self, claim: Claim) -> usize {
        let size = self.pop(&claim).map_or(0, |(size, _)| size);
        self.end(claim);
        size
    }

    /// The first record of the lane is handled; its lane stays as it is.
    pub(crate) fn finish_first(&mut self, claim: &Claim) -> usize {
        let Some((size, held)) = self.pop(claim) else { return 0 };
        if !held {
            self.breaker.handled();
        } else if self.breaker.held_handled() == Held::Release {
            self.try_held(usize::MAX);
        }
        size
    }

    /// Takes the first record out of the lane. Its size, and whether it was held.
    fn pop(&mut self, claim: &Claim) -> Option<(usize, bool)> {
        let item = self.lanes.pop(claim)?;
        let size = self.batches[item.batch].batch.size_of(item.index);
        self.forget(item.batch);
        self.occupancy.handled();
        if let Some(assignment) = self.assignments.get_mut(&item.assignment) {
            assignment.offsets.finish(item.sequence);
            if assignment.offsets.is_near_again() {
                self.far_ahead.remove(&item.assignment);
            }
        }
        Some((size, item.held))
    }

    /// The first record of the lane waits again, behind the lanes that are ready.
    pub(crate) fn end(&mut self, claim: Claim) {
        for item in self.lanes.end(claim) {
            self.forget(item.batch);
        }
    }

    /// The record was not begun after all, and is the next to be.
    pub(crate) fn give_back(&mut self, claim: Claim) {
        for item in self.lanes.give_back(claim) {
            self.forget(item.batch);
        }
    }

    /// The record failed, and its lane waits with it. The record, as it was handed out.
    pub(crate) fn failed(&mut self, claim: &Claim) -> Option<Record> {
        let item = self.lanes.first_mut(claim)?;
        item.attempt += 1;
        Some(self.batches[item.batch].batch.record(item.index, item.attempt - 1))
    }

    /// The record is to become a dead letter, for this error. It is given back if it may; else it is held.
    pub(crate) fn may_bury(&mut self, claim: Claim, error: &str, now: Instant) -> Option<Claim> {
        let held_before = self.lanes.first(&claim).is_some_and(|item| item.held);
        if self.breaker.may_bury(held_before, error, now) {
            return Some(claim);
        }
        if self.lanes.is_removed(&claim) {
            self.end(claim);
            return None;
        }
        if let Some(item) = self.lanes.first_mut(&claim) {
            item.held = true;
        }
        self.lanes.stop(&claim);
        self.held_back.push_back(claim);
        None
    }

    /// So many of the records that are held may be handled again, those first that wait for longest.
    pub(super) fn try_held(&mut self, most: usize) {
        for _ in 0..most {
            let Some(claim) = self.held_back.pop_front() else { return };
            self.end(claim);
        }
    }

    /// Records that the breaker holds.
    pub(crate) fn held_back(&self) -> usize {
        self.held_back.len()
    }

    /// Whether no record is left that the breaker held, those included that are being tried again.
    pub(super) fn holds_nothing(&self) -> bool {
        self.held_back.is_empty() && !self.lanes.is_busy(|item| item.held)
    }

    /// One record of the batch is no longer in hand.
    pub(super) fn forget(&mut self, batch: usize) {
        let open = &mut self.batches[batch];
        open.unfinished -= 1;
        let memory = if open.unfinished == 0 { self.batches.remove(batch).batch.memory() } else { 0 };
        self.budget.give_back(1, memory);
    }
}
