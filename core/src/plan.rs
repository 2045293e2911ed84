//! Declared topics + observed topics → one list of effects and one outcome per object.
//!
//! Pure: the session observes and executes, `mq plan` would only print. The rules, in the order in which they apply to an object:
//!
//! 1. of several objects for one topic the older wins, then the lower uid; the others change nothing;
//! 2. what is not known is not touched;
//! 3. a deleting object deletes only the topic that it owns, by id, and only empty and unused unless told in words;
//! 4. a topic that exists is taken over only as `adoption` allows; one that was re-created by someone else is not the same topic;
//! 5. partitions grow and never shrink; declared keys are set where they differ; keys declared earlier go back to the default;
//!    all other keys belong to someone else.

pub mod contest;
pub mod dead_letters;
mod deletion;
#[cfg(test)]
mod tests;

pub use deletion::LET_GO;

use crate::{
    condition::Verdict,
    effect::{Change, Effect, ObjectKey},
    reason::Reason,
    topic::{
        Actual, Adoption, ConfigEntry, DesiredTopic, Drift, Owned, Record, TopicOutcome, TopicState, Topics, same_value,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// What to do, and what it means for each object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicPlan {
    /// Changes, sorted by topic.
    pub effects: Vec<Effect>,
    /// One outcome per object.
    pub outcomes: BTreeMap<ObjectKey, TopicOutcome>,
}

/// Whether anything may be changed on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// As far as each object allows.
    Allowed,
    /// Nothing, its `MqCluster` is paused.
    Paused,
}

/// Plans all topics of one cluster. The result does not depend on the order of `desired`.
pub fn plan(desired: &[DesiredTopic], observed: &Topics, writes: Writes) -> TopicPlan {
    let mut claims: BTreeMap<&str, Vec<&DesiredTopic>> = BTreeMap::new();
    for topic in desired {
        claims.entry(&topic.topic).or_default().push(topic);
    }
    let mut plan = TopicPlan::default();
    for (_, mut claimants) in claims {
        claimants.sort_by(|a, b| (a.created_at, &a.object.uid).cmp(&(b.created_at, &b.object.uid)));
        let Some((winner, losers)) = claimants.split_first() else { continue };
        let contested = losers.iter().find(|loser| !loser.deleting).copied();
        let (effects, outcome) = plan_winner(winner, contested, observed, writes);
        plan.effects.extend(effects);
        plan.outcomes.insert(winner.object.clone(), outcome);
        for loser in losers {
            plan.outcomes.insert(loser.object.clone(), lose(loser, winner));
        }
    }
    plan
}

fn plan_winner(
    desired: &DesiredTopic,
    contested: Option<&DesiredTopic>,
    observed: &Topics,
    writes: Writes,
) -> (Vec<Effect>, TopicOutcome) {
    let found = observed.get(&desired.topic);
    if let Some(verdict) = paused(desired, writes) {
        let record = found.map_or(Record::Keep, |found| paused_record(desired, found));
        return (vec![], TopicOutcome { record, ..outcome(verdict) });
    }
    let found = match found {
        Ok(found) => found,
        Err(why) if desired.deleting => return (vec![], outcome(deletion::waits(why))),
        Err(why) => return (vec![], outcome(why.clone().into())),
    };
    if desired.deleting {
        return deletion::plan(desired, contested, found);
    }
    match (found, &desired.owned) {
        (None, None) => create(desired),
        (None, Some(owned)) => (vec![], vanished(desired, owned)),
        (Some(state), Some(owned)) if owned.id == state.id => converge(desired, state, Some(owned), None),
        (Some(state), Some(owned)) => match desired.adoption {
            Adoption::Always => {
                let message = format!("topic {} was re-created; took over the new one, id {}", desired.topic, state.id);
                converge(desired, state, None, Some((Reason::TopicAdopted, message)))
            }
            Adoption::IfMatches | Adoption::Never => (vec![], outcome(recreated(desired, owned, state))),
        },
        (Some(state), None) => adopt(desired, state),
    }
}

fn lose(loser: &DesiredTopic, winner: &DesiredTopic) -> TopicOutcome {
    let message = format!("topic {} is declared by MqTopic {}, which is older", loser.topic, winner.object);
    let mut outcome = outcome(Verdict::stalled(Reason::ResourceConflict, message.clone()));
    if loser.deleting {
        outcome.released = true;
        outcome.notice = Some((Reason::TopicKept, message));
    }
    outcome
}

fn create(desired: &DesiredTopic) -> (Vec<Effect>, TopicOutcome) {
    let replication = desired.replication_factor.map_or_else(|| "the default".to_owned(), |n| n.to_string());
    let message =
        format!("topic {}: {} partitions, replication factor {replication}", desired.topic, desired.partitions);
    let change = Change::CreateTopic {
        topic: desired.topic.clone(),
        partitions: desired.partitions,
        replication_factor: desired.replication_factor,
        config: desired.config.clone(),
    };
    let verdict = Verdict::reconciling(Reason::Progressing, format!("creating {message}"));
    (vec![effect(desired, change, Reason::TopicCreated, message)], outcome(verdict))
}

/// First forgets, then creates in a later plan: if the operator dies in between, the new topic is not mistaken for a foreign one.
fn vanished(desired: &DesiredTopic, owned: &Owned) -> TopicOutcome {
    let message = format!(
        "topic {} (id {}) was deleted outside of this object and its records are gone; an empty one is created",
        desired.topic, owned.id
    );
    TopicOutcome {
        record: Record::Forget,
        notice: Some((Reason::TopicVanished, message.clone())),
        ..outcome(Verdict::reconciling(Reason::TopicVanished, message))
    }
}

fn recreated(desired: &DesiredTopic, owned: &Owned, state: &TopicState) -> Verdict {
    let message = format!(
        "topic {} was deleted and created again by someone else (id {}, was {}); set spec.adoption: Always to take over the new one",
        desired.topic, state.id, owned.id
    );
    Verdict::stalled(Reason::TopicRecreated, message)
}

fn adopt(desired: &DesiredTopic, state: &TopicState) -> (Vec<Effect>, TopicOutcome) {
    let refuse = |message| (vec![], outcome(Verdict::stalled(Reason::ResourceConflict, message)));
    let adopted = || Some((Reason::TopicAdopted, format!("took over the existing topic {}", desired.topic)));
    match desired.adoption {
        Adoption::Never => refuse(format!(
            "topic {} exists and spec.adoption is Never; delete the topic, or set IfMatches or Always",
            desired.topic
        )),
        Adoption::Always => converge(desired, state, None, adopted()),
        Adoption::IfMatches => match &state.config {
            Err(why) => (vec![], outcome(why.clone().into())),
            Ok(config) => match differences(desired, state, config).as_slice() {
                [] => converge(desired, state, None, adopted()),
                some => refuse(format!(
                    "topic {} exists with other settings: {}; change the spec to match, or set spec.adoption: Always to overwrite them",
                    desired.topic,
                    some.join(", ")
                )),
            },
        },
    }
}

/// Makes an owned topic as declared, as far as that destroys nothing.
fn converge(
    desired: &DesiredTopic,
    state: &TopicState,
    owned: Option<&Owned>,
    notice: Option<(Reason, String)>,
) -> (Vec<Effect>, TopicOutcome) {
    let mut effects = Vec::new();
    let mut drift = None;
    if desired.partitions > state.partitions {
        let message = format!("topic {}: partitions {} → {}", desired.topic, state.partitions, desired.partitions);
        let change = Change::GrowTopic { topic: desired.topic.clone(), partitions: desired.partitions };
        effects.push(effect(desired, change, Reason::TopicGrown, message));
    }
    if let Ok(config) = &state.config {
        let (alter, first_drift) = alter(desired, config, owned);
        effects.extend(alter);
        drift = first_drift;
    }
    let actual = Actual {
        id: state.id.clone(),
        partitions: state.partitions,
        replication_factor: state.replication_factor,
        config: state.config.as_ref().ok().map(|config| managed(desired, config, owned)),
    };
    let verdict = converging(desired, state, &effects);
    (effects, TopicOutcome { verdict, record: Record::Own(actual), drift, notice, released: false })
}

fn converging(desired: &DesiredTopic, state: &TopicState, effects: &[Effect]) -> Verdict {
    if desired.partitions < state.partitions {
        let message = format!(
            "topic {} has {} partitions and spec.partitions is {}; Kafka cannot remove partitions, set spec.partitions to {} or more",
            desired.topic, state.partitions, desired.partitions, state.partitions
        );
        return Verdict::stalled(Reason::PartitionsCannotShrink, message);
    }
    if let Some(declared) = desired.replication_factor.filter(|n| *n != state.replication_factor) {
        let message = format!(
            "topic {} has replication factor {} and spec.replicationFactor is {declared}; replicas are not moved by this version, \
             set spec.replicationFactor to {} or reassign the replicas with Kafka's own tools",
            desired.topic, state.replication_factor, state.replication_factor
        );
        return Verdict::stalled(Reason::ReplicationFactorDiffers, message);
    }
    if let Err(why) = &state.config {
        return why.clone().into();
    }
    if effects.is_empty() {
        return Verdict::ready(Reason::InSync, format!("topic {} is as declared", desired.topic));
    }
    let messages: Vec<_> = effects.iter().map(|e| e.message.as_str()).collect();
    Verdict::reconciling(Reason::Progressing, messages.join("; "))
}

/// One change for all keys that differ, and the first key that someone else changed.
fn alter(
    desired: &DesiredTopic,
    config: &BTreeMap<String, ConfigEntry>,
    owned: Option<&Owned>,
) -> (Option<Effect>, Option<Drift>) {
    let mut set = BTreeMap::new();
    let mut notes = Vec::new();
    let mut drift = None;
    for (key, declared) in &desired.config {
        let found = config.get(key).and_then(|entry| entry.value.as_deref());
        if found.is_some_and(|found| same_value(declared, found)) {
            continue;
        }
        let was = found.unwrap_or("unset");
        let as_left = owned.and_then(|owned| owned.config.get(key)).is_some_and(|last| same_value(declared, last));
        if as_left && drift.is_none() {
            drift = Some(Drift { key: key.clone(), was: was.to_owned() });
        }
        notes.push(format!("{key} {was} → {declared}"));
        set.insert(key.clone(), declared.clone());
    }
    let no_longer_declared = owned
        .iter()
        .flat_map(|owned| owned.config.keys())
        .filter(|key| !desired.config.contains_key(*key) && config.get(*key).is_some_and(|entry| entry.topic_level));
    let reset: BTreeSet<String> = no_longer_declared.cloned().collect();
    notes.extend(reset.iter().map(|key| format!("{key} → default")));
    if notes.is_empty() {
        return (None, drift);
    }
    let reason = if drift.is_some() { Reason::DriftRepaired } else { Reason::TopicConfigChanged };
    let message = format!("topic {}: {}", desired.topic, notes.join(", "));
    let change = Change::AlterTopicConfig { topic: desired.topic.clone(), set, reset };
    (Some(effect(desired, change, reason, message)), drift)
}

/// Actual values of the declared keys, and of keys declared earlier that are still set on the topic.
fn managed(
    desired: &DesiredTopic,
    config: &BTreeMap<String, ConfigEntry>,
    owned: Option<&Owned>,
) -> BTreeMap<String, String> {
    let earlier = owned.iter().flat_map(|owned| owned.config.keys());
    let earlier = earlier.filter(|key| config.get(*key).is_some_and(|entry| entry.topic_level));
    let value = |key: &String| Some((key.clone(), config.get(key)?.value.clone()?));
    desired.config.keys().chain(earlier).filter_map(value).collect()
}

/// Everything in which an existing topic differs from the declaration, in words, sorted.
fn differences(desired: &DesiredTopic, state: &TopicState, config: &BTreeMap<String, ConfigEntry>) -> Vec<String> {
    let mut differences = Vec::new();
    if state.partitions != desired.partitions {
        differences.push(format!("partitions {} (declared {})", state.partitions, desired.partitions));
    }
    if let Some(declared) = desired.replication_factor.filter(|n| *n != state.replication_factor) {
        differences.push(format!("replicationFactor {} (declared {declared})", state.replication_factor));
    }
    for (key, declared) in &desired.config {
        let found = config.get(key).and_then(|entry| entry.value.as_deref());
        if !found.is_some_and(|found| same_value(declared, found)) {
            differences.push(format!("{key} {} (declared {declared})", found.unwrap_or("unset")));
        }
    }
    differences
}

fn paused(desired: &DesiredTopic, writes: Writes) -> Option<Verdict> {
    let verdict = match writes {
        _ if desired.paused => Verdict::paused(),
        Writes::Paused => Verdict::cluster_paused(),
        Writes::Allowed => return None,
    };
    Some(if desired.deleting { deletion::held(verdict) } else { verdict })
}

/// While paused the status still follows the topic that is owned.
fn paused_record(desired: &DesiredTopic, found: Option<&TopicState>) -> Record {
    let owned = desired.owned.as_ref();
    match found.filter(|state| owned.is_some_and(|owned| owned.id == state.id)) {
        None => Record::Keep,
        Some(state) => Record::Own(Actual {
            id: state.id.clone(),
            partitions: state.partitions,
            replication_factor: state.replication_factor,
            config: None,
        }),
    }
}

fn outcome(verdict: Verdict) -> TopicOutcome {
    TopicOutcome { verdict, record: Record::Keep, drift: None, notice: None, released: false }
}

fn effect(desired: &DesiredTopic, change: Change, reason: Reason, message: String) -> Effect {
    Effect { object: desired.object.clone(), change, reason, message }
}
