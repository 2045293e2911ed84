//! What the deletion of an object does to its topic: nothing, unless the topic is certainly the one that it owns.

use super::{effect, outcome};
use crate::{
    condition::{Unknown, Verdict},
    effect::{Change, Effect},
    reason::Reason,
    topic::{DesiredTopic, Reclaim, TopicOutcome, TopicState},
};

/// How to let an object go that cannot delete its topic.
pub const LET_GO: &str = "to let this object go and keep the topic, set spec.reclaimPolicy: Retain";

/// A deletion that cannot go on for now; a namespace may be waiting for it, so it says how to let go.
pub(super) fn waits(why: &Unknown) -> Verdict {
    held(Verdict::unknown(why.reason, &why.message))
}

/// Adds to a verdict that holds up a deletion how to let go.
pub(super) fn held(mut verdict: Verdict) -> Verdict {
    verdict.message += "; ";
    verdict.message += LET_GO;
    verdict
}

pub(super) fn plan(
    desired: &DesiredTopic,
    contested: Option<&DesiredTopic>,
    found: Option<&TopicState>,
) -> (Vec<Effect>, TopicOutcome) {
    let topic = &desired.topic;
    let keep = |why: String| {
        let message = format!("topic {topic} stays in Kafka: {why}");
        let verdict = Verdict::reconciling(Reason::TopicKept, message.clone());
        (vec![], TopicOutcome { notice: Some((Reason::TopicKept, message)), released: true, ..outcome(verdict) })
    };
    let Some(state) = found else {
        let verdict = Verdict::reconciling(Reason::Progressing, format!("topic {topic} does not exist"));
        return (vec![], TopicOutcome { released: true, ..outcome(verdict) });
    };
    if desired.reclaim == Reclaim::Retain {
        return keep("spec.reclaimPolicy is Retain".into());
    }
    match &desired.owned {
        None => return keep("this object never owned it".into()),
        Some(owned) if owned.id != state.id => return keep(format!("someone re-created it, its id is {}", state.id)),
        Some(_) => {}
    }
    if let Some(other) = contested {
        return keep(format!("MqTopic {} declares it too", other.object));
    }
    if desired.reclaim != Reclaim::ForceDelete {
        let usage = match &state.usage {
            Ok(usage) => usage,
            Err(why) => return (vec![], outcome(waits(why))),
        };
        if usage.records > 0 {
            let message = format!(
                "topic {topic} holds {} records and is not deleted; set spec.forceDelete: {topic} to delete them, \
                 or spec.reclaimPolicy: Retain to keep the topic",
                usage.records
            );
            return (vec![], outcome(Verdict::stalled(Reason::TopicNotEmpty, message)));
        }
        if !usage.groups.is_empty() {
            let message = format!(
                "topic {topic} is used by group {} and is not deleted; stop its members, set spec.forceDelete: {topic}, \
                 or spec.reclaimPolicy: Retain to keep the topic",
                usage.groups.join(", ")
            );
            return (vec![], outcome(Verdict::stalled(Reason::TopicInUse, message)));
        }
    }
    let message = format!("topic {topic}, id {}", state.id);
    let change = Change::DeleteTopic { topic: topic.clone(), id: state.id.clone() };
    let verdict = Verdict::reconciling(Reason::Progressing, format!("deleting {message}"));
    (vec![effect(desired, change, Reason::TopicDeleted, message)], outcome(verdict))
}
