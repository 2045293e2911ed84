//! Which groups are read in a cycle, and what of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use mq_core::{effect::ObjectKey, lag::ResetPolicy};

use super::{UNSCALED, collect::Wanted, entry::Entry};

/// Whose turn it is.
pub(super) fn due(entries: &HashMap<ObjectKey, Entry>, turn: u32) -> Vec<ObjectKey> {
    let due = entries
        .iter()
        .filter(|(_, entry)| !entry.seen || entry.desired.scaling.is_some() || turn.is_multiple_of(UNSCALED));
    due.map(|(key, _)| key.clone()).collect()
}

/// The topics of the groups that have patterns.
pub(super) fn found_by_patterns(entries: &HashMap<ObjectKey, Entry>) -> BTreeSet<String> {
    let with_patterns = entries.values().filter(|entry| entry.desired.topics.has_patterns());
    with_patterns.flat_map(|entry| entry.consumed.topics.iter().cloned()).collect()
}

/// What has to be read in this turn for those that are `due`.
pub(super) fn wanted(entries: &HashMap<ObjectKey, Entry>, due: &[ObjectKey], at: Duration, turn: u32) -> Wanted {
    let due: Vec<&Entry> = due.iter().filter_map(|key| entries.get(key)).collect();
    let mut groups = BTreeMap::new();
    for entry in &due {
        let (topics, reset) =
            groups.entry(entry.desired.group_id.clone()).or_insert_with(|| (BTreeSet::new(), entry.desired.reset));
        topics.extend(entry.consumed.topics.iter().cloned());
        if entry.desired.reset == ResetPolicy::Earliest {
            *reset = ResetPolicy::Earliest;
        }
    }
    let members = due
        .iter()
        .filter(|entry| entry.wants_members() || Wanted::members(turn, entry.desired.scaling.is_some()))
        .map(|entry| entry.desired.group_id.clone())
        .collect();
    let standing = if Wanted::standing(turn) {
        due.iter().flat_map(|entry| entry.standing(at)).collect()
    } else {
        BTreeSet::new()
    };
    Wanted { groups, members, standing, ..Wanted::in_turn(turn) }
}

#[cfg(test)]
mod tests {
    use mq_core::{
        lag::{Reading, TopicPartition, Unread},
        scaling::Members,
    };

    use super::*;
    use crate::groups::{collect::TURNS, entry::tests::group};

    #[test]
    fn who_owns_what_is_asked_anew_when_there_are_other_partitions() {
        let mut entry = Entry::new(group());
        let reading = |partition| Reading {
            of: TopicPartition { topic: "orders".into(), partition },
            committed: Ok(Some(0)),
            end: Ok(0),
            start: None,
            topic_id: None,
            tail: None,
        };
        let members = |owners| Members { count: 1, stable: true, unowned: 0, owners: vec![Some(0); owners] };
        let seen = [(2, Some(members(2)), false), (4, None, true), (4, None, true), (4, Some(members(4)), false)];
        for (n, (partitions, members, asks)) in (0..).zip(seen) {
            let readings: Vec<_> = (0..partitions).map(reading).collect();
            entry.observe(Duration::from_secs(5) * n, &readings, &Unread::new(), members, &[]);
            assert_eq!(entry.wants_members(), asks, "look {n}");
        }
    }

    #[test]
    fn who_is_in_a_group_is_looked_at_at_once_and_then_in_its_turn() {
        for (scaled, turns) in [(true, vec![TURNS / 3]), (false, vec![TURNS / 2])] {
            let mut desired = group();
            desired.scaling.take_if(|_| !scaled);
            let key = desired.object.clone();
            let mut entries = HashMap::from([(key, Entry::new(desired))]);
            let looks = |entries: &HashMap<_, _>| -> Vec<u32> {
                let looks = |turn: &u32| {
                    let due = due(entries, *turn);
                    !wanted(entries, &due, Duration::ZERO, *turn).members.is_empty()
                };
                (0..TURNS).filter(looks).collect()
            };
            assert_eq!(looks(&entries).len(), 12, "it was never seen");
            for entry in entries.values_mut() {
                entry.seen = true;
            }
            assert_eq!(looks(&entries), turns, "scaled: {scaled}");
        }
    }
}
