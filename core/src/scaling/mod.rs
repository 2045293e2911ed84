//! How many replicas a consumer group needs to keep its promise.
//!
//! One cycle: [`History::observe`] takes what was seen and remembers what the model needs of the past (rates, the window's
//! maxima, the last step and what it brought), [`History::situation`] lays it out, [`decide()`] judges the situation alone,
//! [`together()`] puts it beside what other groups of the same target ask for, [`History::applied`] notes a step that was taken.
//! Nothing here reads a clock: time is a parameter, monotonic since any origin. Rates are messages per second, capacities messages
//! per second and replica.

mod capacity;
mod decide;
mod downstream;
#[cfg(test)]
mod faults;
mod history;
mod need;
mod share;
mod situation;
#[cfg(test)]
mod tests;
mod together;
mod window;
mod work;

use std::time::Duration;

pub use capacity::Capacity;
pub use decide::{UNEVEN, decide};
pub use downstream::Ineffective;
pub use history::History;
pub use need::{Load, Need, useful};
pub use share::Shares;
pub use situation::{Situation, Unsettled};
pub use together::{Ask, together};
pub use work::Work;

use crate::lag::GroupLag;
use crate::reason::Reason;

/// What the user promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// No message older than this.
    Age(Duration),
    /// No more than so many messages outstanding.
    Lag(u64),
}

impl Objective {
    /// In what time a backlog has to be worked off.
    pub fn drain_time(self) -> Duration {
        match self {
            Self::Age(age) => age,
            Self::Lag(_) => Duration::from_mins(1),
        }
    }

    /// Messages that break the promise now; none where that is not known.
    pub fn broken_by(self, lag: &GroupLag) -> Option<u64> {
        match self {
            Self::Age(_) => lag.late.map(|late| late.messages),
            Self::Lag(limit) => Some(lag.outstanding.saturating_sub(limit)),
        }
    }

    /// Those of them that replicas can do anything about, see [`GroupLag::workable`].
    fn mendable(self, lag: &GroupLag) -> Option<u64> {
        let (waiting, late) = lag.workable_waiting();
        match self {
            Self::Age(_) => lag.late.map(|_| late),
            Self::Lag(limit) => Some(waiting.saturating_sub(limit)),
        }
    }
}

/// What is made of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Decided and carried out.
    #[default]
    Auto,
    /// Decided and said; the replicas stay.
    Observe,
    /// The lag is watched alone.
    Off,
}

/// How one group is to be scaled; validated (`min <= max`, durations above zero).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// The promise.
    pub objective: Objective,
    /// Whether anything is decided, and carried out.
    pub mode: Mode,
    /// Fewest replicas.
    pub min: u32,
    /// Fewest replicas by a schedule at the moment, if there is one; `max` is stronger.
    pub scheduled: Option<u32>,
    /// Most replicas.
    pub max: u32,
    /// What one replica can do, where the user said it.
    pub capacity: Option<f64>,
    /// Time that must be quiet before a step down, and that passes between two of them.
    pub window: Duration,
    /// No replicas are taken away, but those above `max`.
    pub keep: bool,
    /// Most replicas that one step takes away.
    pub max_step: Option<u32>,
    /// Time between two observations.
    pub cycle: Duration,
    /// How often the members commit: so much handled work is not visible yet.
    pub commit_interval: Duration,
    /// The user paused the object.
    pub paused: bool,
}

impl Policy {
    /// Fewest replicas at the moment.
    pub fn least(&self) -> u32 {
        self.scheduled.map_or(self.min, |scheduled| scheduled.min(self.max).max(self.min))
    }
}

/// The workload as its controller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Replicas asked for.
    pub replicas: u32,
    /// Replicas that are ready.
    pub ready: u32,
    /// A rollout is under way, or the controller has not seen the newest spec.
    pub rolling: bool,
    /// Identity of the pod template.
    pub template: String,
}

/// The consumer group as its coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Members, of our pods or not.
    pub count: u32,
    /// No rebalance is under way.
    pub stable: bool,
    /// Partitions that no member owns.
    pub unowned: u32,
    /// Which of the members owns each partition, in the order of [`GroupLag::flows`].
    pub owners: Vec<Option<u32>>,
}

/// Everything that one cycle saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When.
    pub at: Duration,
    /// The lag of the group.
    pub lag: GroupLag,
    /// The workload.
    pub target: Target,
    /// The members; none where they were not asked for or the answer failed.
    pub members: Option<Members>,
    /// Identity of the client configuration that is live.
    pub config: String,
    /// What the agents in the pods say of their work; none where they said nothing since the observation before.
    pub work: Option<Work>,
}

/// The numbers behind a decision. Absent = not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Terms {
    /// Messages that arrive, per second.
    pub arrival: Option<f64>,
    /// Messages that one replica handles, per second.
    pub capacity: Option<f64>,
    /// Messages that wait, beyond those handled and not yet committed.
    pub backlog: Option<f64>,
    /// Replicas that arrival and backlog ask for, before bounds and rounding.
    pub need: Option<f64>,
    /// How many times an even share the busiest replica has.
    pub imbalance: Option<f64>,
}

/// What keeps replicas below what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The user's maximum.
    Max,
    /// One replica per partition.
    Partitions,
    /// Something behind the replicas: the last step up brought next to nothing.
    Downstream,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Replicas asked for now.
    pub current: u32,
    /// Replicas to ask for.
    pub desired: u32,
    /// Which rule decided.
    pub reason: Reason,
    /// The rule with its numbers, for a person.
    pub message: String,
    /// The numbers alone.
    pub terms: Terms,
    /// What keeps it from being as many as are needed.
    pub limit: Option<Limit>,
}

impl Decision {
    /// Whether the number of replicas changes.
    pub fn is_step(&self) -> bool {
        self.current != self.desired
    }

    /// Whether the next cycle replaces it: not worth a status write.
    pub fn is_transient(&self) -> bool {
        matches!(self.reason, Reason::Confirming | Reason::Measuring)
    }
}
