//! Dead-letter topics that groups need: made where they are missing, and left alone ever after.
//!
//! The topic belongs to nobody: its records outlive the group, so that nothing here changes or deletes it. An `MqTopic` of the name,
//! in whatever condition, is the one that says how it is.

use super::Writes;
use crate::{
    condition::{Observed, Verdict},
    effect::{Change, Effect, ObjectKey},
    reason::Reason,
    topic::Topics,
};
use std::collections::{BTreeMap, BTreeSet};

/// Records that could not be handled wait for a person: 30 days.
const RETENTION_MS: &str = "2592000000";

/// A group needs this topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// The object of the group.
    pub object: ObjectKey,
    /// Kafka name.
    pub topic: String,
    /// The topics that the group consumes.
    pub sources: BTreeSet<String>,
}

/// What to do, and how each group's dead-letter topic is. `declared` are the names that `MqTopic`s claim.
pub fn plan(
    wanted: &[DeadLetters],
    declared: &BTreeSet<String>,
    observed: &Topics,
    writes: Writes,
) -> (Vec<Effect>, BTreeMap<ObjectKey, Verdict>) {
    let mut sorted: Vec<&DeadLetters> = wanted.iter().collect();
    sorted.sort_by(|a, b| a.object.cmp(&b.object));
    let (mut effects, mut verdicts) = (BTreeMap::new(), BTreeMap::new());
    for wanted in sorted {
        let topic = &wanted.topic;
        let verdict = match observed.get(topic) {
            _ if declared.contains(topic) => {
                Verdict::ready(Reason::InSync, format!("an MqTopic declares topic {topic}"))
            }
            Err(why) => why.clone().into(),
            Ok(Some(_)) => Verdict::ready(Reason::InSync, format!("topic {topic} exists")),
            Ok(None) if writes == Writes::Paused => Verdict::cluster_paused(),
            Ok(None) => match partitions(wanted, observed) {
                Err(why) => why.into(),
                Ok(None) => {
                    let sources = wanted.sources.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    let which = if sources.is_empty() { "one that its patterns match" } else { &sources };
                    let message = format!(
                        "the dead-letter topic {topic} is created as soon as a topic of the group exists: {which}"
                    );
                    Verdict::reconciling(Reason::Progressing, message)
                }
                Ok(Some(partitions)) => {
                    let effect = create(wanted, partitions);
                    let verdict = Verdict::reconciling(Reason::Progressing, format!("creating {}", effect.message));
                    // Of several groups with one dead-letter topic the first makes it.
                    effects.entry(topic.clone()).or_insert(effect);
                    verdict
                }
            },
        };
        verdicts.insert(wanted.object.clone(), verdict);
    }
    (effects.into_values().collect(), verdicts)
}

/// As many as the largest topic of the group, of those that exist. Known only once all were looked at, since the number is never changed
/// afterwards.
fn partitions(wanted: &DeadLetters, observed: &Topics) -> Observed<Option<i32>> {
    wanted.sources.iter().try_fold(None, |largest, source| {
        let found = observed.get(source).map_err(Clone::clone)?;
        Ok(largest.max(found.map(|topic| topic.partitions)))
    })
}

fn create(wanted: &DeadLetters, partitions: i32) -> Effect {
    let topic = wanted.topic.clone();
    let message = format!("dead-letter topic {topic}: {partitions} partitions, the default replication factor");
    let config = [("retention.ms", RETENTION_MS), ("cleanup.policy", "delete")];
    let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let change = Change::CreateTopic { topic, partitions, replication_factor: None, config };
    Effect { object: wanted.object.clone(), change, reason: Reason::TopicCreated, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        condition::{Health, Unknown},
        topic::{TopicState, Usage},
    };

    fn wanted(group: &str) -> DeadLetters {
        let object = ObjectKey { namespace: "shop".into(), name: group.into(), uid: group.into() };
        let sources = ["orders", "refunds"].map(str::to_owned).into();
        DeadLetters { object, topic: "g.dlq".into(), sources }
    }

    fn topic(partitions: i32) -> TopicState {
        TopicState {
            id: "1".into(),
            partitions,
            replication_factor: 1,
            config: Err(unknown()),
            usage: Ok(Usage { records: 0, groups: vec![] }),
        }
    }

    fn unknown() -> Unknown {
        Unknown::new(Reason::ClusterUnreachable, "no answer")
    }

    /// What it is, what is seen and declared, whether writes are allowed, and then partitions and health.
    type Case<'a> = (&'a str, Seen<'a>, &'a [&'a str], (Writes, Option<i32>, Health));
    type Seen<'a> = &'a [(&'a str, Option<TopicState>)];

    fn decide(seen: Seen<'_>, declared: &[&str], writes: Writes) -> (Vec<Change>, Verdict) {
        let by_name = seen.iter().map(|(name, state)| ((*name).to_owned(), Ok(state.clone()))).collect();
        let observed = Topics { by_name, otherwise: unknown() };
        let declared = declared.iter().map(ToString::to_string).collect();
        let (effects, mut verdicts) = plan(&[wanted("g")], &declared, &observed, writes);
        (effects.into_iter().map(|effect| effect.change).collect(), verdicts.remove(&wanted("g").object).unwrap())
    }

    #[test]
    fn it_is_made_once_and_then_left_alone() {
        use Health::{Held, Ready, Reconciling, Unknown};
        let missing = ("g.dlq", None);
        let table: [Case<'_>; 9] = [
            (
                "missing",
                &[missing.clone(), ("orders", Some(topic(12))), ("refunds", Some(topic(3)))],
                &[],
                (Writes::Allowed, Some(12), Reconciling),
            ),
            (
                "one source is not known",
                &[missing.clone(), ("refunds", Some(topic(3)))],
                &[],
                (Writes::Allowed, None, Unknown),
            ),
            (
                "one source does not exist",
                &[missing.clone(), ("orders", None), ("refunds", Some(topic(3)))],
                &[],
                (Writes::Allowed, Some(3), Reconciling),
            ),
            (
                "no source yet",
                &[missing.clone(), ("orders", None), ("refunds", None)],
                &[],
                (Writes::Allowed, None, Reconciling),
            ),
            (
                "there, however it is",
                &[("g.dlq", Some(topic(1))), ("orders", Some(topic(12)))],
                &[],
                (Writes::Allowed, None, Ready),
            ),
            ("declared", &[missing.clone(), ("orders", Some(topic(12)))], &["g.dlq"], (Writes::Allowed, None, Ready)),
            (
                "something else is declared",
                &[missing.clone(), ("orders", Some(topic(2))), ("refunds", None)],
                &["orders"],
                (Writes::Allowed, Some(2), Reconciling),
            ),
            ("paused", &[missing, ("orders", Some(topic(12)))], &[], (Writes::Paused, None, Held)),
            ("not known", &[("orders", Some(topic(12)))], &[], (Writes::Allowed, None, Unknown)),
        ];
        for (what, seen, declared, (writes, partitions, health)) in table {
            let (changes, verdict) = decide(seen, declared, writes);
            let made = changes.iter().map(|change| match change {
                Change::CreateTopic { topic, partitions, replication_factor: None, config } => {
                    assert_eq!((topic.as_str(), config["retention.ms"].as_str()), ("g.dlq", RETENTION_MS));
                    *partitions
                }
                other => panic!("{what}: {other:?}"),
            });
            assert_eq!(
                (made.collect::<Vec<_>>(), verdict.health),
                (partitions.into_iter().collect(), health),
                "{what}"
            );
        }
    }

    #[test]
    fn two_groups_with_one_topic_make_it_once() {
        let seen = [("g.dlq", None), ("orders", Some(topic(3))), ("refunds", None)];
        let by_name = seen.map(|(name, state)| (name.to_owned(), Ok(state))).into();
        let observed = Topics { by_name, otherwise: unknown() };
        let (effects, verdicts) = plan(&[wanted("b"), wanted("a")], &BTreeSet::new(), &observed, Writes::Allowed);
        assert_eq!(effects.iter().map(|effect| effect.object.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(verdicts.len(), 2);
    }
}
