//! What a user may expect of whole runs.

mod properties;

use std::ops::Deref;
use std::time::Duration;

use mq_core::scaling::{Mode, Objective, Policy};

use crate::{CYCLE, Ours, Plant, Run, drive, noise};

/// One run, and what was decided in it.
#[derive(Debug)]
struct Done {
    run: Run,
    ours: Ours,
}

impl Deref for Done {
    type Target = Run;
    fn deref(&self) -> &Run {
        &self.run
    }
}

fn policy(age: u64, max: u32, window: u64) -> Policy {
    Policy {
        objective: Objective::Age(Duration::from_secs(age)),
        mode: Mode::Auto,
        min: 1,
        scheduled: None,
        max,
        capacity: None,
        window: Duration::from_secs(window),
        keep: false,
        max_step: None,
        cycle: CYCLE,
        commit_interval: Duration::from_secs(1),
        paused: false,
    }
}

/// Drives the plant for so many seconds. `restarts` are seconds at which the operator loses its memory.
fn run(
    plant: &Plant,
    policy: &Policy,
    replicas: u32,
    seconds: u32,
    restarts: &[u32],
    arrival: impl Fn(u32) -> f64,
) -> Done {
    let mut ours = Ours::new(*policy).restarted(restarts);
    let promised = (policy.objective.drain_time(), policy.commit_interval);
    let run = drive(plant, &mut ours, promised, replicas, seconds, arrival);
    Done { run, ours }
}

fn ten_times(second: u32) -> f64 {
    if (123..423).contains(&second) { 2_000.0 } else { 200.0 }
}

fn stated(policy: Policy) -> Policy {
    Policy { capacity: Some(480.0), ..policy }
}

#[test]
fn a_tenfold_step_goes_up_in_one_jump_and_down_again() {
    let done = run(&Plant::default(), &stated(policy(30, 12, 20)), 1, 700, &[], ten_times);
    let counts = done.counts();
    let top = *counts.iter().max().unwrap();
    assert!(1 < top && top < 12, "{:?}", done.path);
    assert_eq!(counts.first(), Some(&top), "one jump: {:?}", done.path);
    assert_eq!(done.path[0].second, 130, "two cycles show it: {:?}", done.path);
    assert_eq!(done.replicas, 1, "{:?}", done.path);
    assert!(counts.len() <= 4, "{:?}", done.path);
    // The change takes 5 s, detection 10 s, the backlog is worked off within the promised age.
    assert!(done.breached.iter().all(|second| (123..123 + 60).contains(second)), "{:?}", done.breached);
}

#[test]
fn the_same_without_a_stated_capacity() {
    let done = run(&Plant::default(), &policy(30, 24, 20), 1, 900, &[], ten_times);
    let counts = done.counts();
    let top = *counts.iter().max().unwrap();
    assert!((5..=12).contains(&top), "{:?}", done.path);
    assert_eq!(done.replicas, 1, "{:?}", done.path);
    assert!(counts.len() <= 8, "{:?}", done.path);
    assert!(done.breached.iter().all(|second| (123..123 + 150).contains(second)), "{:?}", done.breached);
}

/// What `make demo` shows: the capacity is not stated, the promise is short, and the maximum must not be needed.
#[test]
fn a_short_promise_without_a_stated_capacity_does_not_take_the_maximum() {
    let plant = Plant { partitions: 12, capacity: 100.0, ..Plant::default() };
    for begins in 100..105 {
        let load = |second: u32| if (begins..begins + 90).contains(&second) { 200.0 } else { 20.0 };
        let done = run(&plant, &policy(15, 12, 20), 1, 400, &[], load);
        let counts = done.counts();
        assert!(counts.first().is_some_and(|k| (3..12).contains(k)), "{:?}", done.path);
        assert_eq!(counts.iter().max(), counts.first(), "one jump: {:?}", done.path);
        assert_eq!(done.replicas, 1, "{:?}", done.path);
    }
}

/// Keys are never even: hot partitions are behind while cold ones have nothing to do, so the group is never busy in all of them.
#[test]
fn hot_and_cold_partitions_without_a_stated_capacity() {
    let plant = Plant { partitions: 12, capacity: 90.0, skew: 0.8, agents: true, ..Plant::default() };
    for begins in 100..105 {
        let load = |second: u32| if (begins..begins + 120).contains(&second) { 170.0 } else { 20.0 };
        let done = run(&plant, &policy(15, 12, 20), 1, 500, &[], load);
        let path = &done.path;
        let ups =
            done.counts().iter().scan(1, |before, n| Some(*n > std::mem::replace(before, *n))).filter(|up| *up).count();
        let top = done.counts().into_iter().max().unwrap_or_default();
        assert!((3..12).contains(&top) && ups <= 2, "{path:?}");
        assert!(path[0].why.contains("at 90 per replica (measured by how busy the pods are)"), "{path:?}");
        assert_eq!(done.replicas, 1, "{path:?}");
        // Seen, decided, changed, and the backlog worked off.
        let kept = |second: &u32| (begins..begins + 60).contains(second);
        assert!(done.breached.iter().all(kept), "{:?} {path:?}", done.breached);
    }
}

/// The busiest of few replicas has a smaller part of what it would have to do alone than the busiest of many.
#[test]
fn an_uneven_load_goes_down_in_one_step() {
    let plant = Plant { partitions: 12, capacity: 90.0, skew: 0.6, turns: true, agents: true, ..Plant::default() };
    let done = run(&plant, &policy(30, 12, 30), 12, 1_000, &[], |_| 80.0);
    assert_eq!(done.counts(), [2], "{:?}", done.path);
}

/// The last that they said is that a replica is full.
#[test]
fn agents_that_fall_silent_hold_no_replicas() {
    let plant = Plant { partitions: 12, capacity: 90.0, skew: 0.8, agents: true, silent: 200.0, ..Plant::default() };
    let load = |second: u32| if (100..205).contains(&second) { 400.0 } else { 20.0 };
    let done = run(&plant, &policy(15, 3, 20), 1, 900, &[], load);
    assert_eq!(done.counts().iter().max(), Some(&3), "{:?}", done.path);
    assert_eq!(done.replicas, 1, "{:?} {:?}", done.path, done.ours.last);
}

#[test]
fn eager_groups_and_slow_pods_arrive_too() {
    let plant = Plant { eager: true, start: 25.0, ..Plant::default() };
    let done = run(&plant, &stated(policy(60, 24, 60)), 1, 900, &[], ten_times);
    assert_eq!(done.replicas, 1, "{:?}", done.path);
    assert!(done.counts().len() <= 5, "{:?}", done.path);
    assert!(done.breached.iter().all(|second| (123..123 + 120).contains(second)), "{:?}", done.breached);
}

#[test]
fn more_replicas_that_bring_nothing_are_not_followed_by_more() {
    let plant = Plant { downstream: 600.0, ..Plant::default() };
    let done =
        run(&plant, &stated(policy(30, 24, 60)), 2, 900, &[], |second| if second < 100 { 300.0 } else { 3_000.0 });
    assert!(done.ours.reasons.contains("StepIneffective"), "{:?}", done.path);
    let counts = done.counts();
    assert_eq!(counts[..4], [1, 12, 24, 2], "taken back: {:?}", done.path);
    // Whether more help by now is tried with one replica, and each time after a longer wait.
    let tried: Vec<u32> =
        done.path[4..].iter().filter(|change| change.replicas > 2).map(|change| change.second).collect();
    assert!(counts[4..].iter().all(|n| *n <= 3) && (1..=2).contains(&tried.len()), "{:?}", done.path);
    assert!(tried.windows(2).all(|two| two[1] - two[0] >= 240), "{:?}", done.path);
}

#[test]
fn replicas_that_something_else_limited_are_as_able_as_before_when_it_is_over() {
    let load = |second| if (300..900).contains(&second) { 1_800.0 } else { 900.0 };
    for agents in [false, true] {
        let plant = Plant { downstream: 1_500.0, agents, ..Plant::default() };
        let done = run(&plant, &policy(30, 24, 60), 2, 3_000, &[], load);
        assert!(done.ours.reasons.contains("StepIneffective"), "{:?}", done.ours.reasons);
        assert!(done.replicas <= 4, "{:?}", done.path);
        assert!(done.pod_seconds < 3_000.0 * 6.0, "{} {:?}", done.pod_seconds / 3_000.0, done.path);
        // Pods that wait for something together say that each can do less the more they are: that asks for no more of them.
        assert!(done.counts().iter().all(|n| *n <= 6), "{:?}", done.path);
    }
}

/// Four replicas can do more than what limits lets them: they show by themselves when it is gone.
#[test]
fn nothing_is_tried_where_the_end_of_a_limit_shows_by_itself() {
    let plant = Plant { narrow: 300.0..2_000.0, downstream: 1_500.0, ..Plant::default() };
    let load = |second| if second < 300 { 1_200.0 } else { 1_800.0 };
    let done = run(&plant, &stated(policy(30, 24, 300)), 4, 2_800, &[], load);
    let while_narrow = done.path.iter().filter(|change| change.second < 2_000).map(|change| change.replicas);
    assert_eq!(while_narrow.collect::<Vec<_>>(), [6, 4], "{:?}", done.path);
    let breached = done.breached.last().copied().unwrap_or_default();
    assert!((2_000..2_500).contains(&breached), "{breached} {:?}", done.path);
}

/// A load that has fallen comes back every time: it is followed down with less comfort once, not each time.
#[test]
fn short_peaks_do_not_move_replicas_each_time() {
    let load = |second: u32| if second % 600 >= 575 { 1_800.0 } else { 1_490.0 + 40.0 * noise(7, second / 5) };
    let done = run(&Plant::default(), &stated(policy(30, 24, 300)), 4, 7_000, &[], load);
    assert!(done.counts().len() <= 4 && done.breached.is_empty(), "{:?}", done.path);
}

/// A mean of three cycles takes them to follow a load that falls at once.
#[test]
fn a_short_window_goes_down_in_one_step_too() {
    let plant = Plant { capacity: 19.5, rebalance: 0.0, agents: true, ..Plant::default() };
    for phase in 0..5 {
        let load = |second| if (35 + phase..90 + phase).contains(&second) { 60.0 } else { 6.0 };
        let done = run(&plant, &policy(20, 24, 20), 1, 200, &[], load);
        assert_eq!(done.counts(), [5, 1], "{:?}", done.path);
    }
}

/// What is seen to grow counts, whatever the stated number says.
#[test]
fn a_stated_capacity_that_is_twice_too_high_breaks_the_promise_for_seconds() {
    let plant = Plant { capacity: 240.0, start: 10.0, ..Plant::default() };
    let load = |second| if second < 300 { 600.0 } else { 1_000.0 };
    let done = run(&plant, &stated(policy(30, 24, 300)), 3, 900, &[], load);
    assert!(done.breached.len() < 10, "{:?} {:?}", done.breached, done.path);
}

#[test]
fn as_many_as_a_load_needed_are_not_taken_back_before_it_has_fallen() {
    let load = |second| match second {
        0..300 => 1_200.0,
        300..3_000 => 1_740.0,
        _ => 1_500.0,
    };
    let done = run(&Plant::default(), &stated(policy(30, 24, 60)), 4, 4_500, &[], load);
    assert_eq!(done.counts(), [6, 4], "{:?}", done.path);
    assert!(done.path[1].second > 3_000, "{:?}", done.path);
}

/// Only for the minute in which the step up is judged.
#[test]
fn replicas_that_are_needed_after_all_stay() {
    let plant = Plant { partitions: 24, ..Plant::default() };
    for slow in [60.0, 90.0, 200.0] {
        let plant = Plant { narrow: 110.0..110.0 + slow, downstream: 1_500.0, ..plant.clone() };
        let load = |second| if second < 100 { 1_200.0 } else { 4_000.0 };
        let done = run(&plant, &stated(policy(30, 24, 300)), 4, 1_500, &[], load);
        assert!(done.counts().iter().all(|n| *n >= 12), "{slow}: {:#?}", done.path);
        assert!(
            done.breached.last().is_none_or(|second| *second < 110 + slow as u32 + 200),
            "{slow}: {:?}",
            done.breached.last()
        );
    }
}

/// What waits there waits for a person, and one consumer has it.
#[test]
fn a_partition_that_stands_still_asks_for_hardly_more_replicas() {
    for (capacity, agents) in [(Some(480.0), false), (None, true), (None, false)] {
        let plant = Plant { poison: 900.0, agents, ..Plant::default() };
        let policy = Policy { capacity, ..policy(30, 24, 60) };
        let done = run(&plant, &policy, 6, 4_000, &[], |_| 1_500.0);
        assert!(done.replicas <= 6 && done.counts().iter().all(|n| *n <= 6), "{:?}", done.path);
    }
    let plant = Plant { poison: 1_200.0, start: 10.0, ..Plant::default() };
    let load = |second| 1_500.0 * (1.0 + 0.1 * noise(650, second / 5));
    let done = run(&plant, &policy(30, 24, 300), 4, 4_000, &[], load);
    assert!(done.path.iter().all(|change| change.second < 1_200), "{:?}", done.path);
}

/// Their clients say nothing of their work; who owns which partition tells it.
#[test]
fn hot_partitions_are_seen_from_offsets_and_owners_alone() {
    let plant = Plant { skew: 0.8, ..Plant::default() };
    let load = |second| if second < 1_200 { 600.0 } else { 1_800.0 };
    let done = run(&plant, &policy(30, 24, 300), 4, 2_400, &[], load);
    assert!(done.breached.is_empty(), "{:?} {:?}", done.breached, done.path);
    assert!(done.path[1].why.contains("measured while replicas were never idle"), "{:?}", done.path);
    assert!(done.path[1].why.contains("of which the busiest has 2.5 times its share, need"), "{:?}", done.path);
}

/// What was measured while all of them were busy is not what they can do for ever.
#[test]
fn replicas_that_become_slower_are_believed() {
    let plant = Plant { partitions: 12, capacity: 90.0, skew: 0.9, agents: true, halved: 1_500.0, ..Plant::default() };
    let load = |second| if (300..400).contains(&second) { 2_500.0 } else { 120.0 };
    let done = run(&plant, &policy(30, 12, 60), 2, 2_400, &[], load);
    let late: Vec<_> = done.breached.iter().filter(|second| **second > 1_570).collect();
    assert!(late.is_empty(), "{late:?} {:?}", done.path);
}

/// More than the load alone needs, for what had gathered until they came; that leaves the window bit by bit.
#[test]
fn what_a_backlog_asked_for_is_taken_back_in_one_step() {
    for (begins, start, load) in
        [(1_200, 10.0, 450.0), (1_200, 60.0, 600.0), (1_204, 10.0, 450.0), (1_202, 60.0, 600.0)]
    {
        let plant = Plant { start, ..Plant::default() };
        let load = |second| if (begins..begins + 1_200).contains(&second) { load * 4.0 } else { load };
        let done = run(&plant, &policy(30, 24, 300), 2, 3_600, &[], load);
        let counts = done.counts();
        let top = counts.iter().position(|n| Some(n) == counts.iter().max()).unwrap();
        assert_eq!(counts.len() - top, 3, "the top, what the load needs, what it needs afterwards: {:#?}", done.path);
    }
}

#[test]
fn nothing_to_do_reaches_the_minimum() {
    for capacity in [None, Some(480.0)] {
        let policy = Policy { capacity, ..policy(30, 24, 20) };
        let done = run(&Plant::default(), &policy, 9, 900, &[], |_| 0.0);
        assert_eq!(done.replicas, 1, "{:?}", done.path);
    }
}

#[test]
fn a_day_curve_keeps_the_promise_with_few_changes() {
    let curve = |second: u32| 1_500.0 - 1_300.0 * (f64::from(second) / 7_200.0 * std::f64::consts::TAU).cos();
    let done = run(&Plant::default(), &stated(policy(30, 24, 300)), 1, 7_200, &[], curve);
    assert!(done.breached.is_empty(), "{:?}", done.breached);
    assert!(done.counts().len() <= 14, "{:?}", done.path);
    // The load alone is 1,500/480 = 3.1 replicas on average; at the aimed 70 % that is 4.5.
    assert!(done.pod_seconds / 7_200.0 < 5.5, "{}", done.pod_seconds / 7_200.0);
}

#[test]
fn a_restart_of_the_operator_never_scales_down() {
    let steady = run(&Plant::default(), &stated(policy(30, 24, 60)), 8, 55, &[], |_| 200.0);
    assert!(steady.path.is_empty(), "not before a full window: {:?}", steady.path);
    let restarts: Vec<u32> = (1..20).map(|n| n * 50).collect();
    let done = run(&Plant::default(), &stated(policy(30, 24, 60)), 8, 1_000, &restarts, |_| 200.0);
    assert!(done.path.is_empty(), "{:?}", done.path);
}

#[test]
fn it_is_said_when_the_hottest_partitions_decide() {
    let plant = Plant { partitions: 12, capacity: 90.0, skew: 0.6, ..Plant::default() };
    let load = |second| if second < 100 { 20.0 } else { 120.0 };
    let done = run(&plant, &Policy { capacity: Some(90.0), ..policy(30, 12, 60) }, 1, 300, &[], load);
    assert!(
        done.path[0].why.contains("at 90 per replica (as stated), the hottest partitions in one, need"),
        "{:?}",
        done.path
    );
}

/// Pods that never become ready hold nothing for ever.
#[test]
fn waiting_for_pods_ends() {
    let plant = Plant { start: f64::INFINITY, ..Plant::default() };
    let load = |second| match second {
        0..100 => 200.0,
        100..150 => 700.0,
        _ => 6_000.0,
    };
    let done = run(&plant, &stated(policy(30, 24, 60)), 1, 600, &[], load);
    assert!(done.ours.reasons.contains("Rollout"), "{:?}", done.ours.reasons);
    assert_eq!(done.counts().len(), 2, "it asks for more after the longest wait: {:?}", done.path);
    assert!((400..450).contains(&done.path[1].second), "{:?}", done.path);
}

#[test]
fn all_of_64_partitions_are_used_where_they_are_needed() {
    let plant = Plant { partitions: 64, ..Plant::default() };
    let done = run(&plant, &stated(policy(30, 100, 60)), 1, 600, &[], |_| 40_000.0);
    assert_eq!(done.replicas, 64, "{:?}", done.path);
}
