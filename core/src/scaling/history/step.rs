//! The last change of replicas: what it was measured by, and what it brought.

use std::time::Duration;

use super::{History, MET, is_busy};
use crate::reason::Reason;
use crate::scaling::capacity::span;
use crate::scaling::downstream::Ineffective;
use crate::scaling::need::{effective, useful, whole};
use crate::scaling::situation::Unsettled;
use crate::scaling::{Decision, Observation, Policy};

/// A change of replicas that the operator made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) from: u32,
    pub(super) to: u32,
    /// The replicas that it is judged by: those of the first of several steps up that were taken before one could be judged.
    base: u32,
    /// Throughput of then.
    before: f64,
    /// Throughput that each replica should add.
    predicted: Option<f64>,
    /// The best that was known of the capacity of a replica.
    able: Option<f64>,
    /// What agents said of it.
    pub(super) reported: Option<f64>,
    pub(super) settled: Option<Duration>,
    pub(super) judged: bool,
    /// Something was committed since.
    pub(super) moved: bool,
}

impl Step {
    fn new(at: Duration, from: u32, to: u32, before: f64) -> Self {
        let (predicted, able, reported, settled) = (None, None, None, None);
        Self { at, from, to, base: from, before, predicted, able, reported, settled, judged: false, moved: false }
    }
}

impl History {
    /// Notes that `decision`, made at `at`, was written to the target.
    pub fn applied(&mut self, at: Duration, decision: &Decision) {
        if !decision.is_step() {
            return;
        }
        let (from, to) = (decision.current, decision.desired);
        // Who could do more than he did is expected to go on as he did: that is what the step has to show.
        let before = self.handled_before(from, to, decision.terms.capacity);
        let each = (from > 0).then(|| before / f64::from(from));
        let each = each.map(|each| decision.terms.capacity.map_or(each, |capacity| each.min(capacity)));
        if decision.reason == Reason::CapacityUnknown {
            self.broke = decision.terms.arrival.map(|arrival| (from, arrival));
        }
        self.note_comfort(at, decision);
        if let Some(share) = self.busiest.filter(|_| to > from) {
            self.met.too_few(at, from, share);
        }
        let able = [decision.terms.capacity, self.best_shown()].into_iter().flatten().reduce(f64::max);
        let (predicted, reported) = (each.filter(|_| to > from), self.work.learned());
        self.moved(Step { predicted, able, reported, ..Step::new(at, from, to, before) });
    }

    /// Notes which load a step up was for, and whether a step down that left less comfort was soon undone.
    fn note_comfort(&mut self, at: Duration, decision: &Decision) {
        let Some(arrival) = decision.terms.arrival else { return };
        match decision.reason {
            Reason::BelowNeed | Reason::CapacityUnknown => {
                let long = self.window * MET;
                if self.tightened.is_some_and(|then| at.saturating_sub(then) <= long) {
                    self.regretted_until = Some(at.saturating_add(long));
                }
                (self.rose_to, self.tightened) = (Some(arrival), None);
            }
            Reason::AboveNeed => self.tightened = Some(at).filter(|_| self.has_fallen(arrival)),
            _ => {}
        }
    }

    /// Notes that the target was scaled at `at` for another group that consumes with the same replicas.
    pub fn followed(&mut self, at: Duration, from: u32, to: u32) {
        self.moved(Step::new(at, from, to, self.mean_handled()));
    }

    /// What a step is measured by. A load that has just risen was handled already, as far as the replicas could; what the longer mean says
    /// of it is too little. The short one is believed where a step promises so much more that its noise does not matter, and never to
    /// more than the replicas can do.
    fn handled_before(&self, from: u32, to: u32, capacity: Option<f64>) -> f64 {
        let large = to.saturating_mul(2) >= from.saturating_mul(3);
        let lately =
            self.throughputs.iter().rev().take(2).copied().reduce(f64::midpoint).filter(|_| large && self.often);
        let lately = lately.zip(capacity).map(|(lately, each)| lately.min(each * f64::from(from)));
        self.mean_handled().max(lately.unwrap_or_default())
    }

    /// Messages per second that were handled, as the mean of so many cycles that rare commits do not matter.
    pub(super) fn mean_handled(&self) -> f64 {
        let cycles = u32::try_from(self.handled.len()).unwrap_or(u32::MAX).max(1);
        self.handled.iter().map(|(_, rate)| rate).sum::<f64>() / f64::from(cycles)
    }

    fn moved(&mut self, step: Step) {
        let Step { at, from, to, .. } = step;
        let first = self.step.filter(|first| !first.judged && first.predicted.is_some() && step.predicted.is_some());
        self.step = Some(first.map_or(step, |first| Step { at, from, to, settled: None, moved: false, ..first }));
        self.replicas = Some(to);
        self.unsettled = Some((at, Unsettled::Group(format!("{from} -> {to} replicas was just asked for"))));
        self.asked = 0;
        self.interrupt(at);
    }

    /// Some time after a step up has settled: did it bring anything? Only a group that is still busy can tell.
    pub(super) fn judge_step(&mut self, at: Duration, policy: &Policy, seen: &Observation) {
        let Some(step) = self.step.filter(|step| !step.judged) else { return };
        if step.settled.is_none_or(|settled| at.saturating_sub(settled) < span(policy)) {
            return;
        }
        self.step = Some(Step { judged: true, ..step });
        let Some(each) = step.predicted.filter(|rate| *rate > 0.0 && is_busy(seen)) else { return };
        let predicted = each * f64::from(step.to.saturating_sub(step.base));
        let handled = self.mean_handled();
        let brought = handled - step.before;
        // A twentieth more than before is noise, but where the step promised hardly more.
        if brought >= (predicted * 0.1).max((step.before * 0.05).min(predicted * 0.5)) {
            return self.downstream.clear();
        }
        // What was measured since it began to limit is not what a replica can do.
        if let Some(capacity) = step.able {
            self.capacity.correct(at, capacity);
        }
        let places = self.places(seen);
        let enough = step.base.max(whole(step.able.map_or(0.0, |capacity| handled / capacity)));
        let enough = useful(enough, places).min(step.to);
        let found = Ineffective { enough, brought: brought.max(0.0), predicted };
        let each = step.able.unwrap_or_default() / self.skew(policy, seen);
        self.downstream.found(at, policy.window, found, handled, |replicas| each * effective(replicas, places));
    }
}
