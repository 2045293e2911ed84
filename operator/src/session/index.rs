//! What objects declare on one cluster, and what came of it. Bookkeeping without I/O.

use super::{Claim, execute::Done};
use crate::events::Event;
use k8s_openapi::jiff::Timestamp;
use mq_core::{
    absence::Absences,
    condition::{Health, Verdict},
    effect::{Change, Effect, ObjectKey},
    plan::contest::Contest,
    reason::Reason,
    topic::{self, DesiredTopic, Drift, Owned, Record, TopicOutcome},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

/// What is known about the topic of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// The outcome of the last cycle that saw this declaration.
    pub outcome: TopicOutcome,
    /// The last change by someone else that was undone, and when.
    pub drift: Option<(Drift, Timestamp)>,
}

#[derive(Debug, Default)]
pub(super) struct Topics {
    entries: HashMap<ObjectKey, Entry>,
    absences: Absences,
}

/// When something was seen, since the session began, and how long the session waits between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Duration,
    pub(super) interval: Duration,
}

/// Intervals for which the last answer stands while there is none.
const PATIENCE: u32 = 3;

#[derive(Debug)]
struct Entry {
    desired: DesiredTopic,
    nudge: Option<String>,
    outcome: Option<TopicOutcome>,
    /// When the outcome was last found to be so.
    known_at: Duration,
    drift: Option<(Drift, Timestamp)>,
    contest: Contest,
    /// Configuration that this process set; the status has what was found before.
    left: BTreeMap<String, String>,
    events: Vec<Event>,
    /// Created by this process; stands in until the status says so.
    created: Option<Owned>,
}

impl Topics {
    /// True if a cycle should follow.
    pub(super) fn declare(&mut self, desired: DesiredTopic, nudge: Option<&str>) -> bool {
        let nudge = nudge.map(str::to_owned);
        let Some(entry) = self.entries.get_mut(&desired.object) else {
            let object = desired.object.clone();
            let entry = Entry {
                desired,
                nudge,
                outcome: None,
                known_at: Duration::ZERO,
                drift: None,
                contest: Contest::default(),
                left: BTreeMap::new(),
                events: vec![],
                created: None,
            };
            self.entries.insert(object, entry);
            return true;
        };
        let same = entry.desired.declares_same(&desired);
        let nudged = entry.nudge != nudge;
        // After a topic vanished, the next step waits for the status to forget it.
        let forgot = entry.desired.owned.is_some() && desired.owned.is_none();
        if !same {
            // It answered another question.
            entry.outcome = None;
            entry.contest = Contest::default();
        }
        entry.desired = desired;
        entry.nudge = nudge;
        !same || nudged || forgot
    }

    /// True if something was declared.
    pub(super) fn withdraw(&mut self, object: &ObjectKey) -> bool {
        self.entries.remove(object).is_some()
    }

    pub(super) fn desired(&self) -> Vec<DesiredTopic> {
        self.entries.values().map(|entry| entry.desired.clone()).collect()
    }

    /// What was declared `before` and still is. A topic on which anything changed since is left out with all its claimants, because
    /// the rest alone would settle who wins it without those that are on the way; the change starts the next cycle.
    pub(super) fn still(&self, before: &[DesiredTopic]) -> Vec<DesiredTopic> {
        let known: HashMap<&ObjectKey, &DesiredTopic> = before.iter().map(|topic| (&topic.object, topic)).collect();
        let same = |now: &DesiredTopic| known.get(&now.object).is_some_and(|before| before.declares_same(now));
        let came = self.entries.values().map(|entry| &entry.desired).filter(|now| !same(now));
        let stands = |before: &DesiredTopic| {
            self.entries.get(&before.object).is_some_and(|entry| entry.desired.declares_same(before))
        };
        let went = before.iter().filter(|before| !stands(before));
        let moved: HashSet<&str> = came.chain(went).map(|topic| topic.topic.as_str()).collect();
        let standing = self.entries.values().map(|entry| &entry.desired);
        standing.filter(|topic| !moved.contains(topic.topic.as_str())).cloned().collect()
    }

    /// Those whose claimants are all declared. The rest waits: the younger of two objects shall not win only because it was looked at
    /// first. Without any knowledge of `claims` everything waits.
    pub(super) fn complete(&self, mut desired: Vec<DesiredTopic>, claims: Option<&[Claim]>) -> Vec<DesiredTopic> {
        let Some(claims) = claims else { return vec![] };
        let awaited = claims.iter().filter(|(object, _)| !self.entries.contains_key(object));
        let awaited: HashSet<&str> = awaited.map(|(_, topic)| topic.as_str()).collect();
        desired.retain(|topic| !awaited.contains(topic.topic.as_str()));
        desired
    }

    /// Takes what this process did for what the objects own, before the status says so: the topics that it created, and the configuration
    /// that it left.
    pub(super) fn with_own_changes(&self, mut desired: Vec<DesiredTopic>) -> Vec<DesiredTopic> {
        for topic in &mut desired {
            let Some(entry) = self.entries.get(&topic.object) else { continue };
            topic.owned = topic.owned.take().or_else(|| entry.created.clone());
            if let Some(owned) = &mut topic.owned {
                owned.config.extend(entry.left.clone());
            }
        }
        desired
    }

    /// What a look at the topics of `desired` shows in the light of the ones before. Those that are owned should exist, and what is
    /// `known` to.
    pub(super) fn judge<'a>(
        &mut self,
        desired: &'a [DesiredTopic],
        known: impl Iterator<Item = &'a str>,
        seen: topic::Topics,
        at: Moment,
    ) -> topic::Topics {
        let owned = desired.iter().filter(|topic| topic.owned.is_some());
        let known: BTreeSet<&str> = known.collect();
        let declared: HashSet<&str> = self.entries.values().map(|entry| entry.desired.topic.as_str()).collect();
        self.absences.retain(|topic| declared.contains(topic) || known.contains(topic), at.now);
        let expected = owned.map(|topic| topic.topic.as_str()).chain(known).collect();
        self.absences.judge(&expected, seen, at.now, at.interval / 2)
    }

    /// The repairs of drift, by object.
    pub(super) fn contests(&self) -> BTreeMap<ObjectKey, Contest> {
        let contested = self.entries.iter().filter(|(_, entry)| entry.contest != Contest::default());
        contested.map(|(object, entry)| (object.clone(), entry.contest)).collect()
    }

    /// A topic was made that is in nobody's declaration.
    pub(super) fn made(&mut self, topic: &str) {
        self.absences.created(topic);
    }

    /// The names of all topics that are declared.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(|entry| entry.desired.topic.as_str())
    }

    /// Whether another look is needed to settle something.
    pub(super) fn is_unsure(&self) -> bool {
        self.absences.is_unsure()
    }

    pub(super) fn view(&self, desired: &DesiredTopic) -> Option<TopicView> {
        let entry = self.entries.get(&desired.object).filter(|entry| entry.desired.declares_same(desired))?;
        Some(TopicView { outcome: entry.outcome.clone()?, drift: entry.drift.clone() })
    }

    pub(super) fn take_events(&mut self, object: &ObjectKey) -> Vec<Event> {
        self.entries.get_mut(object).map(|entry| std::mem::take(&mut entry.events)).unwrap_or_default()
    }

    /// Keeps outcomes and what was done; returns the objects that have something new to say.
    pub(super) fn settle(
        &mut self,
        planned: &[DesiredTopic],
        mut outcomes: BTreeMap<ObjectKey, TopicOutcome>,
        done: Vec<Done>,
        at: Moment,
    ) -> Vec<ObjectKey> {
        let mut failed = HashSet::new();
        for done in done {
            match done.result {
                Ok(id) => self.note(done.effect, id, at),
                Err(failure) => {
                    if let Some(outcome) = outcomes.get_mut(&done.effect.object) {
                        fail(outcome, failure);
                    }
                    failed.insert(done.effect.object);
                }
            }
        }
        let settled = planned.iter().filter_map(|planned| {
            let outcome = outcomes.remove(&planned.object)?;
            let entry = self.entries.get_mut(&planned.object).filter(|entry| entry.desired.declares_same(planned))?;
            let news = if entry.stands(&outcome, at) && !failed.contains(&planned.object) {
                !entry.events.is_empty()
            } else {
                entry.settle(outcome, at)
            };
            news.then(|| planned.object.clone())
        });
        settled.collect()
    }

    fn note(&mut self, effect: Effect, id: Option<String>, at: Moment) {
        match &effect.change {
            Change::CreateTopic { topic, .. } => self.absences.created(topic),
            Change::DeleteTopic { topic, id } => self.absences.deleted(topic, id, at.now),
            Change::GrowTopic { .. } | Change::AlterTopicConfig { .. } => {}
        }
        let Some(entry) = self.entries.get_mut(&effect.object) else { return };
        match (effect.change, id) {
            (Change::CreateTopic { config, .. }, Some(id)) => entry.created = Some(Owned { id, config }),
            (Change::AlterTopicConfig { set, reset, .. }, _) => {
                entry.left.retain(|key, _| !reset.contains(key));
                entry.left.extend(set);
            }
            _ => {}
        }
        if effect.reason == Reason::DriftRepaired {
            entry.contest = entry.contest.repaired(at.now, at.interval);
        }
        entry.events.push(Event::normal(effect.reason, effect.message));
    }
}

impl Entry {
    /// Whether the last outcome stands although this one follows it.
    fn stands(&self, next: &TopicOutcome, at: Moment) -> bool {
        let age = at.now.saturating_sub(self.known_at);
        self.outcome
            .as_ref()
            .is_some_and(|last| last.verdict.outlasts(&next.verdict, age, at.interval.saturating_mul(PATIENCE)))
    }

    /// True if there is something new to say.
    fn settle(&mut self, mut outcome: TopicOutcome, at: Moment) -> bool {
        outcome.verdict = outcome.verdict.steady(self.outcome.as_ref().map(|old| &old.verdict));
        self.known_at = at.now;
        if let Some(drift) = &outcome.drift {
            self.drift = Some((drift.clone(), Timestamp::now()));
        }
        if outcome.record == Record::Forget {
            self.created = None;
            self.left.clear();
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

#[cfg(test)]
mod tests;
