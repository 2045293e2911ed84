//! Tables for each rule, and properties over generated worlds with a model broker.

use super::*;
use crate::{
    condition::{Health, Unknown},
    topic::{Reclaim, Usage},
};
use proptest::prelude::*;

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

/// What an administrator would see after the effects: a broker without failures.
fn execute(effects: &[Effect], world: &mut BTreeMap<String, Option<TopicState>>) {
    for effect in effects {
        match &effect.change {
            Change::CreateTopic { topic, partitions, replication_factor, config } => {
                let config = config.iter().map(|(k, v)| (k.clone(), entry(v, true))).collect();
                let created = TopicState {
                    id: format!("created-{topic}"),
                    partitions: *partitions,
                    replication_factor: replication_factor.unwrap_or(1),
                    config: Ok(config),
                    usage: Ok(Usage { records: 0, groups: vec![] }),
                };
                assert_eq!(world.insert(topic.clone(), Some(created)), Some(None), "created over an existing topic");
            }
            Change::GrowTopic { topic, partitions } => {
                let state = world.get_mut(topic).unwrap().as_mut().unwrap();
                assert!(*partitions > state.partitions, "shrunk");
                state.partitions = *partitions;
            }
            Change::AlterTopicConfig { topic, set, reset } => {
                let config = world.get_mut(topic).unwrap().as_mut().unwrap().config.as_mut().unwrap();
                config.extend(set.iter().map(|(k, v)| (k.clone(), entry(v, true))));
                config.retain(|key, _| !reset.contains(key));
            }
            Change::DeleteTopic { topic, id } => {
                let state = world.insert(topic.clone(), None).unwrap().unwrap();
                assert_eq!(&state.id, id);
            }
        }
    }
}

/// Carries the outcomes over into what the objects remember, as the status does, and drops released objects.
fn remember(desired: &mut Vec<DesiredTopic>, outcomes: &BTreeMap<ObjectKey, TopicOutcome>) {
    desired.retain(|d| !outcomes[&d.object].released);
    for topic in desired {
        match &outcomes[&topic.object].record {
            Record::Keep => {}
            Record::Forget => topic.owned = None,
            Record::Own(actual) => {
                let kept = || topic.owned.as_ref().map(|o| o.config.clone()).unwrap_or_default();
                let config = actual.config.clone().unwrap_or_else(kept);
                topic.owned = Some(Owned { id: actual.id.clone(), config });
            }
        }
    }
}

fn any_config() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ab]", "[12]", 0..3)
}

fn any_desired() -> impl Strategy<Value = DesiredTopic> {
    let adoption = prop_oneof![Just(Adoption::IfMatches), Just(Adoption::Always), Just(Adoption::Never)];
    let reclaim = prop_oneof![Just(Reclaim::Retain), Just(Reclaim::Delete), Just(Reclaim::ForceDelete)];
    let owned = proptest::option::of(("id-[12]", any_config()).prop_map(|(id, config)| Owned { id, config }));
    let who = ("[a-d]", 0..3_i64, "t[1-3]");
    let what = (1..4_i32, proptest::option::of(1..3_i16), any_config());
    (who, what, adoption, reclaim, any::<bool>(), proptest::bool::weighted(0.1), owned).prop_map(
        |(
            (name, created_at, topic),
            (partitions, replication_factor, config),
            adoption,
            reclaim,
            deleting,
            paused,
            owned,
        )| {
            let object = ObjectKey { namespace: "n".into(), uid: format!("uid-{name}"), name };
            DesiredTopic {
                object,
                created_at,
                topic,
                partitions,
                replication_factor,
                config,
                adoption,
                reclaim,
                deleting,
                paused,
                owned,
            }
        },
    )
}

fn any_desired_set() -> impl Strategy<Value = Vec<DesiredTopic>> {
    proptest::collection::vec(any_desired(), 0..6).prop_map(|mut all| {
        all.sort_by(|a, b| a.object.cmp(&b.object));
        all.dedup_by(|a, b| a.object == b.object);
        all
    })
}

fn any_state() -> impl Strategy<Value = TopicState> {
    let config = proptest::collection::btree_map("[abc]", ("[12]", any::<bool>()), 0..4);
    ("id-[12]", 1..4_i32, 1..3_i16, config, 0..2_i64, proptest::collection::vec("g", 0..2)).prop_map(
        |(id, partitions, replication_factor, config, records, groups)| TopicState {
            id,
            partitions,
            replication_factor,
            config: Ok(config.into_iter().map(|(k, (v, topic_level))| (k, entry(&v, topic_level))).collect()),
            usage: Ok(Usage { records, groups }),
        },
    )
}

fn any_world() -> impl Strategy<Value = BTreeMap<String, Option<TopicState>>> {
    let known =
        (proptest::option::of(any_state()), proptest::option::of(any_state()), proptest::option::of(any_state()));
    known.prop_map(|(a, b, c)| [("t1".to_owned(), a), ("t2".to_owned(), b), ("t3".to_owned(), c)].into())
}

fn observe(world: &BTreeMap<String, Option<TopicState>>) -> Topics {
    let by_name = world.iter().map(|(name, state)| (name.clone(), Ok(state.clone()))).collect();
    Topics { by_name, otherwise: unreachable() }
}

proptest! {
    #[test]
    fn the_order_of_objects_does_not_matter(desired in any_desired_set(), world in any_world(), turn in 0..6_usize) {
        let mut turned = desired.clone();
        turned.rotate_left(turn.min(desired.len()));
        turned.reverse();
        prop_assert_eq!(plan(&desired, &observe(&world)), plan(&turned, &observe(&world)));
    }

    #[test]
    fn every_object_gets_one_outcome_with_a_message(desired in any_desired_set(), world in any_world()) {
        let plan = plan(&desired, &observe(&world));
        prop_assert_eq!(plan.outcomes.len(), desired.len());
        prop_assert!(plan.outcomes.values().all(|o| !o.verdict.message.is_empty()));
    }

    #[test]
    fn what_is_not_known_is_not_touched(desired in any_desired_set(), world in any_world(), hidden in 0..3_u8) {
        let mut observed = observe(&world);
        for state in observed.by_name.values_mut() {
            match (hidden, &mut *state) {
                (0, _) => *state = Err(unreachable()),
                (1, Ok(Some(state))) => state.config = Err(unreachable()),
                (_, Ok(Some(state))) => state.usage = Err(unreachable()),
                (_, Ok(None) | Err(_)) => {}
            }
        }
        for effect in plan(&desired, &observed).effects {
            prop_assert!(hidden != 0, "changed a topic that was not seen: {effect:?}");
            if hidden == 1 {
                prop_assert!(!matches!(effect.change, Change::AlterTopicConfig { .. }), "{effect:?}");
            }
            let forced = desired.iter().any(|d| d.object == effect.object && d.reclaim == Reclaim::ForceDelete);
            if hidden == 2 && !forced {
                prop_assert!(!effect.change.is_destructive(), "{effect:?}");
            }
        }
    }

    #[test]
    fn only_owned_topics_of_deleted_objects_are_deleted(desired in any_desired_set(), world in any_world()) {
        for effect in plan(&desired, &observe(&world)).effects {
            if let Change::DeleteTopic { topic, id } = &effect.change {
                let object = desired.iter().find(|d| d.object == effect.object).unwrap();
                prop_assert!(object.deleting && object.reclaim != Reclaim::Retain);
                prop_assert_eq!(&object.owned.as_ref().unwrap().id, id);
                prop_assert!(!desired.iter().any(|d| !d.deleting && &d.topic == topic), "still declared");
            }
        }
    }

    #[test]
    fn it_settles(desired in any_desired_set(), world in any_world()) {
        let (mut desired, mut world) = (desired, world);
        for _ in 0..6 {
            let plan = plan(&desired, &observe(&world));
            execute(&plan.effects, &mut world);
            remember(&mut desired, &plan.outcomes);
        }
        let settled = plan(&desired, &observe(&world));
        prop_assert_eq!(settled.effects, vec![]);
        for (object, outcome) in settled.outcomes {
            let moving = outcome.verdict.health == Health::Reconciling || outcome.released || outcome.notice.is_some();
            prop_assert!(!moving, "{} does not settle: {:?}", object, outcome);
        }
    }
}
