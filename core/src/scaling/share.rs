//! What the busiest of a number of replicas has to do, told from what arrives at each partition.

use std::collections::BTreeMap;
use std::time::Duration;

use super::need::useful;

/// Part of what it can do that the busiest replica is asked for by a step up, at most. The rest is for a load that comes unevenly in
/// time.
pub(super) const FULL: f64 = 0.9;
/// The same by a step down. The difference is what lies between a step down and the next one up.
pub(super) const ROOMY: f64 = 0.75;
/// Fewer replicas that relieve the busiest one as well but for this factor do.
const RELIEF: f64 = 1.05;

/// How the arrival is spread over the partitions, as parts of the whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shares(Vec<f64>);

impl Shares {
    /// From what arrives at each partition, in their order. Nothing that arrives is even.
    pub fn new(rates: &[f64]) -> Self {
        let all: f64 = rates.iter().sum();
        let even = 1.0 / f64::from(u32::try_from(rates.len()).unwrap_or(u32::MAX).max(1));
        Self(rates.iter().map(|rate| if all > 0.0 { rate / all } else { even }).collect())
    }

    /// The part that the busiest of so many replicas has, whether partitions are dealt out in blocks or in turns. Which of both nobody
    /// knows before; assignors that move as little as they can end up near one of them.
    pub fn busiest(&self, replicas: u32) -> f64 {
        if self.0.is_empty() {
            return 1.0;
        }
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX).clamp(1, self.0.len());
        let (each, more) = (self.0.len() / replicas, self.0.len() % replicas);
        let (longer, shorter) = self.0.split_at((each + 1) * more);
        let blocks = longer.chunks(each + 1).chain(shorter.chunks(each.max(1))).map(|block| block.iter().sum::<f64>());
        let turns = (0..replicas).map(|first| self.0.iter().skip(first).step_by(replicas).sum());
        blocks.chain(turns).reduce(f64::max).unwrap_or(1.0).min(1.0)
    }

    /// The fewest useful replicas, at least so many, at which the busiest one has room, or is relieved as well as by any number.
    /// `share` is the part of the busiest of a number of replicas, `most` what it may be asked for of what it can do.
    ///
    /// `pace` is the arrival in replicas that are busy all the time: more of it never asks for fewer.
    pub(super) fn fitting(&self, least: u32, pace: f64, most: f64, share: impl Fn(u32) -> f64) -> u32 {
        let partitions = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let load = |replicas| pace * share(replicas);
        let enough = (load(partitions) * RELIEF).max(most);
        let mut counts = (least.max(1)..partitions).filter(|replicas| useful(*replicas, partitions) == *replicas);
        counts.find(|replicas| load(*replicas) <= enough).unwrap_or_else(|| useful(least.max(partitions), partitions))
    }
}

/// Counts at which the busiest replica had too much to do, and what part it had: hot keys, or hot partitions that met in another way
/// than [`Shares::busiest`] can tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Met(BTreeMap<u32, (Duration, f64)>);

impl Met {
    /// So many replicas were too few, and this was the part of the busiest one.
    pub(super) fn too_few(&mut self, at: Duration, replicas: u32, share: f64) {
        self.0.insert(replicas, (at, share));
    }

    /// What is older than `most` may have changed.
    pub(super) fn forget(&mut self, at: Duration, most: Duration) {
        self.0.retain(|_, (then, _)| at.saturating_sub(*then) <= most);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The part of the busiest of so many replicas, as far as is known.
    pub(super) fn share(&self, replicas: u32, shares: &Shares) -> f64 {
        let told = shares.busiest(replicas);
        self.0.get(&replicas).map_or(told, |(_, met)| told.max(*met))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rounded(share: f64) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "a percentage")]
        let percent = (share * 100.0).round() as i64;
        percent
    }

    fn fitting(shares: &Shares, arrival: f64, capacity: f64) -> u32 {
        shares.fitting(1, arrival / capacity, FULL, |replicas| shares.busiest(replicas))
    }

    #[test]
    fn hot_partitions_meet_in_blocks_or_in_turns() {
        let busiest = |rates: &[f64]| -> Vec<i64> {
            let shares = Shares::new(rates);
            (1..=7).map(|replicas| rounded(shares.busiest(replicas))).collect()
        };
        assert_eq!(busiest(&[30.0, 30.0, 10.0, 10.0, 10.0, 10.0]), [100, 70, 60, 60, 60, 30, 30], "in blocks");
        assert_eq!(busiest(&[30.0, 10.0, 30.0, 10.0, 10.0, 10.0]), [100, 70, 40, 40, 40, 30, 30], "in turns");
        assert_eq!(rounded(Shares::new(&[0.0; 4]).busiest(2)), 50, "without arrival it is even");
        assert_eq!(rounded(Shares::default().busiest(3)), 100);
    }

    #[test]
    fn room_for_the_busiest_or_all_the_relief_there_is() {
        let even = Shares::new(&[1.0; 12]);
        // 100 per replica: of 540 a sixth is 90.
        assert_eq!([fitting(&even, 539.0, 100.0), fitting(&even, 541.0, 100.0)], [6, 12]);
        assert_eq!(even.fitting(1, 5.39, ROOMY, |n| even.busiest(n)), 12, "a step down leaves more room");
        assert_eq!(even.fitting(7, 5.39, FULL, |n| even.busiest(n)), 12, "7 to 11 are no better than 6");
        let mut hot = [1.0; 12];
        hot[0] = 81.0;
        let hot = Shares::new(&hot);
        assert_eq!(fitting(&hot, 96.0, 100.0), 2, "the hot one with five cold ones has room");
        assert_eq!(fitting(&hot, 300.0, 100.0), 3, "of a partition that is too hot, more take nothing away");
        assert_eq!(fitting(&Shares::new(&[1.0; 64]), 1e9, 1.0), 64, "all partitions can be used");
        assert_eq!(fitting(&Shares::default(), 1e9, 1.0), 1);
    }

    #[test]
    fn what_was_met_counts_until_it_is_old() {
        let (even, at) = (Shares::new(&[1.0; 4]), Duration::from_secs);
        let mut met = Met::default();
        met.too_few(at(10), 2, 0.9);
        met.too_few(at(20), 4, 0.1);
        assert_eq!(
            [1, 2, 4].map(|n| rounded(met.share(n, &even))),
            [100, 90, 25],
            "never less than the partitions tell"
        );
        met.forget(at(70), at(60));
        assert_eq!(rounded(met.share(2, &even)), 90);
        met.forget(at(71), at(60));
        assert_eq!(rounded(met.share(2, &even)), 50);
    }

    proptest! {
        #[test]
        fn monotone_in_arrival_antitone_in_capacity_and_free_of_units(
            rates in prop::collection::vec(0.0..100.0_f64, 1..40), arrival in 0.0..1e4_f64, more in 1.0..10.0_f64, capacity in 1.0..1e3_f64,
        ) {
            let shares = Shares::new(&rates);
            let base = fitting(&shares, arrival, capacity);
            prop_assert!(fitting(&shares, arrival * more, capacity) >= base);
            prop_assert!(fitting(&shares, arrival, capacity * more) <= base);
            let doubled: Vec<_> = rates.iter().map(|rate| rate * 2.0).collect();
            prop_assert_eq!(fitting(&Shares::new(&doubled), arrival * 2.0, capacity * 2.0), base);
            prop_assert!((1..=rates.len()).contains(&(base as usize)));
            prop_assert!(shares.busiest(base) >= shares.busiest(40) - 1e-9, "no number relieves more than all");
        }
    }
}
