use super::*;
use mq_core::{
    condition::Unknown,
    topic::{Adoption, Reclaim, Record},
};

const AT: Moment = Moment { now: Duration::ZERO, interval: Duration::from_secs(10) };

fn key() -> ObjectKey {
    ObjectKey { namespace: "shop".into(), name: "orders".into(), uid: "1".into() }
}

fn desired(partitions: i32) -> DesiredTopic {
    DesiredTopic {
        object: key(),
        created_at: 0,
        topic: "orders".into(),
        partitions,
        replication_factor: None,
        config: BTreeMap::new(),
        adoption: Adoption::Never,
        reclaim: Reclaim::Retain,
        deleting: false,
        paused: false,
        owned: None,
    }
}

fn outcome(verdict: Verdict) -> BTreeMap<ObjectKey, TopicOutcome> {
    let outcome = TopicOutcome { verdict, record: Record::Keep, drift: None, notice: None, released: false };
    [(key(), outcome)].into()
}

fn created() -> Done {
    let change = Change::CreateTopic {
        topic: "orders".into(),
        partitions: 3,
        replication_factor: None,
        config: BTreeMap::new(),
    };
    let effect = Effect { object: key(), change, reason: Reason::TopicCreated, message: "made".into() };
    Done { effect, result: Ok(Some("id-1".into())) }
}

#[test]
fn an_outcome_holds_for_the_declaration_it_was_made_for() {
    let mut topics = Topics::default();
    assert!(topics.declare(desired(3), None));
    topics.settle(&[desired(3)], outcome(Verdict::ready(Reason::InSync, "")), vec![], AT);
    assert!(topics.view(&desired(3)).is_some());
    assert!(!topics.declare(desired(3), None), "nothing changed");
    assert!(topics.declare(desired(3), Some("now")), "a nudge is a change");

    assert!(topics.declare(desired(4), Some("now")));
    assert_eq!(topics.view(&desired(4)), None, "the old answer must not pass for one about the new spec");
    // A cycle that began before the edit.
    assert_eq!(topics.settle(&[desired(3)], outcome(Verdict::ready(Reason::InSync, "")), vec![], AT), []);
    assert_eq!(topics.view(&desired(4)), None);
}

type Turn = fn(&mut Topics, DesiredTopic);

#[test]
fn only_what_is_declared_as_when_it_was_looked_at_is_planned() {
    let other = |name: &str, topic: &str| DesiredTopic {
        object: ObjectKey { name: name.into(), uid: name.into(), ..key() },
        topic: topic.into(),
        ..desired(3)
    };
    let deleting = DesiredTopic { deleting: true, reclaim: Reclaim::Delete, ..desired(3) };
    let before = vec![deleting.clone(), other("rival", "orders"), other("apart", "refunds")];
    let turns: [(&str, Turn, &[&str]); 7] = [
        ("nothing", |_, _| {}, &["apart", "orders", "rival"]),
        (
            "kept",
            |now, mine| {
                now.declare(DesiredTopic { reclaim: Reclaim::Retain, ..mine }, None);
            },
            &["apart"],
        ),
        (
            "paused",
            |now, mine| {
                now.declare(DesiredTopic { paused: true, ..mine }, None);
            },
            &["apart"],
        ),
        (
            "moved",
            |now, mine| {
                now.declare(DesiredTopic { topic: "refunds".into(), ..mine }, None);
            },
            &[],
        ),
        (
            "withdrawn",
            |now, mine| {
                now.withdraw(&mine.object);
            },
            &["apart"],
        ),
        (
            "claimed by another",
            |now, mine| {
                let object = ObjectKey { uid: "new".into(), ..mine.object.clone() };
                now.declare(DesiredTopic { object, deleting: false, ..mine }, None);
            },
            &["apart"],
        ),
        (
            "recorded in the status",
            |now, mine| {
                let owned = Some(Owned { id: "id-1".into(), config: BTreeMap::new() });
                now.declare(DesiredTopic { owned, ..mine }, None);
            },
            &["apart", "orders", "rival"],
        ),
    ];
    for (what, turn, left) in turns {
        let mut topics = Topics::default();
        for topic in &before {
            topics.declare(topic.clone(), None);
        }
        turn(&mut topics, deleting.clone());
        let mut still: Vec<_> = topics.still(&before).into_iter().map(|topic| topic.object.name).collect();
        still.sort();
        assert_eq!(still, left, "{what}");
    }
}

#[test]
fn the_younger_of_two_waits_for_the_older_that_is_on_its_way() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    let older = ObjectKey { name: "older".into(), uid: "0".into(), ..key() };
    let claims = |topic: &str| vec![(older.clone(), topic.to_owned()), (key(), "orders".to_owned())];
    assert_eq!(topics.complete(vec![desired(3)], None), [], "nothing is listed yet");
    assert_eq!(topics.complete(vec![desired(3)], Some(&claims("orders"))), []);
    assert_eq!(topics.complete(vec![desired(3)], Some(&claims("refunds"))), [desired(3)]);
    topics.declare(DesiredTopic { object: older.clone(), ..desired(3) }, None);
    assert_eq!(topics.complete(vec![desired(3)], Some(&claims("orders"))), [desired(3)]);
}

#[test]
fn an_outcome_wakes_its_object_once() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    let ready = || outcome(Verdict::ready(Reason::InSync, ""));
    assert_eq!(topics.settle(&[desired(3)], ready(), vec![], AT), [key()]);
    assert_eq!(topics.settle(&[desired(3)], ready(), vec![], AT), []);
}

#[test]
fn a_notice_is_told_once() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    let notice = Some((Reason::TopicAdopted, "took over".to_owned()));
    for _ in 0..2 {
        let mut outcomes = outcome(Verdict::ready(Reason::InSync, ""));
        for outcome in outcomes.values_mut() {
            outcome.notice = notice.clone();
        }
        topics.settle(&[desired(3)], outcomes, vec![], AT);
    }
    assert_eq!(topics.take_events(&key()).len(), 1);
    assert_eq!(topics.take_events(&key()), []);
}

#[test]
fn an_own_topic_is_known_before_the_status_says_so() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    topics.settle(&[desired(3)], outcome(Verdict::reconciling(Reason::Progressing, "")), vec![created()], AT);
    let owned = |topics: &Topics| topics.with_own_changes(vec![desired(3)])[0].owned.clone();
    assert_eq!(owned(&topics).map(|owned| owned.id), Some("id-1".into()));
    assert!(topics.is_unsure(), "nobody has seen it yet");

    let mut gone = outcome(Verdict::reconciling(Reason::TopicVanished, ""));
    for outcome in gone.values_mut() {
        outcome.record = Record::Forget;
    }
    topics.settle(&[desired(3)], gone, vec![], AT);
    assert_eq!(owned(&topics), None, "it is gone");
}

#[test]
fn a_topic_that_was_just_made_is_not_missed_by_one_look() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    topics.settle(&[desired(3)], outcome(Verdict::reconciling(Reason::Progressing, "")), vec![created()], AT);
    let seen = topic::Topics {
        by_name: [("orders".to_owned(), Ok(None))].into(),
        otherwise: Unknown::new(Reason::PartialObservation, ""),
    };
    let mine = topics.with_own_changes(vec![desired(3)]);
    let mut look =
        |at| topics.judge(&mine, std::iter::empty(), seen.clone(), at).get("orders").is_ok_and(|state| state.is_none());
    let looks = (0..20).map(|n| look(Moment { now: AT.interval * n, ..AT })).collect::<Vec<_>>();
    assert_eq!(looks.iter().filter(|gone| !**gone).count(), 9, "{looks:?}");
}

#[test]
fn a_failed_look_turns_an_object_over_only_after_some_time() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    topics.settle(&[desired(3)], outcome(Verdict::ready(Reason::InSync, "")), vec![], AT);
    let unreachable = || outcome(Verdict::unknown(Reason::ClusterUnreachable, ""));
    let later = |intervals| Moment { now: AT.interval * intervals, ..AT };
    assert_eq!(topics.settle(&[desired(3)], unreachable(), vec![], later(2)), []);
    assert_eq!(topics.view(&desired(3)).unwrap().outcome.verdict.reason, Reason::InSync);
    assert_eq!(topics.settle(&[desired(3)], unreachable(), vec![], later(3)), [key()]);
    assert_eq!(topics.view(&desired(3)).unwrap().outcome.verdict.reason, Reason::ClusterUnreachable);

    topics.settle(&[desired(3)], outcome(Verdict::ready(Reason::InSync, "")), vec![], later(4));
    let failed = Done { result: Err(Verdict::unknown(Reason::ClusterUnreachable, "no answer")), ..created() };
    assert_eq!(topics.settle(&[desired(3)], unreachable(), vec![failed], later(5)), [key()], "a change failed");
}

#[test]
fn what_was_set_is_what_was_left() {
    let mut topics = Topics::default();
    let owner = |value: &str| {
        let config = [("retention.ms".to_owned(), value.to_owned())].into();
        DesiredTopic { owned: Some(Owned { id: "id-1".into(), config }), ..desired(3) }
    };
    topics.declare(owner("5"), None);
    let mut alter = |set: Option<&str>| {
        let key = "retention.ms".to_owned();
        let change = Change::AlterTopicConfig {
            topic: "orders".into(),
            set: set.map(|value| (key.clone(), value.to_owned())).into_iter().collect(),
            reset: if set.is_none() { [key].into() } else { BTreeSet::new() },
        };
        let effect = Effect { change, reason: Reason::TopicConfigChanged, ..created().effect };
        let done = vec![Done { effect, result: Ok(None) }];
        topics.settle(&[owner("5")], outcome(Verdict::reconciling(Reason::Progressing, "")), done, AT);
        topics.with_own_changes(vec![owner("5")])[0].owned.clone().unwrap().config["retention.ms"].clone()
    };
    assert_eq!(alter(Some("7")), "7", "the status has what was found before it was set");
    assert_eq!(alter(None), "5", "what was given up is nobody's any more");
}

#[test]
fn a_failure_is_what_the_object_says() {
    let mut topics = Topics::default();
    topics.declare(desired(3), None);
    let failed = Done { result: Err(Verdict::stalled(Reason::RefusedByKafka, "no")), ..created() };
    topics.settle(&[desired(3)], outcome(Verdict::reconciling(Reason::Progressing, "")), vec![failed], AT);
    assert_eq!(topics.view(&desired(3)).unwrap().outcome.verdict.reason, Reason::RefusedByKafka);
    assert_eq!(topics.take_events(&key()), []);
}
