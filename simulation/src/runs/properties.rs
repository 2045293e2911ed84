//! What holds for any run.

use std::time::Duration;

use mq_core::scaling::Policy;
use proptest::prelude::*;

use super::{policy, run, stated};
use crate::blindfold::{Blindfolded, Hidden};
use crate::{Change, Ours, Plant, drive, noise};

/// A run is long; `PROPTEST_CASES` asks for more of them.
fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(few))
}

proptest! {
    #![proptest_config(cases(32))]

    /// From any start: at most one step up for the load and one down when its backlog is gone, then nothing.
    #[test]
    fn noise_changes_nothing_once_the_replicas_fit(seed in any::<u64>(), start in 1_u32..=24, arrival in 100.0..6_000.0) {
        let load = |second| arrival * (1.0 + 0.1 * noise(seed, second / 5));
        let done = run(&Plant::default(), &stated(policy(30, 24, 60)), start, 5_500, &[], load);
        prop_assert!(done.path.len() <= 2, "{:?}", done.path);
    }

    /// Commits that come in another phase each cycle, and looks that come up to half a second too early or too late.
    #[test]
    fn nor_does_what_is_measured_between_two_commits(
        seed in any::<u64>(), start in 1_u32..=24, arrival in 100.0..6_000.0, commits in prop::sample::select(vec![1_u64, 2, 3, 7]),
    ) {
        let load = |second| arrival * (1.0 + 0.1 * noise(seed, second / 5));
        let policy = Policy { commit_interval: Duration::from_secs(commits), ..stated(policy(30, 24, 60)) };
        let mut ours = Ours::new(policy).with_jitter(Duration::from_millis(500), seed);
        let promised = (policy.objective.drain_time(), policy.commit_interval);
        let run = drive(&Plant::default(), &mut ours, promised, start, 5_500, load);
        prop_assert!(run.path.len() <= 2, "{:?}", run.path);
    }

    /// In the middle of whatever happens, for one cycle or several.
    #[test]
    fn what_is_hidden_takes_nothing_away(
        seed in any::<u64>(), start in 1_u32..=24, period in 5_u32..200, skew in 0.8..1.0, agents in any::<bool>(),
        hidden in prop_oneof![
            (0_usize..24).prop_map(Hidden::Commit),
            (0_usize..24).prop_map(Hidden::End),
            Just(Hidden::Everything),
            Just(Hidden::Members),
        ],
        for_cycles in 1_u32..8,
    ) {
        let load = |second: u32| 2_500.0 * noise(seed, second / period).abs() + 300.0 * noise(seed, second).abs();
        let plant = Plant { skew, agents, ..Plant::default() };
        let policy = Policy { capacity: (!agents).then_some(480.0), ..policy(30, 24, 60) };
        let mut scaler = Blindfolded::new(Ours::new(policy), hidden, (12, for_cycles));
        let promised = (policy.objective.drain_time(), policy.commit_interval);
        drive(&plant, &mut scaler, promised, start, 2_000, load);
        prop_assert!(scaler.taken.is_empty(), "{:#?}", scaler.taken);
    }

    /// Whatever happened before, what stands against another count ends: without a load the fewest replicas are reached, and with one
    /// that the partitions can carry, enough of them.
    #[test]
    fn every_hold_ends(
        seed in any::<u64>(), start in 1_u32..=24, period in 5_u32..200, skew in 0.9..1.0, agents in any::<bool>(),
        (narrow, pods) in (50.0_f64..1_200.0, prop::sample::select(vec![2.0, 60.0])), overload in any::<bool>(), restart in 1_u32..240,
    ) {
        let then = if overload { 3_500.0 } else { 0.0 };
        let load = |second: u32| if second < 1_200 { 3_000.0 * noise(seed, second / period).abs() } else { then };
        let plant = Plant { skew, agents, start: pods, narrow: narrow..1_200.0, downstream: 700.0, ..Plant::default() };
        let policy = Policy { capacity: (!agents).then_some(480.0), ..policy(30, 24, 60) };
        let done = run(&plant, &policy, start, 4_000, &[restart * 5], load);
        if overload {
            prop_assert!(done.seconds.last().is_some_and(|(age, ..)| *age < 30.0), "{:#?} {:?}", done.path, done.ours.last);
        } else {
            prop_assert_eq!(done.replicas, 1, "{:#?} {:?}", done.path, done.ours.last);
        }
    }

    /// The same with uneven loads: hot partitions may bring the busiest replica to the brink of what it can do. As long as the capacity is
    /// not known, it feels its way down; that aside. A count at which hot partitions happen to meet may cost one change more.
    #[test]
    fn noise_changes_nothing_once_uneven_replicas_fit(
        seed in any::<u64>(), start in 1_u32..=12, arrival in 20.0..900.0, skew in 0.6..1.0, (turns, agents) in any::<(bool, bool)>(),
    ) {
        let plant = Plant { partitions: 12, capacity: 90.0, skew, turns, agents, ..Plant::default() };
        let load = |second| arrival * (1.0 + 0.1 * noise(seed, second / 5));
        let policy = Policy { capacity: (!agents).then_some(90.0), ..policy(30, 12, 30) };
        let done = run(&plant, &policy, start, 6_000, &[], load);
        let known = |change: &&Change| !change.why.starts_with("QuietWithoutCapacity");
        prop_assert!(done.path.iter().filter(known).count() <= 3, "{:#?}", done.path);
    }

    /// The capacity is neither stated nor told by agents nor, as cold partitions are idle, ever measured.
    #[test]
    fn what_was_too_few_once_is_not_tried_again_at_the_same_load(
        seed in any::<u64>(), start in 1_u32..=12, arrival in 20.0..300.0, skew in 0.6..0.9,
    ) {
        let plant = Plant { partitions: 12, capacity: 90.0, skew, ..Plant::default() };
        let load = |second| arrival * (1.0 + 0.1 * noise(seed, second / 5));
        let done = run(&plant, &policy(30, 12, 30), start, 8_000, &[], load);
        let mut left: Vec<u32> = std::iter::once(start).chain(done.counts()).collect();
        left.pop();
        let ups = left.iter().zip(&done.path).filter(|(from, change)| change.replicas > **from);
        let from: Vec<u32> = ups.map(|(from, _)| *from).collect();
        prop_assert!(from.is_sorted_by(|a, b| a < b), "{from:?} {:#?}", done.path);
    }

    #[test]
    fn always_within_the_bounds(seed in any::<u64>(), min in 1_u32..6, more in 0_u32..10, restart in 1_u32..1_000) {
        let load = |second: u32| 3_000.0 * noise(seed, second / 60).abs() + 500.0 * noise(seed, second).abs();
        let bounds = Policy { min, max: min + more, ..policy(30, 12, 30) };
        let done = run(&Plant::default(), &bounds, min, 1_200, &[restart], load);
        prop_assert!(done.counts().iter().all(|n| (min..=min + more).contains(n)), "{:?}", done.path);
    }

    /// It is one from 480 per replica on.
    #[test]
    fn an_overload_is_answered_within_two_cycles(
        arrival in 120.0..400.0, start in 1_u32..5, times in 4.0..20.0, begins in 100_u32..110,
    ) {
        let load = |second| if second < begins { arrival } else { arrival * f64::from(start) * times };
        let done = run(&Plant::default(), &stated(policy(30, 24, 300)), start, 200, &[], load);
        // The cycle in which it begins shows a part of it only.
        prop_assert!(done.path.first().is_some_and(|change| change.second <= begins + 15), "{:?}", done.path);
    }

    /// Neither while it knows little nor because of what it has forgotten.
    #[test]
    fn a_restart_takes_nothing_away_for_a_window(
        seed in any::<u64>(), cycle in 1_u32..240, start in 1_u32..=24, agents in any::<bool>(),
    ) {
        let restart = cycle * 5;
        let load = |second: u32| 4_000.0 * noise(seed, second / 90).abs();
        let plant = Plant { agents, ..Plant::default() };
        let policy = Policy { capacity: (!agents).then_some(480.0), ..policy(30, 24, 60) };
        let done = run(&plant, &policy, start, restart + 200, &[restart], load);
        let mut before = start;
        for Change { second, replicas, why } in &done.path {
            let after = restart..restart + 60;
            prop_assert!(*replicas > before || !after.contains(second), "{why}: {:?}", done.path);
            before = *replicas;
        }
    }

    /// So replicas go up and down again at most once in a window, whatever arrives.
    #[test]
    fn a_step_down_comes_a_window_after_any_other(
        seed in any::<u64>(), period in 5_u32..200, skew in 0.8..1.0, agents in any::<bool>(),
    ) {
        let load = |second: u32| 2_500.0 * noise(seed, second / period).abs() + 300.0 * noise(seed, second).abs();
        let plant = Plant { skew, agents, ..Plant::default() };
        let policy = Policy { capacity: (!agents).then_some(480.0), ..policy(30, 24, 60) };
        let done = run(&plant, &policy, 1, 3_000, &[], load);
        for step in done.path.windows(2) {
            prop_assert!(step[1].replicas > step[0].replicas || step[1].second >= step[0].second + 60, "{:#?}", done.path);
        }
    }
}
