//! The dead-letter topics that groups need on one cluster, and what came of it.

use super::{
    ClusterSession,
    execute::{Done, execute},
    index::Moment,
};
use crate::events::Event;
use mq_core::{
    condition::Verdict,
    effect::ObjectKey,
    plan::dead_letters::{DeadLetters, plan},
    topic::Topics,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

#[derive(Debug, Default)]
pub(super) struct Wanted(HashMap<ObjectKey, Entry>);

#[derive(Debug)]
struct Entry {
    wanted: DeadLetters,
    since: Duration,
    /// The topic was made or seen.
    known: bool,
    verdict: Option<Verdict>,
    events: Vec<Event>,
}

impl Wanted {
    pub(super) fn declare(&mut self, wanted: DeadLetters, now: Duration) {
        if self.0.get(&wanted.object).is_some_and(|entry| entry.wanted == wanted) {
            return;
        }
        let object = wanted.object.clone();
        self.0.insert(object, Entry { wanted, since: now, known: false, verdict: None, events: vec![] });
    }

    pub(super) fn withdraw(&mut self, object: &ObjectKey) {
        self.0.remove(object);
    }

    /// Those that stood for an interval: an `MqTopic` of the name that was applied together with the group has come by then.
    pub(super) fn due(&self, at: Moment) -> Vec<DeadLetters> {
        let due = self.0.values().filter(|entry| at.now.saturating_sub(entry.since) >= at.interval);
        due.map(|entry| entry.wanted.clone()).collect()
    }

    /// Those of `before` that still stand.
    pub(super) fn still(&self, before: Vec<DeadLetters>) -> Vec<DeadLetters> {
        let stands = |wanted: &DeadLetters| self.0.get(&wanted.object).is_some_and(|entry| entry.wanted == *wanted);
        before.into_iter().filter(stands).collect()
    }

    /// Topics that should exist by now.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.0.values().filter(|entry| entry.known).map(|entry| entry.wanted.topic.as_str())
    }

    /// Keeps verdicts and what was done; returns the objects that have something new to say.
    pub(super) fn settle(
        &mut self,
        mut verdicts: BTreeMap<ObjectKey, Verdict>,
        seen: &BTreeSet<String>,
        done: Vec<Done>,
    ) -> Vec<ObjectKey> {
        for Done { effect, result } in done {
            match result {
                Ok(_) => {
                    if let Some(entry) = self.0.get_mut(&effect.object) {
                        entry.known = true;
                        entry.events.push(Event::normal(effect.reason, effect.message));
                    }
                }
                Err(failure) => drop(verdicts.insert(effect.object, failure)),
            }
        }
        let settled = verdicts.into_iter().filter_map(|(object, verdict)| {
            let entry = self.0.get_mut(&object)?;
            entry.known |= seen.contains(&entry.wanted.topic);
            let verdict = verdict.steady(entry.verdict.as_ref());
            let news = entry.verdict.as_ref() != Some(&verdict) || !entry.events.is_empty();
            entry.verdict = Some(verdict);
            news.then_some(object)
        });
        settled.collect()
    }

    /// How the dead-letter topic of a group is, and what happened to it since this was asked last.
    pub(super) fn take(&mut self, object: &ObjectKey) -> (Option<Verdict>, Vec<Event>) {
        let Some(entry) = self.0.get_mut(object) else { return (None, vec![]) };
        (entry.verdict.clone(), std::mem::take(&mut entry.events))
    }
}

/// What must be seen to decide about them.
pub(super) fn topics(wanted: &[DeadLetters]) -> BTreeSet<String> {
    wanted.iter().flat_map(|wanted| wanted.sources.iter().chain([&wanted.topic])).cloned().collect()
}

impl ClusterSession {
    /// Makes those that are missing in what was `observed`. True if one was made.
    pub(super) async fn make_dead_letters(
        &self,
        client: &mq_kafka::Client,
        wanted: Vec<DeadLetters>,
        observed: &Topics,
    ) -> bool {
        // As long as not all objects are known, one of them may declare the topic.
        let Some(claims) = (self.environment.claims)(&self.object.name).filter(|_| !wanted.is_empty()) else {
            return false;
        };
        let (wanted, declared) = {
            let state = self.lock();
            let declared = claims.into_iter().map(|(_, topic)| topic).chain(state.topics.names().map(str::to_owned));
            (state.dead_letters.still(wanted), declared.collect())
        };
        let (effects, verdicts) = plan(&wanted, &declared, observed, self.writes());
        let effects = if self.stop.is_cancelled() { vec![] } else { effects };
        let done = execute(client, effects).await;
        self.count(&done);
        let seen = topics(&wanted).into_iter().filter(|topic| matches!(observed.get(topic), Ok(Some(_)))).collect();
        let mut made = false;
        let touched = {
            let mut state = self.lock();
            for done in done.iter().filter(|done| done.result.is_ok()) {
                state.topics.made(done.effect.change.topic());
                made = true;
            }
            state.dead_letters.settle(verdicts, &seen, done)
        };
        for object in touched {
            self.environment.groups.wake(object);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::{
        effect::{Change, Effect},
        reason::Reason,
    };

    const INTERVAL: Duration = Duration::from_secs(10);

    fn wanted(topic: &str) -> DeadLetters {
        let object = ObjectKey { namespace: "shop".into(), name: "g".into(), uid: "1".into() };
        DeadLetters { object, topic: topic.into(), sources: BTreeSet::new() }
    }

    fn at(second: u64) -> Moment {
        Moment { now: Duration::from_secs(second), interval: INTERVAL }
    }

    #[test]
    fn a_group_waits_an_interval_for_an_object_that_comes_with_it() {
        let mut all = Wanted::default();
        all.declare(wanted("a"), Duration::from_secs(5));
        assert_eq!(all.due(at(14)), []);
        all.declare(wanted("a"), Duration::from_secs(14));
        assert_eq!(all.due(at(15)), [wanted("a")], "saying it again is not news");
        let before = all.due(at(15));
        all.declare(wanted("b"), Duration::from_secs(15));
        assert_eq!(all.due(at(15)), []);
        assert_eq!(all.still(before), [], "another one is wanted now");
        all.withdraw(&wanted("b").object);
        assert_eq!(all.due(at(99)), []);
    }

    #[test]
    fn what_was_done_and_what_failed_is_told_once() {
        let mut all = Wanted::default();
        all.declare(wanted("a"), Duration::ZERO);
        let object = wanted("a").object;
        let change =
            Change::CreateTopic { topic: "a".into(), partitions: 1, replication_factor: None, config: BTreeMap::new() };
        let effect = Effect { object: object.clone(), change, reason: Reason::TopicCreated, message: "made".into() };
        let mut turn = |verdict: Verdict, done: Vec<Done>| {
            let told = all.settle([(object.clone(), verdict)].into(), &BTreeSet::new(), done);
            let (verdict, events) = all.take(&object);
            (told.len(), verdict.unwrap().reason, events.len())
        };
        let creating = || Verdict::reconciling(Reason::Progressing, "creating");
        let refused = Err(Verdict::stalled(Reason::RefusedByKafka, "no"));
        assert_eq!(
            turn(creating(), vec![Done { effect: effect.clone(), result: refused }]),
            (1, Reason::RefusedByKafka, 0)
        );
        assert_eq!(turn(creating(), vec![Done { effect, result: Ok(None) }]), (1, Reason::Progressing, 1));
        let there = || Verdict::ready(Reason::InSync, "exists");
        assert_eq!(turn(there(), vec![]), (1, Reason::InSync, 0));
        assert_eq!(turn(there(), vec![]), (0, Reason::InSync, 0));
        assert_eq!(all.known().collect::<Vec<_>>(), ["a"]);
    }
}
