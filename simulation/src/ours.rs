//! The scaler that asks mq-core: what the operator does in a cycle, without Kafka and Kubernetes.

use std::collections::BTreeSet;
use std::time::Duration;

use mq_core::lag::{GroupTracker, ResetPolicy, Watch};
use mq_core::scaling::{Decision, History, Objective, Observation, Policy, decide};

use crate::{Scaler, World};

/// Time between two looks.
pub const CYCLE: Duration = Duration::from_secs(5);

/// Decides as the operator does.
#[derive(Debug)]
pub struct Ours {
    policy: Policy,
    /// Seconds at which the operator loses its memory.
    restarts: Vec<u32>,
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
}

impl Scaler for Ours {
    fn look(&mut self, second: u32, world: &mut World<'_>) -> Option<(u32, String)> {
        let at = Duration::from_secs(second.into());
        if !u64::from(second).is_multiple_of(CYCLE.as_secs()) {
            return None;
        }
        if self.restarts.contains(&second) {
            (self.tracker, self.history) = (GroupTracker::new(), History::new());
        }
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
        let lag = self.tracker.observe(at, &watch, &world.readings());
        let (target, members) = (world.target(), Some(world.members()));
        let seen = Observation { at, lag, target, members, config: "one".into(), work: world.work(CYCLE) };
        self.history.observe(&self.policy, &seen);
        let decision = decide(&self.policy, &self.history.situation(&self.policy, &seen));
        self.reasons.insert(decision.reason.as_str());
        let step = decision.is_step().then(|| {
            self.history.applied(at, &decision);
            (decision.desired, format!("{:?}: {}", decision.reason, decision.message))
        });
        self.last = Some(decision);
        step
    }
}
