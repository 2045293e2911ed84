//! What one replica can do: as stated, as measured in saturated cycles, or as its agents say (see [`super::work`]).

use std::collections::VecDeque;
use std::time::Duration;

/// Longest time over which throughput is averaged. A longer one only delays the first number: it holds twelve commits of a
/// client that commits every five seconds.
const LONGEST: Duration = Duration::from_mins(1);

/// A learned number rises at most so much in a window: one reading that was not work must not pass for what replicas can do.
const RISE: f64 = 2.0;

/// Capacity of one replica in messages per second, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Capacity {
    /// The user said it.
    Spec(f64),
    /// Throughput while every partition had work for a whole window.
    Observed(f64),
    /// Records that agents handled in the time in which they were busy.
    Reported(f64),
    /// Nobody said it, and the group was never busy enough to show it.
    Unknown,
}

impl Capacity {
    /// The number, where there is one.
    pub fn known(self) -> Option<f64> {
        match self {
            Self::Spec(rate) | Self::Observed(rate) | Self::Reported(rate) => Some(rate),
            Self::Unknown => None,
        }
    }

    /// Where the number comes from, for a person.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Spec(_) => "as stated",
            Self::Observed(_) => "measured while all partitions had work",
            Self::Reported(_) => "measured by how busy the pods are",
            Self::Unknown => "not known yet",
        }
    }
}

/// Learns the capacity of a replica from the throughput of saturated cycles.
#[derive(Debug, Clone, Default)]
pub(super) struct Learner {
    /// Pod template and configuration that the number belongs to.
    key: (String, String),
    replicas: u32,
    since: Option<Duration>,
    run: VecDeque<(Duration, f64)>,
    learned: Option<f64>,
    /// What was learned when the present window of rising began.
    base: Option<(Duration, f64)>,
}

/// One cycle of a settled group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Duration,
    /// When the cycle began.
    pub(super) from: Duration,
    pub(super) replicas: u32,
    pub(super) throughput: Option<f64>,
    pub(super) saturated: bool,
}

impl Learner {
    /// Forgets everything when the pods run something else. Says whether it did.
    pub(super) fn key(&mut self, template: &str, config: &str) -> bool {
        if self.key.0 == template && self.key.1 == config {
            return false;
        }
        let first = self.key == <(String, String)>::default();
        *self = Self { key: (template.to_owned(), config.to_owned()), ..Self::default() };
        !first
    }

    /// A cycle that must not be learned from: settling, rollout, gap, unknown partitions.
    pub(super) fn interrupt(&mut self) {
        self.since = None;
        self.run.clear();
    }

    pub(super) fn observe(&mut self, sample: Sample, window: Duration, cycle: Duration) {
        let Some(throughput) = sample.throughput.filter(|rate| *rate > 0.0) else { return self.interrupt() };
        if !sample.saturated || sample.replicas == 0 || sample.replicas != self.replicas {
            self.replicas = sample.replicas;
            return self.interrupt();
        }
        let since = *self.since.get_or_insert(sample.from);
        self.run.push_back((sample.at, throughput));
        let rising = window;
        let window = window.min(LONGEST).max(cycle * 3);
        if sample.at.saturating_sub(since) < window {
            return;
        }
        let oldest = sample.at.saturating_sub(window);
        while self.run.front().is_some_and(|(at, _)| *at <= oldest) {
            self.run.pop_front();
        }
        let cycles = u32::try_from(self.run.len()).unwrap_or(u32::MAX);
        let mean = self.run.iter().map(|(_, rate)| rate).sum::<f64>() / f64::from(cycles.max(1));
        self.learn(sample.at, rising.max(window), mean / f64::from(sample.replicas));
    }

    fn learn(&mut self, at: Duration, window: Duration, rate: f64) {
        let Some(learned) = self.learned else {
            (self.learned, self.base) = (Some(rate), Some((at, rate)));
            return;
        };
        let (since, base) = self.base.unwrap_or((at, learned));
        let over = at.saturating_sub(since) >= window;
        let (since, base) = if over || learned < base { (at, learned) } else { (since, base) };
        self.base = Some((since, base));
        self.learned = Some(rate.min(base * RISE));
    }

    /// A replica that does more than was learned proves the learned number outdated. A number that was never learned is not
    /// replaced: what an idle replica does says nothing about what it could.
    pub(super) fn at_least(&mut self, at: Duration, window: Duration, throughput: f64, replicas: u32) {
        let rate = throughput / f64::from(replicas.max(1));
        if replicas > 0 && self.learned.is_some_and(|learned| rate > learned) {
            self.learn(at, window, rate);
        }
    }

    pub(super) fn learned(&self) -> Option<f64> {
        self.learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CYCLE: Duration = Duration::from_secs(5);
    const WINDOW: Duration = Duration::from_secs(20);

    fn feed(learner: &mut Learner, cycles: std::ops::Range<u32>, throughput: f64, replicas: u32, saturated: bool) {
        for n in cycles {
            let sample =
                Sample { at: CYCLE * (n + 1), from: CYCLE * n, replicas, throughput: Some(throughput), saturated };
            learner.observe(sample, WINDOW, CYCLE);
        }
    }

    #[test]
    fn learns_after_a_whole_saturated_window() {
        let mut learner = Learner::default();
        learner.key("a", "1");
        feed(&mut learner, 0..4, 900.0, 3, true);
        assert_eq!(learner.learned(), None, "the first cycle sets the replicas, three more are 15 s");
        feed(&mut learner, 4..5, 900.0, 3, true);
        assert_eq!(learner.learned(), Some(300.0));
    }

    #[test]
    fn an_idle_cycle_or_other_replicas_begin_anew() {
        let mut learner = Learner::default();
        feed(&mut learner, 0..4, 900.0, 3, true);
        feed(&mut learner, 4..5, 900.0, 3, false);
        feed(&mut learner, 5..8, 900.0, 3, true);
        assert_eq!(learner.learned(), None);
        feed(&mut learner, 8..12, 900.0, 4, true);
        assert_eq!(learner.learned(), None);
    }

    #[test]
    fn never_from_idle_or_stuck_replicas() {
        let mut learner = Learner::default();
        feed(&mut learner, 0..50, 100.0, 1, false);
        learner.at_least(CYCLE * 50, WINDOW, 100.0, 1);
        feed(&mut learner, 50..90, 0.0, 1, true);
        assert_eq!(learner.learned(), None);
    }

    #[test]
    fn a_lower_bound_only_corrects_a_number_that_was_learned() {
        let mut learner = Learner::default();
        feed(&mut learner, 0..6, 900.0, 3, true);
        learner.at_least(CYCLE * 7, WINDOW, 1_500.0, 3);
        assert_eq!(learner.learned(), Some(500.0));
        learner.at_least(CYCLE * 8, WINDOW, 300.0, 3);
        assert_eq!(learner.learned(), Some(500.0));
    }

    #[test]
    fn one_reading_that_was_no_work_does_not_spoil_the_number() {
        let mut learner = Learner::default();
        feed(&mut learner, 0..6, 900.0, 3, true);
        for n in 6..=8 {
            learner.at_least(CYCLE * n, WINDOW, 3_000_000.0, 3);
            assert_eq!(learner.learned(), Some(600.0), "twice what was learned, however often it is said");
        }
        learner.at_least(CYCLE * 9, WINDOW, 3_000_000.0, 3);
        assert_eq!(learner.learned(), Some(1_200.0), "a window later it may rise again");
        feed(&mut learner, 12..20, 900.0, 3, true);
        assert_eq!(learner.learned(), Some(300.0), "and a saturated window says what is true");
    }

    #[test]
    fn another_template_or_configuration_is_another_capacity() {
        let mut learner = Learner::default();
        assert!(!learner.key("a", "1"), "the first is no change");
        feed(&mut learner, 0..6, 900.0, 3, true);
        assert!(!learner.key("a", "1"));
        assert!(learner.learned().is_some());
        assert!(learner.key("a", "2"));
        assert_eq!(learner.learned(), None);
    }
}
