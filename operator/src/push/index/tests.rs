use std::collections::BTreeSet;

use super::*;
use mq_core::{canonical, rollout::Clients};
use mq_protocol::{
    limits::{HEALTH_INTERVAL, HEALTH_TIMEOUT},
    message::{Health, NackReason},
};
use tokio::time::{Duration, Instant};

const UID: &str = "uid-orders";

pub(crate) fn key() -> ConfigKey {
    ConfigKey { namespace: "shop".into(), client: ClientRef::new(Kind::Producer, "orders") }
}

pub(crate) fn pod(name: &str) -> Pod {
    Pod { uid: format!("uid-{name}"), name: name.into() }
}

pub(crate) fn revision(number: i64) -> Revision {
    let body = format!(r#"{{"number":{number}}}"#);
    let stored = Stored { number, hash: canonical::hash(&body), preset_version: 1, generation: number, created_at: 0 };
    Revision { stored, body: Bytes::from(body) }
}

pub(crate) fn version(number: i64) -> Version {
    Version { revision: number, hash: revision(number).stored.hash }
}

/// An index with the object `orders`, its revisions up to `newest`, and `current` in force.
pub(crate) fn index(newest: i64, current: Option<i64>) -> (Index, mpsc::UnboundedReceiver<Change>) {
    let (index, changes) = Index::new();
    grant(&index, &["shop"]);
    for number in 1..=newest {
        index.apply_revision(UID, revision(number));
    }
    in_force(&index, current);
    (index, changes)
}

/// What the cluster of `orders` grants.
pub(crate) fn grant(index: &Index, namespaces: &[&str]) {
    let grants: Vec<_> = namespaces.iter().map(|name| serde_json::json!({"name": name, "topics": ["*"]})).collect();
    let spec = serde_json::json!({"brokers": ["main:1"], "namespaces": grants});
    index.apply_cluster("main", serde_json::from_value(spec).unwrap());
}

pub(crate) fn in_force(index: &Index, current: Option<i64>) {
    let state = State { current, update: current, rejected: BTreeSet::new() };
    index.apply_object(&key(), UID.into(), "main".into(), state);
}

fn running(answer: &Answer) -> Option<i64> {
    match answer {
        Answer::Run { version, .. } => Some(version.revision),
        Answer::Keep { .. } | Answer::Nothing => None,
    }
}

#[test]
fn a_new_revision_waits_for_the_status() {
    let (index, _changes) = index(1, Some(1));
    let (_subscription, receiver) = index.subscribe(key(), pod("a"), 1);
    index.apply_revision(UID, revision(2));
    assert_eq!(running(&receiver.borrow()), Some(1));
    in_force(&index, Some(2));
    assert_eq!(running(&receiver.borrow()), Some(2));
}

#[test]
fn a_slow_reader_finds_the_newest_answer_only() {
    let (index, _changes) = index(5, Some(1));
    let (_subscription, mut receiver) = index.subscribe(key(), pod("a"), 1);
    for current in 2..=5 {
        in_force(&index, Some(current));
    }
    assert_eq!(running(&receiver.borrow_and_update()), Some(5));
    assert!(!receiver.has_changed().unwrap());
    // The same again is no change.
    in_force(&index, Some(5));
    assert!(!receiver.has_changed().unwrap());
}

#[test]
fn a_refusal_takes_effect_before_the_status_says_so() {
    let (index, mut changes) = index(2, Some(2));
    let (first, receiver) = index.subscribe(key(), pod("a"), 1);
    while changes.try_recv().is_ok() {}
    first.nack(&version(2), NackReason::ProbeFailed, "no broker");
    assert_eq!(running(&receiver.borrow()), Some(1));
    assert!(changes.try_recv().unwrap().urgent);
    // Nor is it the first of a new pod.
    let (_second, receiver) = index.subscribe(key(), pod("b"), 2);
    assert_eq!(running(&receiver.borrow()), Some(1));
    let report = index.report(&key());
    assert_eq!(report.rejections[0].words, "pod a: ProbeFailed: no broker");
    assert_eq!(report.clients, Clients { connected: 2, applied: 0, rejected: 1 });
}

#[test]
fn a_client_that_needs_a_restart_gets_the_revision_when_it_is_restarted() {
    let (index, mut changes) = index(2, Some(2));
    let (old, receiver) = index.subscribe(key(), pod("a"), 1);
    old.ack(version(1), BTreeMap::new(), vec![]);
    while changes.try_recv().is_ok() {}
    old.nack(&version(2), NackReason::NeedsRestart, "another group id");
    assert_eq!(running(&receiver.borrow()), Some(2));
    assert!(changes.try_recv().is_ok(), "the status is due");
    let report = index.report(&key());
    assert!(report.rejections.is_empty());
    assert_eq!(report.clients, Clients { connected: 1, applied: 0, rejected: 1 });
    assert_eq!(report.deviating[0].message, "refused revision 2: NeedsRestart: another group id");
    let (_new, receiver) = index.subscribe(key(), pod("b"), 2);
    assert_eq!(running(&receiver.borrow()), Some(2));
}

#[test]
fn a_refusal_of_what_was_never_sent_changes_nothing() {
    let (index, _changes) = index(2, Some(2));
    let (subscription, receiver) = index.subscribe(key(), pod("a"), 1);
    subscription.nack(&version(7), NackReason::Invalid, "no such revision");
    let other_hash = Version { revision: 2, hash: version(1).hash };
    subscription.nack(&other_hash, NackReason::Invalid, "other hash");
    assert_eq!(running(&receiver.borrow()), Some(2));
    assert!(index.report(&key()).rejections.is_empty());
}

#[test]
fn with_every_revision_refused_clients_keep_what_they_have() {
    let (index, _changes) = index(1, Some(1));
    let (subscription, receiver) = index.subscribe(key(), pod("a"), 1);
    subscription.nack(&version(1), NackReason::Invalid, "no");
    assert!(matches!(&*receiver.borrow(), Answer::Keep { detail } if detail.contains("rejected")));
}

#[test]
fn a_deleted_object_is_an_answer_and_one_of_the_same_name_is_another() {
    let (index, _changes) = index(1, Some(1));
    let (subscription, receiver) = index.subscribe(key(), pod("a"), 1);
    subscription.nack(&version(1), NackReason::Invalid, "no");
    index.delete_object(&key());
    assert_eq!(*receiver.borrow(), Answer::Nothing);
    index.apply_revision("uid-2", revision(1));
    let state = State { current: Some(1), update: Some(1), rejected: BTreeSet::new() };
    index.apply_object(&key(), "uid-2".into(), "main".into(), state);
    assert_eq!(running(&receiver.borrow()), Some(1));
}

#[test]
fn what_vanished_during_a_gap_of_the_watch_is_deleted() {
    let (index, _changes) = index(2, Some(2));
    let (_subscription, receiver) = index.subscribe(key(), pod("a"), 1);
    index.retain_revisions(&[(UID.to_owned(), 1)].into());
    assert_eq!(running(&receiver.borrow()), Some(1));
    index.retain_objects(Kind::Consumer, &HashSet::new());
    assert_eq!(running(&receiver.borrow()), Some(1));
    index.retain_objects(Kind::Producer, &HashSet::new());
    assert_eq!(*receiver.borrow(), Answer::Nothing);
}

#[test]
fn the_report_counts_and_names() {
    let (index, _changes) = index(2, Some(2));
    let effective: BTreeMap<String, String> = [("lingerMs".to_owned(), "5".to_owned())].into();
    let (a, _) = index.subscribe(key(), pod("a"), 1);
    let (b, _) = index.subscribe(key(), pod("b"), 2);
    let (_c, _) = index.subscribe(key(), pod("c"), 3);
    let (d, _) = index.subscribe(key(), pod("d"), 4);
    a.ack(version(2), effective.clone(), vec![]);
    b.ack(version(2), effective.clone(), vec!["warp".into()]);
    d.ack(version(1), BTreeMap::new(), vec![]);
    let report = index.report(&key());
    assert_eq!(report.clients, Clients { connected: 4, applied: 2, rejected: 0 });
    assert_eq!(report.effective, effective);
    let deviating: Vec<_> = report.deviating.iter().map(|d| (d.pod.as_str(), d.revision, d.message.as_str())).collect();
    let behind = "has not said that it runs the revision in force";
    assert_eq!(deviating, [("b", Some(2), "does not apply warp"), ("c", None, behind), ("d", Some(1), behind)]);
    drop((a, b));
    assert_eq!(index.report(&key()).clients.connected, 2);
}

#[test]
fn a_pod_that_returns_before_its_old_stream_is_dead_counts_once() {
    let (index, _changes) = index(1, Some(1));
    let (old, _) = index.subscribe(key(), pod("a"), 1);
    let (new, receiver) = index.subscribe(key(), pod("a"), 2);
    new.ack(version(1), BTreeMap::new(), vec![]);
    assert_eq!(index.report(&key()).clients, Clients { connected: 1, applied: 1, rejected: 0 });
    drop(old);
    assert_eq!(index.report(&key()).clients, Clients { connected: 1, applied: 1, rejected: 0 });
    index.apply_revision(UID, revision(2));
    in_force(&index, Some(2));
    assert_eq!(running(&receiver.borrow()), Some(2));
}

#[test]
fn an_edit_of_the_cluster_is_due_at_each_of_its_configurations() {
    let spec = |broker: &str| {
        let grants = serde_json::json!([{"name": "shop", "topics": ["*"]}]);
        serde_json::from_value(serde_json::json!({"brokers": [broker], "namespaces": grants})).unwrap()
    };
    let (index, mut changes) = index(1, Some(1));
    while changes.try_recv().is_ok() {}
    index.apply_cluster("main", spec("a:1"));
    assert_eq!(changes.try_recv().unwrap().object.name, "orders");
    index.apply_cluster("main", spec("a:1"));
    index.apply_cluster("other", spec("b:1"));
    assert!(changes.try_recv().is_err());
    assert!(index.is_granted("shop") && !index.is_granted("bank"));
    index.unreadable_cluster("main");
    assert_eq!(changes.try_recv().unwrap().object.name, "orders");
    index.unreadable_cluster("main");
    assert!(changes.try_recv().is_err(), "said once");
    index.apply_cluster("main", spec("a:1"));
    assert_eq!(changes.try_recv().unwrap().object.name, "orders", "readable again, and as before");
    index.delete_cluster("main");
    index.delete_cluster("other");
    assert!(!index.is_granted("shop"));
}

#[test]
fn how_a_pod_is_is_told_once_as_news_and_not_at_all_when_it_is_old() {
    let (index, _changes) = index(1, Some(1));
    let health = |handled| Health { period: HEALTH_INTERVAL, handled, ..Health::default() };
    let (a, _answers) = index.subscribe(key(), pod("a"), 1);
    let (again, _answers) = index.subscribe(key(), pod("a"), 2);
    let (b, _answers) = index.subscribe(key(), pod("b"), 3);
    let start = Instant::now();
    let told = |after: Duration| {
        let said = index.health(&key(), start + after);
        let handled = |said: &Said| said.health.handled;
        (
            said.iter().map(handled).collect::<Vec<_>>(),
            said.iter().filter(|said| said.is_news).map(handled).collect::<Vec<_>>(),
        )
    };
    assert_eq!(told(Duration::ZERO), (vec![], vec![]), "nothing is not idle");
    a.health(start, health(1));
    b.health(start, health(3));
    assert_eq!(told(Duration::ZERO), (vec![1, 3], vec![1, 3]), "the new stream of a pod did not speak yet");
    again.health(start + HEALTH_INTERVAL, health(2));
    assert_eq!(told(HEALTH_INTERVAL), (vec![2, 3], vec![2]), "one word of each pod");
    drop(b);
    assert_eq!(told(HEALTH_INTERVAL * 2), (vec![2], vec![]));
    assert_eq!(told(HEALTH_INTERVAL + HEALTH_TIMEOUT), (vec![], vec![]), "and nothing of one that is silent");
}
