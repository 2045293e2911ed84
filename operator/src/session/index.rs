//! What objects declare on one cluster, and what came of it. Bookkeeping without I/O.

use super::execute::Done;
use crate::events::Event;
use k8s_openapi::jiff::Timestamp;
use mq_core::{
    condition::{Health, Verdict},
    effect::{Change, ObjectKey},
    topic::{self, DesiredTopic, Drift, Owned, TopicOutcome},
};
use std::collections::{BTreeMap, HashMap};

/// What is known about the topic of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// The outcome of the last cycle that saw this declaration.
    pub outcome: TopicOutcome,
    /// The last change by someone else that was undone, and when.
    pub drift: Option<(Drift, Timestamp)>,
}

#[derive(Debug, Default)]
pub(super) struct Topics(HashMap<ObjectKey, Entry>);

#[derive(Debug)]
struct Entry {
    desired: DesiredTopic,
    nudge: Option<String>,
    outcome: Option<TopicOutcome>,
    drift: Option<(Drift, Timestamp)>,
    events: Vec<Event>,
    /// Created by this process; stands in until the status says so.
    created: Option<Owned>,
}

impl Topics {
    /// True if a cycle should follow.
    pub(super) fn declare(&mut self, desired: DesiredTopic, nudge: Option<&str>) -> bool {
        let nudge = nudge.map(str::to_owned);
        let Some(entry) = self.0.get_mut(&desired.object) else {
            let object = desired.object.clone();
            let entry = Entry { desired, nudge, outcome: None, drift: None, events: vec![], created: None };
            self.0.insert(object, entry);
            return true;
        };
        let same = entry.desired.declares_same(&desired);
        let nudged = entry.nudge != nudge;
        // After a topic vanished, the next step waits for the status to forget it.
        let forgot = entry.desired.owned.is_some() && desired.owned.is_none();
        if !same {
            // It answered another question.
            entry.outcome = None;
        }
        entry.desired = desired;
        entry.nudge = nudge;
        !same || nudged || forgot
    }

    /// True if something was declared.
    pub(super) fn withdraw(&mut self, object: &ObjectKey) -> bool {
        self.0.remove(object).is_some()
    }

    pub(super) fn desired(&self) -> Vec<DesiredTopic> {
        self.0.values().map(|entry| entry.desired.clone()).collect()
    }

    /// Takes topics that this process created for their objects' own, before the status says so.
    pub(super) fn with_own_creations(&self, mut desired: Vec<DesiredTopic>, seen: &topic::Topics) -> Vec<DesiredTopic> {
        for topic in desired.iter_mut().filter(|topic| topic.owned.is_none()) {
            let created = self.0.get(&topic.object).and_then(|entry| entry.created.as_ref());
            if let (Some(created), Ok(Some(state))) = (created, seen.get(&topic.topic))
                && created.id == state.id
            {
                topic.owned = Some(created.clone());
            }
        }
        desired
    }

    pub(super) fn view(&self, desired: &DesiredTopic) -> Option<TopicView> {
        let entry = self.0.get(&desired.object).filter(|entry| entry.desired.declares_same(desired))?;
        Some(TopicView { outcome: entry.outcome.clone()?, drift: entry.drift.clone() })
    }

    pub(super) fn take_events(&mut self, object: &ObjectKey) -> Vec<Event> {
        self.0.get_mut(object).map(|entry| std::mem::take(&mut entry.events)).unwrap_or_default()
    }

    /// Keeps outcomes and what was done; returns the objects that have something new to say.
    pub(super) fn settle(
        &mut self,
        planned: &[DesiredTopic],
        mut outcomes: BTreeMap<ObjectKey, TopicOutcome>,
        done: Vec<Done>,
    ) -> Vec<ObjectKey> {
        for done in done {
            match done.result {
                Ok(id) => self.note(done.effect, id),
                Err(failure) => {
                    if let Some(outcome) = outcomes.get_mut(&done.effect.object) {
                        fail(outcome, failure);
                    }
                }
            }
        }
        let settled = planned.iter().filter_map(|planned| {
            let outcome = outcomes.remove(&planned.object)?;
            let entry = self.0.get_mut(&planned.object).filter(|entry| entry.desired.declares_same(planned))?;
            entry.settle(outcome).then(|| planned.object.clone())
        });
        settled.collect()
    }

    fn note(&mut self, effect: mq_core::effect::Effect, id: Option<String>) {
        let Some(entry) = self.0.get_mut(&effect.object) else { return };
        if let (Change::CreateTopic { config, .. }, Some(id)) = (effect.change, id) {
            entry.created = Some(Owned { id, config });
        }
        entry.events.push(Event::normal(effect.reason, effect.message));
    }
}

impl Entry {
    /// True if there is something new to say.
    fn settle(&mut self, outcome: TopicOutcome) -> bool {
        if let Some(drift) = &outcome.drift {
            self.drift = Some((drift.clone(), Timestamp::now()));
        }
        let said = self.outcome.as_ref().and_then(|old| old.notice.as_ref());
        if let Some((reason, message)) = outcome.notice.as_ref().filter(|notice| said != Some(notice)) {
            self.events.push(Event::warning(*reason, message));
        }
        let news = self.outcome.as_ref() != Some(&outcome) || !self.events.is_empty();
        self.outcome = Some(outcome);
        news
    }
}

/// What failed outweighs what was planned, but not a refusal: that needs a person in any case.
fn fail(outcome: &mut TopicOutcome, failure: Verdict) {
    outcome.drift = None;
    if outcome.verdict.health != Health::Stalled {
        outcome.verdict = failure;
    }
}
