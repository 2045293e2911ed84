//! A healthy world in which every claim holds, and for each claim the smallest change that must make it false.

use std::time::Duration;

use super::claims::name::{DEAD_LETTERS as DEAD, EDIT, LOST, NUMBERS as MISSING, OBJECTIVE as AGE, ORDER, PATH, SIZE};
use super::claims::{Claim, Expect, ORDER_SERVICE, Promise, judge};
use super::records::{Ledger, Record, Topics};
use super::timeline::{Applied, Decision, Timeline, What};
use crate::order::{CUSTOMERS, Notification, Order};

const PROMISE: Promise = Promise {
    max_replicas: 12,
    min_replicas: 1,
    objective: Duration::from_secs(15),
    partitions: 12,
    acknowledged_within: Duration::from_secs(10),
};
const ALL: Expect = Expect { edit: true, load_step: true, poison: true };
/// Low load until `STEP`, high load until `FALL`, low load until `END`.
const STEP: i64 = 20_000;
const FALL: i64 = 60_000;
const END: i64 = 90_000;

/// Orders placed every 100 ms (low) or 10 ms (high), each handled 50 ms later by one of as many pods as are needed.
fn topics() -> Topics {
    let mut topics = Topics::default();
    let (mut at, mut number) = (0, 0);
    while at < END {
        number += 1;
        let order = Order::new("a", number);
        let partition = i32::try_from(number % CUSTOMERS % 12).unwrap();
        let record = |at, value| Record {
            partition,
            offset: i64::try_from(number).unwrap(),
            at,
            key: Some(order.customer.clone().into_bytes()),
            value,
        };
        let high = (STEP..FALL).contains(&at);
        let pod = if high { format!("n-{}", number % 4) } else { "n-0".to_owned() };
        let notification = Notification { order_id: order.id.clone(), pod };
        topics.orders.push(record(at, serde_json::to_vec(&order).unwrap()));
        topics.notifications.push(record(at + 50, serde_json::to_vec(&notification).unwrap()));
        at += if high { 10 } else { 100 };
    }
    let poison =
        Record { partition: 0, offset: 1_000_000, at: END, key: Some(b"customer-07".to_vec()), value: b"?".to_vec() };
    topics.orders.push(poison.clone());
    topics.dead_letters.push(poison);
    topics
}

fn applied(generation: i64, applied: i64, linger_ms: i64) -> What {
    let revision = generation;
    What::Applied(Applied {
        observed_generation: generation,
        current_revision: revision,
        update_revision: revision,
        connected: 2,
        applied,
        rejected: 0,
        deviating: 0,
        linger_ms: Some(linger_ms),
    })
}

fn pod(uid: &str, restarts: i32) -> What {
    What::Pod { uid: uid.to_owned(), app: ORDER_SERVICE.to_owned(), ready: true, gone: false, restarts }
}

fn decided(current: i32, desired: i32, arrival: f64, capacity: f64) -> What {
    let (reason, message) = ("BelowNeed".to_owned(), "…".to_owned());
    let decision = Decision {
        current,
        desired,
        reason,
        message,
        arrival: Some(arrival),
        capacity: Some(capacity),
        backlog: Some(0.0),
    };
    What::Group { messages: Some(0), late: Some(0), decision: Some(decision) }
}

fn timeline() -> Vec<(i64, What)> {
    let replicas = |wanted| What::Replicas { wanted, ready: wanted };
    let load = |orders_per_second| What::Load { orders_per_second };
    vec![
        (0, load(10.0)),
        (0, pod("u1", 0)),
        (0, pod("u2", 0)),
        (0, replicas(1)),
        (0, What::Settings { generation: 1, linger_ms: Some(10) }),
        (0, applied(1, 2, 10)),
        (5_000, What::Settings { generation: 2, linger_ms: Some(40) }),
        (5_400, applied(2, 1, 40)),
        (5_900, applied(2, 2, 40)),
        (STEP, load(100.0)),
        (STEP + 10_000, replicas(4)),
        (STEP + 10_100, decided(1, 4, 80.0, 25.0)),
        (FALL, load(10.0)),
        (FALL + 20_000, replicas(1)),
        (FALL + 20_100, decided(4, 1, 10.0, 25.0)),
    ]
}

fn judged(topics: &Topics, seen: Vec<(i64, What)>, expect: Expect) -> Vec<Claim> {
    let mut timeline = Timeline::default();
    for (at, what) in seen {
        timeline.push(at, what);
    }
    judge(&Ledger::new(topics), &timeline, &PROMISE, expect)
}

/// Names of the claims that are false.
fn falsified(topics: &Topics, seen: Vec<(i64, What)>) -> Vec<&'static str> {
    judged(topics, seen, ALL).into_iter().filter(|claim| !claim.holds).map(|claim| claim.name).collect()
}

/// Changes the topics of the healthy world.
fn with_topics(change: impl FnOnce(&mut Topics)) -> Vec<&'static str> {
    let mut topics = topics();
    change(&mut topics);
    falsified(&topics, timeline())
}

/// Changes what was seen in the healthy world.
fn with_seen(change: impl FnOnce(&mut Vec<(i64, What)>)) -> Vec<&'static str> {
    let mut seen = timeline();
    change(&mut seen);
    falsified(&topics(), seen)
}

#[test]
fn all_claims_hold_in_a_healthy_world() {
    let claims = judged(&topics(), timeline(), ALL);
    assert!(claims.iter().all(|claim| claim.holds), "{claims:#?}");
    assert_eq!(claims.iter().map(|c| c.name).collect::<Vec<_>>(), [LOST, MISSING, ORDER, DEAD, EDIT, PATH, SIZE, AGE]);
}

#[test]
fn an_empty_world_proves_nothing() {
    let claims = judged(&Topics::default(), vec![], ALL);
    let holding: Vec<_> = claims.iter().filter(|claim| claim.holds).map(|claim| claim.name).collect();
    assert_eq!(holding, [MISSING, ORDER], "vacuous only where the first claim is false anyway");
}

#[test]
fn a_dropped_notification_is_a_lost_order() {
    assert_eq!(with_topics(|t| drop(t.notifications.remove(30))), [LOST]);
}

#[test]
fn a_repeat_is_allowed_and_shown() {
    let mut topics = topics();
    let again = topics.notifications[30].clone();
    topics.notifications.push(again);
    let claims = judged(&topics, timeline(), ALL);
    assert!(claims.iter().all(|claim| claim.holds), "{claims:#?}");
    assert!(claims[0].says.ends_with("1 handled again"), "{}", claims[0].says);
}

#[test]
fn an_order_that_never_reached_the_topic_leaves_a_gap() {
    let lose = |t: &mut Topics| {
        t.orders.remove(30);
        t.notifications.remove(30);
    };
    assert_eq!(with_topics(lose), [MISSING]);
}

#[test]
fn two_orders_of_a_customer_in_the_wrong_order_are_noticed() {
    let step = usize::try_from(CUSTOMERS).unwrap();
    assert_eq!(with_topics(|t| t.notifications.swap(30, 30 + step)), [ORDER]);
    let strangers = with_topics(|t| t.notifications.swap(30, 31));
    assert!(strangers.is_empty(), "two customers are independent: {strangers:?}");
}

#[test]
fn dead_letters_are_the_poison_and_nothing_else() {
    assert_eq!(with_topics(|t| t.dead_letters.clear()), [DEAD]);
    assert_eq!(with_topics(|t| t.dead_letters.push(t.orders[5].clone())), [DEAD]);
    let twice = |t: &mut Topics| t.dead_letters.push(t.dead_letters[0].clone());
    assert_eq!(with_topics(twice), [DEAD]);
    let never_sent = |t: &mut Topics| {
        t.orders.pop();
        t.dead_letters.clear();
    };
    assert_eq!(with_topics(never_sent), [DEAD]);
}

#[test]
fn a_notification_under_another_key_counts_for_nothing() {
    let claims = with_topics(|t| t.notifications[30].key = Some(b"customer-99".to_vec()));
    assert_eq!(claims, [LOST]);
}

#[test]
fn an_edit_must_reach_every_pod_in_time_and_without_a_restart() {
    let again = timeline().iter().position(|(_, what)| *what == applied(2, 2, 40)).unwrap();
    let ignored = with_seen(|seen| drop(seen.remove(again)));
    assert_eq!(ignored, [EDIT]);
    let late = with_seen(|seen| {
        let (_, what) = seen.remove(again);
        seen.push((END, what));
    });
    assert_eq!(late, [EDIT]);
    assert_eq!(with_seen(|seen| seen.insert(9, (7_000, pod("u2", 1)))), [EDIT]);
    assert_eq!(with_seen(|seen| seen.insert(9, (7_000, pod("u3", 0)))), [EDIT], "a pod that came later was not asked");
    let other_value = with_seen(|seen| seen[again].1 = applied(2, 2, 10));
    assert_eq!(other_value, [EDIT], "the live clients do not have the value");
}

#[test]
fn the_replicas_must_go_up_once_and_come_back() {
    let is = |what: &What, n: i32| matches!(what, What::Replicas { wanted, .. } if *wanted == n);
    let never_up = with_seen(|seen| seen.retain(|(_, what)| !is(what, 4)));
    assert_eq!(never_up, [PATH, SIZE]);
    let never_down = with_seen(|seen| seen.retain(|(at, what)| !(is(what, 1) && *at > 0)));
    assert_eq!(never_down, [PATH]);
    let flapped = with_seen(|seen| {
        seen.insert(12, (STEP + 12_000, What::Replicas { wanted: 1, ready: 1 }));
        seen.insert(13, (STEP + 14_000, What::Replicas { wanted: 4, ready: 4 }));
    });
    assert!(flapped.contains(&PATH), "{flapped:?}");
    let by_hand = with_seen(|seen| seen.retain(|(_, what)| !matches!(what, What::Group { .. })));
    assert_eq!(by_hand, [PATH, SIZE], "somebody else scaled");
}

#[test]
fn the_number_must_follow_from_true_rates() {
    let with_decision = |decision: What| {
        with_seen(|seen| {
            let i = seen.iter().position(|(at, _)| *at == STEP + 10_100).unwrap();
            seen[i].1 = decision;
        })
    };
    assert_eq!(with_decision(decided(1, 4, 100.0, 60.0)), [SIZE], "no pod is that fast");
    assert_eq!(with_decision(decided(1, 4, 400.0, 25.0)), [SIZE], "so many orders never came");
    assert_eq!(with_decision(decided(1, 4, 10.0, 25.0)), [SIZE], "one would have done");
}

#[test]
fn an_order_that_waits_too_long_at_the_end_of_the_step_breaks_the_objective() {
    let slow = with_topics(|t| {
        let late = t.notifications.iter_mut().find(|r| r.at >= FALL - 500).unwrap();
        late.at += 15_000;
    });
    assert_eq!(slow, [AGE]);
    assert_eq!(with_topics(|t| t.notifications[250].at += 14_000), Vec::<&str>::new(), "within the objective");
}
