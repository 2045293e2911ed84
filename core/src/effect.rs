//! The one list of changes. Nothing else changes Kafka, or any Kubernetes object other than the one being reconciled.
//!
//! Plan mode, events, metrics and execution are views of the same list, so they cannot disagree. A new kind of change is a variant
//! of [`Change`], a name in [`Change::kind`], and an arm where it is executed.

use crate::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};

/// The Kubernetes object on whose behalf something happens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid: an object that was deleted and created again is another object.
    pub uid: String,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// One change, for whom and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The object that asked for it.
    pub object: ObjectKey,
    /// What is changed.
    pub change: Change,
    /// Why, as the event names it.
    pub reason: Reason,
    /// The sentence for the event.
    pub message: String,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates a topic.
    CreateTopic {
        /// Kafka name.
        topic: String,
        /// Number of partitions.
        partitions: i32,
        /// Replicas per partition; `None` = the broker's default.
        replication_factor: Option<i16>,
        /// Declared configuration.
        config: BTreeMap<String, String>,
    },
    /// Adds partitions.
    GrowTopic {
        /// Kafka name.
        topic: String,
        /// Number of partitions afterwards.
        partitions: i32,
    },
    /// Sets and resets single configuration keys; all other keys stay as they are.
    AlterTopicConfig {
        /// Kafka name.
        topic: String,
        /// Keys to set.
        set: BTreeMap<String, String>,
        /// Keys that go back to the broker's default.
        reset: BTreeSet<String>,
    },
    /// Deletes the topic with this id, and no other that bears its name.
    DeleteTopic {
        /// Kafka name.
        topic: String,
        /// Kafka's id of the topic.
        id: String,
    },
}

impl Change {
    /// Name for metrics and plans.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CreateTopic { .. } => "CreateTopic",
            Self::GrowTopic { .. } => "GrowTopic",
            Self::AlterTopicConfig { .. } => "AlterTopicConfig",
            Self::DeleteTopic { .. } => "DeleteTopic",
        }
    }

    /// Kafka name of the topic that is changed.
    pub fn topic(&self) -> &str {
        match self {
            Self::CreateTopic { topic, .. }
            | Self::GrowTopic { topic, .. }
            | Self::AlterTopicConfig { topic, .. }
            | Self::DeleteTopic { topic, .. } => topic,
        }
    }

    /// Whether it can destroy data.
    pub const fn is_destructive(&self) -> bool {
        matches!(self, Self::DeleteTopic { .. })
    }
}
