//! Tables for each rule.

mod properties;

use super::*;
use crate::{
    condition::{Health, Unknown},
    topic::{Reclaim, Usage},
};

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "shop".into(), name: name.into(), uid: format!("uid-{name}") }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn declared() -> DesiredTopic {
    DesiredTopic {
        object: key("orders"),
        created_at: 100,
        topic: "orders".into(),
        partitions: 12,
        replication_factor: Some(1),
        config: map([("retention.ms", "3600000")]),
        adoption: Adoption::IfMatches,
        reclaim: Reclaim::Retain,
        deleting: false,
        paused: false,
        owned: None,
    }
}

fn owner() -> DesiredTopic {
    let owned = Some(Owned { id: "id-1".into(), config: map([("retention.ms", "3600000")]) });
    DesiredTopic { owned, ..declared() }
}

fn deleting(reclaim: Reclaim) -> DesiredTopic {
    DesiredTopic { deleting: true, reclaim, ..owner() }
}

fn entry(value: &str, topic_level: bool) -> ConfigEntry {
    ConfigEntry { value: Some(value.into()), topic_level }
}

fn state() -> TopicState {
    let config = [("cleanup.policy", entry("delete", false)), ("retention.ms", entry("3600000", true))];
    TopicState {
        id: "id-1".into(),
        partitions: 12,
        replication_factor: 1,
        config: Ok(config.into_iter().map(|(k, e)| (k.to_owned(), e)).collect()),
        usage: Ok(Usage { records: 0, groups: vec![] }),
    }
}

fn with_config(key: &str, value: &str) -> TopicState {
    let mut state = state();
    state.config.as_mut().unwrap().insert(key.into(), entry(value, true));
    state
}

fn unreachable() -> Unknown {
    Unknown::new(Reason::ClusterUnreachable, "no broker answers")
}

fn seen(state: Option<TopicState>) -> Topics {
    Topics { by_name: [("orders".to_owned(), Ok(state))].into(), otherwise: unreachable() }
}

fn plan(desired: &[DesiredTopic], observed: &Topics) -> TopicPlan {
    super::plan(desired, observed, Writes::Allowed)
}

fn decide(desired: DesiredTopic, observed: &Topics) -> (Vec<Change>, TopicOutcome) {
    let object = desired.object.clone();
    let mut plan = plan(&[desired], observed);
    (plan.effects.into_iter().map(|e| e.change).collect(), plan.outcomes.remove(&object).unwrap())
}

#[test]
fn a_missing_topic_is_created() {
    let (changes, outcome) = decide(declared(), &seen(None));
    let expected = Change::CreateTopic {
        topic: "orders".into(),
        partitions: 12,
        replication_factor: Some(1),
        config: map([("retention.ms", "3600000")]),
    };
    assert_eq!(changes, [expected]);
    assert_eq!(outcome.verdict.health, Health::Reconciling);
}

#[test]
fn an_owned_topic_converges() {
    let grow = Change::GrowTopic { topic: "orders".into(), partitions: 12 };
    let alter = |set, reset: &[&str]| Change::AlterTopicConfig {
        topic: "orders".into(),
        set,
        reset: reset.iter().map(ToString::to_string).collect(),
    };
    let table = [
        ("in sync", owner(), state(), vec![], Reason::InSync),
        ("grows", owner(), TopicState { partitions: 3, ..state() }, vec![grow], Reason::Progressing),
        ("never shrinks", owner(), TopicState { partitions: 13, ..state() }, vec![], Reason::PartitionsCannotShrink),
        (
            "moves no replicas",
            owner(),
            TopicState { replication_factor: 3, ..state() },
            vec![],
            Reason::ReplicationFactorDiffers,
        ),
        (
            "any replication is fine when none is declared",
            DesiredTopic { replication_factor: None, ..owner() },
            TopicState { replication_factor: 3, ..state() },
            vec![],
            Reason::InSync,
        ),
        (
            "repairs drift",
            owner(),
            with_config("retention.ms", "1000"),
            vec![alter(map([("retention.ms", "3600000")]), &[])],
            Reason::Progressing,
        ),
        ("leaves foreign keys alone", owner(), with_config("segment.ms", "5000"), vec![], Reason::InSync),
        (
            "resets a key that is no longer declared",
            DesiredTopic { config: map([]), ..owner() },
            state(),
            vec![alter(map([]), &["retention.ms"])],
            Reason::Progressing,
        ),
        (
            "does not reset what is at its default already",
            DesiredTopic {
                config: map([]),
                owned: Some(Owned { id: "id-1".into(), config: map([("cleanup.policy", "delete")]) }),
                ..owner()
            },
            state(),
            vec![],
            Reason::InSync,
        ),
        (
            "spells values as the broker does",
            DesiredTopic { config: map([("cleanup.policy", "compact, delete")]), ..owner() },
            TopicState { config: Ok([("cleanup.policy".into(), entry("compact,delete", true))].into()), ..state() },
            vec![],
            Reason::InSync,
        ),
        (
            "does not touch what it cannot see",
            owner(),
            TopicState { config: Err(Unknown::new(Reason::PartialObservation, "timed out")), ..state() },
            vec![],
            Reason::PartialObservation,
        ),
    ];
    for (name, desired, state, changes, reason) in table {
        let (planned, outcome) = decide(desired, &seen(Some(state)));
        assert_eq!(planned, changes, "{name}");
        assert_eq!(outcome.verdict.reason, reason, "{name}: {}", outcome.verdict.message);
    }
}

#[test]
fn drift_is_told_from_an_edit() {
    let observed = seen(Some(with_config("retention.ms", "1000")));
    let plan_of = |desired| plan(&[desired], &observed);
    let drift = plan_of(owner());
    assert_eq!(drift.effects[0].reason, Reason::DriftRepaired);
    assert_eq!(drift.effects[0].message, "topic orders: retention.ms 1000 → 3600000");
    let expected = Some(Drift { key: "retention.ms".into(), was: "1000".into() });
    assert_eq!(drift.outcomes[&key("orders")].drift, expected);

    let owned = Some(Owned { id: "id-1".into(), config: map([("retention.ms", "1000")]) });
    let edit = plan_of(DesiredTopic { owned, ..owner() });
    assert_eq!(edit.effects[0].reason, Reason::TopicConfigChanged);
    assert_eq!(edit.outcomes[&key("orders")].drift, None);
}

#[test]
fn adoption_follows_the_words() {
    let other = TopicState { partitions: 6, ..with_config("retention.ms", "1000") };
    let blind = TopicState { config: Err(Unknown::new(Reason::PartialObservation, "timed out")), ..state() };
    let table = [
        (Adoption::IfMatches, state(), Reason::InSync, true, 0),
        (Adoption::IfMatches, other.clone(), Reason::ResourceConflict, false, 0),
        (Adoption::IfMatches, blind.clone(), Reason::PartialObservation, false, 0),
        (Adoption::Always, other.clone(), Reason::Progressing, true, 2),
        (Adoption::Always, blind, Reason::PartialObservation, true, 0),
        (Adoption::Never, state(), Reason::ResourceConflict, false, 0),
    ];
    for (adoption, state, reason, adopted, changes) in table {
        let (planned, outcome) = decide(DesiredTopic { adoption, ..declared() }, &seen(Some(state)));
        assert_eq!((outcome.verdict.reason, planned.len()), (reason, changes), "{adoption:?}");
        assert_eq!(matches!(outcome.record, Record::Own(_)), adopted, "{adoption:?}");
    }
    let (_, outcome) = decide(declared(), &seen(Some(other)));
    let lists_all = "partitions 6 (declared 12), retention.ms 1000 (declared 3600000)";
    assert!(outcome.verdict.message.contains(lists_all), "{}", outcome.verdict.message);
}

#[test]
fn a_recreated_topic_is_another_topic() {
    let recreated = seen(Some(TopicState { id: "id-2".into(), ..state() }));
    let (changes, outcome) = decide(owner(), &recreated);
    assert_eq!((changes.len(), outcome.verdict.reason, outcome.record), (0, Reason::TopicRecreated, Record::Keep));
    let (_, outcome) = decide(DesiredTopic { adoption: Adoption::Always, ..owner() }, &recreated);
    assert_eq!(outcome.verdict.reason, Reason::InSync);
    assert!(matches!(outcome.record, Record::Own(actual) if actual.id == "id-2"));
}

#[test]
fn a_vanished_topic_is_forgotten_before_it_is_created_again() {
    let (changes, outcome) = decide(owner(), &seen(None));
    assert_eq!((changes.len(), outcome.record), (0, Record::Forget));
    assert_eq!(outcome.notice.unwrap().0, Reason::TopicVanished);
}

#[test]
fn deletion_is_guarded() {
    let holds = |records, groups: &[&str]| TopicState {
        usage: Ok(Usage { records, groups: groups.iter().map(ToString::to_string).collect() }),
        ..state()
    };
    let blind = TopicState { usage: Err(Unknown::new(Reason::PartialObservation, "timed out")), ..state() };
    let delete = vec![Change::DeleteTopic { topic: "orders".into(), id: "id-1".into() }];
    let never_owned = DesiredTopic { owned: None, ..deleting(Reclaim::ForceDelete) };
    let table = [
        ("empty", deleting(Reclaim::Delete), Some(state()), delete.clone(), Reason::Progressing, false),
        ("gone", deleting(Reclaim::Delete), None, vec![], Reason::Progressing, true),
        ("retained", deleting(Reclaim::Retain), Some(state()), vec![], Reason::TopicKept, true),
        ("holds records", deleting(Reclaim::Delete), Some(holds(3, &[])), vec![], Reason::TopicNotEmpty, false),
        ("used", deleting(Reclaim::Delete), Some(holds(0, &["g"])), vec![], Reason::TopicInUse, false),
        ("not known", deleting(Reclaim::Delete), Some(blind.clone()), vec![], Reason::PartialObservation, false),
        (
            "told in words",
            deleting(Reclaim::ForceDelete),
            Some(holds(3, &["g"])),
            delete.clone(),
            Reason::Progressing,
            false,
        ),
        ("told in words, not known", deleting(Reclaim::ForceDelete), Some(blind), delete, Reason::Progressing, false),
        (
            "another topic of that name",
            deleting(Reclaim::ForceDelete),
            Some(TopicState { id: "id-2".into(), ..state() }),
            vec![],
            Reason::TopicKept,
            true,
        ),
        ("never owned", never_owned, Some(state()), vec![], Reason::TopicKept, true),
    ];
    for (name, desired, state, changes, reason, released) in table {
        let (planned, outcome) = decide(desired, &seen(state));
        assert_eq!(planned, changes, "{name}");
        assert_eq!((outcome.verdict.reason, outcome.released), (reason, released), "{name}");
    }
}

#[test]
fn a_deletion_that_cannot_see_says_how_to_let_go() {
    let (changes, outcome) = decide(deleting(Reclaim::Delete), &Topics::unknown(unreachable()));
    assert_eq!((changes.len(), outcome.verdict.reason, outcome.released), (0, Reason::ClusterUnreachable, false));
    assert!(outcome.verdict.message.contains("spec.reclaimPolicy: Retain"), "{}", outcome.verdict.message);
}

#[test]
fn of_two_objects_the_older_wins_then_the_lower_uid() {
    let younger = DesiredTopic { object: key("a"), created_at: 101, partitions: 99, ..declared() };
    let result = plan(&[younger.clone(), declared()], &seen(None));
    assert_eq!(result.effects.iter().map(|e| &e.object).collect::<Vec<_>>(), [&key("orders")]);
    let loser = &result.outcomes[&key("a")].verdict;
    assert_eq!((loser.health, loser.reason), (Health::Stalled, Reason::ResourceConflict));
    assert_eq!(loser.message, "topic orders is declared by MqTopic shop/orders, which is older");

    let same_age = DesiredTopic { created_at: 100, ..younger };
    assert_eq!(plan(&[declared(), same_age], &seen(None)).effects[0].object, key("a"));
}

#[test]
fn a_topic_that_another_object_declares_survives_a_delete() {
    let younger = DesiredTopic { object: key("z"), created_at: 101, ..declared() };
    let winner = deleting(Reclaim::ForceDelete);
    let result = plan(&[winner, younger.clone()], &seen(Some(state())));
    assert_eq!(result.effects, []);
    assert!(result.outcomes[&key("orders")].released);

    let loser = DesiredTopic { deleting: true, reclaim: Reclaim::ForceDelete, owned: owner().owned, ..younger };
    let result = plan(&[owner(), loser], &seen(Some(state())));
    assert_eq!(result.effects, []);
    assert!(result.outcomes[&key("z")].released);
}

#[test]
fn a_paused_object_changes_nothing_and_keeps_its_claim() {
    let paused = DesiredTopic { paused: true, ..owner() };
    let younger = DesiredTopic { object: key("z"), created_at: 101, adoption: Adoption::Always, ..declared() };
    let result = plan(&[paused, younger], &seen(Some(with_config("retention.ms", "1000"))));
    assert_eq!(result.effects, []);
    assert_eq!(result.outcomes[&key("orders")].verdict.reason, Reason::Paused);
    assert_eq!(result.outcomes[&key("z")].verdict.reason, Reason::ResourceConflict);
}

#[test]
fn a_paused_cluster_is_read_and_not_changed() {
    let mut observed = seen(Some(with_config("retention.ms", "1000")));
    observed.by_name.extend([("gone".to_owned(), Ok(Some(state()))), ("missing".to_owned(), Ok(None))]);
    let gone = DesiredTopic { object: key("gone"), topic: "gone".into(), ..deleting(Reclaim::Delete) };
    let missing = DesiredTopic { object: key("missing"), topic: "missing".into(), ..declared() };
    let result = super::plan(&[owner(), gone, missing], &observed, Writes::Paused);
    assert_eq!(result.effects, []);
    for (object, outcome) in &result.outcomes {
        assert_eq!((outcome.verdict.reason, outcome.released), (Reason::Paused, false), "{object}");
        assert_eq!(outcome.verdict.message.contains(LET_GO), object.name == "gone", "{}", outcome.verdict.message);
    }
    assert!(matches!(&result.outcomes[&key("orders")].record, Record::Own(actual) if actual.id == "id-1"));
}
