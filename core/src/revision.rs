//! Revisions of a client's configuration: when a new one is made, and which old ones may go.
//!
//! A revision is immutable. It is made when the *resolved* configuration changes, whatever the cause (the object, the
//! cluster's addresses), and never by an operator upgrade alone: the preset version that it was resolved with is kept
//! until the object itself is edited.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::presets::PRESET_VERSION;

/// Most revisions kept of one object.
pub const HISTORY_LIMIT: usize = 10;

/// What is known of a stored revision without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Number, from 1, ascending.
    pub number: i64,
    /// Hash of the body.
    pub hash: String,
    /// Preset version that the body was resolved with.
    pub preset_version: u32,
    /// `metadata.generation` of the object that last resolved to this body.
    pub generation: i64,
    /// When it was made, seconds since 1970.
    pub created_at: i64,
}

/// Pause before a rejected configuration is tried again, in seconds; doubled with each attempt in a row.
const RETRY_AFTER: i64 = 60;

/// Attempts after which the pause grows no more: about half an hour.
const LONGEST_RETRY: usize = 5;

/// What to do with the revisions of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The newest revision is what the object resolves to.
    Keep,
    /// It is, but the object was edited since: record that, so that its preset version stays with this generation.
    Confirm {
        /// The newest revision.
        number: i64,
    },
    /// The object resolves to something new.
    Create {
        /// Number of the new revision.
        number: i64,
    },
}

/// The preset version to resolve the object with.
pub fn preset_version(revisions: &[Stored], generation: i64) -> u32 {
    match newest(revisions) {
        Some(newest) if newest.generation == generation => newest.preset_version,
        _ => PRESET_VERSION,
    }
}

/// What to do when an object of this generation resolves, with [`preset_version`], to a body with this hash. `rejected` are
/// the revisions that a client refused: an edit tries the same body again, under a new number, since what made a client
/// refuse it (a broker that was down) may be over.
pub fn step(revisions: &[Stored], rejected: &BTreeSet<i64>, generation: i64, hash: &str) -> Step {
    match newest(revisions) {
        None => Step::Create { number: 1 },
        // Only the newest is compared: going back to an older configuration is a change that clients must see as one.
        Some(newest) if newest.hash != hash => Step::Create { number: newest.number.saturating_add(1) },
        Some(newest) if newest.generation != generation && rejected.contains(&newest.number) => {
            Step::Create { number: newest.number.saturating_add(1) }
        }
        Some(newest) if newest.generation != generation => Step::Confirm { number: newest.number },
        Some(_) => Step::Keep,
    }
}

/// When the newest revision, which was rejected for a cause that may be over by then, is tried again under a new number although nobody
/// edited anything; seconds since 1970. `None` without any.
pub fn retry_at(revisions: &[Stored]) -> Option<i64> {
    let mut ordered: Vec<&Stored> = revisions.iter().collect();
    ordered.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let newest = ordered.first()?;
    let attempts = ordered.iter().take_while(|revision| revision.hash == newest.hash).count();
    Some(newest.created_at.saturating_add(RETRY_AFTER << attempts.saturating_sub(1).min(LONGEST_RETRY)))
}

/// Numbers of the revisions to delete: the oldest beyond [`HISTORY_LIMIT`], never the newest and never the current one.
pub fn prunable(revisions: &[Stored], current: Option<i64>) -> Vec<i64> {
    let numbers: BTreeSet<i64> = revisions.iter().map(|revision| revision.number).collect();
    let needed = [current, numbers.last().copied()];
    let excess = numbers.len().saturating_sub(HISTORY_LIMIT);
    numbers.into_iter().filter(|number| !needed.contains(&Some(*number))).take(excess).collect()
}

/// What differs between two bodies, as `path: old → new`, in order of the paths.
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(old, String::new(), &mut before);
    flatten(new, String::new(), &mut after);
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "(none)".to_owned(), Value::to_string);
    paths
        .into_iter()
        .map(|path| (path, before.get(path), after.get(path)))
        .filter(|(_, before, after)| before != after)
        .map(|(path, before, after)| format!("{path}: {} → {}", shown(before.copied()), shown(after.copied())))
        .collect()
}

// Lists are compared as a whole: what moved in them has no path of its own.
fn flatten<'a>(value: &'a Value, path: String, leaves: &mut BTreeMap<String, &'a Value>) {
    let Value::Object(map) = value else {
        leaves.insert(path, value);
        return;
    };
    for (key, value) in map {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        flatten(value, path, leaves);
    }
}

/// The newest revision.
pub fn newest(revisions: &[Stored]) -> Option<&Stored> {
    revisions.iter().max_by_key(|revision| revision.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn stored(number: i64, hash: &str, preset_version: u32, generation: i64) -> Stored {
        Stored { number, hash: hash.into(), preset_version, generation, created_at: number * 1000 }
    }

    #[test]
    fn a_rejected_configuration_is_tried_less_and_less_often() {
        assert_eq!(retry_at(&[]), None);
        let other = stored(1, "a", 1, 1);
        let pause = |attempts: i64| {
            let same = (2..2 + attempts).map(|number| stored(number, "b", 1, 1));
            let all: Vec<_> = std::iter::once(other.clone()).chain(same).collect();
            retry_at(&all).unwrap() - all.last().unwrap().created_at
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 9].map(pause), [60, 120, 240, 480, 960, 1920, 1920, 1920]);
    }

    #[test]
    fn a_revision_is_made_when_the_resolved_value_changes() {
        let rejected = BTreeSet::new();
        let step = |revisions: &[Stored], generation, hash| step(revisions, &rejected, generation, hash);
        assert_eq!(step(&[], 1, "a"), Step::Create { number: 1 });
        let revisions = [stored(1, "a", 1, 1), stored(2, "b", 1, 2)];
        assert_eq!(step(&revisions, 2, "b"), Step::Keep);
        assert_eq!(step(&revisions, 3, "b"), Step::Confirm { number: 2 });
        assert_eq!(step(&revisions, 3, "c"), Step::Create { number: 3 });
        // The cluster's addresses changed: same generation, other hash.
        assert_eq!(step(&revisions, 2, "c"), Step::Create { number: 3 });
        // Back to what was before is a change too.
        assert_eq!(step(&revisions, 3, "a"), Step::Create { number: 3 });
    }

    #[test]
    fn an_edit_tries_a_rejected_configuration_again_once() {
        let mut revisions = vec![stored(1, "a", 1, 1), stored(2, "b", 1, 2)];
        assert_eq!(step(&revisions, &[2].into(), 2, "b"), Step::Keep);
        assert_eq!(step(&revisions, &[2].into(), 3, "b"), Step::Create { number: 3 });
        // Only the newest matters.
        assert_eq!(step(&revisions, &[1].into(), 3, "b"), Step::Confirm { number: 2 });
        revisions.push(stored(3, "b", 1, 3));
        assert_eq!(step(&revisions, &[2].into(), 3, "b"), Step::Keep);
        assert_eq!(step(&revisions, &[2, 3].into(), 3, "b"), Step::Keep);
    }

    #[test]
    fn the_preset_version_stays_until_the_object_is_edited() {
        let old = PRESET_VERSION - 1;
        let revisions = [stored(1, "a", old, 4)];
        assert_eq!(preset_version(&revisions, 4), old);
        assert_eq!(preset_version(&revisions, 5), PRESET_VERSION);
        assert_eq!(preset_version(&[], 1), PRESET_VERSION);
    }

    #[test]
    fn the_oldest_go_but_not_what_runs() {
        let revisions: Vec<_> = (1..=13).map(|number| stored(number, "x", 1, number)).collect();
        assert_eq!(prunable(&revisions, Some(13)), [1, 2, 3]);
        assert_eq!(prunable(&revisions, Some(2)), [1, 3, 4]);
        assert_eq!(prunable(&revisions[..10], Some(10)), [] as [i64; 0]);
    }

    #[test]
    fn differences_are_named_by_path() {
        let old = json!({"settings": {"acks": "all", "lingerMs": 5}, "brokers": ["a:1"]});
        let new = json!({"settings": {"lingerMs": 20, "x": true}, "brokers": ["a:1"]});
        let expected = [r#"settings.acks: "all" → (none)"#, "settings.lingerMs: 5 → 20", "settings.x: (none) → true"];
        assert_eq!(differences(&old, &new), expected);
        assert!(differences(&old, &old).is_empty());
    }

    proptest! {
        #[test]
        fn pruning_bounds_the_history_and_keeps_what_is_needed(
            numbers in proptest::collection::btree_set(1_i64..60, 0..40), pick: proptest::sample::Index
        ) {
            let revisions: Vec<_> = numbers.iter().map(|number| stored(*number, "x", 1, 1)).collect();
            let current = (!numbers.is_empty()).then(|| *pick.get(&numbers.iter().copied().collect::<Vec<_>>()));
            let gone = prunable(&revisions, current);
            prop_assert!(numbers.len() - gone.len() <= HISTORY_LIMIT.max(2));
            prop_assert!(gone.iter().all(|number| Some(*number) != current && Some(number) != numbers.last()));
        }
    }
}
