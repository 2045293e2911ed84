//! What the model needs of the past.

mod size;
mod step;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use step::Step;

use super::capacity::{Capacity, Learner, Sample, are_busy, pace_of_busy, span};
use super::downstream::Downstream;
use super::need::{effective, useful, whole};
use super::share::Met;
use super::situation::{Situation, Unsettled};
use super::window::WindowMax;
use super::work::WorkLearner;
use super::{Observation, Policy};
use crate::lag::TopicPartition;

/// Assumed until a change was measured: a pod start and one rebalance of a cooperative group.
const FIRST_CHANGE: Duration = Duration::from_secs(5);
/// A change is never assumed to take longer.
const LONGEST_CHANGE: Duration = Duration::from_mins(15);
/// Waiting for a group to settle always ends after this, or after three times a usual change.
const LONGEST_SETTLING: Duration = Duration::from_mins(5);
/// Windows for which it counts what replicas that were never idle have shown. Later, agents know better, or what was better.
const FRESH: u32 = 6;
/// Windows for which it is remembered that a number of replicas was too few for how the load was spread.
const MET: u32 = 24;
/// So many commits in a cycle make the rate of two cycles one to go by.
const OFTEN: u32 = 4;
/// Windows for which a twice contested target is left alone.
const HANDS_OFF: u32 = 6;

/// How long a step down waits if it can go further down then: a part of the window, and as long as it takes until the means of some cycles
/// have followed the load.
pub(super) fn soon(policy: &Policy) -> Duration {
    (policy.window / 4).max(policy.cycle * 3)
}

/// Memory of one group.
#[derive(Debug, Clone, Default)]
pub struct History {
    last: Option<Duration>,
    gap: bool,
    watched_since: Option<Duration>,
    replicas: Option<u32>,
    arrivals: VecDeque<f64>,
    throughputs: VecDeque<f64>,
    broken: VecDeque<u64>,
    most_arrival: WindowMax,
    most_need: WindowMax,
    asked: u32,
    quiet_since: Option<Duration>,
    unsettled: Option<(Duration, Unsettled)>,
    changes: VecDeque<Duration>,
    step: Option<Step>,
    downstream: Downstream,
    /// What was handled in the last cycles, and when: for means that a single commit more or less does not move.
    handled: VecDeque<(Duration, f64)>,
    /// What busy replicas showed of their capacity, over many windows.
    capacities: WindowMax,
    /// Members that each replica has.
    threads: u32,
    /// Since when fewer replicas would do.
    fewer_since: Option<Duration>,
    foreign: VecDeque<Duration>,
    capacity: Learner,
    work: WorkLearner,
    /// The part of the whole load that the busiest replica had in the last cycle.
    busiest: Option<f64>,
    met: Met,
    /// So many replicas broke the promise at such an arrival while their capacity was not known.
    broke: Option<(u32, f64)>,
    spec_capacity: Option<f64>,
    /// The arrival that the last step up for the load was for.
    rose_to: Option<f64>,
    /// When a step down left less comfort because the load had fallen, and until when none does so because that was undone.
    tightened: Option<Duration>,
    regretted_until: Option<Duration>,
    /// The policy's window.
    window: Duration,
    /// Whether each cycle sees several commits.
    often: bool,
    stuck: BTreeSet<TopicPartition>,
}

impl History {
    /// A memory of nothing: what a new leader starts with.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one cycle.
    pub fn observe(&mut self, policy: &Policy, seen: &Observation) {
        let at = seen.at;
        let from = self.last.replace(at);
        self.gap = from.is_some_and(|from| at <= from || at > from + policy.cycle * 3);
        if self.gap {
            self.asked = 0;
            self.interrupt(at);
        }
        if self.gap || from.is_none() {
            self.watched_since = Some(at);
        }
        let other_pods = self.capacity.key(&seen.target.template, &seen.config);
        if other_pods {
            self.work = WorkLearner::default();
            self.met.clear();
            self.broke = None;
            self.downstream.clear();
            self.capacities.clear();
            // What other pods bring says nothing of those that it was expected of.
            if let Some(step) = &mut self.step {
                step.judged = true;
            }
        }
        self.met.forget(at, policy.window * MET);
        if !seen.lag.is_complete() {
            // What arrives where nothing is seen is missing in the numbers: a step down takes a window that has seen everything.
            self.watched_since = Some(at);
        }
        if other_pods || self.spec_capacity != policy.capacity {
            // Needs of the past were counted in other replicas.
            self.most_need.clear();
            self.watched_since = Some(at);
        }
        self.spec_capacity = policy.capacity;
        self.window = policy.window;
        self.often = policy.commit_interval * OFTEN <= policy.cycle;

        self.note_foreign_change(at, policy, seen.target.replicas);
        if let Some(rate) = seen.lag.arrival {
            remember(&mut self.arrivals, rate);
            self.most_arrival.push(at, mean(&self.arrivals).unwrap_or(rate), policy.window);
        }
        if let Some(rate) = seen.lag.throughput {
            if let Some(step) = self.step.as_mut().filter(|_| rate > 0.0) {
                step.moved = true;
            }
            remember(&mut self.throughputs, rate);
            self.handled.push_back((at, rate));
            let oldest = at.saturating_sub(span(policy));
            self.handled.retain(|(then, _)| *then > oldest);
        }
        if let Some(broken) = policy.objective.mendable(&seen.lag).filter(|_| !seen.lag.is_unknown()) {
            remember(&mut self.broken, broken);
        }
        self.note_settling(at, policy, seen);
        let knew = self.capacity_of(policy).known().is_some();
        self.learn(from, policy, seen);
        self.judge_step(at, policy, seen);
        let quiet = is_quiet(policy, seen, mean(&self.arrivals)) && !self.work.is_full();
        self.quiet_since = if quiet { self.quiet_since.or(Some(at)) } else { None };

        let load = self.load(policy, seen);
        let pace = effective(self.replicas.unwrap_or_default(), self.places(seen)).max(1.0);
        self.busiest = load.filter(|load| load.skew > 1.0).map(|load| load.skew / pace);
        let capacity = self.capacity_of(policy);
        let quiet_for = self.quiet_since.map(|since| at.saturating_sub(since));
        self.downstream.look(self.mean_handled(), quiet_for, policy.window);
        if !seen.lag.stuck.is_subset(&self.stuck) {
            // What a partition that stands still made of the load was no proof of too few replicas.
            self.broke = None;
        }
        self.stuck.clone_from(&seen.lag.stuck);
        let need = self.need(policy, seen, load, capacity);
        if let Some(need) = need {
            self.most_need.push(at, need.lasting, policy.window);
        }
        let places = self.places(seen);
        let fewer = self
            .most_need
            .max()
            .is_some_and(|need| useful(whole(need).max(1), places) < self.replicas.unwrap_or_default());
        self.fewer_since = if fewer { self.fewer_since.or(Some(at)) } else { None };
        let replicas = effective(self.replicas.unwrap_or(seen.target.replicas), places);
        let asks = need.map_or_else(|| self.worsening(seen), |need| replicas < need.least);
        // A capacity that was just measured so comes from a window without a pause: nothing is left to confirm.
        let votes = if matches!(capacity, Capacity::Observed(_)) && !knew { 2 } else { 1 };
        self.asked = if asks { self.asked.saturating_add(votes) } else { 0 };
    }

    /// Lays out the present for a decision. `seen` is the observation taken last.
    pub fn situation(&self, policy: &Policy, seen: &Observation) -> Situation {
        let at = seen.at;
        let load = self.load(policy, seen);
        let capacity = self.capacity_of(policy);
        let since = |then: Duration| at.saturating_sub(then);
        Situation {
            replicas: self.replicas.unwrap_or(seen.target.replicas),
            partitions: self.places(seen),
            by_hand: self.by_hand(at, policy),
            gap: self.gap,
            unknown: seen.lag.unknown_because(),
            all_unknown: seen.lag.is_unknown(),
            unsettled: self.unsettled.clone().and_then(|(from, why)| {
                let left = self.longest_settling().checked_sub(since(from)).filter(|left| !left.is_zero())?;
                Some((why, left))
            }),
            load,
            hot: self.hot(policy, seen),
            broken: policy.objective.mendable(&seen.lag),
            broke: self.broke,
            most_arrival: self.most_arrival.max(),
            capacity,
            imbalance: self.imbalance(load, seen),
            need: self.need(policy, seen, load, capacity),
            most_need: self.most_need.max(),
            coming_need: self.most_need.max_since((at + soon(policy)).saturating_sub(policy.window)),
            asked: self.asked,
            worsening: self.worsening(seen),
            judging: self.step.is_some_and(|step| {
                // What is only tried has to show it before more is.
                let tried = self.downstream.is_suspected() && !step.judged;
                step.to > step.from && step.settled.is_some_and(|settled| tried || since(settled) < policy.cycle * 2)
            }),
            busy: is_busy(seen),
            fewer_for: self.fewer_since.map(since).unwrap_or_default(),
            fruitless: seen.lag.outstanding > 0 && self.step.is_some_and(|step| step.to > step.from && !step.moved),
            downstream: self.downstream.step(at),
            suspects_downstream: self.downstream.is_suspected(),
            quiet: self.quiet_since.is_some(),
            full: self.quiet_since.is_none() && is_quiet(policy, seen, mean(&self.arrivals)),
            quiet_for: self.quiet_since.map(since).unwrap_or_default(),
            watched_for: self.watched_since.map(since).unwrap_or_default(),
            unchanged_for: self.step.map(|step| since(step.at)),
            change: self.change(),
        }
    }

    /// Whether the workload or the group is on the way to its replicas, so that members are worth a look in every cycle.
    pub fn is_settling(&self) -> bool {
        self.unsettled.is_some()
    }

    fn change(&self) -> Duration {
        self.changes.iter().max().copied().unwrap_or(FIRST_CHANGE).min(LONGEST_CHANGE)
    }

    fn longest_settling(&self) -> Duration {
        (self.change() * 3).max(LONGEST_SETTLING)
    }

    fn capacity_of(&self, policy: &Policy) -> Capacity {
        let at = self.last.unwrap_or_default();
        let (observed, reported) = (self.capacity.learned(), self.work.learned());
        let fresh = self.capacity.confirmed().is_some_and(|then| at.saturating_sub(then) <= policy.window * FRESH);
        // Agents that say that it is less by now are believed, unless it is not the replicas that limit.
        let less = reported.zip(observed).is_some_and(|(reported, observed)| reported < observed);
        let believed = !fresh || (less && !self.downstream.is_suspected());
        // Replicas that became slower with a step up may all wait for the same: what it brought tells.
        let in_doubt =
            |step: &Step| step.to > step.from && !step.judged && at.saturating_sub(step.at) < self.longest_settling();
        let before = self.step.filter(in_doubt).and_then(|step| step.reported);
        let reported = reported.map(|rate| before.map_or(rate, |before| rate.max(before)));
        match (policy.capacity, observed, reported) {
            (Some(rate), _, _) => Capacity::Spec(rate),
            (None, Some(_), Some(reported)) if believed => Capacity::Reported(reported),
            (None, Some(observed), _) if fresh => Capacity::Observed(observed),
            // Replicas that were slow for a while are not so for ever.
            (None, Some(observed), _) => {
                Capacity::Observed(self.best_shown().map_or(observed, |best| best.max(observed)))
            }
            (None, None, Some(rate)) => Capacity::Reported(rate),
            (None, None, None) => Capacity::Unknown,
        }
    }

    /// The most that replicas that were never idle have shown of their capacity lately.
    fn best_shown(&self) -> Option<f64> {
        let at = self.last.unwrap_or_default();
        self.capacities.max_since(at.saturating_sub(self.window * MET))
    }

    /// What was seen so far is not continued by what comes.
    fn interrupt(&mut self, at: Duration) {
        self.capacity.interrupt();
        self.work.interrupt(at);
    }

    /// For three cycles the promise was broken and the break did not shrink.
    fn worsening(&self, seen: &Observation) -> bool {
        let certain = seen.lag.late.is_none_or(|late| !late.estimated);
        let not_shrinking = self.broken.iter().zip(self.broken.iter().skip(1)).all(|(before, now)| now >= before);
        certain && self.broken.len() == 3 && self.broken.iter().all(|broken| *broken > 0) && not_shrinking
    }

    fn note_foreign_change(&mut self, at: Duration, policy: &Policy, replicas: u32) {
        let Some(expected) = self.replicas else {
            self.replicas = Some(replicas);
            return;
        };
        // A view of the target may lag behind our own write.
        let echo =
            self.step.is_some_and(|step| step.from == replicas && at.saturating_sub(step.at) <= policy.cycle * 3);
        if replicas == expected || echo {
            return;
        }
        self.replicas = Some(replicas);
        self.foreign.push_back(at);
        while self.foreign.len() > 2 {
            self.foreign.pop_front();
        }
        self.asked = 0;
        self.interrupt(at);
    }

    fn by_hand(&self, at: Duration, policy: &Policy) -> Option<(Duration, bool)> {
        let last = *self.foreign.back()?;
        let twice =
            self.foreign.len() > 1 && self.foreign.front().is_some_and(|first| last <= *first + policy.window * 2);
        let respected = if twice { policy.window * HANDS_OFF } else { policy.window };
        let left = (last + respected).checked_sub(at).filter(|left| !left.is_zero())?;
        Some((left, twice))
    }

    fn note_settling(&mut self, at: Duration, policy: &Policy, seen: &Observation) {
        let why = self.why_unsettled(policy, seen);
        let each =
            seen.members.as_ref().map(|members| members.count.checked_div(seen.target.ready).unwrap_or_default());
        if let Some(threads) = each.filter(|threads| *threads > 0 && why.is_none()) {
            self.threads = threads;
        }
        if why.is_none()
            && let Some(step) = &mut self.step
            && step.settled.is_none()
        {
            step.settled = Some(at);
            remember(&mut self.changes, at.saturating_sub(step.at));
        }
        self.unsettled = why.map(|why| (self.unsettled.take().map_or(at, |(since, _)| since), why));
    }

    fn why_unsettled(&self, policy: &Policy, seen: &Observation) -> Option<Unsettled> {
        let target = &seen.target;
        let wanted = self.replicas.unwrap_or(target.replicas);
        if target.rolling {
            return Some(Unsettled::Rollout("a rollout is under way".into()));
        }
        if target.ready != wanted {
            return Some(Unsettled::Rollout(format!("{} of {wanted} replicas are ready", target.ready)));
        }
        if let Some(members) = &seen.members {
            if !members.stable {
                return Some(Unsettled::Group("the group is rebalancing".into()));
            }
            if members.unowned > 0 {
                return Some(Unsettled::Group(format!("{} partitions have no owner", members.unowned)));
            }
            // A replica may run several members; all run the same number.
            if target.ready > 0 && (members.count < target.ready || !members.count.is_multiple_of(target.ready)) {
                let count = members.count;
                return Some(Unsettled::Group(format!("{count} members for {} ready replicas", target.ready)));
            }
        }
        // Without a look at the members only progress tells that the group works again.
        let step = self.step.filter(|step| step.settled.is_none())?;
        let young = seen.at.saturating_sub(step.at) < policy.cycle;
        let still = seen.lag.outstanding > 0 && seen.lag.throughput.is_none_or(|rate| rate <= 0.0);
        (young || still).then(|| Unsettled::Group("no progress since the last step yet".into()))
    }

    fn learn(&mut self, from: Option<Duration>, policy: &Policy, seen: &Observation) {
        if self.unsettled.is_some() || self.gap {
            self.work.interrupt(seen.at);
        } else if let Some(work) = seen.work {
            self.work.observe(seen.at, work);
        } else {
            self.work.silent(seen.at);
        }
        let Some(from) = from.filter(|_| self.unsettled.is_none() && !self.gap && seen.lag.is_complete()) else {
            return self.capacity.interrupt();
        };
        let replicas = self.replicas.unwrap_or_default();
        let rate = self.rate_of_busy(seen, replicas).filter(|_| !self.downstream.limits(seen.at));
        self.capacity.observe(Sample { at: seen.at, from, replicas, rate }, policy);
        if let Some(learned) = self.capacity.learned().filter(|_| self.capacity.confirmed() == Some(seen.at)) {
            self.capacities.push(seen.at, learned, policy.window * MET);
        }
        if self.throughputs.len() == 3
            && let Some(rate) = mean(&self.throughputs)
            && self
                .step
                .is_none_or(|step| step.settled.is_some_and(|at| seen.at.saturating_sub(at) >= policy.cycle * 3))
        {
            self.capacity.at_least(seen.at, policy.window, rate, replicas);
        }
    }

    /// Messages per second of each replica that was never idle. Agents know better how busy they are.
    fn rate_of_busy(&self, seen: &Observation, replicas: u32) -> Option<f64> {
        let replicas = Some(replicas).filter(|replicas| *replicas > 0)?;
        let all = seen.lag.throughput? / f64::from(replicas);
        if seen.lag.saturated {
            return Some(all);
        }
        let members = seen.members.as_ref().filter(|_| self.work.learned().is_none())?;
        let each = pace_of_busy(members, &seen.lag.flows)?;
        // One that is slower than those that have time to spare does not show what a replica can do.
        Some(all.max(each * f64::from(members.count) / f64::from(replicas)))
    }
}

/// Most of the members have something to do all the time.
fn is_busy(seen: &Observation) -> bool {
    seen.lag.saturated || seen.members.as_ref().is_some_and(|members| are_busy(members, &seen.lag.flows))
}

/// Nothing waits but what one cycle and one commit interval explain.
fn is_quiet(policy: &Policy, seen: &Observation, arrival: Option<f64>) -> bool {
    let unseen = arrival.unwrap_or_default() * (policy.commit_interval + policy.cycle).as_secs_f64();
    let (waiting, _) = seen.lag.workable_waiting();
    seen.lag.is_complete() && policy.objective.mendable(&seen.lag) == Some(0) && count(waiting) <= unseen
}

fn remember<T>(recent: &mut VecDeque<T>, value: T) {
    if recent.len() == 3 {
        recent.pop_front();
    }
    recent.push_back(value);
}

fn mean(values: &VecDeque<f64>) -> Option<f64> {
    let n = u32::try_from(values.len()).ok().filter(|n| *n > 0)?;
    Some(values.iter().sum::<f64>() / f64::from(n))
}

#[expect(clippy::cast_precision_loss, reason = "message counts are far below 2^52")]
fn count(messages: u64) -> f64 {
    messages as f64
}
