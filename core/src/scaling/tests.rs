//! Each rule of the chain, and what holds for every situation.

use std::time::Duration;

use proptest::prelude::*;

use super::need::{even, need};
use super::situation::{Situation, Unsettled};
use super::{Capacity, Decision, Ineffective, Limit, Load, Mode, Objective, Policy, decide};
use crate::lag::TopicPartition;
use crate::reason::Reason;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn policy() -> Policy {
    Policy {
        objective: Objective::Age(seconds(30)),
        mode: Mode::Auto,
        min: 1,
        scheduled: None,
        max: 12,
        capacity: Some(480.0),
        window: seconds(20),
        keep: false,
        max_step: None,
        cycle: seconds(5),
        commit_interval: seconds(1),
        paused: false,
    }
}

/// A settled, quiet group that was watched for long, with so much to do now and never more before.
fn calm(replicas: u32, arrival: f64, backlog: f64, capacity: Capacity) -> Situation {
    let rate = capacity.known().unwrap_or(f64::INFINITY);
    let load = even(arrival, backlog, rate, replicas, 30.0, seconds(5));
    let needed = capacity.known().map(|rate| need(load, rate, seconds(30), seconds(5)));
    Situation {
        replicas,
        partitions: 12,
        by_hand: None,
        gap: false,
        unknown: None,
        all_unknown: false,
        unsettled: None,
        load: Some(load),
        broken: Some(0),
        broke: None,
        most_arrival: Some(arrival),
        capacity,
        imbalance: None,
        need: needed,
        most_need: needed.map(|need| need.lasting),
        coming_need: needed.map(|need| need.lasting),
        asked: 2,
        worsening: false,
        judging: false,
        busy: backlog >= 1.0,
        fewer_for: Duration::ZERO,
        fruitless: false,
        downstream: None,
        suspects_downstream: false,
        hot: Vec::new(),
        quiet: backlog < 1.0,
        full: false,
        quiet_for: seconds(600),
        watched_for: seconds(600),
        unchanged_for: Some(seconds(600)),
        change: seconds(5),
    }
}

/// A step up brought so much of so much, and so many replicas would be enough for it.
fn ineffective(enough: u32, brought: f64) -> (Duration, Ineffective) {
    (seconds(40), Ineffective { enough, brought, predicted: 960.0 })
}

fn stated(replicas: u32, arrival: f64, backlog: f64) -> Situation {
    calm(replicas, arrival, backlog, Capacity::Spec(480.0))
}

fn unstated(replicas: u32, arrival: f64) -> Situation {
    calm(replicas, arrival, 0.0, Capacity::Unknown)
}

#[track_caller]
fn check(name: &str, policy: &Policy, now: &Situation, desired: u32, reason: Reason, says: &str) {
    let Decision { current, desired: got, reason: why, message, .. } = decide(policy, now);
    assert_eq!((current, got, why), (now.replicas, desired, reason), "{name}: {message}");
    assert!(message.contains(says), "{name}: {message:?} does not say {says:?}");
}

#[test]
fn who_may_decide_comes_first() {
    let busy = || stated(1, 2_000.0, 0.0);
    let paused = Policy { paused: true, ..policy() };
    check("paused", &paused, &Situation { by_hand: Some((seconds(9), true)), ..busy() }, 1, Reason::Paused, "paused");
    check("zero", &policy(), &stated(0, 2_000.0, 0.0), 0, Reason::ScaledToZero, "at least 1");
    let hand = Situation { by_hand: Some((seconds(9), false)), ..busy() };
    check("by hand", &policy(), &hand, 1, Reason::ScaledByHand, "respected for 9s");
    let twice = Situation { by_hand: Some((seconds(600), true)), ..busy() };
    check("contested", &policy(), &twice, 1, Reason::ReplicasContested, "left alone for 10m");
}

#[test]
fn off_decides_nothing() {
    let off = Policy { mode: Mode::Off, ..policy() };
    check("off", &off, &stated(1, 2_000.0, 0.0), 1, Reason::ScalingOff, "mode is Off");
    check("off at zero", &off, &stated(0, 2_000.0, 0.0), 0, Reason::ScalingOff, "mode is Off");
    let observe = Policy { mode: Mode::Observe, ..policy() };
    check("observe decides", &observe, &stated(1, 2_000.0, 0.0), 6, Reason::BelowNeed, "need 6");
}

#[test]
fn a_schedule_is_a_minimum_for_its_time() {
    let at = |scheduled| Policy { scheduled: Some(scheduled), min: 2, max: 8, ..policy() };
    let blind = Situation { all_unknown: true, ..stated(3, 0.0, 0.0) };
    check("floor", &at(5), &blind, 5, Reason::ScheduledMinimum, "at least 5 at this time");
    check("more is needed", &at(3), &stated(3, 2_000.0, 0.0), 6, Reason::BelowNeed, "need 6");
    check("the maximum is stronger", &at(50), &stated(3, 0.0, 0.0), 8, Reason::ScheduledMinimum, "at least 8");
    check("the minimum too", &at(1), &stated(1, 0.0, 0.0), 2, Reason::BelowMinimum, "minimum of 2");
    check("not below it", &at(4), &stated(6, 100.0, 0.0), 4, Reason::AboveNeed, "need 4");
    check("at it", &at(6), &stated(6, 100.0, 0.0), 6, Reason::WithinBand, "6 replicas fit");
    check("without a capacity", &at(6), &unstated(6, 100.0), 6, Reason::WithinBand, "keep the promise");
}

#[test]
fn replicas_are_taken_away_as_the_user_allows() {
    let keep = Policy { keep: true, ..policy() };
    check("kept", &keep, &stated(6, 300.0, 0.0), 6, Reason::ScaleDownDisabled, "1 replicas would do");
    check("kept without a capacity", &keep, &unstated(6, 100.0), 6, Reason::ScaleDownDisabled, "4 replicas would do");
    check("nothing to keep", &keep, &stated(6, 2_000.0, 0.0), 6, Reason::WithinBand, "fit");
    check("above the maximum all the same", &keep, &stated(14, 0.0, 0.0), 12, Reason::AboveMaximum, "maximum of 12");
    let by = |step| Policy { max_step: Some(step), ..policy() };
    check("two at a time", &by(2), &stated(6, 300.0, 0.0), 4, Reason::AboveNeed, "at most 2 at a time");
    check("five", &by(5), &stated(6, 300.0, 0.0), 1, Reason::AboveNeed, "need 1");
    check("one", &by(1), &unstated(6, 100.0), 5, Reason::QuietWithoutCapacity, "at most 1 at a time");
}

#[test]
fn bounds_hold_whatever_is_known() {
    let blind = |replicas| Situation { all_unknown: true, ..stated(replicas, 0.0, 0.0) };
    let bounds = Policy { min: 2, max: 4, ..policy() };
    check("below", &bounds, &blind(1), 2, Reason::BelowMinimum, "minimum of 2");
    check("above", &bounds, &blind(9), 4, Reason::AboveMaximum, "maximum of 4");
}

#[test]
fn what_cannot_be_trusted_changes_nothing() {
    let busy = || stated(1, 2_000.0, 0.0);
    check("gap", &policy(), &Situation { gap: true, ..busy() }, 1, Reason::ObservationGap, "watching again");
    let why = Some("orders/3: end offset not readable: no leader".to_owned());
    let blind = Situation { unknown: why.clone(), all_unknown: true, ..busy() };
    check("all unknown", &policy(), &blind, 1, Reason::LagUnknown, "no leader");
    let partly = |now: Situation| Situation { unknown: why.clone(), ..now };
    check("partly unknown still grows", &policy(), &partly(busy()), 6, Reason::BelowNeed, "need 6");
    check("and never shrinks", &policy(), &partly(stated(6, 100.0, 0.0)), 6, Reason::LagUnknown, "orders/3");
    let first = Situation { load: None, need: None, most_need: None, most_arrival: None, ..busy() };
    check("first", &policy(), &first, 1, Reason::Measuring, "two observations");
}

#[test]
fn waits_for_rollouts_and_for_the_group() {
    let rollout = Some((Unsettled::Rollout("3 of 4 replicas are ready".into()), seconds(240)));
    let group = Some((Unsettled::Group("the group is rebalancing".into()), seconds(20)));
    let busy = || stated(4, 9_000.0, 0.0);
    let says = "3 of 4 replicas are ready; waiting for at most 4m";
    check("rollout", &policy(), &Situation { unsettled: rollout, ..busy() }, 4, Reason::Rollout, says);
    check("group", &policy(), &Situation { unsettled: group, ..busy() }, 4, Reason::Settling, "at most 20s");
    let judging = Situation { judging: true, ..busy() };
    check("judging", &policy(), &judging, 4, Reason::Settling, "what the last step brought");
}

#[test]
fn grows_in_one_jump_to_a_useful_count() {
    check(
        "step",
        &policy(),
        &stated(1, 2_000.0, 0.0),
        6,
        Reason::BelowNeed,
        "2000 msg/s at 480 per replica (as stated) need 6",
    );
    check("backlog", &policy(), &stated(6, 2_000.0, 60_000.0), 12, Reason::BelowNeed, "60000 waiting");
    check("that is young", &policy(), &stated(6, 2_000.0, 30_000.0), 6, Reason::WithinBand, "6 replicas fit");
    // Five or seven replicas of twelve partitions have as busy a replica as four or six.
    // Of five, the busiest has three partitions, as with four: 1,900 a second are too much for it.
    check("uneven", &policy(), &stated(5, 1_900.0, 0.0), 6, Reason::BelowNeed, "need 6");
    check("useful", &policy(), &stated(1, 1_600.0, 0.0), 6, Reason::BelowNeed, "need 6");
    let small = Policy { max: 5, ..policy() };
    check("clamped", &small, &stated(1, 2_000.0, 0.0), 5, Reason::BelowNeed, "limited to 5");
    check("at maximum", &small, &stated(5, 9_000.0, 0.0), 5, Reason::AtMaximum, "maximum");
    let wide = Policy { max: 100, ..policy() };
    check("one per partition", &wide, &stated(12, 9_000.0, 0.0), 12, Reason::AtMaximum, "no more than 12");
    let once = Situation { asked: 1, ..stated(1, 2_000.0, 0.0) };
    check("once is noise", &policy(), &once, 1, Reason::Confirming, "confirm");
}

#[test]
fn what_a_step_up_did_not_bring_is_taken_back() {
    let step = |replicas| Situation { downstream: Some(ineffective(4, 12.0)), ..stated(replicas, 4_000.0, 90_000.0) };
    let says = "12 of 960 msg/s: something other than replicas limits: taken back";
    check("taken back", &policy(), &step(12), 4, Reason::StepIneffective, says);
    let by_two = Policy { max_step: Some(2), ..policy() };
    check("as the user allows", &by_two, &step(12), 10, Reason::StepIneffective, "at most 2 at a time");
    let keep = Policy { keep: true, ..policy() };
    check("or not", &keep, &step(6), 6, Reason::StepIneffective, "the next step waits 40s");
    let early = Situation { unchanged_for: Some(seconds(15)), ..step(12) };
    check("not at once", &policy(), &early, 12, Reason::StepIneffective, "the next step waits 40s");
    let over = Situation { busy: false, ..step(12) };
    check("nor when it is over", &policy(), &over, 12, Reason::StepIneffective, "the next step waits 40s");
    let unsure = Situation { unknown: Some("orders/3: no leader".into()), ..step(6) };
    check("not while something is unknown", &policy(), &unsure, 6, Reason::StepIneffective, "next step waits 40s");
    check("nor are more asked for", &policy(), &step(4), 4, Reason::StepIneffective, "the next step waits 40s");
    check("but as many as did something", &policy(), &step(2), 4, Reason::BelowNeed, "need 12; limited to 4");
    let over = Situation { suspects_downstream: true, ..stated(4, 4_000.0, 90_000.0) };
    check("later one step is tried", &policy(), &over, 6, Reason::BelowNeed, "need 12; limited to 6");
}

#[test]
fn a_partition_that_needs_more_than_one_replica_is_named() {
    let of = |partition| TopicPartition { topic: "orders".into(), partition };
    let hot =
        |n: i32| Situation { hot: (0..n).map(of).collect(), broken: Some(5), quiet: false, ..stated(4, 1_500.0, 0.0) };
    check("one", &policy(), &hot(1), 4, Reason::HotPartition, "more arrives at orders/0 than one consumer can handle");
    check("three", &policy(), &hot(3), 4, Reason::HotPartition, "orders/0 (and 2 more)");
    check("in time after all", &policy(), &Situation { broken: Some(0), ..hot(1) }, 4, Reason::WithinBand, "fit");
    let busy = Situation { hot: vec![of(0)], broken: Some(5), ..stated(4, 2_000.0, 0.0) };
    check("more help the others", &policy(), &busy, 6, Reason::BelowNeed, "need 6");
    let all = stated(12, 3_000.0, 0.0);
    let beyond = all.load.map(|load| Load { beyond: 9.0, ..load });
    let all = Situation { load: beyond, broken: Some(5), quiet: false, ..all };
    check(
        "all of them",
        &Policy { max: 20, ..policy() },
        &all,
        12,
        Reason::AtMaximum,
        "no more than 12 can have partitions",
    );
}

#[test]
fn a_load_that_goes_on_falling_takes_one_step() {
    let falling = |soon| Situation { most_need: Some(4.0), coming_need: Some(soon), ..stated(12, 300.0, 0.0) };
    check("soon", &policy(), &falling(1.0), 12, Reason::WindowNotOver, "4 replicas would do, and soon 1");
    check("now", &policy(), &falling(3.5), 4, Reason::AboveNeed, "need 4");
    let long = Situation { fewer_for: seconds(15), ..falling(1.0) };
    check("not for ever", &policy(), &long, 4, Reason::AboveNeed, "need 4");
}

#[test]
fn to_save_little_waits_for_more() {
    let minutes = Duration::from_mins;
    let policy = Policy { window: minutes(5), max: 64, ..policy() };
    let fits = |replicas, fewer: f64, fewer_for| Situation {
        partitions: 64,
        most_need: Some(fewer),
        coming_need: Some(fewer),
        fewer_for,
        ..stated(replicas, 300.0, 0.0)
    };
    let says = "10 replicas would do; to save so little waits 5m, or until fewer do";
    check("a twelfth", &policy, &fits(11, 10.0, minutes(55)), 11, Reason::LittleToSave, says);
    check("long enough", &policy, &fits(11, 10.0, minutes(60)), 10, Reason::AboveNeed, "need 10");
    check("a fifth", &policy, &fits(10, 8.0, minutes(5)), 8, Reason::AboveNeed, "need 8");
}

#[test]
fn stays_within_the_band() {
    for arrival in [1_500.0, 2_000.0, 2_500.0] {
        check("band", &policy(), &stated(6, arrival, 0.0), 6, Reason::WithinBand, "6 replicas fit");
    }
}

#[test]
fn shrinks_to_the_largest_need_of_a_quiet_window() {
    let idle = || stated(6, 300.0, 0.0);
    check("idle", &policy(), &idle(), 1, Reason::AboveNeed, "at most 300 msg/s in the last 20s");
    let earlier = Situation { most_need: Some(2.4), coming_need: Some(2.4), most_arrival: Some(800.0), ..idle() };
    check("earlier need", &policy(), &earlier, 3, Reason::AboveNeed, "need 3");
    let minimum = Policy { min: 2, ..policy() };
    check("minimum", &minimum, &idle(), 2, Reason::AboveNeed, "need 2");
    let draining = Situation { quiet: false, broken: Some(7), ..idle() };
    check("draining", &policy(), &draining, 6, Reason::Draining, "7 of them break the promise");
    let full = Situation { quiet: false, full: true, ..idle() };
    check("full", &policy(), &full, 6, Reason::Draining, "the busiest replica is busy all the time");
    let fresh = Situation { watched_for: seconds(15), ..idle() };
    check("new leader", &policy(), &fresh, 6, Reason::WindowNotOver, "in 5s");
    let changed = Situation { unchanged_for: Some(seconds(5)), ..idle() };
    check("once per window", &policy(), &changed, 6, Reason::WindowNotOver, "in 15s");
}

#[test]
fn without_a_capacity_it_feels_its_way() {
    let breaking = Situation { worsening: true, broken: Some(900), quiet: false, ..unstated(2, 2_000.0) };
    check("doubles", &policy(), &breaking, 4, Reason::CapacityUnknown, "900 messages break the promise");
    let blocked = Situation { downstream: Some(ineffective(2, 0.0)), ..breaking };
    check("not again in vain", &policy(), &blocked, 2, Reason::StepIneffective, "0 of 960");
    check("quiet", &policy(), &unstated(6, 100.0), 4, Reason::QuietWithoutCapacity, "nothing waited for 40s");
    let short = Situation { quiet_for: seconds(30), ..unstated(6, 100.0) };
    check("two windows", &policy(), &short, 6, Reason::WindowNotOver, "in 10s");
    let known = |arrival| Situation { broke: Some((4, arrival)), ..unstated(6, 100.0) };
    check("what was too few", &policy(), &known(120.0), 6, Reason::WithinBand, "keep the promise");
    check("at another load", &policy(), &known(200.0), 4, Reason::QuietWithoutCapacity, "one step down");
    check("at minimum", &policy(), &unstated(1, 100.0), 1, Reason::WithinBand, "not known yet");
}

#[test]
fn a_promise_shorter_than_a_change_is_said() {
    let of = |capacity| {
        let load = even(300.0, 0.0, capacity, 1, 30.0, seconds(45));
        need(load, capacity, seconds(30), seconds(45))
    };
    let needed = Some(of(480.0));
    let slow = Situation { need: needed, change: seconds(45), ..stated(1, 300.0, 0.0) };
    let decision = decide(&policy(), &slow);
    assert_eq!(decision.reason, Reason::ObjectiveTooShort);
    assert!(decision.message.contains("takes 45s, not less than the promised 30s"), "{}", decision.message);
    let step = Situation { need: Some(of(100.0)), ..slow };
    let decision = decide(&policy(), &step);
    assert_eq!(decision.reason, Reason::BelowNeed, "a step keeps its reason");
    assert!(decision.message.contains("raise it"));
}

#[test]
fn a_promise_shorter_than_two_looks_is_said() {
    let short = Policy { objective: Objective::Age(seconds(10)), ..policy() };
    check("10 s", &short, &stated(6, 2_000.0, 0.0), 6, Reason::ObjectiveTooShort, "11s pass until a message");
    let fits = Policy { objective: Objective::Age(seconds(11)), ..policy() };
    check("11 s", &fits, &stated(6, 2_000.0, 0.0), 6, Reason::WithinBand, "fit");
}

#[test]
fn what_limits_is_said() {
    let limit = |policy: &Policy, now: &Situation| decide(policy, now).limit;
    let small = Policy { max: 5, ..policy() };
    assert_eq!(limit(&small, &stated(1, 9_000.0, 0.0)), Some(Limit::Max), "on the way");
    assert_eq!(limit(&small, &stated(5, 9_000.0, 0.0)), Some(Limit::Max));
    assert_eq!(limit(&Policy { max: 100, ..policy() }, &stated(12, 9_000.0, 0.0)), Some(Limit::Partitions));
    assert_eq!(limit(&policy(), &stated(1, 2_000.0, 0.0)), None);
    let blocked = Situation { downstream: Some(ineffective(4, 12.0)), ..stated(4, 2_000.0, 0.0) };
    assert_eq!(limit(&policy(), &blocked), Some(Limit::Downstream));
}

fn any_situation() -> impl Strategy<Value = Situation> {
    let load = (
        0_u32..20,
        0.0..20_000.0,
        prop_oneof![Just(0.0), 0.0..1e7],
        prop_oneof![
            Just(Capacity::Unknown),
            (1.0..2_000.0).prop_map(Capacity::Spec),
            (1.0..2_000.0).prop_map(Capacity::Observed),
            (1.0..2_000.0).prop_map(Capacity::Reported)
        ],
    );
    let flags = (any::<[bool; 6]>(), 0_u32..4, 0_u64..100, 0_u64..400, 1_u32..40);
    (load, flags).prop_map(
        |((replicas, arrival, backlog, capacity), (flags, asked, watched, unchanged, partitions))| {
            let [gap, unknown, unsettled, worsening, blocked, quiet] = flags;
            Situation {
                partitions,
                gap,
                unknown: unknown.then(|| "orders/0: away".to_owned()),
                unsettled: (unsettled && gap).then(|| (Unsettled::Group("rebalancing".into()), seconds(9))),
                worsening,
                downstream: blocked.then(|| ineffective(asked * 2, 0.0)),
                quiet: quiet && !unknown,
                asked,
                watched_for: seconds(watched),
                unchanged_for: Some(seconds(unchanged)),
                fewer_for: seconds(unchanged),
                ..calm(replicas, arrival, backlog, capacity)
            }
        },
    )
}

proptest! {
    #[test]
    fn holds_for_every_situation(now in any_situation(), min in 1_u32..6, more in 0_u32..12) {
        let policy = Policy { min, max: min + more, ..policy() };
        let decision = decide(&policy, &now);
        prop_assert_eq!(&decision, &decide(&policy, &now), "deterministic");
        prop_assert_eq!(decision.current, now.replicas);
        prop_assert!(!decision.message.is_empty());
        let bounds = min..=min + more;
        if decision.reason != Reason::ScaledToZero {
            prop_assert!(bounds.contains(&decision.desired), "{:?}", decision);
        }
        if now.unknown.is_some() && bounds.contains(&now.replicas) {
            prop_assert!(decision.desired >= now.replicas, "unknown never scales down: {:?}", decision);
        }
        if now.gap && bounds.contains(&now.replicas) {
            prop_assert!(!decision.is_step(), "{:?}", decision);
        }
    }

    #[test]
    fn within_the_band_nothing_changes(replicas in prop::sample::select(vec![1_u32, 2, 3, 4, 6, 12]), used in 0.55_f64..0.89) {
        let decision = decide(&policy(), &stated(replicas, f64::from(replicas) * 480.0 * used, 0.0));
        prop_assert!(!decision.is_step(), "{:?}", decision);
    }

    #[test]
    fn more_to_do_never_asks_for_fewer_and_more_capacity_never_for_more(
        replicas in 1_u32..=12, arrival in 0.0_f64..8_000.0, backlog in 0.0_f64..1e5, capacity in 50.0..2_000.0, more in 1.0_f64..10.0,
    ) {
        let asked = |arrival, backlog, capacity| decide(&policy(), &calm(replicas, arrival, backlog, Capacity::Spec(capacity))).desired;
        let base = asked(arrival, backlog, capacity);
        prop_assert!(asked(arrival * more, backlog, capacity) >= base);
        prop_assert!(asked(arrival, backlog * more, capacity) >= base);
        prop_assert!(asked(arrival, backlog, capacity * more) <= base);
        prop_assert_eq!(asked(arrival * 4.0, backlog * 4.0, capacity * 4.0), base, "the unit of messages does not matter");
    }

    /// What is not seen never takes replicas away; what a replica can do aside, without which it feels its way.
    #[test]
    fn hiding_what_is_known_never_lowers_the_count(now in any_situation(), hidden in 0..3) {
        let now = Situation { replicas: now.replicas.clamp(1, 12), ..now };
        let blind = match hidden {
            0 => Situation { unknown: Some("orders/0: away".into()), quiet: false, ..now.clone() },
            1 => Situation { gap: true, ..now.clone() },
            _ => Situation { load: None, need: None, most_need: None, most_arrival: None, ..now.clone() },
        };
        prop_assert!(decide(&policy(), &blind).desired >= now.replicas, "{:?}", decide(&policy(), &blind));
    }
}
