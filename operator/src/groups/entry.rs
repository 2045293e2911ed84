//! What is remembered of one group between cycles, and what its status says. No I/O.

use std::time::Duration;

use mq_core::{
    condition::{Condition, ConditionType, Status, Verdict},
    lag::{GroupLag, GroupTracker, Reading, Watch},
    reason::Reason,
    scaling::{Decision, History, Members, Objective, Observation, Policy, Terms, Work, decide},
};
use mq_crds::{Lag, LagState, ScalingStatus};

use super::{DesiredGroup, DesiredScaling, GroupView, target::Deployed};
use crate::events::Event;

/// The numbers in a status are renewed at most this often.
const RENEW: Duration = Duration::from_mins(1);
/// For so long a write that was not answered may still turn out to have been carried out.
const UNANSWERED: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) desired: DesiredGroup,
    pub(super) view: GroupView,
    pub(super) events: Vec<Event>,
    pub(super) seen: bool,
    tracker: GroupTracker,
    history: History,
    members: Option<Members>,
    target: Option<Deployed>,
    shown: Option<Duration>,
    /// The last step whose write failed: the answer may be all that was lost.
    attempted: Option<Step>,
}

/// A step that shall be carried out.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) target: String,
    pub(super) seen: Deployed,
    pub(super) decision: Decision,
}

impl Entry {
    pub(super) fn new(desired: DesiredGroup) -> Self {
        Self {
            desired,
            view: GroupView::default(),
            events: Vec::new(),
            seen: false,
            tracker: GroupTracker::new(),
            history: History::new(),
            members: None,
            target: None,
            shown: None,
            attempted: None,
        }
    }

    /// Declares the group anew. True if a cycle should follow soon.
    pub(super) fn redeclare(&mut self, desired: DesiredGroup) -> bool {
        if self.desired == desired {
            return false;
        }
        let target = |group: &DesiredGroup| group.scaling.as_ref().map(|scaling| scaling.target.clone());
        if target(&self.desired) != target(&desired) {
            self.history = History::new();
            self.target = None;
            self.attempted = None;
            self.view.scaling = None;
            self.view.active = None;
            self.view.problem = None;
        }
        self.desired = desired;
        true
    }

    /// Whether the members have to be looked at in this cycle, besides in their turn.
    pub(super) fn wants_members(&self) -> bool {
        self.desired.scaling.is_some() && (self.history.is_settling() || !self.seen)
    }

    /// Takes what was read. The lag as it is now.
    pub(super) fn observe(&mut self, at: Duration, readings: &[Reading], members: Option<Members>) -> GroupLag {
        let watch = Watch {
            age: match self.desired.scaling.as_ref().map(|scaling| scaling.objective) {
                Some(Objective::Age(age)) => Some(age),
                Some(Objective::Lag(_)) | None => None,
            },
            reset: self.desired.reset,
            commit_interval: self.desired.commit_interval,
        };
        let lag = self.tracker.observe(at, &watch, readings);
        // Not asked for, or not answered: they are as they were.
        self.members = members.or(self.members);
        self.seen = true;
        self.show_lag(at, status_of(&lag));
        lag
    }

    fn show_lag(&mut self, at: Duration, now: Lag) {
        let due = self.shown.is_none_or(|shown| at.saturating_sub(shown) >= RENEW);
        // That the promise breaks, or holds again, is news at once.
        let broken = |lag: &Lag| lag.late.is_some_and(|late| late > 0);
        let turned = self.view.lag.as_ref().is_none_or(|lag| lag.state != now.state || broken(lag) != broken(&now));
        if turned || (due && self.view.lag.as_ref() != Some(&now)) {
            self.view.lag = Some(now);
            self.shown = Some(at);
        }
    }

    /// Decides about the replicas of `target`. A step is returned to be carried out.
    pub(super) fn decide(
        &mut self,
        at: Duration,
        cycle: Duration,
        lag: GroupLag,
        target: Option<Deployed>,
        work: Option<Work>,
    ) -> Option<(Decision, Option<Step>)> {
        let scaling = self.desired.scaling.clone()?;
        let Some(deployed) = target else {
            self.target = None;
            let name = &scaling.target;
            self.cannot(
                Reason::TargetNotFound,
                format!("there is no Deployment {name}; create it or correct spec.scaling.targetRef"),
            );
            return None;
        };
        if self.target.as_ref().is_some_and(|before| before.uid != deployed.uid) {
            self.history = History::new();
            self.attempted = None;
        }
        self.target = Some(deployed.clone());
        self.recognise(at, &deployed);
        let policy = policy(&self.desired, &scaling, cycle);
        let config = self.desired.config.clone();
        let seen = Observation { at, lag, target: deployed.target.clone(), members: self.members, config, work };
        self.history.observe(&policy, &seen);
        let decision = decide(&policy, &self.history.situation(&policy, &seen));
        if !decision.is_step() {
            self.show(&decision, None);
            return Some((decision, None));
        }
        let step = Step { at, target: scaling.target, seen: deployed, decision: decision.clone() };
        Some((decision, Some(step)))
    }

    /// A step whose write got no answer shows in the target: it was the operator's, not a person's.
    fn recognise(&mut self, at: Duration, deployed: &Deployed) {
        let Some(step) = self.attempted.take_if(|step| {
            deployed.target.replicas != step.decision.current || at.saturating_sub(step.at) > UNANSWERED
        }) else {
            return;
        };
        if deployed.target.replicas == step.decision.desired {
            self.stepped(&step);
        }
    }

    /// The write of the step failed, or its answer was lost.
    pub(super) fn not_stepped(&mut self, step: Step, message: String) {
        self.cannot(Reason::KubernetesUnavailable, message);
        self.attempted = Some(step);
    }

    /// The step was written.
    pub(super) fn stepped(&mut self, step: &Step) {
        self.attempted = None;
        self.history.applied(step.at, &step.decision);
        let Decision { current, desired, message, reason, .. } = &step.decision;
        let said = format!("scaled Deployment {} from {current} to {desired}: {message}", step.target);
        self.show(&step.decision, Some(Event::normal(*reason, said)));
    }

    /// There is no deciding, for a reason outside of the numbers.
    pub(super) fn cannot(&mut self, reason: Reason, message: String) {
        let stands =
            self.view.problem.as_ref().is_some_and(|problem| problem.reason == reason && problem.message == message);
        if stands {
            return;
        }
        self.events.push(Event::warning(reason, &message));
        let (current, desired) = (None, None);
        self.view.scaling = Some(ScalingStatus {
            current,
            desired,
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            terms: mq_crds::Terms::default(),
        });
        self.view.active = Some(active(Status::False, reason, message.clone()));
        self.view.problem = Some(Verdict::reconciling(reason, message));
    }

    /// Says a decision, if it says something new. What the next cycle replaces anyway is not worth a write.
    fn show(&mut self, decision: &Decision, step: Option<Event>) {
        if decision.is_transient() && self.view.scaling.is_some() {
            return;
        }
        let now = scaling_status(decision);
        let same =
            |old: &ScalingStatus| (old.current, old.desired, &old.reason) == (now.current, now.desired, &now.reason);
        self.view.problem = None;
        if step.is_none() && self.view.scaling.as_ref().is_some_and(same) {
            return;
        }
        let turned = self.view.scaling.as_ref().is_none_or(|old| old.reason != now.reason);
        let warning = turned && needs_a_person(decision.reason);
        self.events.extend(step.or_else(|| warning.then(|| Event::warning(decision.reason, &decision.message))));
        self.view.active = Some(active(status(decision.reason), decision.reason, decision.message.clone()));
        self.view.scaling = Some(now);
    }
}

fn policy(group: &DesiredGroup, scaling: &DesiredScaling, cycle: Duration) -> Policy {
    Policy {
        objective: scaling.objective,
        min: scaling.min,
        max: scaling.max.max(scaling.min),
        capacity: scaling.capacity,
        window: scaling.window,
        cycle,
        commit_interval: group.commit_interval,
        paused: group.paused,
    }
}

fn active(status: Status, reason: Reason, message: String) -> Condition {
    Condition { kind: ConditionType::ScalingActive, status, reason, message }
}

/// Whether the operator acts on the numbers while this is its decision.
fn status(reason: Reason) -> Status {
    match reason {
        Reason::Paused | Reason::ScaledToZero | Reason::ReplicasContested | Reason::ScaledByHand => Status::False,
        Reason::LagUnknown | Reason::ObservationGap | Reason::Measuring => Status::Unknown,
        _ => Status::True,
    }
}

fn needs_a_person(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ReplicasContested
            | Reason::ScaledByHand
            | Reason::LagUnknown
            | Reason::AtMaximum
            | Reason::StepIneffective
            | Reason::ObjectiveTooShort
    )
}

fn scaling_status(decision: &Decision) -> ScalingStatus {
    let Terms { arrival, capacity, backlog, need } = decision.terms;
    let tenths = |number: Option<f64>| number.map(|number| (number * 10.0).round() / 10.0);
    ScalingStatus {
        current: i32::try_from(decision.current).ok(),
        desired: i32::try_from(decision.desired).ok(),
        reason: decision.reason.as_str().to_owned(),
        message: decision.message.clone(),
        terms: mq_crds::Terms {
            arrival: tenths(arrival),
            capacity: tenths(capacity),
            backlog: tenths(backlog),
            need: tenths(need),
        },
    }
}

fn status_of(lag: &GroupLag) -> Lag {
    let young = lag.late.is_some_and(|late| late.estimated);
    let state = match lag {
        lag if lag.is_unknown() => LagState::Unknown,
        lag if young || !lag.is_complete() => LagState::Estimated,
        _ => LagState::Known,
    };
    let known = state != LagState::Unknown;
    let reason = lag.unknown_because().or_else(|| match state {
        LagState::Unknown => Some("the topics have no partitions".to_owned()),
        LagState::Estimated => {
            Some("watched for a shorter time than the objective: what was there may be younger".to_owned())
        }
        LagState::Known => None,
    });
    Lag {
        state,
        reason,
        messages: known.then(|| rounded(lag.outstanding)),
        late: lag.late.filter(|_| known).map(|late| rounded(late.messages)),
    }
}

/// Two digits that count; a status does not move with every message.
fn rounded(messages: u64) -> i64 {
    let unit = 10_u64.pow(messages.checked_ilog10().unwrap_or_default().saturating_sub(1));
    i64::try_from(messages / unit * unit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::{
        effect::ObjectKey,
        lag::{ResetPolicy, TopicPartition},
        scaling::Target,
    };

    const CYCLE: Duration = Duration::from_secs(5);

    fn group() -> DesiredGroup {
        DesiredGroup {
            object: ObjectKey { namespace: "shop".into(), name: "notifications".into(), uid: "1".into() },
            cluster: "main".into(),
            group_id: "notifications".into(),
            topics: ["orders".to_owned()].into(),
            reset: ResetPolicy::Earliest,
            commit_interval: Duration::from_secs(1),
            config: "1".into(),
            paused: false,
            scaling: Some(DesiredScaling {
                target: "worker".into(),
                objective: Objective::Age(Duration::from_secs(30)),
                min: 1,
                max: 12,
                capacity: Some(100.0),
                window: Duration::from_secs(20),
            }),
        }
    }

    fn deployed(uid: &str, replicas: u32) -> Deployed {
        Deployed::for_test(uid, Target { replicas, ready: replicas, rolling: false, template: "a".into() })
    }

    fn reading(committed: i64, end: i64) -> Vec<Reading> {
        let reading = |partition| Reading {
            of: TopicPartition { topic: "orders".into(), partition },
            committed: Ok(Some(committed / 4)),
            end: Ok(end / 4),
            start: None,
        };
        (0..4).map(reading).collect()
    }

    fn turn(entry: &mut Entry, n: u32, committed: i64, end: i64, target: impl Into<Option<Deployed>>) -> Option<Step> {
        let lag = entry.observe(CYCLE * n, &reading(committed, end), None);
        entry.decide(CYCLE * n, CYCLE, lag, target.into(), None).and_then(|(_, step)| step)
    }

    #[test]
    fn a_step_is_shown_once_it_was_written() {
        let mut entry = Entry::new(group());
        let mut steps = Vec::new();
        for n in 0..4 {
            // 300 messages per second for one replica of 100.
            steps.extend(turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)));
        }
        let step = steps.first().expect("it must want to grow");
        assert_ne!(entry.view.scaling.as_ref().unwrap().reason, "BelowNeed", "not written, not said");
        entry.events.clear();
        entry.stepped(step);
        let said = entry.view.scaling.clone().unwrap();
        assert_eq!((said.current, said.reason.as_str()), (Some(1), "BelowNeed"));
        assert_eq!(said.terms.capacity, Some(100.0));
        assert!(entry.events[0].message.starts_with("scaled Deployment worker from 1 to 4: "), "{:?}", entry.events);
    }

    #[test]
    fn a_step_whose_answer_was_lost_is_not_a_persons() {
        for (replicas, reason) in [(4, "AtMaximum"), (3, "ScaledByHand")] {
            let mut entry = Entry::new(group());
            let attempted = (0..4)
                .filter_map(|n| turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)))
                .last()
                .expect("it must want to grow");
            entry.not_stepped(attempted, "cannot scale Deployment worker: timed out".into());
            entry.events.clear();
            let lag = entry.observe(CYCLE * 4, &reading(2_000, 6_000), None);
            let (decision, _) = entry.decide(CYCLE * 4, CYCLE, lag, Some(deployed("1", replicas)), None).unwrap();
            assert_eq!(decision.reason.as_str(), reason);
            let scaled = entry.events.iter().any(|event| event.message.starts_with("scaled Deployment worker from 1"));
            assert_eq!((scaled, entry.view.problem.is_none()), (replicas == 4, true), "{:?}", entry.events);
        }
    }

    #[test]
    fn nothing_new_says_nothing() {
        let mut entry = Entry::new(group());
        for n in 0..30 {
            let before = entry.view.clone();
            assert!(turn(&mut entry, n, i64::from(n) * 350, i64::from(n) * 350, deployed("1", 1)).is_none());
            assert!(n < 3 || entry.view == before, "cycle {n}: {before:?} became {:?}", entry.view);
        }
        assert_eq!(entry.view.scaling.unwrap().reason, "WithinBand");
        assert!(entry.events.is_empty(), "{:?}", entry.events);
    }

    #[test]
    fn a_missing_target_is_said_once_and_heals() {
        let mut entry = Entry::new(group());
        for n in 0..3 {
            turn(&mut entry, n, 0, 0, None);
        }
        assert_eq!(entry.events.len(), 1, "{:?}", entry.events);
        assert_eq!(entry.view.problem.as_ref().unwrap().reason, Reason::TargetNotFound);
        for n in 3..6 {
            turn(&mut entry, n, 0, 0, deployed("1", 1));
        }
        assert_eq!(entry.view.problem, None);
        assert_eq!(entry.view.scaling.as_ref().unwrap().reason, "WithinBand");
    }

    #[test]
    fn lag_is_rounded_and_renewed_once_a_minute() {
        let mut entry = Entry::new(group());
        let mut shown = Vec::new();
        for n in 0..=13_u32 {
            // What waits is five seconds old: never late.
            let (committed, end) = (i64::from(n) * 4_000, i64::from(n) * 4_000 + 4_321 * i64::from(n > 0));
            turn(&mut entry, n, committed, end, deployed("1", 12));
            let lag = entry.view.lag.clone().unwrap();
            shown.push((lag.state, lag.messages));
        }
        assert_eq!(shown[0], (LagState::Known, Some(0)));
        assert_eq!(shown[1..12], vec![(LagState::Known, Some(0)); 11]);
        assert_eq!(shown[12], (LagState::Known, Some(4_300)));
    }

    #[test]
    fn that_the_promise_breaks_is_told_at_once() {
        let mut entry = Entry::new(group());
        let mut late = Vec::new();
        for n in 0..=9_u32 {
            // All that ever arrived waits from the second cycle on; in the last it is handled.
            let end = 4_000 * i64::from(n > 0);
            turn(&mut entry, n, if n == 9 { end } else { 0 }, end, deployed("1", 12));
            late.push(entry.view.lag.clone().unwrap().late.unwrap());
        }
        assert_eq!(late, [0, 0, 0, 0, 0, 0, 0, 4_000, 4_000, 0]);
    }

    #[test]
    fn two_digits_count() {
        let cases = [(0, 0), (7, 7), (99, 99), (123, 120), (4_321, 4_300), (u64::MAX, i64::MAX)];
        for (messages, shown) in cases {
            assert_eq!(rounded(messages), shown);
        }
    }
}
