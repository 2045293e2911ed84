//! When a topic that is not seen counts as gone.
//!
//! Brokers learn of topics later than the controller, by half a minute after thousands were created, so that one which does not show a
//! topic proves nothing about a topic that was there. Believed at once, it would let go of an object whose topic exists, and call a
//! topic vanished that only one broker does not know yet.

use crate::{condition::Unknown, reason::Reason, topic::Topics};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Looks in a row that do not show the topic, after which it is gone.
const LOOKS: u32 = 3;

/// The same for a topic that was created here and never seen since: the controller has it, the brokers follow.
const LOOKS_AFTER_CREATION: u32 = 10;

/// A broker that still shows a topic so long after the controller removed it is not one that is behind.
const BEHIND: Duration = Duration::from_mins(1);

/// What is remembered of topics that should exist and were not seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Absences {
    by_topic: BTreeMap<String, Absence>,
    /// Topics that we deleted.
    deleted: BTreeMap<String, Deleted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Deleted {
    id: String,
    at: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Absence {
    Doubted {
        looks: u32,
        counted_at: Option<Duration>,
        enough: u32,
        /// Whether the last look expected it.
        open: bool,
    },
    /// By us, which the controller confirmed.
    Deleted,
}

impl Absences {
    /// The controller has made this topic.
    pub fn created(&mut self, topic: &str) {
        let fresh = Absence::Doubted { looks: 0, counted_at: None, enough: LOOKS_AFTER_CREATION, open: true };
        self.by_topic.insert(topic.to_owned(), fresh);
    }

    /// The controller has removed this topic at `now`: its absence is certain, and a broker that still shows it is behind.
    pub fn deleted(&mut self, topic: &str, id: &str, now: Duration) {
        self.by_topic.insert(topic.to_owned(), Absence::Deleted);
        self.deleted.insert(topic.to_owned(), Deleted { id: id.to_owned(), at: now });
    }

    /// Forgets topics that nobody declares at `now`. What was deleted a moment ago is remembered all the same: should it be declared
    /// again, a broker that is behind must not pass the old topic for one that can be taken over.
    pub fn retain(&mut self, declared: impl Fn(&str) -> bool, now: Duration) {
        self.by_topic.retain(|topic, _| declared(topic));
        self.deleted.retain(|topic, deleted| declared(topic) || now.saturating_sub(deleted.at) < BEHIND);
    }

    /// Whether another look is needed to settle something.
    pub fn is_unsure(&self) -> bool {
        self.by_topic
            .values()
            .any(|absence| absence.is_doubt() && matches!(absence, Absence::Doubted { open: true, .. }))
    }

    /// What a look at `now` shows in the light of the ones before. Of the topics that are `expected` to exist, absence becomes
    /// [`Unknown`] until enough looks agree; looks closer together than `spacing` count as one.
    #[must_use]
    pub fn judge(&mut self, expected: &BTreeSet<&str>, seen: Topics, now: Duration, spacing: Duration) -> Topics {
        let Topics { by_name, otherwise } = seen;
        let judged = by_name.into_iter().map(|(topic, state)| {
            let ours = self.deleted.get(&topic).map(|deleted| deleted.id.as_str());
            let state = match state.map(|state| state.filter(|state| Some(state.id.as_str()) != ours)) {
                Err(why) => Err(why),
                Ok(Some(state)) => {
                    self.by_topic.remove(&topic);
                    Ok(Some(state))
                }
                Ok(None) if expected.contains(topic.as_str()) => self.missed(&topic, now, spacing).map(|()| None),
                Ok(None) => {
                    // It may be expected again: the count stays.
                    if let Some(Absence::Doubted { open, .. }) = self.by_topic.get_mut(&topic) {
                        *open = false;
                    }
                    Ok(None)
                }
            };
            (topic, state)
        });
        Topics { by_name: judged.collect(), otherwise }
    }

    fn missed(&mut self, topic: &str, now: Duration, spacing: Duration) -> Result<(), Unknown> {
        let first = Absence::Doubted { looks: 0, counted_at: None, enough: LOOKS, open: true };
        let absence = self.by_topic.entry(topic.to_owned()).or_insert(first);
        if let Absence::Doubted { looks, counted_at, open, .. } = absence {
            *open = true;
            if counted_at.is_none_or(|at| now.saturating_sub(at) >= spacing) {
                *looks = looks.saturating_add(1);
                *counted_at = Some(now);
            }
        }
        if !absence.is_doubt() {
            return Ok(());
        }
        let message = format!("the brokers do not show topic {topic}, which should exist; they are asked again");
        Err(Unknown::new(Reason::PartialObservation, message))
    }
}

impl Absence {
    fn is_doubt(&self) -> bool {
        matches!(self, Self::Doubted { looks, enough, .. } if looks < enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{TopicState, Usage};

    const SPACING: Duration = Duration::from_secs(5);

    fn state(id: &str) -> TopicState {
        TopicState {
            id: id.into(),
            partitions: 1,
            replication_factor: 1,
            config: Ok(BTreeMap::new()),
            usage: Ok(Usage { records: 0, groups: vec![] }),
        }
    }

    /// The id of what is there, `gone`, or `unsure`.
    fn look(absences: &mut Absences, expected: bool, seen: Option<&str>, second: u64) -> String {
        let seen = [("orders".to_owned(), Ok(seen.map(state)))].into();
        let seen = Topics { by_name: seen, otherwise: Unknown::new(Reason::PartialObservation, "") };
        let expected = expected.then_some("orders").into_iter().collect();
        let judged = absences.judge(&expected, seen, Duration::from_secs(second), SPACING);
        match judged.get("orders") {
            Ok(Some(state)) => state.id.clone(),
            Ok(None) => "gone".into(),
            Err(_) => "unsure".into(),
        }
    }

    fn looks_until_gone(absences: &mut Absences) -> u64 {
        (1..99).find(|n| look(absences, true, None, n * 5) == "gone").unwrap()
    }

    #[test]
    fn a_topic_is_gone_after_enough_looks_in_a_row() {
        let mut absences = Absences::default();
        assert_eq!(looks_until_gone(&mut absences), 3);
        assert!(!absences.is_unsure());
        assert_eq!(look(&mut absences, true, None, 1000), "gone", "and stays gone");
        assert_eq!(look(&mut absences, true, Some("1"), 1005), "1");
        assert_eq!(looks_until_gone(&mut absences), 3, "one look at it starts the count anew");
    }

    #[test]
    fn the_own_creation_gets_more_time_until_it_was_seen_once() {
        let mut absences = Absences::default();
        absences.created("orders");
        assert!(absences.is_unsure());
        assert_eq!(looks_until_gone(&mut absences), 10);
        absences.created("orders");
        look(&mut absences, true, Some("1"), 500);
        assert_eq!(looks_until_gone(&mut absences), 3);
    }

    #[test]
    fn a_burst_of_looks_is_one_look() {
        let mut absences = Absences::default();
        for second in [10, 11, 12, 13, 14] {
            assert_eq!(look(&mut absences, true, None, second), "unsure");
        }
        assert_eq!(look(&mut absences, true, None, 15), "unsure");
        assert!(absences.is_unsure());
        assert_eq!(look(&mut absences, true, None, 20), "gone");
    }

    #[test]
    fn what_nobody_had_is_absent_at_once() {
        let mut absences = Absences::default();
        assert_eq!(look(&mut absences, false, None, 1), "gone");
        assert!(!absences.is_unsure());
    }

    #[test]
    fn a_doubt_that_nobody_has_any_more_needs_no_look_but_is_remembered() {
        let mut absences = Absences::default();
        absences.created("orders");
        look(&mut absences, true, None, 5);
        assert!(absences.is_unsure());
        look(&mut absences, false, None, 10);
        assert!(!absences.is_unsure());
        assert_eq!(look(&mut absences, true, None, 15), "unsure");
        assert!(absences.is_unsure());
    }

    #[test]
    fn the_own_delete_is_believed_and_a_late_broker_is_not() {
        let mut absences = Absences::default();
        absences.deleted("orders", "1", Duration::ZERO);
        assert_eq!(look(&mut absences, true, None, 1), "gone");
        assert_eq!(look(&mut absences, true, Some("1"), 2), "gone", "shown by a broker that is behind");
        assert_eq!(look(&mut absences, true, Some("2"), 3), "2");
    }

    #[test]
    fn the_own_delete_is_remembered_for_a_while_whoever_declares_the_topic() {
        let mut absences = Absences::default();
        absences.deleted("orders", "1", Duration::from_secs(100));
        // Its object is gone, and soon applied again.
        absences.retain(|_| false, Duration::from_secs(110));
        assert_eq!(look(&mut absences, false, Some("1"), 110), "gone", "not there to be taken over");
        absences.created("orders");
        assert_eq!(look(&mut absences, true, Some("1"), 120), "unsure", "that is not the one that was made now");
        assert_eq!(look(&mut absences, true, Some("2"), 125), "2");
        assert_eq!(look(&mut absences, true, Some("1"), 130), "unsure", "asked another broker");
        absences.retain(|_| false, Duration::from_secs(160));
        assert_eq!(absences, Absences::default());
    }

    #[test]
    fn a_failed_look_counts_neither_way() {
        let mut absences = Absences::default();
        look(&mut absences, true, None, 5);
        let failed = Topics {
            by_name: [("orders".to_owned(), Err(Unknown::new(Reason::ClusterUnreachable, "")))].into(),
            otherwise: Unknown::new(Reason::PartialObservation, ""),
        };
        let before = absences.clone();
        let judged = absences.judge(&["orders"].into(), failed.clone(), Duration::from_secs(10), SPACING);
        assert_eq!((judged, absences), (failed, before));
    }
}
