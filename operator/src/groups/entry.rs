//! What is remembered of one group between cycles, and what its status says. No I/O.

mod shown;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use mq_core::{
    alert::keeping_up,
    condition::{Condition, Status, Verdict},
    lag::{GroupLag, GroupTracker, Reading, Unread, Watch},
    reason::Reason,
    scaling::{Ask, Decision, History, Members, Mode, Objective, Observation, Policy, decide, together},
};
use mq_crds::{Lag, Members as ShownMembers, MqConsumerGroupStatus, ScalingChange, ScalingStatus, TargetRef};
use shown::{active, dimness, needs_a_person, scaling_status, status, status_of, terms_of};

use super::{
    DesiredGroup, DesiredScaling, GroupView,
    live::Live,
    marks::Loads,
    pods, schedule,
    tails::Place,
    target::{Deployed, Refused},
    topics::Consumed,
};
use crate::{events::Event, push::index::Said};

/// The numbers in a status are renewed at most this often.
const RENEW: Duration = Duration::from_mins(1);
/// What is seen in turns with something else is shown when it was seen so many cycles in a row: one missed answer of a broker, or a
/// load at the edge of a rule, is no news.
pub(super) const STANDS: u32 = 3;
/// A group that has stood at an offset for so long waits for something.
const STILL: Duration = Duration::from_secs(10);
/// For so long a write that was not answered may still turn out to have been carried out.
const UNANSWERED: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) desired: DesiredGroup,
    pub(super) view: GroupView,
    pub(super) events: Vec<Event>,
    pub(super) seen: bool,
    /// How much each pod has to do.
    pub(super) loads: Loads,
    /// Its topics, as far as they are known.
    pub(super) consumed: Consumed,
    /// Those among which these were found.
    found_in: Option<Arc<BTreeSet<String>>>,
    /// What the last cycle found; nothing before the first.
    pub(super) live: Option<Live>,
    tracker: GroupTracker,
    history: History,
    members: Option<Members>,
    /// How many partitions were read last.
    partitions: usize,
    /// Identity of the workload as last seen; it may be another one after it could not be looked at.
    uid: Option<String>,
    shown: Option<Duration>,
    /// Cycles in a row in which less was known of the lag than is shown.
    dim: u32,
    /// What was found of keeping up last and is not shown yet, and how many times.
    turning: Option<(Reason, u32)>,
    /// The reason that was decided by last and is not shown yet, and for how many cycles.
    rising: Option<(Reason, u32)>,
    /// The last step of this group whose write failed: the answer may be all that was lost.
    attempted: Option<Step>,
    /// The same for the last step that another group of the target asked for, from before its write on.
    following: Option<Step>,
    /// What was decided in this cycle for this group alone, and which keys the busiest pod has in hand.
    judged: Option<Step>,
    hot: Option<String>,
    /// The last changes, the newest first; nothing before the status was read.
    changes: Option<Vec<ScalingChange>>,
}

/// A decision about a target, which may be a step to be carried out.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) target: TargetRef,
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
            loads: Loads::new(),
            consumed: Consumed::default(),
            found_in: None,
            live: None,
            tracker: GroupTracker::new(),
            history: History::new(),
            members: None,
            partitions: 0,
            uid: None,
            shown: None,
            dim: 0,
            turning: None,
            rising: None,
            attempted: None,
            following: None,
            judged: None,
            hot: None,
            changes: None,
        }
    }

    /// Takes over what an earlier leader has written of the changes before, and of the members.
    pub(super) fn recall(&mut self, stored: Option<&MqConsumerGroupStatus>) {
        if self.changes.is_none() {
            let scaling = stored.and_then(|status| status.scaling.as_ref());
            self.changes = Some(scaling.map(|status| status.history.clone()).unwrap_or_default());
            self.view.members = stored.and_then(|status| status.members.clone());
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
            self.uid = None;
            (self.attempted, self.following) = (None, None);
            self.view.scaling = None;
            self.view.active = None;
            self.view.problem = None;
        }
        self.desired = desired;
        self.found_in = None;
        true
    }

    /// Whether the members have to be looked at in this cycle, besides in their turn.
    pub(super) fn wants_members(&self) -> bool {
        // Who owns what is known of as many partitions as there were.
        let others =
            self.members.as_ref().is_some_and(|members| members.count > 0 && members.owners.len() != self.partitions);
        !self.seen || (self.desired.scaling.is_some() && (self.history.is_settling() || others))
    }

    /// Where it has stood still so long that it is worth a look what lies behind.
    pub(super) fn standing(&self, at: Duration) -> impl Iterator<Item = Place> {
        self.tracker.standing(at, STILL).map(|(of, offset)| (of.topic.to_string(), of.partition, offset))
    }

    /// Finds its topics among those that exist. True if what its patterns match is news.
    pub(super) fn consume(&mut self, existing: Result<&Arc<BTreeSet<String>>, &str>) -> bool {
        let is_known = |known: &Arc<_>| existing.is_ok_and(|existing| Arc::ptr_eq(known, existing));
        if self.found_in.as_ref().is_some_and(is_known) {
            return false;
        }
        self.found_in = existing.ok().cloned();
        self.consumed = self.desired.topics.among(existing.map(|existing| &**existing));
        let before = self.view.matched.take();
        // What is not known at the moment was known before.
        let known = self.consumed.matched.clone().or_else(|| before.clone());
        self.view.matched = known.filter(|_| self.desired.topics.has_patterns());
        self.view.matched != before
    }

    /// Takes what was read. The lag as it is now.
    pub(super) fn observe(
        &mut self,
        at: Duration,
        readings: &[Reading],
        unread: &Unread,
        members: Option<Members>,
        pods: &[Said],
    ) -> GroupLag {
        let watch = Watch {
            age: match self.desired.scaling.as_ref().map(|scaling| scaling.objective) {
                Some(Objective::Age(age)) => Some(age),
                Some(Objective::Lag(_)) | None => None,
            },
            reset: self.desired.reset,
            commit_interval: self.desired.commit_interval,
            longest: self.desired.longest,
        };
        let lag = self.tracker.observe_beside(at, &watch, readings, unread);
        self.partitions = readings.len();
        // Not asked for, or not answered: they are as they were.
        self.members = members.or_else(|| self.members.take());
        self.seen = true;
        let shown = status_of(&lag);
        let messages = shown.messages.map(|_| i64::try_from(lag.outstanding).unwrap_or(i64::MAX));
        let exact = Lag { messages, ..shown.clone() };
        self.live = Some(Live { looked_at: Timestamp::now(), lag: exact, scaling: None });
        self.show_lag(at, shown);
        let objective = self.desired.scaling.as_ref().map(|scaling| scaling.objective);
        self.show_keeping_up(keeping_up(&lag, objective, &pods::consumers(pods)));
        lag
    }

    /// Members that are on the way to their partitions are shown when they have them. A member stays in its pod, whose agent may not have
    /// come to a new leader yet.
    pub(super) fn show_members(&mut self, now: Option<ShownMembers>) {
        let Some(mut now) = now else { return };
        let before = self.view.members.take().unwrap_or_default();
        for member in now.shown.iter_mut().filter(|member| member.pod.is_none()) {
            let known = before.shown.iter().find(|known| (&known.id, &known.host) == (&member.id, &member.host));
            member.pod = known.and_then(|known| known.pod.clone());
        }
        self.view.members = Some(now);
    }

    fn show_lag(&mut self, at: Duration, now: Lag) {
        let dimmer = self.view.lag.as_ref().is_some_and(|lag| dimness(now.state) > dimness(lag.state));
        self.dim = if dimmer { self.dim + 1 } else { 0 };
        if dimmer && self.dim < STANDS {
            return;
        }
        let due = self.shown.is_none_or(|shown| at.saturating_sub(shown) >= RENEW);
        // That the promise breaks, or holds again, is news at once.
        let broken = |lag: &Lag| lag.late.is_some_and(|late| late > 0);
        let turned = self.view.lag.as_ref().is_none_or(|lag| lag.state != now.state || broken(lag) != broken(&now));
        if turned || (due && self.view.lag.as_ref() != Some(&now)) {
            self.view.lag = Some(now);
            self.shown = Some(at);
        }
    }

    /// Another condition is shown when it was found so many times in a row: what a single look shows may be over with the next. What
    /// pods say themselves is certain at once.
    fn show_keeping_up(&mut self, now: Condition) {
        let shown = self.view.keeping_up.as_ref();
        let certain = now.reason == Reason::DeadLettersHeld;
        let same = shown.is_some_and(|shown| (shown.status, shown.reason) == (now.status, now.reason));
        let reworded = shown.is_some_and(|shown| shown.message != now.message);
        // Certain in other words: of other pods, or for another cause.
        if same && !(certain && reworded) {
            self.turning = None;
            // Another reason why nothing is known goes with the lag that says so, which is renewed now and then.
            if self.view.lag.as_ref().and_then(|lag| lag.reason.as_ref()) == Some(&now.message) {
                self.view.keeping_up = Some(now);
            }
            return;
        }
        let looks = self.turning.filter(|(reason, _)| *reason == now.reason).map_or(0, |(_, looks)| looks) + 1;
        self.turning = Some((now.reason, looks));
        let at_once = if certain { !same } else { now.status != Status::False && shown.is_none() };
        if looks < STANDS && !at_once {
            return;
        }
        self.turning = None;
        let worse = now.status == Status::False;
        let heals = shown.is_some_and(|shown| shown.status == Status::False) && now.status == Status::True;
        if worse {
            self.events.push(Event::warning(now.reason, &now.message));
        } else if heals {
            self.events.push(Event::normal(now.reason, now.message.clone()));
        }
        self.view.keeping_up = Some(now);
    }

    /// Nothing can be decided in this cycle.
    pub(super) fn undecided(&mut self) {
        self.judged = None;
    }

    /// Decides about the replicas of `target` as if no other group had it.
    pub(super) fn judge(
        &mut self,
        at: Duration,
        cycle: Duration,
        lag: GroupLag,
        target: Result<Deployed, Refused>,
        pods: &[Said],
    ) {
        self.judged = None;
        let Some(scaling) = self.desired.scaling.clone() else { return };
        let deployed = match target {
            Ok(deployed) => deployed,
            Err(refused) => return self.cannot(refused),
        };
        if self.uid.as_ref().is_some_and(|before| *before != deployed.uid) {
            self.history = History::new();
            (self.attempted, self.following) = (None, None);
        }
        self.uid = Some(deployed.uid.clone());
        self.recognise(at, &deployed);
        let policy = policy(&self.desired, &scaling, cycle);
        let config = self.desired.config.clone();
        let (target, work) = (deployed.target.clone(), pods::work(pods));
        let seen = Observation { at, lag, target, members: self.members.clone(), config, work };
        self.history.observe(&policy, &seen);
        let decision = decide(&policy, &self.history.situation(&policy, &seen));
        self.hot = pods::hot_keys(pods, decision.terms.imbalance);
        self.judged = Some(Step { at, target: scaling.target, seen: deployed, decision });
    }

    /// The replicas that this group decided on for itself in this cycle.
    pub(super) fn asks_for(&self) -> Option<u32> {
        self.judged.as_ref().map(|step| step.decision.desired)
    }

    /// What comes of the decision beside what `others` on the same target ask for. A step is returned to be carried out.
    pub(super) fn conclude(&mut self, others: &[Ask]) -> Option<(Decision, Option<Step>)> {
        let judged = self.judged.take()?;
        let mode = self.desired.scaling.as_ref()?.mode;
        let (mut decision, carries) = together(&self.desired.object.name, judged.decision, others);
        self.found(scaling_status(&decision));
        if let Some(hot) = self.hot.take() {
            decision.message = format!("{}; {hot}", decision.message);
        }
        if !decision.is_step() || !carries || mode == Mode::Observe {
            self.show(&decision, None);
            return Some((decision, None));
        }
        Some((decision.clone(), Some(Step { decision, ..judged })))
    }

    fn found(&mut self, scaling: ScalingStatus) {
        if let Some(live) = &mut self.live {
            live.scaling = Some(scaling);
        }
    }

    /// A step whose write got no answer shows in the target: it was the operator's, not a person's.
    fn recognise(&mut self, at: Duration, deployed: &Deployed) {
        let replicas = deployed.target.replicas;
        let over = |step: &mut Step| replicas != step.decision.current || at.saturating_sub(step.at) > UNANSWERED;
        let shows = |step: &Step| replicas == step.decision.desired;
        let (own, theirs) = (self.attempted.take_if(over), self.following.take_if(over));
        if let Some(step) = own.filter(shows) {
            self.stepped(&step);
        } else if let Some(step) = theirs.filter(shows) {
            self.history.followed(step.at, step.decision.current, step.decision.desired);
        }
    }

    /// The write of the step failed, or its answer was lost.
    pub(super) fn not_stepped(&mut self, step: Step, refused: Refused) {
        self.cannot(refused);
        self.attempted = Some(step);
    }

    /// A step that another group of the target asked for is about to be written. It may show before its answer is there.
    pub(super) fn may_follow(&mut self, step: &Step) {
        self.following = Some(step.clone());
    }

    /// That step was written, or surely not. One that showed already is noted.
    pub(super) fn followed(&mut self, written: bool) {
        if let Some(step) = self.following.take().filter(|_| written) {
            self.attempted = None;
            self.history.followed(step.at, step.decision.current, step.decision.desired);
        }
    }

    /// The step was written.
    pub(super) fn stepped(&mut self, step: &Step) {
        self.attempted = None;
        self.history.applied(step.at, &step.decision);
        let Decision { current, desired, message, reason, .. } = &step.decision;
        let TargetRef { kind, name, .. } = &step.target;
        let said = format!("scaled {kind} {name} from {current} to {desired}: {message}");
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let change = ScalingChange {
            time: Time(now_in_seconds()),
            from: count(*current),
            to: count(*desired),
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            terms: terms_of(&step.decision.terms),
        };
        let changes = self.changes.get_or_insert_default();
        changes.insert(0, change);
        changes.truncate(HISTORY);
        self.show(&step.decision, Some(Event::normal(*reason, said)));
    }

    /// There is no deciding, for a reason outside of the numbers.
    pub(super) fn cannot(&mut self, Refused { reason, message }: Refused) {
        let mut now = ScalingStatus {
            current: None,
            desired: None,
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            terms: mq_crds::Terms::default(),
            limited_by: None,
            history: Vec::new(),
        };
        self.found(now.clone());
        let stands =
            self.view.problem.as_ref().is_some_and(|problem| problem.reason == reason && problem.message == message);
        if stands {
            return;
        }
        self.events.push(Event::warning(reason, &message));
        now.history = self.changes.clone().unwrap_or_default();
        self.view.scaling = Some(now);
        self.view.active = Some(active(Status::False, reason, message.clone()));
        self.view.problem = Some(Verdict::reconciling(reason, message));
    }

    /// Says a decision, if it says something new. What the next cycle replaces anyway is not worth a write.
    fn show(&mut self, decision: &Decision, step: Option<Event>) {
        if decision.is_transient() && self.view.scaling.is_some() {
            return;
        }
        let mut now = scaling_status(decision);
        now.history = self.changes.clone().unwrap_or_default();
        let same =
            |old: &ScalingStatus| (old.current, old.desired, &old.reason) == (now.current, now.desired, &now.reason);
        let healed = self.view.problem.take().is_some();
        if step.is_none() && self.view.scaling.as_ref().is_some_and(same) {
            self.rising = None;
            return;
        }
        let counts = |old: &ScalingStatus| (old.current, old.desired) == (now.current, now.desired);
        let words_alone = !healed && step.is_none() && self.view.scaling.as_ref().is_some_and(counts);
        if words_alone && !self.stands(decision.reason) {
            return;
        }
        self.rising = None;
        let turned = self.view.scaling.as_ref().is_none_or(|old| old.reason != now.reason);
        let warning = turned && needs_a_person(decision.reason);
        self.events.extend(step.or_else(|| warning.then(|| Event::warning(decision.reason, &decision.message))));
        let observed = self.desired.scaling.as_ref().is_some_and(|scaling| scaling.mode == Mode::Observe);
        self.view.active = Some(if observed {
            let said = format!("spec.scaling.mode is Observe, nothing is done: {}", decision.message);
            active(Status::False, Reason::ScalingObserved, said)
        } else {
            active(status(decision.reason), decision.reason, decision.message.clone())
        });
        self.view.scaling = Some(now);
    }

    /// Whether another reason for the same number of replicas is to be shown: at once when it is a person's doing or ends what was
    /// not known, else when it was decided by for some cycles.
    fn stands(&mut self, reason: Reason) -> bool {
        let before = self.view.active.as_ref().map(|active| active.status);
        if status(reason) == Status::False || before != Some(Status::True) {
            return true;
        }
        let cycles = self.rising.filter(|(rising, _)| *rising == reason).map_or(0, |(_, cycles)| cycles) + 1;
        self.rising = Some((reason, cycles));
        cycles >= STANDS
    }
}

/// Changes that a status remembers.
const HISTORY: usize = 10;

/// What a status keeps of the time: the API server drops fractions of a second, and a status is compared with what it keeps.
fn now_in_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn policy(group: &DesiredGroup, scaling: &DesiredScaling, cycle: Duration) -> Policy {
    Policy {
        objective: scaling.objective,
        mode: scaling.mode,
        min: scaling.min,
        scheduled: schedule::minimum(&scaling.schedules, Timestamp::now()),
        max: scaling.max.max(scaling.min),
        capacity: scaling.capacity,
        window: scaling.window,
        keep: scaling.keep,
        max_step: scaling.max_step,
        cycle,
        commit_interval: group.commit_interval,
        paused: group.paused,
    }
}

#[cfg(test)]
pub(super) mod tests;
