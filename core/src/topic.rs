//! Topics as values: what a user declares, what Kafka has, and how the two differ.

use crate::{
    condition::{Observed, Unknown, Verdict},
    effect::ObjectKey,
    reason::Reason,
};
use std::collections::BTreeMap;

/// Whether an object may take over a topic that existed before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adoption {
    /// Only if partitions, replication factor and all declared keys are already as declared.
    #[default]
    IfMatches,
    /// In any case; its settings are changed to the declared ones.
    Always,
    /// Never.
    Never,
}

/// What happens to the topic when its object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reclaim {
    /// The topic stays. Needs no finalizer, hence never holds up a namespace.
    #[default]
    Retain,
    /// The topic is deleted, once it holds no records and no group uses it.
    Delete,
    /// The topic is deleted with its records, because `spec.forceDelete` repeats its name.
    ForceDelete,
}

/// What an object remembers in its status about the topic that it owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Kafka's id of the topic.
    pub id: String,
    /// The keys that the object manages, with the values seen last.
    pub config: BTreeMap<String, String>,
}

/// A validated declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTopic {
    /// Who declares it.
    pub object: ObjectKey,
    /// Creation of the object, seconds since 1970; the older of two declarations wins.
    pub created_at: i64,
    /// Kafka name.
    pub topic: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas per partition; `None` = whatever the brokers choose.
    pub replication_factor: Option<i16>,
    /// Declared configuration; keys that are not in it are not managed.
    pub config: BTreeMap<String, String>,
    /// Whether an existing topic is taken over.
    pub adoption: Adoption,
    /// What a delete of the object does.
    pub reclaim: Reclaim,
    /// The object is being deleted.
    pub deleting: bool,
    /// The object keeps its claim on the name, but nothing is changed.
    pub paused: bool,
    /// What the object owns already.
    pub owned: Option<Owned>,
}

impl DesiredTopic {
    /// Whether both declare the same, whatever they own. An outcome computed for one holds for the other.
    pub fn declares_same(&self, other: &Self) -> bool {
        Self { owned: None, ..self.clone() } == Self { owned: None, ..other.clone() }
    }

    /// Whether a delete has to find out first who and what uses the topic.
    pub fn needs_usage(&self) -> bool {
        self.deleting && !self.paused && self.reclaim == Reclaim::Delete
    }
}

/// Checks a topic name as the broker does, so that a bad one is refused with a sentence instead of an error code.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(topic: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(legal) {
        return Err(format!("topic name {topic:?} must be 1 to 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-'"));
    }
    if matches!(topic, "." | "..") || topic.starts_with("__") {
        return Err(format!("topic name {topic:?} is reserved by Kafka"));
    }
    Ok(())
}

/// One configuration entry as the broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The effective value; `None` when the broker keeps it secret.
    pub value: Option<String>,
    /// Set on the topic itself, not inherited from a default.
    pub topic_level: bool,
}

/// Who and what a topic is used by; asked only before a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Records between the log starts and the log ends, an upper bound for compacted topics.
    pub records: i64,
    /// Names of the groups with members that are assigned the topic, sorted.
    pub groups: Vec<String>,
}

/// A topic as Kafka has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Kafka's id.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// The smallest number of replicas of any partition.
    pub replication_factor: i16,
    /// Effective configuration, all keys.
    pub config: Observed<BTreeMap<String, ConfigEntry>>,
    /// Records and users, if asked for.
    pub usage: Observed<Usage>,
}

/// The topics of one cluster as one observation saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// By name: a topic, its certain absence, or why neither is known.
    pub by_name: BTreeMap<String, Observed<Option<TopicState>>>,
    /// The answer for every name that is not in `by_name`.
    pub otherwise: Unknown,
}

impl Topics {
    /// Nothing was seen.
    pub fn unknown(why: Unknown) -> Self {
        Self { by_name: BTreeMap::new(), otherwise: why }
    }

    /// What is known about one topic; `Ok(None)` = it certainly does not exist.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn get(&self, topic: &str) -> Result<Option<&TopicState>, &Unknown> {
        match self.by_name.get(topic) {
            Some(Ok(state)) => Ok(state.as_ref()),
            Some(Err(why)) => Err(why),
            None => Err(&self.otherwise),
        }
    }
}

/// What the status shall say about ownership after a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// As before.
    Keep,
    /// Nothing is owned any more.
    Forget,
    /// This topic is owned, with these actual settings.
    Own(Actual),
}

/// The actual settings, beside the declared ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Kafka's id.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// The smallest number of replicas of any partition.
    pub replication_factor: i16,
    /// The managed keys and their values; `None` = unknown at the moment.
    pub config: Option<BTreeMap<String, String>>,
}

/// A key that someone changed outside of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Configuration key.
    pub key: String,
    /// The value that was found.
    pub was: String,
}

/// What a plan means for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOutcome {
    /// How the object is.
    pub verdict: Verdict,
    /// What its status remembers.
    pub record: Record,
    /// The first drifting key, if any.
    pub drift: Option<Drift>,
    /// Something that happened without a change in Kafka, for an event.
    pub notice: Option<(Reason, String)>,
    /// The finalizer can go.
    pub released: bool,
}

/// Whether two values mean the same to the broker, which describes them in its own spelling.
///
/// Without this a value like `compact, delete` would be set again at every cycle.
pub fn same_value(declared: &str, described: &str) -> bool {
    let (a, b) = (declared.trim(), described.trim());
    if a == b {
        return true;
    }
    if let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) {
        return a == b;
    }
    if let (Ok(a), Ok(b)) = (a.parse::<f64>(), b.parse::<f64>()) {
        return a.to_bits() == b.to_bits();
    }
    let is_bool = |s: &str| s.eq_ignore_ascii_case("true") || s.eq_ignore_ascii_case("false");
    if is_bool(a) && is_bool(b) {
        return a.eq_ignore_ascii_case(b);
    }
    a.contains(',') && a.split(',').map(str::trim).eq(b.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_as_the_broker_understands_them() {
        let table = [
            ("3600000", "3600000", true),
            (" 3600000", "3600000", true),
            ("03600000", "3600000", true),
            ("9223372036854775807", "9223372036854775806", false),
            ("0.50", "0.5", true),
            ("TRUE", "true", true),
            ("true", "false", false),
            ("compact, delete", "compact,delete", true),
            ("compact,delete", "delete,compact", false),
            ("zstd", "lz4", false),
            ("", "", true),
        ];
        for (declared, described, expected) in table {
            assert_eq!(same_value(declared, described), expected, "{declared:?} {described:?}");
        }
    }

    #[test]
    fn names_are_refused_as_the_broker_would() {
        for good in ["orders", "a.b_c-D9", &"x".repeat(249)] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", ".", "..", "a b", "ü", "a/b", "__consumer_offsets", &"x".repeat(250)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
