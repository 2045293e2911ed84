use mq_core::condition::Health;
use mq_core::rollout::{Clients as Counts, Rejection};

use super::*;

fn facts(cluster: Option<&MqClusterSpec>, health: Option<Verdict>) -> Facts {
    let cluster = cluster.cloned().map(Arc::new);
    let report = Report::default();
    Facts { cluster, unreadable: false, revisions: vec![], report, health, settled: true, now: 1000 }
}

fn stored(number: i64) -> Stored {
    Stored { number, hash: format!("hash-{number}"), preset_version: 1, generation: number, created_at: 1000 }
}

fn clients(connected: i32, applied: i32) -> Clients {
    Clients { connected, applied, ..Clients::default() }
}

/// An object of generation 2 that resolves to revision 2, which is stored and in force.
fn resolved() -> Resolved {
    Resolved {
        encoded: Encoded { json: "{}".into(), hash: "hash-2".into() },
        preset_version: 1,
        generation: 2,
        before: Before {
            state: State { current: Some(2), update: Some(2), rejected: BTreeSet::new() },
            ..Before::default()
        },
        facts: Facts { revisions: vec![stored(1), stored(2)], ..facts(None, None) },
    }
}

fn rejection(revision: i64) -> Rejection {
    Rejection { revision, pod: "a".into(), words: "pod a: Invalid: no".into() }
}

#[test]
fn what_may_heal_is_tried_again_after_a_while() {
    let decided = |words: &str, heard: bool, now| {
        let mut resolved = resolved();
        if heard {
            resolved.facts.report.rejections = vec![Rejection { words: words.into(), ..rejection(2) }];
        } else {
            // Only the status tells of it: another leader heard it.
            resolved.before.state = State { current: Some(1), update: Some(2), rejected: [2].into() };
            resolved.before.rejection = Some(format!("revision 2 is rejected: {words}"));
        }
        resolved.facts.now = now;
        let decision = decide(&resolved);
        (decision.step, decision.again.map(|again| again.as_secs()), decision.verdict.reason)
    };
    for heard in [true, false] {
        let early = decided("pod a: ProbeFailed: no broker", heard, 1030);
        assert_eq!(early, (Step::Keep, Some(30), Reason::RejectedByClient));
        let (step, again, _) = decided("pod a: ProbeFailed: no broker", heard, 1060);
        assert_eq!((step, again), (Step::Create { number: 3 }, None));
        let never = decided("pod a: Invalid: no such setting", heard, 9999);
        assert_eq!(never, (Step::Keep, None, Reason::RejectedByClient));
    }
}

#[test]
fn a_first_revision_is_in_force_with_the_write_that_makes_it() {
    let mut resolved = resolved();
    resolved.facts.revisions.clear();
    resolved.before = Before::default();
    let decision = decide(&resolved);
    assert_eq!(decision.step, Step::Create { number: 1 });
    assert_eq!(decision.status["currentRevision"], 1);
    assert_eq!(decision.verdict.reason, Reason::NoClients);
}

#[test]
fn until_agents_had_time_to_return_a_missing_one_is_not_counted_as_gone() {
    let mut resolved = resolved();
    resolved.before.clients = Some(clients(3, 3));
    resolved.before.effective = [("lingerMs".to_owned(), ConfigValue::Integer(5))].into();
    resolved.facts.report.clients = Counts { connected: 1, applied: 1, rejected: 0 };
    resolved.facts.settled = false;
    let decision = decide(&resolved);
    assert_eq!(decision.status["clients"]["connected"], 3);
    assert_eq!(decision.status["effective"]["lingerMs"], 5);
    assert_eq!(decision.verdict.reason, Reason::Applied);
    // More than before is known at once, and after that time everything is.
    resolved.facts.report.clients = Counts { connected: 4, applied: 4, rejected: 0 };
    assert_eq!(decide(&resolved).status["clients"]["connected"], 4);
    resolved.facts.report.clients = Counts { connected: 1, applied: 1, rejected: 0 };
    resolved.facts.settled = true;
    assert_eq!(decide(&resolved).status["clients"]["connected"], 1);
}

#[test]
fn a_client_that_is_back_and_has_not_answered_yet_still_runs_what_it_ran() {
    let mut resolved = resolved();
    resolved.before.clients = Some(clients(3, 3));
    resolved.facts.report.clients = Counts { connected: 3, applied: 2, rejected: 0 };
    resolved.facts.settled = false;
    assert_eq!(decide(&resolved).status["clients"]["applied"], 3);
    // Of another revision nobody said anything before.
    resolved.before.state.update = Some(1);
    assert_eq!(decide(&resolved).status["clients"]["applied"], 2);
}

#[test]
fn the_words_of_a_refusal_outlive_the_leader_that_heard_them() {
    let mut resolved = resolved();
    resolved.facts.report.rejections = vec![rejection(2)];
    let decision = decide(&resolved);
    assert_eq!(decision.step, Step::Keep);
    assert_eq!(decision.status["currentRevision"], 1);
    assert_eq!(decision.status["rejectedRevisions"], json!([2]));
    assert!(decision.verdict.message.ends_with("pod a: Invalid: no"), "{}", decision.verdict.message);

    resolved.facts.report.rejections.clear();
    resolved.before.state = State { current: Some(1), update: Some(2), rejected: [2].into() };
    resolved.before.rejection = Some(decision.verdict.message.clone());
    assert_eq!(decide(&resolved).verdict, decision.verdict);

    // An edit is another matter, even one that resolves to the same.
    resolved.generation = 3;
    let again = decide(&resolved);
    assert_eq!((again.step, again.verdict.reason), (Step::Create { number: 3 }, Reason::NoClients));
    assert_eq!(again.status["currentRevision"], 3);
    resolved.encoded.hash = "hash-3".into();
    let healed = decide(&resolved);
    assert_eq!((healed.step, healed.verdict.reason), (Step::Create { number: 3 }, Reason::NoClients));
}

#[test]
fn a_status_names_five_pods_at_most_and_types_values() {
    let mut resolved = resolved();
    let report = &mut resolved.facts.report;
    report.effective = [("acks", "all"), ("lingerMs", "5"), ("enableAutoCommit", "true")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    report.deviating = (0..9)
        .rev()
        .map(|number| crate::push::index::Deviating {
            pod: format!("pod-{number}"),
            revision: None,
            message: "does not apply warp".into(),
        })
        .collect();
    let status = decide(&resolved).status;
    assert_eq!(status["effective"], json!({"acks": "all", "enableAutoCommit": true, "lingerMs": 5}));
    let named: Vec<_> = status["clients"]["deviating"].as_array().unwrap().iter().map(|c| c["pod"].clone()).collect();
    assert_eq!(named, ["pod-0", "pod-1", "pod-2", "pod-3", "pod-4"]);
}

fn cluster(broker: &str) -> MqClusterSpec {
    serde_json::from_value(json!({
        "brokers": [broker],
        "namespaces": [{"name": "shop", "topics": ["*"]}],
    }))
    .unwrap()
}

#[test]
fn brokers_of_another_cluster_are_not_pushed() {
    let health = |reason| Some(Verdict::unknown(reason, "said by the session"));
    let reason = |facts: &Facts| connection("main", "shop", facts).err().map(|verdict| verdict.reason);
    let table = [
        ("a:1", None, None),
        ("a:1", health(Reason::Connected), None),
        // Who cannot be reached from here may well be reached by the clients, and they try before they change.
        ("a:1", health(Reason::ClusterUnreachable), None),
        ("a:1", health(Reason::WrongCluster), Some(Reason::WrongCluster)),
        ("a:70000", None, Some(Reason::ClusterUnreachable)),
    ];
    for (broker, health, expected) in table {
        assert_eq!(reason(&facts(Some(&cluster(broker)), health.clone())), expected, "{broker} {health:?}");
    }
}

#[test]
fn a_namespace_without_grant_is_told_who_can_help() {
    let granted = facts(Some(&cluster("a:1")), None);
    assert_eq!(connection("main", "shop", &granted).unwrap().brokers, ["a:1"]);
    assert_eq!(connection("main", "bank", &granted).unwrap_err().reason, Reason::NotGranted);
    assert_eq!(connection("main", "shop", &facts(None, None)).unwrap_err().reason, Reason::ClusterNotFound);
    // Also after a restart, which does not know what it was before.
    for known in [granted, facts(None, None)] {
        let verdict = connection("main", "shop", &Facts { unreadable: true, ..known }).unwrap_err();
        assert_eq!((verdict.health, verdict.reason), (Health::Unknown, Reason::ClusterUnreachable));
        assert!(verdict.message.contains("does not fit the schema"), "{verdict:?}");
    }
}
