//! What the poll thread, the handlers and the rebalance callback share, behind one lock that is never held across a wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use mq_protocol::message::Health;
use slab::Slab;
use tokio::sync::oneshot;

use super::breaker::{Breaker, Held};
use super::budget::Budget;
use super::fixed::Fixed;
use super::lanes::{Claim, Lanes};
use super::offsets::{Offsets, Sequence};
use super::ordering::Ordering;
use super::slots::{Slot, Slots};
use super::waiters::{Refusal, Standing, Waiters};
use crate::record::{Batch, Record};
use crate::stats::{ConsumerCounters, HotKey, Occupancy};

/// One assignment of one partition. A partition that comes back gets another id.
pub(super) type AssignmentId = u64;

/// A record that is not finished.
#[derive(Debug)]
pub(super) struct Item {
    /// Its key in [`State::batches`].
    batch: usize,
    index: u32,
    assignment: AssignmentId,
    sequence: Sequence,
    /// The number of the next attempt, from 1.
    attempt: u32,
    /// A handler of several records at once gets this one alone: a batch with it has failed.
    alone: bool,
    /// It was held instead of becoming a dead letter.
    held: bool,
}

/// A batch of which records are not finished.
#[derive(Debug)]
struct Open {
    batch: Arc<Batch>,
    unfinished: u32,
    /// When it was taken in.
    since: Instant,
}

/// A record on its way through its handler.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) claim: Claim,
    pub(super) record: Record,
}

/// Records of one lane that are handled together.
#[derive(Debug)]
pub(super) struct Handout {
    pub(super) claim: Claim,
    pub(super) records: Vec<Record>,
}

/// The settings that only the agent knows, applied while the consumer runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Time between two commits of what is finished; `None` leaves committing to the service, to drain and to revocation.
    pub(crate) auto_commit: Option<Duration>,
    pub(crate) max_poll_records: usize,
    pub(crate) concurrency: usize,
    /// How long a handler may run.
    pub(crate) max_poll_interval: Duration,
    /// How long a revocation waits for running handlers; the other members of the group wait with it.
    pub(crate) revoke_budget: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) name: String,
    pub(super) counters: ConsumerCounters,
    pub(super) fixed: Fixed,
    state: Mutex<State>,
    /// Something finished or was released.
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) lanes: Lanes<Item>,
    pub(super) slots: Slots,
    pub(super) budget: Budget,
    breaker: Breaker,
    /// How long a handler of several records lets them gather.
    pub(super) gather: Option<Duration>,
    /// What the breaker holds.
    held_back: VecDeque<Claim>,
    batches: Slab<Open>,
    ordering: Ordering,
    hasher: DefaultHashBuilder,
    /// What the poll thread waits for.
    awaits: Awaits,
    /// When the consumer was told to be closed by.
    pub(super) close_by: Option<Instant>,
    /// When the poll thread had its last turn.
    pub(super) turn: Instant,
    /// Intake is paused: partitions that are assigned now must be paused too.
    pub(super) paused: bool,
    /// Assignments that librdkafka does not have yet: it is not known what the group has committed for them.
    pub(super) arriving: HashSet<AssignmentId>,
    /// Assignments that take nothing in until their first unfinished record is finished.
    pub(super) far_ahead: HashSet<AssignmentId>,
    /// Assignments that are paused alone, as librdkafka was told.
    pub(super) held: HashSet<AssignmentId>,
    /// Partitions that the service paused, assigned or not.
    pub(super) paused_by_service: HashSet<(String, i32)>,
    /// Messages from the finished prefixes to the ends of the logs, as librdkafka told it last.
    pub(super) lag: Option<u64>,
    occupancy: Occupancy,
    assignments: Assignments,
    ids: HashMap<Arc<str>, HashMap<i32, AssignmentId>>,
    next_id: AssignmentId,
    pub(super) waiters: Waiters,
}

type Assignments = hashbrown::HashMap<AssignmentId, Assignment>;

#[derive(Debug)]
struct Assignment {
    topic: Arc<str>,
    partition: i32,
    offsets: Offsets,
}

/// What the poll thread waits for: nobody needs to wake it for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Nothing,
    /// That it may take records in again.
    Room,
    Change,
}

/// What became of a burst of records.
#[derive(Debug)]
pub(super) struct Accepted {
    /// To be started.
    pub(super) slots: Vec<Slot>,
    /// Records that show that their log went back.
    pub(super) went_back: Vec<Record>,
}

/// The end of the finished prefix of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// What is finished beyond it.
    pub(super) map: String,
}

impl Assignment {
    /// The offset as something to commit, marked as sent.
    fn send(&mut self, offset: i64) -> Position {
        self.offsets.sent(offset);
        Position { topic: Arc::clone(&self.topic), partition: self.partition, offset, map: self.offsets.map() }
    }
}

/// Notes that a handler gets the record, as it is handed out.
fn begin(assignments: &mut Assignments, batches: &Slab<Open>, item: &Item) -> Record {
    if let Some(assignment) = assignments.get_mut(&item.assignment) {
        assignment.offsets.begin(item.sequence);
    }
    batches[item.batch].batch.record(item.index, item.attempt)
}

impl Shared {
    pub(crate) fn new(name: &str, fixed: Fixed, limits: Limits) -> Self {
        let state = State {
            lanes: Lanes::new(),
            slots: Slots::new(limits.concurrency),
            batches: Slab::new(),
            ordering: fixed.ordering,
            hasher: DefaultHashBuilder::default(),
            awaits: Awaits::Nothing,
            budget: Budget::new(limits.max_poll_records, fixed.max_bytes()),
            breaker: Breaker::new(fixed.breaker),
            gather: None,
            held_back: VecDeque::new(),
            limits,
            close_by: None,
            turn: Instant::now(),
            paused: false,
            arriving: HashSet::new(),
            far_ahead: HashSet::new(),
            held: HashSet::new(),
            paused_by_service: HashSet::new(),
            lag: None,
            occupancy: Occupancy::new(Instant::now()),
            assignments: Assignments::new(),
            ids: HashMap::new(),
            next_id: 0,
            waiters: Waiters::default(),
        };
        Self {
            name: name.to_owned(),
            counters: ConsumerCounters::default(),
            fixed,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The state. A panic elsewhere leaves it consistent: handlers run outside of the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Blocks the poll thread until something finishes, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        drop(self.wait_for(Awaits::Change, self.lock(), timeout));
    }

    /// Blocks the poll thread until it may take records in again, at most for `timeout`.
    pub(super) fn wait_for_room(&self, timeout: Duration) {
        let mut state = self.lock();
        if !state.budget.has_room() {
            drop(self.wait_for(Awaits::Room, state, timeout));
        }
    }

    fn wait_for<'a>(
        &'a self,
        what: Awaits,
        mut state: MutexGuard<'a, State>,
        timeout: Duration,
    ) -> MutexGuard<'a, State> {
        state.awaits = what;
        let (mut state, _) = self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
        state.awaits = Awaits::Nothing;
        state
    }

    /// Blocks the calling thread until nothing of these assignments waits or runs, until a commit is due that a handler may wait
    /// for, or until the deadline. Whether nothing waits or runs.
    pub(super) fn wait_idle(&self, ids: &HashSet<AssignmentId>, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.is_busy(ids) {
            let now = Instant::now();
            state.relieve(now, &self.counters);
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() || state.waiters.is_due(now) {
                return false;
            }
            state = self.wait_for(Awaits::Change, state, left);
        }
        true
    }

    /// What has to be done from time to time: takes over from handlers that do not end what others can do, and claims slots for what
    /// is ready, also those of a raised concurrency.
    pub(super) fn serve(&self, now: Instant) -> Vec<Slot> {
        let mut state = self.lock();
        state.relieve(now, &self.counters);
        match state.breaker.step(now) {
            Held::Wait => {}
            Held::Probe => state.try_held(1),
            Held::Release => state.try_held(usize::MAX),
        }
        let (news, slots) = (state.breaker.news(), state.claim_slots(now));
        drop(state);
        match news {
            Some(true) => tracing::error!(
                consumer = self.name,
                reason = "DeadLettersHeld",
                "so many records failed that something seems broken which they need: no more become dead letters; those that would are held, nothing after them is committed, and one at a time is tried again"
            ),
            Some(false) => tracing::info!(consumer = self.name, "records that were held are tried again, all of them"),
            None => {}
        }
        slots
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.lock().set_limits(limits);
    }

    pub(crate) fn limits(&self) -> Limits {
        self.lock().limits.clone()
    }
}

impl State {
    /// To be called before anything that changes how many handlers run or could run.
    pub(super) fn note_occupancy(&mut self, now: Instant) {
        let running = self.slots.used();
        // It holds all that it may and slots are free all the same: the order of keys leaves no more than those that run.
        let possible = if self.budget.is_full() { running } else { self.limits.concurrency };
        self.occupancy.note(now, running, possible);
    }

    /// How the consumer was since this was asked last.
    pub(super) fn health(&mut self) -> Health {
        self.note_occupancy(Instant::now());
        self.occupancy.take(self.budget.records())
    }

    fn set_limits(&mut self, limits: Limits) {
        self.note_occupancy(Instant::now());
        self.slots.set_limit(limits.concurrency);
        self.budget.set_max_records(limits.max_poll_records);
        self.limits = limits;
    }

    pub(super) fn assign(&mut self, topic: &str, partition: i32) -> AssignmentId {
        self.next_id += 1;
        let topic: Arc<str> = Arc::from(topic);
        self.ids.entry(Arc::clone(&topic)).or_default().insert(partition, self.next_id);
        self.assignments.insert(self.next_id, Assignment { topic, partition, offsets: Offsets::default() });
        self.next_id
    }

    /// The offsets of an assignment, if it still stands.
    pub(super) fn offsets(&mut self, id: AssignmentId) -> Option<&mut Offsets> {
        self.assignments.get_mut(&id).map(|assignment| &mut assignment.offsets)
    }

    /// The partitions of which everything that was read is finished.
    pub(super) fn idle(&self) -> Vec<(Arc<str>, i32)> {
        let assigned = self.assignments.iter().filter(|(id, _)| !self.arriving.contains(id));
        let idle = assigned.filter(|(_, assignment)| assignment.offsets.is_idle());
        idle.map(|(_, assignment)| (Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assignments that librdkafka does not have yet.
    pub(super) fn arriving(&self) -> Vec<(AssignmentId, Arc<str>, i32)> {
        let arriving = self.arriving.iter().filter_map(|id| self.assignments.get_key_value(id));
        arriving.map(|(id, assignment)| (*id, Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assignment of a partition and the shared name of its topic.
    pub(super) fn find(&self, topic: &str, partition: i32) -> Option<(AssignmentId, Arc<str>)> {
        let (topic, partitions) = self.ids.get_key_value(topic)?;
        partitions.get(&partition).map(|id| (*id, Arc::clone(topic)))
    }

    /// The partitions of those assignments that there still are.
    pub(super) fn partitions(&self, ids: impl Iterator<Item = AssignmentId>) -> Vec<(Arc<str>, i32)> {
        let known = ids.filter_map(|id| self.assignments.get(&id));
        known.map(|assignment| (Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assigned partitions of a topic.
    pub(super) fn assigned(&self, topic: &str) -> Vec<i32> {
        self.ids.get(topic).map(|partitions| partitions.keys().copied().collect()).unwrap_or_default()
    }

    /// The assignments that take nothing in for now.
    pub(super) fn to_hold(&self) -> HashSet<AssignmentId> {
        let paused = self.paused_by_service.iter().filter_map(|(topic, partition)| self.find(topic, *partition));
        self.far_ahead.iter().copied().chain(paused.map(|(id, _)| id)).collect()
    }

    /// The first offset of an assigned partition that is not finished, as far as the records in hand tell.
    pub(super) fn unfinished(&self, topic: &str, partition: i32) -> Option<i64> {
        let (id, _) = self.find(topic, partition)?;
        self.assignments.get(&id)?.offsets.prefix()
    }

    pub(super) fn all(&self) -> HashSet<AssignmentId> {
        self.assignments.keys().copied().collect()
    }

    /// An assigned partition: its assignment, the shared name of its topic, and how many records it takes before it is far ahead.
    pub(super) fn source(&self, topic: &str, partition: i32) -> Option<(AssignmentId, Arc<str>, usize)> {
        let (id, topic) = self.find(topic, partition)?;
        Some((id, topic, self.assignments.get(&id)?.offsets.room()))
    }

    /// Queues the records of a burst.
    pub(super) fn accept(&mut self, batches: Vec<Arc<Batch>>, now: Instant) -> Accepted {
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
        self.budget.has_room();
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
    pub(super) fn claim_slots(&mut self, now: Instant) -> Vec<Slot> {
        self.note_occupancy(now);
        if self.gathers_until().is_some_and(|until| until > now) {
            return Vec::new();
        }
        self.slots.claim(self.lanes.ready())
    }

    /// Until when no batch is taken, because more records may come to those that wait: until the oldest of them has waited long enough.
    pub(super) fn gathers_until(&self) -> Option<Instant> {
        let gather = self.gather.filter(|_| !self.budget.is_full())?;
        let mut oldest = None;
        let mut count = 0;
        for item in self.lanes.waiting() {
            let since = self.batches[item.batch].since;
            oldest = Some(oldest.map_or(since, |oldest: Instant| oldest.min(since)));
            count += 1;
            // Alone in its batch, or the batch is full.
            if item.alone || count >= self.slots.at_once() {
                return None;
            }
        }
        Some(oldest? + gather)
    }

    /// How long ago the oldest record was taken in that is not finished.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        let oldest = self.batches.iter().map(|(_, open)| open.since).min()?;
        Some(now.saturating_duration_since(oldest))
    }

    /// The keys that hold most records, and so many at most.
    pub(super) fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        let mut lanes: Vec<_> = self.lanes.keyed().collect();
        lanes.sort_unstable_by_key(|(_, records)| std::cmp::Reverse(*records));
        let hot = lanes.into_iter().take(most).map(|(item, records)| {
            let record = self.batches[item.batch].batch.record(item.index, item.attempt);
            let key = record.key().filter(|_| self.ordering == Ordering::Key).map(Bytes::copy_from_slice);
            HotKey { topic: record.topic().to_owned(), partition: record.partition(), key, records }
        });
        hot.collect()
    }

    /// The next records for a slot, as many as it should take at once. Whether there are any; if not, the slot is free.
    pub(super) fn take(&mut self, slot: &Slot, now: Instant) -> bool {
        let jobs = &mut slot.hand.lock().waiting;
        for _ in 0..self.slots.take(slot, now) {
            let Some(claim) = self.lanes.take() else { break };
            let Some(item) = self.lanes.first(&claim) else { break };
            let record = begin(&mut self.assignments, &self.batches, item);
            jobs.push_back(Job { claim, record });
        }
        if jobs.is_empty() {
            self.slots.free(slot);
        }
        !jobs.is_empty()
    }

    /// The records of the next batch. A record that failed before is alone in one. If there are none, the slot is free.
    pub(super) fn take_batch(&mut self, slot: &Slot, now: Instant) -> Vec<Handout> {
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
    pub(super) fn isolate(&mut self, claim: &Claim) {
        self.lanes.change(claim, |item| item.alone = true);
    }

    /// Frees what waits for handlers that do not end: records that others can handle, and those that were handled before.
    fn relieve(&mut self, now: Instant, counters: &ConsumerCounters) {
        let (waiting, handled) = self.slots.held_up(now);
        for job in waiting.into_iter().rev() {
            self.give_back(job.claim);
        }
        self.finish_all(handled.into_iter(), counters);
    }

    /// As [`State::finish`], of records that were handled, and counts them.
    pub(super) fn finish_all(&mut self, handled: impl Iterator<Item = Claim>, counters: &ConsumerCounters) {
        let mut consumed = (0, 0);
        for claim in handled {
            consumed = (consumed.0 + 1, consumed.1 + self.finish(claim));
        }
        counters.consumed(consumed.0, consumed.1);
    }

    /// The record is handled: the next one of its lane may begin. Its size.
    pub(super) fn finish(&mut self, claim: Claim) -> usize {
        let size = self.finish_first(&claim);
        self.end(claim);
        size
    }

    /// The record is safe in the dead-letter topic: the next one of its lane may begin. Its size.
    pub(super) fn buried(&mut self, claim: Claim) -> usize {
        let size = self.pop(&claim).map_or(0, |(size, _)| size);
        self.end(claim);
        size
    }

    /// The first record of the lane is handled; its lane stays as it is.
    pub(super) fn finish_first(&mut self, claim: &Claim) -> usize {
        let Some((size, held)) = self.pop(claim) else { return 0 };
        if !held {
            self.breaker.handled();
        } else if self.breaker.held_handled() {
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
    pub(super) fn end(&mut self, claim: Claim) {
        for item in self.lanes.end(claim) {
            self.forget(item.batch);
        }
    }

    /// The record was not begun after all, and is the next to be.
    pub(super) fn give_back(&mut self, claim: Claim) {
        for item in self.lanes.give_back(claim) {
            self.forget(item.batch);
        }
    }

    /// The record failed, and its lane waits with it. The record, as it was handed out.
    pub(super) fn failed(&mut self, claim: &Claim) -> Option<Record> {
        let item = self.lanes.first_mut(claim)?;
        item.attempt += 1;
        Some(self.batches[item.batch].batch.record(item.index, item.attempt - 1))
    }

    /// The record is to become a dead letter. It is given back if it may; else it is held.
    pub(super) fn may_bury(&mut self, claim: Claim, now: Instant) -> Option<Claim> {
        let held_before = self.lanes.first(&claim).is_some_and(|item| item.held);
        if self.breaker.may_bury(held_before, now) {
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
    fn try_held(&mut self, most: usize) {
        for _ in 0..most {
            let Some(claim) = self.held_back.pop_front() else { return };
            self.end(claim);
        }
    }

    /// Records that the breaker holds.
    pub(super) fn held_back(&self) -> usize {
        self.held_back.len()
    }

    /// One record of the batch is no longer in hand.
    fn forget(&mut self, batch: usize) {
        let open = &mut self.batches[batch];
        open.unfinished -= 1;
        let memory = if open.unfinished == 0 { self.batches.remove(batch).batch.memory() } else { 0 };
        self.budget.give_back(1, memory);
    }

    /// Whether the poll thread waits for what there is now.
    pub(super) fn wakes(&mut self) -> bool {
        let wakes = match self.awaits {
            Awaits::Nothing => false,
            Awaits::Room => self.budget.has_room(),
            Awaits::Change => true,
        };
        if wakes {
            self.awaits = Awaits::Nothing;
        }
        wakes
    }

    fn is_busy(&self, ids: &HashSet<AssignmentId>) -> bool {
        self.lanes.is_busy(|item| ids.contains(&item.assignment))
    }

    /// Drops the waiting records of these assignments that come after everything begun: they will be read again as the first ones
    /// after the commit. Those between begun ones stay, so that the prefix closes and nothing is handled twice; but not where they
    /// gather, because nobody is there who would take them.
    pub(super) fn wind_down(&mut self, ids: &HashSet<AssignmentId>) {
        let (assignments, gather) = (&self.assignments, self.gather.is_some());
        let dropped = self.lanes.discard(|item| {
            ids.contains(&item.assignment)
                && (gather && !item.alone
                    || assignments
                        .get(&item.assignment)
                        .is_none_or(|assignment| assignment.offsets.may_drop(item.sequence)))
        });
        for item in dropped {
            self.forget(item.batch);
        }
    }

    /// Forgets these assignments. What still runs in them can no longer finish anything.
    pub(super) fn release(&mut self, ids: &HashSet<AssignmentId>) {
        for item in self.lanes.remove(|item| ids.contains(&item.assignment)) {
            self.forget(item.batch);
        }
        let (gone, held) =
            std::mem::take(&mut self.held_back).into_iter().partition(|claim| self.lanes.is_removed(claim));
        self.held_back = held;
        let gone: VecDeque<Claim> = gone;
        for claim in gone {
            self.end(claim);
        }
        self.arriving.retain(|id| !ids.contains(id));
        self.far_ahead.retain(|id| !ids.contains(id));
        self.held.retain(|id| !ids.contains(id));
        for id in ids {
            if let Some(assignment) = self.assignments.remove(id)
                && let Some(partitions) = self.ids.get_mut(&assignment.topic)
                && partitions.get(&assignment.partition) == Some(id)
            {
                partitions.remove(&assignment.partition);
            }
        }
        self.ids.retain(|_, partitions| !partitions.is_empty());
        self.answer_waiters(None);
    }

    /// What may be committed and was not sent yet, marked as sent.
    pub(super) fn take_commit(&mut self) -> Vec<Position> {
        self.waiters.sent();
        let assignments = self.assignments.values_mut();
        assignments
            .filter_map(|assignment| assignment.offsets.to_commit().map(|offset| assignment.send(offset)))
            .collect()
    }

    /// What these assignments have finished and the broker has not confirmed, sent before or not, marked as sent.
    pub(super) fn take_unconfirmed(&mut self, ids: &HashSet<AssignmentId>) -> Vec<Position> {
        let leaving = self.assignments.iter_mut().filter(|(id, _)| ids.contains(id));
        leaving
            .filter_map(|(_, assignment)| assignment.offsets.unconfirmed().map(|offset| assignment.send(offset)))
            .collect()
    }

    /// The broker does not take what is committed with the offset: from now on it is the offset alone.
    pub(super) fn without_map(&mut self, topic: &str, partition: i32) {
        if let Some((id, _)) = self.find(topic, partition)
            && let Some(offsets) = self.offsets(id)
        {
            offsets.without_map();
        }
    }

    /// The broker's answer for one partition.
    pub(super) fn committed(&mut self, topic: &str, partition: i32, offset: i64, refused: Option<&Refusal>) {
        let Some((id, _)) = self.find(topic, partition) else { return };
        if let Some(assignment) = self.assignments.get_mut(&id) {
            assignment.offsets.answered(offset, refused.is_none());
        }
        self.answer_waiters(refused.map(|refusal| (id, refusal)));
    }

    /// All that is unconfirmed, if somebody waits for it.
    pub(super) fn take_asked(&mut self) -> Vec<Position> {
        if !self.waiters.is_due(Instant::now()) {
            return Vec::new();
        }
        self.waiters.sent();
        let all = self.all();
        self.take_unconfirmed(&all)
    }

    /// Whether the broker confirmed everything that may be committed.
    pub(super) fn is_committed(&self) -> bool {
        self.assignments.values().all(|assignment| assignment.offsets.unconfirmed().is_none())
    }

    /// Answers when the broker has confirmed what is finished at this moment.
    pub(super) fn wait_committed(&mut self, answer: oneshot::Sender<Result<(), String>>) {
        let assignments = self.assignments.iter();
        let targets =
            assignments.filter_map(|(id, assignment)| Some((*id, assignment.offsets.committable()?))).collect();
        self.waiters.add(targets, answer, Instant::now());
        self.answer_waiters(None);
    }

    fn answer_waiters(&mut self, refused: Option<(AssignmentId, &Refusal)>) {
        let assignments = &self.assignments;
        let standing = |id, offset| match assignments.get(&id) {
            None => Standing::Moved,
            Some(assignment) if assignment.offsets.is_committed(offset) => Standing::Committed,
            Some(_) => Standing::Open,
        };
        self.waiters.answer(standing, refused, Instant::now());
    }
}
