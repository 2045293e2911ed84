//! Properties over generated worlds with a model broker.

use proptest::prelude::*;

use super::*;

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
