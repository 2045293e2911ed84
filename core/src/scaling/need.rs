//! The formulas: how many replicas a load asks for.

use std::time::Duration;

/// Utilisation above which replicas are too few.
const HIGHEST: f64 = 0.9;
/// Utilisation that a step aims at.
pub(super) const AIM: f64 = 0.7;

/// What has to be worked off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Messages that arrive, per second.
    pub arrival: f64,
    /// Messages that wait and that more replicas can work off in time. Of one partition, that is what a replica of its own could.
    pub backlog: f64,
    /// Messages that wait beyond that.
    pub beyond: f64,
    /// How much of what waits is [`urgent`], partition by partition.
    pub urgent: f64,
    /// How much it will be when a change of replicas is done, if more comes to wait until then.
    pub growing: Option<f64>,
    /// It was seen to grow, whatever the capacity promises.
    pub behind: bool,
    /// How many times its share of the arrival the busiest replica has, for another reason than its number of partitions: 1 = even.
    pub skew: f64,
}

/// What a load asks for, in replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Below this many, the arrival is not kept up with or what is urgent not worked off in time.
    pub least: f64,
    /// What a step up aims at: arrival at a comfortable utilisation, and what is urgent gone in time although the change itself takes time.
    pub aim: f64,
    /// What a step down aims at: the fewest replicas that keep up with the arrival and drain what waits, if they are there already;
    /// while nothing waits, told for their own number.
    pub lasting: f64,
    /// It is so many for the replica that gets the hottest partitions.
    pub hottest: bool,
    /// A change takes at least as long as the backlog may.
    pub too_short: bool,
}

/// How many of the messages that wait have to be worked off beside what arrives. Messages are handled in the order in which they came, so
/// those that wait keep the promise as long as they arrived lately: none while half as many wait as may, all once it is as many.
pub(super) fn urgent(waiting: f64, may_wait: f64) -> f64 {
    (waiting * 2.0 - may_wait).min(waiting).max(0.0)
}

/// `capacity` is above zero. `change` is how long a change of replicas takes until it works.
///
/// While a change is under way the present replicas go on working (cooperative rebalancing, pods that start beside the old
/// ones), so the backlog grows only by what exceeds them.
///
/// Where the load is uneven, the busiest replica has to keep up and to drain; a comfortable utilisation is asked of the average
/// only, since more replicas relieve the busiest one in coarse steps.
pub(super) fn need(load: Load, capacity: f64, drain: Duration, change: Duration) -> Need {
    let drain_s = drain.as_secs_f64().max(1.0);
    let busiest = load.arrival * load.skew;
    let stay = (busiest / HIGHEST).max(busiest + load.urgent / drain_s) / capacity;
    // A change that takes most of the time would ask for any number of replicas for a moment's gain.
    let left_s = (drain_s - change.as_secs_f64()).max(drain_s / 2.0);
    let moving = load.growing.map_or(0.0, |urgent| (busiest + urgent / left_s) / capacity);
    let least = if load.behind { stay.max(moving) } else { stay };
    let lasting = busy(AIM, load.arrival, capacity).max(stay);
    Need { least, aim: lasting.max(moving), lasting, hottest: false, too_short: change >= drain }
}

/// Replicas that are busy for this part of their time with the arrival, if it is even.
pub(super) fn busy(part: f64, arrival: f64, capacity: f64) -> f64 {
    arrival / (part * capacity)
}

/// How many evenly loaded replicas these are worth: the busiest one has the most partitions and sets the pace.
pub(super) fn effective(replicas: u32, partitions: u32) -> f64 {
    if replicas == 0 || partitions == 0 {
        return f64::from(replicas);
    }
    f64::from(partitions) / f64::from(partitions.div_ceil(replicas))
}

/// How many times as much as its share of partitions explains the busiest replica has to do, when it is `imbalance` times as busy as
/// all on average. At least 1.
pub(super) fn skew(imbalance: f64, replicas: u32, partitions: u32) -> f64 {
    if replicas == 0 { 1.0 } else { (imbalance * effective(replicas, partitions) / f64::from(replicas)).max(1.0) }
}

/// The fewest replicas, at least `needed`, at which the busiest replica really has fewer partitions than with one less.
///
/// With more replicas than partitions the rest would be idle: the answer is never above `partitions`.
pub fn useful(needed: u32, partitions: u32) -> u32 {
    if partitions == 0 || needed <= 1 {
        return needed;
    }
    if needed >= partitions {
        return partitions;
    }
    let share = partitions.div_ceil(needed);
    if share < partitions.div_ceil(needed - 1) { needed } else { partitions.div_ceil(share.saturating_sub(1).max(1)) }
}

/// The most replicas, below `replicas`, that are useful; never below one.
pub(super) fn useful_below(replicas: u32, partitions: u32) -> u32 {
    let below = replicas.saturating_sub(1).clamp(1, partitions.max(1));
    let share = partitions.max(1).div_ceil(below);
    partitions.max(1).div_ceil(share)
}

/// Whole replicas for a fractional need; what is not a number asks for nothing.
pub(super) fn whole(need: f64) -> u32 {
    // Rounding noise of the division must not cost a replica.
    let need = (need - 1e-9).ceil().clamp(0.0, 1e9);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped just above; NaN becomes 0")]
    let whole = need as u32;
    whole
}

/// The load of one partition: `may_wait` seconds of what arrives may wait.
#[cfg(test)]
pub(super) fn even(arrival: f64, backlog: f64, capacity: f64, replicas: u32, may_wait: f64, change: Duration) -> Load {
    let grown = (arrival - f64::from(replicas) * capacity) * change.as_secs_f64();
    let urgent = |waiting| urgent(waiting, arrival * may_wait);
    let growing = (grown > 0.0).then(|| urgent(backlog + grown));
    Load { arrival, backlog, beyond: 0.0, urgent: urgent(backlog), growing, behind: false, skew: 1.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// One partition for a promise of 30 s.
    fn promised(arrival: f64, backlog: f64, capacity: f64, replicas: u32, change: Duration) -> Need {
        need(even(arrival, backlog, capacity, replicas, 30.0, change), capacity, seconds(30), change)
    }

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= expected.abs() * 1e-9, "{got} instead of {expected}");
    }

    #[test]
    fn useful_counts_of_twelve_partitions() {
        let counts: Vec<u32> = (1..=14).map(|needed| useful(needed, 12)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 6, 6, 12, 12, 12, 12, 12, 12, 12, 12]);
        let below: Vec<u32> = (1..=14).map(|replicas| useful_below(replicas, 12)).collect();
        assert_eq!(below, [1, 1, 2, 3, 4, 4, 6, 6, 6, 6, 6, 6, 12, 12]);
    }

    #[test]
    fn the_busiest_replica_sets_the_pace() {
        let worth: Vec<f64> = [0, 1, 5, 6, 11, 12, 13].iter().map(|n| effective(*n, 12)).collect();
        assert_eq!(worth, [0.0, 1.0, 4.0, 6.0, 6.0, 12.0, 12.0]);
    }

    #[test]
    fn skew_is_what_the_number_of_partitions_does_not_explain() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(skew(1.8, 4, 12), 1.8), "three partitions each");
        assert!(close(skew(1.25, 5, 12), 1.0), "of five, one with three is busier than those with two");
        assert!(close(skew(2.5, 5, 12), 2.0) && close(skew(1.0, 0, 12), 1.0) && close(skew(0.5, 4, 12), 1.0));
    }

    #[test]
    fn all_of_64_partitions_can_be_reached() {
        assert_eq!(useful(40, 64), 64);
        assert_eq!(useful(64, 64), 64);
    }

    #[test]
    fn steady_arrival_asks_for_comfortable_replicas() {
        let need = promised(2_000.0, 0.0, 480.0, 6, seconds(5));
        assert_eq!((whole(need.least), whole(need.aim), need.too_short), (5, 6, false));
    }

    #[test]
    fn what_arrived_lately_may_wait() {
        // 2,000 per second may wait for 30 s: 60,000.
        let expected = [(30_000.0, 2_000.0 / HIGHEST), (45_000.0, 3_000.0), (60_000.0, 4_000.0), (90_000.0, 5_000.0)];
        for (backlog, messages) in expected {
            close(promised(2_000.0, backlog, 500.0, 4, seconds(0)).least * 500.0, messages);
        }
    }

    #[test]
    fn what_will_be_old_when_the_change_is_done_is_urgent_now() {
        // 1,000 per second pile up for 10 s, and 20 s are left.
        let expected = [(20_000.0, 2_000.0 / AIM), (40_000.0, 4_000.0), (50_000.0, 5_000.0)];
        for (backlog, messages) in expected {
            close(promised(2_000.0, backlog, 250.0, 4, seconds(10)).aim * 250.0, messages);
        }
    }

    #[test]
    fn what_is_seen_to_grow_counts_before_it_is_urgent() {
        let load = even(2_000.0, 20_000.0, 500.0, 8, 30.0, seconds(10));
        let need_of = |load| need(load, 500.0, seconds(30), seconds(10));
        close(need_of(Load { growing: Some(60_000.0), ..load }).least, 2_000.0 / HIGHEST / 500.0);
        close(need_of(Load { growing: Some(60_000.0), behind: true, ..load }).least, 5_000.0 / 500.0);
    }

    #[test]
    fn the_busiest_of_uneven_replicas_must_keep_up_and_need_not_be_comfortable() {
        let of = |skew, urgent| {
            let load = Load { urgent, skew, ..even(200.0, 0.0, 90.0, 4, 15.0, seconds(5)) };
            need(load, 90.0, seconds(15), seconds(5))
        };
        assert_eq!((whole(of(1.0, 0.0).least), whole(of(1.0, 0.0).aim)), (3, 4));
        assert_eq!((whole(of(2.0, 0.0).least), whole(of(2.0, 0.0).aim)), (5, 5));
        assert_eq!(whole(of(2.0, 1_000.0).aim), 6);
    }

    #[test]
    fn a_change_longer_than_the_promise_is_said_and_bounded() {
        let load = Load { growing: Some(3_000.0), ..even(100.0, 0.0, 100.0, 1, 30.0, seconds(60)) };
        let need = need(load, 100.0, seconds(30), seconds(60));
        assert!(need.too_short);
        close(need.aim, 3.0);
    }

    #[test]
    fn no_number_asks_for_nothing() {
        assert_eq!(
            (whole(f64::NAN), whole(-1.0), whole(6.000_000_000_1), whole(f64::INFINITY)),
            (0, 0, 6, 1_000_000_000)
        );
    }

    proptest! {
        #[test]
        fn useful_is_the_least_count_that_lowers_the_busiest_share(needed in 1_u32..300, partitions in 1_u32..300) {
            let count = useful(needed, partitions);
            prop_assert!(count <= partitions.max(needed) && (count >= needed || count == partitions));
            let lowers = |n: u32| n == 1 || partitions.div_ceil(n) < partitions.div_ceil(n - 1);
            if count <= partitions {
                prop_assert!(lowers(count));
                prop_assert!((needed..count).all(|n| !lowers(n)));
            }
            let below = useful_below(needed, partitions);
            prop_assert!(below >= 1 && (below < needed || needed == 1) && lowers(below));
        }

        #[test]
        fn monotone_in_load_antitone_in_capacity_and_free_of_units(
            arrival in 0.0..1e6, backlog in 0.0..1e8, capacity in 1.0..1e5, more in 1.0..10.0, n in 1_u32..100, change in 0_u64..60,
        ) {
            let of = |arrival, backlog, capacity, skew| {
                let load = Load { skew, ..even(arrival, backlog, capacity, n, 30.0, seconds(change)) };
                need(load, capacity, seconds(30), seconds(change))
            };
            let base = of(arrival, backlog, capacity, 1.0);
            let loaded = of(arrival * more, backlog, capacity, 1.0);
            let behind = of(arrival, backlog * more, capacity, 1.0);
            let uneven = of(arrival, backlog, capacity, more);
            let able = of(arrival, backlog, capacity * more, 1.0);
            for (label, other, above) in [("arrival", loaded, true), ("backlog", behind, true), ("skew", uneven, true), ("capacity", able, false)] {
                let (low, high) = if above { (base, other) } else { (other, base) };
                prop_assert!(low.least <= high.least * (1.0 + 1e-9) && low.aim <= high.aim * (1.0 + 1e-9), "{label}");
            }
            let scaled = of(arrival * more, backlog * more, capacity * more, 1.0);
            prop_assert!((scaled.aim - base.aim).abs() <= 1e-6 * base.aim.max(1.0));
            prop_assert!(base.least <= base.aim + 1e-9, "a step always leaves the band's lower end behind");
        }
    }
}
