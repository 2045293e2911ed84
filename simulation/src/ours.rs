//! The scaler that asks mq-core: what the operator does in a cycle, without Kafka and Kubernetes.

use std::collections::BTreeSet;
use std::time::Duration;

use mq_core::lag::{GroupTracker, Reading, ResetPolicy, Watch};
use mq_core::scaling::{Decision, History, Members, Objective, Observation, Policy, Target, Work, decide};

use crate::{Scaler, World};

/// Time between two looks.
pub const CYCLE: Duration = Duration::from_secs(5);

/// What the operator reads in one cycle.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When, by the operator's clock.
    pub at: Duration,
    /// The group's offsets.
    pub readings: Vec<Reading>,
    /// The workload.
    pub target: Target,
    /// The group, if it was asked for.
    pub members: Option<Members>,
    /// What the agents said, if there are any.
    pub work: Option<Work>,
}

/// Decides as the operator does.
#[derive(Debug, Clone)]
pub struct Ours {
    policy: Policy,
    /// Seconds at which the operator loses its memory.
    restarts: Vec<u32>,
    /// By how much its looks come too early or too late, and the seed of that.
    jitter: (Duration, u64),
    tracker: GroupTracker,
    history: History,
    /// What was decided last.
    pub last: Option<Decision>,
    /// What was ever decided by.
    pub reasons: BTreeSet<&'static str>,
}

impl Ours {
    /// Knows nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            restarts: Vec::new(),
            jitter: (Duration::ZERO, 0),
            tracker: GroupTracker::new(),
            history: History::new(),
            last: None,
            reasons: BTreeSet::new(),
        }
    }

    /// Loses its memory at these seconds.
    #[must_use]
    pub fn restarted(self, restarts: &[u32]) -> Self {
        Self { restarts: restarts.to_vec(), ..self }
    }

    /// Its clock and what it reads are up to so much apart, as answers take their time.
    #[must_use]
    pub fn with_jitter(self, most: Duration, seed: u64) -> Self {
        Self { jitter: (most, seed), ..self }
    }

    /// What it would read now; `None` between two cycles.
    pub fn read(&self, second: u32, world: &mut World<'_>) -> Option<Seen> {
        if !u64::from(second).is_multiple_of(CYCLE.as_secs()) {
            return None;
        }
        let (most, seed) = self.jitter;
        let at = Duration::from_secs(second.into()) + most.mul_f64(1.0 + crate::noise(seed, second));
        let (target, members) = (world.target(), Some(world.members()));
        Some(Seen { at, readings: world.readings(), target, members, work: world.work(CYCLE) })
    }

    /// Decides on what was read, and takes the step for done.
    pub fn decide(&mut self, seen: Seen) -> &Decision {
        let Seen { at, readings, target, members, work } = seen;
        let age = match self.policy.objective {
            Objective::Age(age) => Some(age),
            Objective::Lag(_) => None,
        };
        let watch = Watch {
            age,
            reset: ResetPolicy::Earliest,
            commit_interval: self.policy.commit_interval,
            longest: Duration::ZERO,
        };
        let lag = self.tracker.observe(at, &watch, &readings);
        let seen = Observation { at, lag, target, members, config: "one".into(), work };
        self.history.observe(&self.policy, &seen);
        let decision = decide(&self.policy, &self.history.situation(&self.policy, &seen));
        self.reasons.insert(decision.reason.as_str());
        if decision.is_step() {
            self.history.applied(at, &decision);
        }
        self.last.insert(decision)
    }
}

impl Scaler for Ours {
    fn look(&mut self, second: u32, world: &mut World<'_>) -> Option<(u32, String)> {
        let seen = self.read(second, world)?;
        if self.restarts.contains(&second) {
            (self.tracker, self.history) = (GroupTracker::new(), History::new());
        }
        let decision = self.decide(seen);
        decision.is_step().then(|| (decision.desired, format!("{:?}: {}", decision.reason, decision.message)))
    }
}
