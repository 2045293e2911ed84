//! What the poll thread, the handlers and the rebalance callback share, behind one lock that is never held across a wait.

mod assignments;
mod commits;
mod records;
mod standing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use slab::Slab;

use super::breaker::{Breaker, Held};
use super::budget::{Budget, Room};
use super::fixed::Fixed;
use super::lanes::{Claim, Lanes};
use super::offsets::{Offsets, Sequence};
use super::ordering::Ordering;
use super::slots::{Slot, Slots};
use super::turns::{Doing, Turns};
use super::waiters::Waiters;
use crate::record::{Batch, Record};
use crate::stats::{ConsumerCounters, Occupancy};

pub(super) use commits::Position;
pub(super) use records::Accepted;

/// How often it is looked for slow keys while the consumer takes nothing in. Two looks come before a pause of all partitions.
const LOOK: Duration = Duration::from_millis(400);
/// A key is slow if what waits in it would take more than so many looks.
const SLOW: usize = 10;

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
    /// When it was looked for slow keys.
    looked: Instant,
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
    pub(super) turns: Turns,
    /// Since when a commit has no answer yet.
    pub(super) committing: Option<Instant>,
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

impl Shared {
    pub(crate) fn new(name: &str, fixed: Fixed, limits: Limits) -> Self {
        let now = Instant::now();
        let state = State {
            lanes: Lanes::new(),
            slots: Slots::new(limits.concurrency),
            batches: Slab::new(),
            ordering: fixed.ordering,
            hasher: DefaultHashBuilder::default(),
            awaits: Awaits::Nothing,
            budget: Budget::new(limits.max_poll_records, fixed.max_bytes()),
            looked: now,
            breaker: Breaker::new(fixed.breaker),
            gather: None,
            held_back: VecDeque::new(),
            limits,
            close_by: None,
            turn: now,
            turns: Turns::new(now),
            committing: None,
            paused: false,
            arriving: HashSet::new(),
            far_ahead: HashSet::new(),
            held: HashSet::new(),
            paused_by_service: HashSet::new(),
            lag: None,
            occupancy: Occupancy::new(now),
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

    /// The poll thread does this from now on. What it did before.
    pub(super) fn turn_to(&self, doing: Doing) -> Doing {
        self.lock().turns.turn_to(doing, Instant::now())
    }

    /// Blocks the poll thread until something finishes, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        drop(self.wait_for(Awaits::Change, self.lock(), timeout));
    }

    /// Blocks the poll thread until it may take records in again, at most for `timeout`.
    pub(super) fn wait_for_room(&self, timeout: Duration) {
        let mut state = self.lock();
        if !state.has_room() {
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
        state.park_slow(now);
        match state.breaker.step(now) {
            Held::Wait => {}
            Held::Probe if state.holds_nothing() => state.breaker.held_left(),
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
            Some(false) => tracing::info!(
                consumer = self.name,
                "dead letters are sent again; all records that are still held are tried again"
            ),
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
    fn set_limits(&mut self, limits: Limits) {
        self.note_occupancy(Instant::now());
        self.slots.set_limit(limits.concurrency);
        self.budget.set_max_records(limits.max_poll_records);
        self.limits = limits;
    }

    /// How many records may be taken in now. `None`: nothing until half of those in hand are finished.
    pub(super) fn room(&mut self) -> Option<Room> {
        self.budget.room(self.lanes.parked())
    }

    fn has_room(&mut self) -> bool {
        self.budget.has_room(self.lanes.parked())
    }

    /// Slow keys must not hold all that the consumer may hold, or no other key is taken in: what waits for them counts by its bytes
    /// alone. But only where nothing is ready: as long as other keys wait for a slot it is the handlers that are slow, all of them, and
    /// taking in more would help nobody. And no longer than until there is room without it: a key that was slow once can have a long
    /// line to work off.
    fn park_slow(&mut self, now: Instant) {
        if self.budget.is_low() {
            self.lanes.unpark();
        } else if self.budget.is_full() && self.lanes.ready() == 0 && now - self.looked >= LOOK {
            self.looked = now;
            // Where a partition is one line, there is nothing but its own records to be found behind one that moves.
            self.lanes.park(if self.ordering == Ordering::Partition { usize::MAX } else { SLOW });
        }
    }

    /// Whether the poll thread waits for what there is now.
    pub(super) fn wakes(&mut self) -> bool {
        let wakes = match self.awaits {
            Awaits::Nothing => false,
            Awaits::Room => self.has_room(),
            Awaits::Change => true,
        };
        if wakes {
            self.awaits = Awaits::Nothing;
        }
        wakes
    }
}
