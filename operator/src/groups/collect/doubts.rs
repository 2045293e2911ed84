//! What makes it doubtful that a topic is still as it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mq_kafka::{GroupError, GroupOffsets};

/// So many lists, an hour of them, go by before a topic that Kafka hides counts as deleted.
const HIDDEN: u32 = 60;

/// The topics that count as listed although they are not, for an hour: by then it is more likely that they were deleted, with the rights to
/// them.
pub(super) fn note_hidden(hidden: &mut BTreeMap<String, u32>, denied: impl Iterator<Item = String>) -> Vec<String> {
    let lists = |topic: String| {
        let lists = hidden.get(&topic).map_or(1, |lists| lists + 1);
        (topic, lists)
    };
    let now: BTreeMap<String, u32> = denied.map(lists).collect();
    for (topic, lists) in now.iter().filter(|(_, lists)| **lists == 1 || **lists == HIDDEN) {
        let counts = if *lists == HIDDEN { "it counts as deleted" } else { "its lag is not known" };
        tracing::warn!(topic, "Kafka does not list the topic any more and does not say whether it exists; {counts}");
    }
    *hidden = now;
    hidden.iter().filter(|(_, lists)| **lists < HIDDEN).map(|(topic, _)| topic.clone()).collect()
}

/// The topics of which a group has fewer commits than before: they may have been created anew. And those of which it has one more, in a
/// partition that is not known: they have grown.
pub(super) fn suspects(
    before: &BTreeMap<String, Result<GroupOffsets, GroupError>>,
    now: &BTreeMap<String, Result<GroupOffsets, GroupError>>,
    known: &BTreeMap<Arc<str>, Result<BTreeSet<i32>, String>>,
) -> BTreeSet<String> {
    let mut suspects = BTreeSet::new();
    for (group, now) in now {
        let (Some(Ok(before)), Ok(now)) = (before.get(group), now) else { continue };
        let fewer = before
            .partitions
            .iter()
            .filter(|(topic, partitions)| now.partitions.get(*topic).map_or(0, BTreeMap::len) < partitions.len());
        suspects.extend(fewer.map(|(topic, _)| topic.clone()));
        // What was committed to a partition that is gone stays there: it is asked for once.
        let grown = now.partitions.iter().filter(|(topic, partitions)| {
            let is_new =
                |partition| before.partitions.get(*topic).is_none_or(|commits| !commits.contains_key(partition));
            let read = known.get(topic.as_str()).and_then(|read| read.as_ref().ok());
            read.is_some_and(|read| partitions.keys().any(|partition| !read.contains(partition) && is_new(partition)))
        });
        suspects.extend(grown.map(|(topic, _)| topic.clone()));
    }
    suspects
}

#[cfg(test)]
mod tests {
    use mq_kafka::CommittedOffset;

    use super::*;

    #[test]
    fn a_topic_that_kafka_hides_counts_as_listed_for_an_hour() {
        let mut hidden = BTreeMap::new();
        let mut list = |topics: &[&str]| note_hidden(&mut hidden, topics.iter().map(ToString::to_string));
        for _ in 1..HIDDEN {
            assert_eq!(list(&["orders.eu"]), ["orders.eu"]);
        }
        assert!(list(&["orders.eu"]).is_empty(), "it was deleted, with the rights to it");
        assert!(list(&[]).is_empty());
        assert_eq!(list(&["orders.eu"]), ["orders.eu"], "it was seen again in between");
    }

    #[test]
    fn a_topic_is_asked_for_when_its_commits_say_that_it_is_another_one_or_has_grown() {
        let group = |partitions: &[i32]| {
            let commit = CommittedOffset { offset: 1, leader_epoch: None, metadata: String::new() };
            let commits = partitions.iter().map(|partition| (*partition, Ok(commit.clone()))).collect();
            let partitions = [("orders".to_owned(), commits)].into();
            BTreeMap::from([("g".to_owned(), Ok(GroupOffsets { partitions }))])
        };
        let known = BTreeMap::from([("orders".into(), Ok(BTreeSet::from([0, 1])))]);
        for (before, now, asked) in [
            (&[0, 1][..], &[0, 1][..], false),
            (&[0], &[0, 1], false),
            (&[0, 1], &[0], true),
            (&[0, 1], &[0, 1, 2], true),
            (&[0, 2], &[0, 2], false),
            (&[0, 2], &[0, 1, 2], false),
        ] {
            let found = suspects(&group(before), &group(now), &known);
            assert_eq!(found.contains("orders"), asked, "{before:?} -> {now:?}");
        }
        assert!(suspects(&BTreeMap::new(), &group(&[7]), &known).is_empty(), "nothing was read before");
        assert!(suspects(&group(&[]), &group(&[7]), &BTreeMap::new()).is_empty(), "the topic is asked for anyway");
    }
}
