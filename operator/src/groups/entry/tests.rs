use super::*;
use mq_core::{
    effect::ObjectKey,
    lag::{ResetPolicy, TopicPartition},
    scaling::Target,
};
use mq_crds::{LagState, Member};
use mq_protocol::message::{HotKey, Standing};

use crate::groups::{
    pods::tests::{held, said},
    topics::Topics,
};

const CYCLE: Duration = Duration::from_secs(5);

pub(in crate::groups) fn group() -> DesiredGroup {
    DesiredGroup {
        object: ObjectKey { namespace: "shop".into(), name: "notifications".into(), uid: "1".into() },
        cluster: "main".into(),
        group_id: "notifications".into(),
        topics: Topics::read(&["orders".to_owned()], "notifications.dlq".into()).unwrap(),
        reset: ResetPolicy::Earliest,
        commit_interval: Duration::from_secs(1),
        longest: Duration::from_mins(5),
        config: "1".into(),
        paused: false,
        scaling: Some(DesiredScaling {
            target: TargetRef { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "worker".into() },
            mode: Mode::Auto,
            objective: Objective::Age(Duration::from_secs(30)),
            min: 1,
            max: 12,
            capacity: Some(100.0),
            window: Duration::from_secs(20),
            keep: false,
            max_step: None,
            schedules: vec![],
        }),
    }
}

fn deployed(uid: &str, replicas: u32) -> Deployed {
    Deployed::for_test(uid, Target { replicas, ready: replicas, rolling: false, template: "a".into() })
}

fn reading(committed: i64, end: i64) -> Vec<Reading> {
    let reading = |partition| Reading {
        of: TopicPartition { topic: "orders".into(), partition },
        committed: Ok(Some(committed / 4)),
        end: Ok(end / 4),
        start: None,
        topic_id: None,
        tail: None,
    };
    (0..4).map(reading).collect()
}

fn turn(entry: &mut Entry, n: u32, committed: i64, end: i64, target: impl Into<Option<Deployed>>) -> Option<Step> {
    let lag = entry.observe(CYCLE * n, &reading(committed, end), &Unread::new(), None, &[]);
    decide(entry, CYCLE * n, lag, target, &[]).and_then(|(_, step)| step)
}

fn decide(
    entry: &mut Entry,
    at: Duration,
    lag: GroupLag,
    target: impl Into<Option<Deployed>>,
    others: &[Ask],
) -> Option<(Decision, Option<Step>)> {
    let missing = || Refused { reason: Reason::TargetNotFound, message: "there is no Deployment worker".into() };
    entry.judge(at, CYCLE, lag, target.into().ok_or_else(missing), &[]);
    entry.conclude(others)
}

#[test]
fn a_step_is_shown_once_it_was_written() {
    let mut entry = Entry::new(group());
    let mut steps = Vec::new();
    for n in 0..4 {
        // 300 messages per second for one replica of 100.
        steps.extend(turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)));
    }
    let step = steps.first().expect("it must want to grow");
    assert_ne!(entry.view.scaling.as_ref().unwrap().reason, "BelowNeed", "not written, not said");
    entry.events.clear();
    entry.stepped(step);
    let said = entry.view.scaling.clone().unwrap();
    assert_eq!((said.current, said.reason.as_str()), (Some(1), "BelowNeed"));
    assert_eq!(said.terms.capacity, Some(100.0));
    assert!(entry.events[0].message.starts_with("scaled Deployment worker from 1 to 4: "), "{:?}", entry.events);
}

#[test]
fn what_is_only_observed_is_said_and_not_done() {
    let mut observed = group();
    observed.scaling.as_mut().unwrap().mode = Mode::Observe;
    let mut entry = Entry::new(observed);
    for n in 0..5 {
        assert!(turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)).is_none());
    }
    let said = entry.view.scaling.clone().unwrap();
    assert_eq!((said.current, said.desired, said.reason.as_str()), (Some(1), Some(4), "BelowNeed"));
    let active = entry.view.active.clone().unwrap();
    assert_eq!((active.status, active.reason), (Status::False, Reason::ScalingObserved));
    assert!(active.message.contains("nothing is done: 300 msg/s"), "{}", active.message);
}

fn stored(scaling: &ScalingStatus) -> MqConsumerGroupStatus {
    MqConsumerGroupStatus { scaling: Some(scaling.clone()), ..MqConsumerGroupStatus::default() }
}

/// Whose agents have not come to the new leader yet.
#[test]
fn members_stay_in_their_pods_across_leaders() {
    let member = |id: &str, pod: Option<&str>| Member {
        id: id.into(),
        host: "10.0.0.1".into(),
        pod: pod.map(str::to_owned),
        ..Member::default()
    };
    let of = |shown: Vec<Member>| ShownMembers { count: 1, imbalance: None, shown };
    let status = MqConsumerGroupStatus {
        members: Some(of(vec![member("a-1", Some("a")), member("b-1", Some("b"))])),
        ..MqConsumerGroupStatus::default()
    };
    let mut successor = Entry::new(group());
    successor.recall(Some(&status));
    successor.show_members(None);
    successor.show_members(Some(of(vec![member("a-1", None), member("c-1", None)])));
    assert_eq!(successor.view.members, Some(of(vec![member("a-1", Some("a")), member("c-1", None)])));
}

#[test]
fn the_last_ten_changes_are_remembered_across_leaders() {
    let mut entry = Entry::new(group());
    entry.recall(None);
    let step = (0..4)
        .filter_map(|n| turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)))
        .last()
        .expect("it must want to grow");
    for _ in 0..12 {
        entry.stepped(&step);
    }
    let status = entry.view.scaling.clone().unwrap();
    assert_eq!(status.history.len(), 10);
    let newest = &status.history[0];
    assert_eq!((newest.from, newest.to, newest.reason.as_str()), (1, 4, "BelowNeed"));
    assert_eq!(newest.terms.capacity, Some(100.0));

    let mut successor = Entry::new(group());
    successor.recall(Some(&stored(&status)));
    successor.recall(None);
    turn(&mut successor, 1, 0, 0, None);
    assert_eq!(successor.view.scaling.unwrap().history, status.history);
}

#[test]
fn a_step_whose_answer_was_lost_is_not_a_persons() {
    for (replicas, reason) in [(4, "WithinBand"), (3, "ScaledByHand")] {
        let mut entry = Entry::new(group());
        let attempted = (0..4)
            .filter_map(|n| turn(&mut entry, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)))
            .last()
            .expect("it must want to grow");
        let refused = Refused { reason: Reason::KubernetesUnavailable, message: "timed out".into() };
        entry.not_stepped(attempted, refused);
        entry.events.clear();
        let lag = entry.observe(CYCLE * 4, &reading(2_000, 6_000), &Unread::new(), None, &[]);
        let (decision, _) = decide(&mut entry, CYCLE * 4, lag, deployed("1", replicas), &[]).unwrap();
        assert_eq!(decision.reason.as_str(), reason);
        let scaled = entry.events.iter().any(|event| event.message.starts_with("scaled Deployment worker from 1"));
        assert_eq!((scaled, entry.view.problem.is_none()), (replicas == 4, true), "{:?}", entry.events);
    }
}

#[test]
fn nothing_new_says_nothing() {
    let mut entry = Entry::new(group());
    for n in 0..30 {
        let before = entry.view.clone();
        assert!(turn(&mut entry, n, i64::from(n) * 350, i64::from(n) * 350, deployed("1", 1)).is_none());
        assert!(n < 3 || entry.view == before, "cycle {n}: {before:?} became {:?}", entry.view);
    }
    assert_eq!(entry.view.scaling.unwrap().reason, "WithinBand");
    assert!(entry.events.is_empty(), "{:?}", entry.events);
}

#[test]
fn a_missing_target_is_said_once_and_heals() {
    let mut entry = Entry::new(group());
    for n in 0..3 {
        turn(&mut entry, n, 0, 0, None);
    }
    assert_eq!(entry.events.len(), 1, "{:?}", entry.events);
    assert_eq!(entry.view.problem.as_ref().unwrap().reason, Reason::TargetNotFound);
    for n in 3..6 {
        turn(&mut entry, n, 0, 0, deployed("1", 1));
    }
    assert_eq!(entry.view.problem, None);
    assert_eq!(entry.view.scaling.as_ref().unwrap().reason, "WithinBand");
}

#[test]
fn a_workload_that_was_created_again_while_it_could_not_be_seen_is_another_one() {
    for (uid, by_hand) in [("1", true), ("2", false)] {
        let mut entry = Entry::new(group());
        for n in 0..4 {
            turn(&mut entry, n, 0, 0, deployed("1", 1));
        }
        turn(&mut entry, 4, 0, 0, None);
        let lag = entry.observe(CYCLE * 5, &reading(0, 0), &Unread::new(), None, &[]);
        let (decision, _) = decide(&mut entry, CYCLE * 5, lag, deployed(uid, 5), &[]).unwrap();
        assert_eq!(decision.reason == Reason::ScaledByHand, by_hand, "{uid}: {}", decision.message);
    }
}

#[test]
fn lag_is_rounded_and_renewed_once_a_minute() {
    let mut entry = Entry::new(group());
    let mut shown = Vec::new();
    for n in 0..=13_u32 {
        // What waits is five seconds old: never late.
        let (committed, end) = (i64::from(n) * 4_000, i64::from(n) * 4_000 + 4_321 * i64::from(n > 0));
        turn(&mut entry, n, committed, end, deployed("1", 12));
        let lag = entry.view.lag.clone().unwrap();
        shown.push((lag.state, lag.messages));
    }
    assert_eq!(shown[0], (LagState::Known, Some(0)));
    assert_eq!(shown[1..12], vec![(LagState::Known, Some(0)); 11]);
    assert_eq!(shown[12], (LagState::Known, Some(4_300)));
}

#[test]
fn that_the_promise_breaks_is_told_at_once() {
    let mut entry = Entry::new(group());
    let mut late = Vec::new();
    for n in 0..=9_u32 {
        // All that ever arrived waits from the second cycle on; in the last it is handled.
        let end = 4_000 * i64::from(n > 0);
        turn(&mut entry, n, if n == 9 { end } else { 0 }, end, deployed("1", 12));
        late.push(entry.view.lag.clone().unwrap().late.unwrap());
    }
    assert_eq!(late, [0, 0, 0, 0, 0, 0, 0, 4_000, 4_000, 0]);
}

#[test]
fn whether_it_keeps_up_is_said_when_it_was_seen_three_times() {
    let mut entry = Entry::new(group());
    let mut shown = Vec::new();
    for n in 0..=16_u32 {
        // What arrived in cycle 1 is late from cycle 7 on and handled in cycle 12; in cycle 8 nobody knows.
        let end = 4_000 * i64::from(n > 0);
        let mut readings = reading(if n >= 12 { end } else { 0 }, end);
        if n == 8 {
            for reading in &mut readings {
                reading.end = Err("no leader".into());
            }
        }
        entry.observe(CYCLE * n, &readings, &Unread::new(), None, &[]);
        shown.push(entry.view.keeping_up.as_ref().unwrap().reason);
    }
    assert_eq!(shown[..11], [Reason::KeepsUp; 11], "a look that shows something else begins the count anew");
    assert_eq!(shown[11..14], [Reason::ObjectiveBreached; 3]);
    assert_eq!(shown[14..], [Reason::KeepsUp; 3]);
    let told: Vec<_> = entry.events.iter().map(|event| event.reason).collect();
    assert_eq!(told, [Reason::ObjectiveBreached, Reason::KeepsUp]);
}

#[test]
fn an_open_breaker_is_said_at_once_and_again_when_another_pod_has_one() {
    let mut entry = Entry::new(group());
    let open = |pod: &str| said(pod, 0, Some(held("no database")));
    let well = said("a", 0, Some(Standing::default()));
    let cycles: [&[Said]; 12] = [
        std::slice::from_ref(&well),
        &[open("a")],
        &[open("a"), open("b")],
        &[open("a")],
        &[open("a"), open("b")],
        &[open("a"), open("b")],
        &[open("a"), open("b")],
        &[open("b")],
        &[],
        std::slice::from_ref(&well),
        std::slice::from_ref(&well),
        std::slice::from_ref(&well),
    ];
    let mut shown = Vec::new();
    for (n, pods) in (0..).zip(cycles) {
        entry.observe(CYCLE * n, &reading(0, 0), &Unread::new(), None, pods);
        let said = entry.view.keeping_up.as_ref().unwrap();
        let which =
            said.message.split_once(") in ").and_then(|(_, rest)| rest.split_once(" that")).map(|(pods, _)| pods);
        shown.push((said.reason == Reason::DeadLettersHeld, which.unwrap_or_default().to_owned()));
    }
    let held = |pods: &str| (true, pods.to_owned());
    assert_eq!(
        shown[..7],
        [(false, String::new()), held("a"), held("a"), held("a"), held("a"), held("a"), held("a, b")]
    );
    assert_eq!(shown[7..], [held("a, b"), held("a, b"), held("a, b"), (false, String::new()), (false, String::new())]);
    let told: Vec<_> = entry.events.iter().map(|event| event.reason).collect();
    assert_eq!(told, [Reason::DeadLettersHeld, Reason::DeadLettersHeld, Reason::KeepsUp]);
}

#[test]
fn a_decision_about_an_uneven_load_names_the_keys() {
    let keys = vec![HotKey { topic: "orders".into(), partition: 3, key: Some("user-1".into()), records: 40 }];
    let busiest = |busy| said("b", busy, Some(Standing { hot_keys: keys.clone(), ..Standing::default() }));
    for (busy, named) in [(1_500, false), (2_700, true)] {
        let mut entry = Entry::new(group());
        let mut said_last = String::new();
        for n in 0..30 {
            let at = i64::from(n) * 1_000;
            let pods: Vec<_> =
                ["a", "c", "d"].map(|pod| said(pod, 1_500, None)).into_iter().chain([busiest(busy)]).collect();
            let lag = entry.observe(CYCLE * n, &reading(at, at), &Unread::new(), None, &pods);
            entry.judge(CYCLE * n, CYCLE, lag, Ok(deployed("1", 4)), &pods);
            said_last = entry.conclude(&[]).unwrap().0.message;
        }
        assert_eq!(
            said_last.contains("the busiest pod, b, has in hand 40 have the key \"user-1\""),
            named,
            "{said_last}"
        );
    }
}

#[test]
fn two_digits_count() {
    let cases = [(0, 0), (7, 7), (99, 99), (123, 120), (4_321, 4_300), (u64::MAX, i64::MAX)];
    for (messages, shown) in cases {
        assert_eq!(shown::rounded(messages), shown);
    }
}

/// Reasons that the status shows while 12 replicas are as many as may be, and in each cycle so many messages arrive.
fn shown_at_maximum(arrivals: &[i64]) -> Vec<String> {
    let (mut entry, mut end, mut shown) = (Entry::new(group()), 0, Vec::new());
    for (n, arrived) in (0..).zip(arrivals) {
        end += arrived;
        turn(&mut entry, n, end, end, deployed("1", 4));
        let reason = entry.view.scaling.as_ref().unwrap().reason.clone();
        if shown.last() != Some(&reason) {
            shown.push(reason);
        }
    }
    shown
}

#[test]
fn a_load_at_the_edge_of_a_rule_does_not_rewrite_the_status() {
    let edge: Vec<i64> = (0..60).map(|n| if n / 2 % 2 == 0 { 1_600 } else { 2_000 }).collect();
    assert_eq!(shown_at_maximum(&edge), ["Measuring", "WithinBand"]);
    let over: Vec<i64> = (0..30).map(|n| if n < 15 { 1_600 } else { 2_400 }).collect();
    assert_eq!(shown_at_maximum(&over), ["Measuring", "WithinBand", "AtMaximum"]);
}

#[test]
fn one_missed_answer_does_not_turn_the_status() {
    let mut entry = Entry::new(group());
    let mut shown = Vec::new();
    for n in 0..16_u32 {
        let at = i64::from(n) * 1_500;
        let mut readings = reading(at, at);
        if [5, 8, 9, 12, 13, 14].contains(&n) {
            for reading in &mut readings {
                reading.end = Err("no leader".into());
            }
        }
        let lag = entry.observe(CYCLE * n, &readings, &Unread::new(), None, &[]);
        decide(&mut entry, CYCLE * n, lag, deployed("1", 4), &[]);
        let active = entry.view.active.as_ref().unwrap();
        shown.push((entry.view.lag.as_ref().unwrap().state, active.reason));
    }
    let known = (LagState::Known, Reason::WithinBand);
    assert_eq!(shown[3..14], vec![known; 11]);
    assert_eq!(shown[14..], [(LagState::Unknown, Reason::LagUnknown), known]);
    assert!(entry.events.iter().filter(|event| event.message.contains("no leader")).count() == 1, "{:?}", entry.events);
}

#[test]
fn another_reason_why_nothing_is_known_is_said_within_a_minute_and_in_both_places() {
    let mut entry = Entry::new(group());
    let mut shown = Vec::new();
    for n in 0..=13_u32 {
        let why = if n < 3 { "not authorized for the topic" } else { "not authorized for the group" };
        let unread = Unread::from([("orders".into(), why.to_owned())]);
        entry.observe(CYCLE * n, &[], &unread, None, &[]);
        let keeping_up = entry.view.keeping_up.as_ref().unwrap();
        assert_eq!(entry.view.lag.as_ref().unwrap().reason.as_ref(), Some(&keeping_up.message), "cycle {n}");
        shown.push(keeping_up.message.contains("group"));
    }
    assert_eq!((shown[11], shown[12]), (false, true), "{:?}", entry.view.keeping_up);
}

#[test]
fn a_step_for_another_group_of_the_target_is_not_a_persons() {
    let asks = |replicas| [Ask { group: "audit".into(), replicas: Some(replicas) }];
    let grow = |entry: &mut Entry, n: u32, replicas: u32| {
        let at = i64::from(n) * 1_500;
        let lag = entry.observe(CYCLE * n, &reading(at, at), &Unread::new(), None, &[]);
        decide(entry, CYCLE * n, lag, deployed("1", replicas), &asks(3)).unwrap()
    };
    for answered in [Some(true), Some(false), None] {
        let mut entry = Entry::new(group());
        let (decision, step) = (0..4).map(|n| grow(&mut entry, n, 1)).last().unwrap();
        assert!(
            step.is_none_or(|step| step.decision.desired == 4),
            "only a greater need than the others' is carried out"
        );
        let theirs = Step {
            at: CYCLE * 3,
            target: entry.desired.scaling.clone().unwrap().target,
            seen: deployed("1", 1),
            decision: Decision { desired: 3, ..decision },
        };
        entry.may_follow(&theirs);
        if let Some(written) = answered {
            entry.followed(written);
        }
        entry.events.clear();
        let (decision, _) = grow(&mut entry, 4, 3);
        // A step that was not written does not explain the replicas.
        let by_hand = answered == Some(false);
        assert_eq!(decision.reason == Reason::ScaledByHand, by_hand, "answered: {answered:?}, {decision:?}");
        // Its answer may come after it showed.
        entry.followed(true);
        assert!(grow(&mut entry, 5, 3).0.reason != Reason::ScaledByHand || by_hand, "answered: {answered:?}");
    }
}

#[test]
fn the_status_says_that_another_group_needs_more() {
    let mut entry = Entry::new(group());
    for n in 0..8 {
        let at = i64::from(n) * 100;
        let lag = entry.observe(CYCLE * n, &reading(at, at), &Unread::new(), None, &[]);
        let others = [Ask { group: "audit".into(), replicas: Some(3) }];
        assert!(decide(&mut entry, CYCLE * n, lag, deployed("1", 1), &others).unwrap().1.is_none());
    }
    let said = entry.view.scaling.unwrap();
    assert_eq!((said.current, said.desired, said.reason.as_str()), (Some(1), Some(3), "AnotherGroupNeedsMore"));
    assert!(said.message.starts_with("group audit asks for 3 replicas, this one for 1"), "{}", said.message);
    let active = entry.view.active.unwrap();
    assert_eq!((active.status, active.reason), (Status::True, Reason::AnotherGroupNeedsMore));
}

/// The step is in the target, and neither in the status nor in the memory of whoever goes on.
#[test]
fn a_successor_takes_up_a_step_that_was_written_and_not_told() {
    let mut dead = Entry::new(group());
    let step = (0..4)
        .filter_map(|n| turn(&mut dead, n, i64::from(n) * 500, i64::from(n) * 1_500, deployed("1", 1)))
        .last()
        .expect("it must want to grow");
    let mut successor = Entry::new(group());
    successor.recall(dead.view.scaling.as_ref().map(stored).as_ref());
    for n in 0..20 {
        let at = i64::from(n) * 1_500;
        let mut seen = deployed("1", step.decision.desired);
        // Its pods come one after the other.
        seen.target.ready = seen.target.ready.min(1 + n / 2);
        assert!(turn(&mut successor, n, at, at, seen).is_none(), "cycle {n}");
    }
    let status = successor.view.scaling.unwrap();
    assert_eq!((status.current, status.reason.as_str()), (Some(4), "WithinBand"), "{}", status.message);
    assert!(successor.events.is_empty(), "{:?}", successor.events);
}
