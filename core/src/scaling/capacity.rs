//! What one replica can do: as stated, as measured in saturated cycles, or as its agents say (see [`super::work`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Members, Policy};
use crate::lag::Flow;

/// Time over which throughput is averaged, at least and in commits: one more or less at its edges must not matter. A longer one only
/// delays the first number.
const SHORTEST: Duration = Duration::from_secs(30);
const COMMITS: u32 = 12;

/// A learned number rises at most so much in a window: one reading that was not work must not pass for what replicas can do.
const RISE: f64 = 2.0;

/// Capacity of one replica in messages per second, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Capacity {
    /// The user said it.
    Spec(f64),
    /// Throughput of replicas that were never idle for a whole window.
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
            Self::Observed(_) => "measured while replicas were never idle",
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
    /// Replicas in the cycle before.
    replicas: u32,
    since: Option<Duration>,
    run: VecDeque<(Duration, f64)>,
    learned: Option<f64>,
    /// When replicas that were never idle showed it last.
    confirmed: Option<Duration>,
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
    /// Messages per second that each of the replicas handled that were never idle; none where there was no such replica.
    pub(super) rate: Option<f64>,
}

/// Time over which what a group handles is averaged.
pub(super) fn span(policy: &Policy) -> Duration {
    policy.window.min(SHORTEST.max(policy.commit_interval * COMMITS)).max(policy.cycle * 3)
}

/// How many times as much as on average arrives for the busiest member; none if it is not known who owns what. More than `most` of one
/// partition does not count.
pub(super) fn imbalance(members: &Members, flows: &[Flow], most: f64) -> Option<f64> {
    if members.owners.len() != flows.len() {
        return None;
    }
    let mut arrivals: BTreeMap<u32, f64> = BTreeMap::new();
    let mut all = 0.0;
    for (flow, owner) in flows.iter().zip(&members.owners) {
        all += flow.arrival?;
        *arrivals.entry((*owner)?).or_default() += flow.arrival?.min(most);
    }
    let busiest = arrivals.into_values().fold(0.0, f64::max);
    (all > 0.0).then(|| busiest * f64::from(members.count) / all)
}

/// Whether at least half of the members are never idle.
pub(super) fn are_busy(members: &Members, flows: &[Flow]) -> bool {
    let owned = flows.iter().zip(&members.owners).filter(|(flow, _)| flow.busy);
    let busy: BTreeSet<u32> = owned.filter_map(|(_, owner)| *owner).collect();
    members.owners.len() == flows.len() && busy.len() * 2 >= members.count.max(1) as usize
}

/// Messages per second that a member handles, on average over those that were never idle: in one of their partitions there was work all
/// the time. None if there is no such member, or if it is not known who owns what.
pub(super) fn pace_of_busy(members: &Members, flows: &[Flow]) -> Option<f64> {
    if members.owners.len() != flows.len() {
        return None;
    }
    let mut paces: BTreeMap<u32, (bool, Option<f64>)> = BTreeMap::new();
    for (flow, owner) in flows.iter().zip(&members.owners) {
        let (busy, pace) = paces.entry((*owner)?).or_insert((false, Some(0.0)));
        *busy |= flow.busy;
        *pace = pace.zip(flow.throughput).map(|(sum, rate)| sum + rate);
    }
    let of_busy: Vec<f64> = paces.into_values().filter(|(busy, _)| *busy).filter_map(|(_, pace)| pace).collect();
    let n = u32::try_from(of_busy.len()).ok().filter(|n| *n > 0)?;
    Some(of_busy.iter().sum::<f64>() / f64::from(n))
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

    pub(super) fn observe(&mut self, sample: Sample, policy: &Policy) {
        let before = std::mem::replace(&mut self.replicas, sample.replicas);
        let Some(rate) = sample.rate.filter(|_| sample.replicas == before) else { return self.interrupt() };
        if rate <= 0.0 {
            return if self.is_between_commits(policy) {
                self.run.push_back((sample.at, rate));
            } else {
                self.interrupt();
            };
        }
        let since = *self.since.get_or_insert(sample.from);
        self.run.push_back((sample.at, rate));
        let window = span(policy);
        if sample.at.saturating_sub(since) < window {
            return;
        }
        let oldest = sample.at.saturating_sub(window);
        while self.run.front().is_some_and(|(at, _)| *at <= oldest) {
            self.run.pop_front();
        }
        let cycles = u32::try_from(self.run.len()).unwrap_or(u32::MAX);
        let mean = self.run.iter().map(|(_, rate)| rate).sum::<f64>() / f64::from(cycles.max(1));
        self.learn(sample.at, policy.window.max(window), mean);
        self.confirmed = Some(sample.at);
    }

    /// Whether a cycle without a commit is no pause: as many can lie between two commits of a group that works.
    fn is_between_commits(&self, policy: &Policy) -> bool {
        let rare = policy.commit_interval * 4 >= policy.cycle * 3;
        let without = self.run.iter().rev().take_while(|(_, rate)| *rate <= 0.0).count();
        let so_long = policy.cycle * u32::try_from(without).unwrap_or(u32::MAX);
        rare && without < self.run.len() && so_long < policy.commit_interval
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

    /// What was learned last was not what a replica can do, this is.
    pub(super) fn correct(&mut self, at: Duration, rate: f64) {
        self.interrupt();
        (self.learned, self.base, self.confirmed) = (Some(rate), None, Some(at));
    }

    /// When it was learned last from replicas that were never idle.
    pub(super) fn confirmed(&self) -> Option<Duration> {
        self.confirmed
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
    const POLICY: fn() -> Policy = super::super::tests::policy;

    fn feed(learner: &mut Learner, cycles: std::ops::Range<u32>, throughput: f64, replicas: u32, saturated: bool) {
        for n in cycles {
            let rate = saturated.then(|| throughput / f64::from(replicas));
            let sample = Sample { at: CYCLE * (n + 1), from: CYCLE * n, replicas, rate };
            learner.observe(sample, &POLICY());
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
    fn a_cycle_between_two_commits_belongs_to_the_work() {
        let learned = |rates: &[f64], commit_interval| {
            let (mut learner, policy) = (Learner::default(), Policy { commit_interval, ..POLICY() });
            for (n, rate) in (0..).zip(rates) {
                let sample = Sample { at: CYCLE * (n + 1), from: CYCLE * n, replicas: 1, rate: Some(*rate) };
                learner.observe(sample, &policy);
            }
            learner.learned()
        };
        let (rare, often) = (CYCLE, CYCLE / 5);
        let with_a_pause = [600.0, 600.0, 600.0, 0.0, 600.0];
        assert_eq!(learned(&with_a_pause, rare), Some(450.0));
        assert_eq!(learned(&with_a_pause, often), None, "with several commits in a cycle it stood still");
        let with_two = [600.0, 600.0, 0.0, 0.0, 600.0];
        assert_eq!(learned(&with_two, rare), None, "it stood still");
        assert_eq!(learned(&with_two, CYCLE * 2), Some(300.0));
        assert_eq!(learned(&[600.0, 0.0, 0.0, 0.0, 600.0, 600.0], CYCLE * 2), None, "it stood still");
        assert_eq!(learned(&[600.0, 0.0, 600.0, 600.0, 600.0], CYCLE * 2), None, "when it began is not known");
    }

    #[test]
    fn commits_that_are_rare_take_longer() {
        let policy = Policy { window: Duration::from_mins(5), commit_interval: CYCLE, ..POLICY() };
        let mut learner = Learner::default();
        let mut known = Vec::new();
        for n in 0..14 {
            let sample = Sample { at: CYCLE * (n + 1), from: CYCLE * n, replicas: 3, rate: Some(300.0) };
            learner.observe(sample, &policy);
            known.push(learner.learned().is_some());
        }
        assert_eq!(known.iter().position(|known| *known), Some(12), "a minute after the replicas were first seen");
    }

    fn flow(partition: i32, arrival: f64, throughput: Option<f64>, busy: bool) -> Flow {
        let of = crate::lag::TopicPartition { topic: "orders".into(), partition };
        Flow { of, arrival: Some(arrival), throughput, waiting: None, busy, stuck: false }
    }

    #[test]
    fn a_member_that_is_never_idle_shows_what_it_can_do() {
        let members =
            |owners: &[u32]| Members { owners: owners.iter().copied().map(Some).collect(), ..Members::default() };
        let flows = [
            flow(0, 90.0, Some(50.0), true),
            flow(1, 20.0, Some(20.0), false),
            flow(2, 10.0, Some(10.0), false),
            flow(3, 30.0, Some(30.0), false),
        ];
        assert_eq!(pace_of_busy(&members(&[0, 0, 1, 1]), &flows), Some(70.0));
        assert_eq!(pace_of_busy(&members(&[0, 1, 1, 1]), &flows), Some(50.0));
        assert_eq!(pace_of_busy(&members(&[1, 0, 0, 0]), &flows[..3]), None, "another number of partitions");
        assert_eq!(pace_of_busy(&members(&[0, 0]), &flows[2..]), None, "all are idle at times");
        let jumped = [flow(0, 90.0, None, true), flow(1, 50.0, Some(40.0), true)];
        assert_eq!(pace_of_busy(&members(&[0, 1]), &jumped), Some(40.0), "what is not known counts for nobody");
        let unowned = Members { owners: vec![Some(0), None], ..Members::default() };
        assert_eq!((pace_of_busy(&unowned, &jumped), imbalance(&unowned, &jumped, 99.0)), (None, None));
        let two = Members { count: 2, ..members(&[0, 0, 1, 1]) };
        assert_eq!(imbalance(&two, &flows, 99.0), Some(110.0 * 2.0 / 150.0));
        assert_eq!(
            imbalance(&two, &flows, 60.0),
            Some(80.0 * 2.0 / 150.0),
            "no number of replicas divides a partition"
        );
        assert!(are_busy(&two, &flows) && !are_busy(&Members { count: 3, ..two.clone() }, &flows));
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
