//! What one replica can do, from what its agents say of their own work.
//!
//! `capacity = records handled / busy time`, both summed over pods and reports: the true processing rate of a pod that is busy
//! for a part of its time. A pod is busy by as many of its slots as have a handler, whatever the handler waits for, and wholly
//! when it holds all that it may and the order of keys leaves no more to run. So it counts what binds a consumer, which is
//! neither the processor nor the number of its partitions, and it needs no moment in which every partition has work.
//!
//! The same reports tell how evenly the load is spread: hot keys and hot partitions make one replica busier than the others, and
//! the promise holds only if it holds there.
//!
//! What it cannot see: handlers that become slower when more of them run at once (they share a processor or a database). A pod
//! that does little therefore says nothing, and what is busier weighs more.

use std::collections::VecDeque;
use std::time::Duration;

/// What agents say of their work.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Records that they finished, all pods that said something since the last cycle.
    pub handled: u64,
    /// How long they were busy with them.
    pub busy: Duration,
    /// The part of its time for which a pod was busy on average, 0 to 1, by the last word of each.
    pub average: f64,
    /// The same for the busiest of them.
    pub busiest: f64,
    /// The longest time that one of them spoke of.
    pub period: Duration,
}

/// When even the busiest pod was busy for less of its time, they say nothing.
const MEANINGFUL: f64 = 0.2;
/// Busy for this much of its time, a pod cannot do more.
const FULL: f64 = 0.95;
/// So many records are enough for a number; with fewer, earlier reports are added.
const ENOUGH: u64 = 30;
/// How far back reports are added.
const LONGEST: Duration = Duration::from_mins(2);
/// The number moves at most by this factor from one cycle to the next: a report that covers a hiccup must not decide.
const STEP: f64 = 2.0;

/// Learns the capacity of a replica from the work of its agents.
#[derive(Debug, Clone, Default)]
pub(super) struct WorkLearner {
    reports: VecDeque<(Duration, Work)>,
    learned: Option<f64>,
    imbalance: Option<f64>,
    full: bool,
    /// Until when that is about now.
    fresh_until: Duration,
    /// When the group was on its way last.
    unsettled: Option<Duration>,
}

impl WorkLearner {
    /// Takes what was said in a cycle of a settled group.
    pub(super) fn observe(&mut self, at: Duration, work: Work) {
        self.fresh_until = at.saturating_add(work.period * 2);
        self.reports.retain(|(then, _)| at.saturating_sub(*then) <= LONGEST);
        if work.busiest < MEANINGFUL {
            (self.imbalance, self.full) = (None, false);
            return;
        }
        self.reports.push_back((at, work));
        let (mut handled, mut busy) = (0_u64, Duration::ZERO);
        // The newest are true now; as many of the earlier as it takes.
        let mut needed = 0;
        for (_, work) in self.reports.iter().rev() {
            handled = handled.saturating_add(work.handled);
            busy = busy.saturating_add(work.busy);
            needed += 1;
            if handled >= ENOUGH && needed >= 2 {
                break;
            }
        }
        while self.reports.len() > needed {
            self.reports.pop_front();
        }
        // The last word of each is about the group as it is now only after a period, and all have spoken after another one.
        let settled = self.unsettled.is_none_or(|then| at >= then.saturating_add(work.period * 2));
        let (busiest, shares) =
            self.reports.iter().fold((0.0, 0.0), |(max, mean), (_, work)| (max + work.busiest, mean + work.average));
        self.imbalance = settled.then(|| busiest / shares);
        self.full = settled && work.busiest >= FULL;
        if handled < ENOUGH {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "record counts are far below 2^52")]
        let rate = handled as f64 / busy.as_secs_f64();
        if rate.is_finite() && rate > 0.0 {
            self.learned = Some(self.learned.map_or(rate, |before| rate.clamp(before / STEP, before * STEP)));
        }
    }

    /// Nothing was said in a cycle of a settled group. Agents that are silent for longer than they ever are say no more that a replica is
    /// full or has more to do than others; what it can do is still so.
    pub(super) fn silent(&mut self, at: Duration) {
        if at >= self.fresh_until {
            (self.imbalance, self.full) = (None, false);
        }
    }

    /// What was said of other replicas, or of a group on its way, is not added to what comes now.
    pub(super) fn interrupt(&mut self, at: Duration) {
        self.unsettled = Some(at);
        self.reports.clear();
        (self.imbalance, self.full) = (None, false);
    }

    /// Whether the busiest replica can do no more.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// How many times as much as all on average the busiest replica has to do; 1 where that is not known. `behind`: what waits
    /// becomes more somewhere. If not, a replica that is full works off a backlog: more than what arrives for it.
    pub(super) fn imbalance(&self, behind: bool) -> f64 {
        let known = self.imbalance.filter(|_| behind || !self.full);
        known.filter(|times| times.is_finite()).unwrap_or(1.0).max(1.0)
    }

    pub(super) fn learned(&self) -> Option<f64> {
        self.learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CYCLE: Duration = Duration::from_secs(5);

    fn work(handled: u64, busy_ms: u64) -> Work {
        let busy = Duration::from_millis(busy_ms);
        let share = busy.as_secs_f64() / CYCLE.as_secs_f64();
        Work { handled, busy, average: share, busiest: share, period: CYCLE }
    }

    /// What is learned after each of these cycles, in whole messages per second.
    fn learned(cycles: &[(u64, u64)]) -> Vec<Option<i64>> {
        let mut learner = WorkLearner::default();
        let mut numbers = Vec::new();
        for (n, (handled, busy_ms)) in (1..).zip(cycles) {
            learner.observe(CYCLE * n, work(*handled, *busy_ms));
            #[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
            numbers.push(learner.learned().map(|rate| rate.round() as i64));
        }
        numbers
    }

    #[test]
    fn the_rate_of_the_busy_part_of_the_time() {
        assert_eq!(learned(&[(100, 1_000)]), [Some(100)], "busy for a fifth of the time");
        assert_eq!(learned(&[(450, 5_000)]), [Some(90)]);
    }

    #[test]
    fn little_to_do_says_nothing_and_is_not_forgotten_for_it() {
        assert_eq!(learned(&[(99, 990), (0, 0), (1_000, 0)]), [None, None, None]);
        assert_eq!(learned(&[(450, 5_000), (10, 100), (0, 0)]), [Some(90), Some(90), Some(90)]);
    }

    #[test]
    fn slow_handlers_are_watched_for_longer() {
        // Handlers of 20 s: of a few records in a cycle none may end, and then several at once.
        assert_eq!(learned(&[(0, 5_000), (0, 5_000), (20, 5_000), (20, 5_000)]), [None, None, None, Some(4)]);
        let long_ago = [(20, 5_000), (0, 0)].into_iter().chain([(0, 0); 30]).chain([(20, 5_000)]);
        assert_eq!(learned(&long_ago.collect::<Vec<_>>()).last(), Some(&None));
    }

    #[test]
    fn what_is_busier_weighs_more_and_what_is_newer_counts_alone() {
        // Two of these at a time: 50 + 450 in 1 + 5 s, then the last two.
        let cycles = [(200, 1_000), (450, 5_000), (450, 5_000)];
        assert_eq!(learned(&cycles), [Some(200), Some(108), Some(90)]);
    }

    #[test]
    fn one_report_moves_it_by_no_more_than_twice() {
        assert_eq!(learned(&[(450, 5_000), (450, 5_000), (90_000, 5_000)]), [Some(90), Some(90), Some(180)]);
        assert_eq!(learned(&[(450, 5_000), (60, 5_000), (60, 5_000)])[2], Some(26));
    }

    #[test]
    fn silence_ends_what_was_said_of_now_and_keeps_what_was_learned() {
        let mut learner = WorkLearner::default();
        learner.observe(CYCLE, Work { busiest: 1.0, average: 0.6, ..work(500, 6_000) });
        learner.silent(CYCLE * 2);
        assert!(learner.is_full() && learner.imbalance(true) > 1.5, "agents speak once in a period, not in each cycle");
        learner.silent(CYCLE * 3);
        assert!(!learner.is_full() && learner.imbalance(true) < 1.1);
        assert!(learner.learned().is_some());
    }

    #[test]
    fn the_busiest_is_compared_with_all_while_there_is_something_to_do() {
        let mut learner = WorkLearner::default();
        assert!((learner.imbalance(true) - 1.0).abs() < 1e-9, "not known");
        // Two pods: one always busy, the other for a fifth of its time.
        learner.observe(CYCLE, Work { busiest: 1.0, average: 0.6, ..work(500, 6_000) });
        assert!((learner.imbalance(true) - 1.0 / 0.6).abs() < 1e-9, "{}", learner.imbalance(true));
        assert!((learner.imbalance(false) - 1.0).abs() < 1e-9, "it only works off what waits");
        learner.observe(CYCLE * 2, Work { busiest: 0.19, average: 0.1, ..work(90, 1_000) });
        assert!((learner.imbalance(true) - 1.0).abs() < 1e-9, "too little to tell");
        learner.interrupt(CYCLE * 3);
        for (n, times) in [(4, 1.0), (5, 1.0 / 0.6)] {
            learner.observe(CYCLE * n, Work { busiest: 1.0, average: 0.6, ..work(500, 6_000) });
            assert!((learner.imbalance(true) - times).abs() < 1e-9, "not all of the time before counts: {n}");
        }
    }
}
