//! What objects declare on one cluster, and what came of it. Bookkeeping without I/O.

use super::{Claim, execute::Done};
use crate::events::Event;
use k8s_openapi::jiff::Timestamp;
use mq_core::{
    absence::Absences,
    condition::{Health, Verdict},
    effect::{Change, ObjectKey},
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

    /// Takes topics that this process created for their objects' own, before the status says so.
    pub(super) fn with_own_creations(&self, mut desired: Vec<DesiredTopic>) -> Vec<DesiredTopic> {
        for topic in desired.iter_mut().filter(|topic| topic.owned.is_none()) {
            topic.owned = self.entries.get(&topic.object).and_then(|entry| entry.created.clone());
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
        self.absences.retain(|topic| declared.contains(topic) || known.contains(topic));
        let expected = owned.map(|topic| topic.topic.as_str()).chain(known).collect();
        self.absences.judge(&expected, seen, at.now, at.interval / 2)
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
                Ok(id) => self.note(done.effect, id),
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

    fn note(&mut self, effect: mq_core::effect::Effect, id: Option<String>) {
        match &effect.change {
            Change::CreateTopic { topic, .. } => self.absences.created(topic),
            Change::DeleteTopic { topic, id } => self.absences.deleted(topic, id),
            Change::GrowTopic { .. } | Change::AlterTopicConfig { .. } => {}
        }
        let Some(entry) = self.entries.get_mut(&effect.object) else { return };
        if let (Change::CreateTopic { config, .. }, Some(id)) = (effect.change, id) {
            entry.created = Some(Owned { id, config });
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
mod tests {
    use super::*;
    use mq_core::{
        condition::Unknown,
        effect::Effect,
        reason::Reason,
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
        let owned = |topics: &Topics| topics.with_own_creations(vec![desired(3)])[0].owned.clone();
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
        let mine = topics.with_own_creations(vec![desired(3)]);
        let mut look = |at| {
            topics.judge(&mine, std::iter::empty(), seen.clone(), at).get("orders").is_ok_and(|state| state.is_none())
        };
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
    fn a_failure_is_what_the_object_says() {
        let mut topics = Topics::default();
        topics.declare(desired(3), None);
        let failed = Done { result: Err(Verdict::stalled(Reason::RefusedByKafka, "no")), ..created() };
        topics.settle(&[desired(3)], outcome(Verdict::reconciling(Reason::Progressing, "")), vec![failed], AT);
        assert_eq!(topics.view(&desired(3)).unwrap().outcome.verdict.reason, Reason::RefusedByKafka);
        assert_eq!(topics.take_events(&key()), []);
    }
}
