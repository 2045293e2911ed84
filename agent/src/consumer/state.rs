//! What the poll thread, the handlers and the rebalance callback share, behind one lock that is never held across a wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mq_protocol::message::Health;
use tokio::sync::oneshot;

use super::budget::Budget;
use super::lanes::Lanes;
use super::offsets::{Offsets, Sequence};
use super::waiters::{Refusal, Standing, Waiters};
use crate::message::Record;
use crate::stats::{ConsumerCounters, Occupancy};

/// Bytes of records that a consumer takes from Kafka before earlier ones are finished. librdkafka's own queue comes on top of it:
/// `queued.max.messages.kbytes`.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// One assignment of one partition. A partition that comes back gets another id.
pub(super) type AssignmentId = u64;

/// Which records wait for each other. Records with a key: those of the same key and partition. Records without one are in no
/// order to each other, since producers spread them over the partitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LaneKey {
    Keyed(AssignmentId, Bytes),
    Free(AssignmentId, Sequence),
}

impl LaneKey {
    pub(super) fn assignment(&self) -> AssignmentId {
        match self {
            Self::Keyed(assignment, _) | Self::Free(assignment, _) => *assignment,
        }
    }
}

/// A record on its way through its handler.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: Record,
    pub(super) assignment: AssignmentId,
    pub(super) sequence: Sequence,
    /// The number of the next attempt, from 1.
    pub(super) attempt: u32,
    pub(super) size: usize,
}

/// The settings that only the agent knows, applied while the consumer runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Time between two commits of what is finished; `None` leaves committing to the service, to drain and to revocation.
    pub(crate) auto_commit: Option<Duration>,
    pub(crate) max_poll_records: usize,
    pub(crate) concurrency: usize,
    /// How long a revocation waits for running handlers; the other members of the group wait with it.
    pub(crate) revoke_budget: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) name: String,
    pub(super) counters: ConsumerCounters,
    state: Mutex<State>,
    /// Something finished or was released.
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) lanes: Lanes<LaneKey, Job>,
    pub(super) budget: Budget,
    /// When the consumer was told to be closed by.
    pub(super) close_by: Option<Instant>,
    /// When the poll thread had its last turn.
    pub(super) turn: Instant,
    /// Intake is paused: partitions that are assigned now must be paused too.
    pub(super) paused: bool,
    /// Keys whose dead letter cannot be delivered until somebody mends it. Waiting for them is waiting for a person.
    pub(super) stopped: HashSet<LaneKey>,
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
    assignments: BTreeMap<AssignmentId, Assignment>,
    ids: HashMap<Arc<str>, HashMap<i32, AssignmentId>>,
    next_id: AssignmentId,
    pub(super) waiters: Waiters,
}

#[derive(Debug)]
struct Assignment {
    topic: Arc<str>,
    partition: i32,
    offsets: Offsets,
}

/// What became of a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    /// It shows that the log went back.
    pub(super) went_back: bool,
    /// Another one of its partition may follow at once.
    pub(super) room: bool,
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

impl Shared {
    pub(crate) fn new(name: &str, limits: Limits) -> Self {
        let state = State {
            lanes: Lanes::new(limits.concurrency),
            budget: Budget::new(limits.max_poll_records, MAX_BYTES),
            limits,
            close_by: None,
            turn: Instant::now(),
            paused: false,
            stopped: HashSet::new(),
            arriving: HashSet::new(),
            far_ahead: HashSet::new(),
            held: HashSet::new(),
            paused_by_service: HashSet::new(),
            lag: None,
            occupancy: Occupancy::new(Instant::now()),
            assignments: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            waiters: Waiters::default(),
        };
        Self {
            name: name.to_owned(),
            counters: ConsumerCounters::default(),
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

    /// Blocks the calling thread until something finishes, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        drop(self.changed.wait_timeout(self.lock(), timeout).unwrap_or_else(PoisonError::into_inner));
    }

    /// Blocks the calling thread until nothing of these assignments waits or runs, until a commit is due that a handler may wait
    /// for, or until the deadline. Whether nothing waits or runs.
    pub(super) fn wait_idle(&self, ids: &HashSet<AssignmentId>, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.is_busy(ids) {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() || state.waiters.is_due(now) {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
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
    pub(super) fn note_occupancy(&mut self) {
        let running = self.lanes.running();
        // It holds all that it may and slots are free all the same: the order of keys leaves no more than those that run.
        let possible = if self.budget.is_full() { running } else { self.limits.concurrency };
        self.occupancy.note(Instant::now(), running, possible);
    }

    /// How the consumer was since this was asked last.
    pub(super) fn health(&mut self) -> Health {
        self.note_occupancy();
        self.occupancy.take(self.budget.records())
    }

    fn set_limits(&mut self, limits: Limits) {
        self.note_occupancy();
        self.lanes.set_limit(limits.concurrency);
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

    /// Queues a record.
    pub(super) fn accept(&mut self, assignment: AssignmentId, record: Record) -> Accepted {
        let Some(known) = self.assignments.get_mut(&assignment) else {
            return Accepted { went_back: false, room: true };
        };
        let went_back = known.offsets.goes_back(record.offset());
        let was_finished = known.offsets.was_finished(record.offset());
        let sequence = known.offsets.accept(record.offset());
        if was_finished {
            known.offsets.finish(sequence);
        }
        if known.offsets.is_far_ahead() {
            self.far_ahead.insert(assignment);
        }
        if was_finished {
            return Accepted { went_back, room: !self.far_ahead.contains(&assignment) };
        }
        let size = record.size();
        self.budget.take(size);
        let key = match record.key_bytes() {
            Some(key) => LaneKey::Keyed(assignment, key),
            None => LaneKey::Free(assignment, sequence),
        };
        self.lanes.push(key, Job { record, assignment, sequence, attempt: 1, size });
        if went_back {
            // What they wait for is no longer in the log.
            let refusal = Refusal::Error("the log of a partition went back; commit again".to_owned());
            self.answer_waiters(Some((assignment, &refusal)));
        }
        let room = self.budget.has_room() && !self.far_ahead.contains(&assignment);
        Accepted { went_back, room }
    }

    /// The next record for a free slot.
    pub(super) fn start(&mut self) -> Option<(LaneKey, Job)> {
        self.note_occupancy();
        let (key, job) = self.lanes.start()?;
        if let Some(assignment) = self.assignments.get_mut(&job.assignment) {
            assignment.offsets.begin(job.sequence);
        }
        Some((key, job))
    }

    /// The record is handled, or safe in the dead-letter topic. Its lane is moved on by the caller.
    pub(super) fn finished(&mut self, job: &Job) {
        self.budget.give_back(job.size);
        self.occupancy.handled();
        if let Some(assignment) = self.assignments.get_mut(&job.assignment) {
            assignment.offsets.finish(job.sequence);
            if assignment.offsets.is_near_again() {
                self.far_ahead.remove(&job.assignment);
            }
        }
    }

    fn is_busy(&self, ids: &HashSet<AssignmentId>) -> bool {
        self.lanes.is_busy(|key| ids.contains(&key.assignment()) && !self.stopped.contains(key))
    }

    /// Drops the waiting records of these assignments that come after everything begun: they will be read again as the first ones
    /// after the commit. Those between begun ones stay, so that the prefix closes and nothing is handled twice.
    pub(super) fn wind_down(&mut self, ids: &HashSet<AssignmentId>) {
        let assignments = &self.assignments;
        let dropped = self.lanes.discard(|key, job| {
            ids.contains(&key.assignment())
                && assignments.get(&job.assignment).is_none_or(|assignment| assignment.offsets.may_drop(job.sequence))
        });
        for job in dropped {
            self.budget.give_back(job.size);
        }
    }

    /// Forgets these assignments. What still runs in them can no longer finish anything.
    pub(super) fn release(&mut self, ids: &HashSet<AssignmentId>) {
        for job in self.lanes.remove(|key| ids.contains(&key.assignment())) {
            self.budget.give_back(job.size);
        }
        self.stopped.retain(|key| !ids.contains(&key.assignment()));
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
