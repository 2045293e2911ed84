//! `MqConsumerGroup`: a consumer group, the settings of its clients, and how the workload that consumes is scaled.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use mq_core::{settings::ConsumerSettings, value::ConfigValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    clients::Clients,
    rules::{
        age_beyond_commits, immutable, immutable_optional, kafka_name, session_within_poll_interval, topic_patterns,
    },
    scaling::{Lag, Scaling, ScalingStatus},
};

/// A consumer group, written by the team that owns the service.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mq.infra-kit.io",
    version = "v1alpha1",
    kind = "MqConsumerGroup",
    plural = "mqconsumergroups",
    namespaced,
    shortname = "mqg",
    category = "mq",
    doc = "A Kafka consumer group: the settings of its consumers, its dead letters, and how many replicas it has.",
    status = "MqConsumerGroupStatus",
    derive = "PartialEq",
    validation = Rule::new(
        "has(self.spec.deadLetter) || (has(self.spec.groupId) ? self.spec.groupId : self.metadata.name).size() <= 245"
    )
    .message("the group id is too long for a dead-letter topic named <groupId>.dlq (at most 245): set spec.deadLetter.topic"),
    validation = Rule::new(
        "!((has(self.spec.deadLetter) ? self.spec.deadLetter.topic : \
         (has(self.spec.groupId) ? self.spec.groupId : self.metadata.name) + '.dlq') in self.spec.topics)"
    )
    .message("the dead-letter topic (deadLetter.topic, else <groupId>.dlq) must not be one of topics: its records would be consumed again")
)]
#[x_kube(validation = immutable_optional("groupId"), validation = age_beyond_commits())]
#[serde(rename_all = "camelCase")]
pub struct MqConsumerGroupSpec {
    /// The MqCluster that the group consumes from. Immutable.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = immutable("cluster"))]
    pub cluster: String,
    /// The group's id in Kafka; metadata.name if absent. Can be neither changed nor added later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = kafka_name("groupId"))]
    pub group_id: Option<String>,
    /// The topics that the group consumes, by their names in Kafka. One that begins with ^ is a pattern: all topics whose names it finds
    /// are consumed, those that are made later too, but the group's dead-letter topic and Kafka's own.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 249)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(
            "self.all(topic, topic.startsWith('^') || topic.matches('^[a-zA-Z0-9._-]+$') && topic != '.' && topic != '..')"
        )
        .message("each topic must have 1 to 249 characters of a-z, A-Z, 0-9, dot, underscore and dash, and not be . or ..; or be a pattern that begins with ^"),
        validation = topic_patterns()
    )]
    pub topics: Vec<String>,
    /// The settings of the group's consumers.
    #[serde(default)]
    #[x_kube(validation = session_within_poll_interval())]
    pub consumer: ConsumerSettings,
    /// Where records go that cannot be handled; the topic <groupId>.dlq if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// How many replicas the consuming workload has. Absent: the operator does not scale it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

/// Where records go that cannot be handled.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The topic, by its name in Kafka. If it is missing it is created with the partitions of the largest topic of the group, the default
    /// replication factor and 30 days of retention, and is never changed or deleted on behalf of the group; an MqTopic of that name
    /// says otherwise.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = kafka_name("deadLetter.topic"))]
    pub topic: String,
}

/// The topics that patterns match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchedTopics {
    /// How many.
    pub count: i32,
    /// The first 32 of them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub names: Vec<String>,
}

/// The members of a group and what they were given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// How many.
    pub count: i32,
    /// How many times an even share of the partitions the member with the most has: its partitions × members ÷ partitions of all members.
    /// 1 is even. Absent: no member has any. How even the load is that comes with them: scaling.terms.imbalance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imbalance: Option<f64>,
    /// The first 32 of them by host, client id and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub shown: Vec<Member>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its group.instance.id if it is a static member, else the id that the coordinator gave it.
    pub id: String,
    /// Its client.id.
    pub client_id: String,
    /// Where it comes from, as the broker sees it.
    pub host: String,
    /// Its pod: the one whose agent comes from the same address. Absent: there is none, or several pods or members come from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
    /// Which, as orders 0-3,7; refunds 1. What is longer than 200 characters ends in a number of others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub assigned: String,
}

/// Whether one of spec.topics is a pattern and no name.
pub fn is_pattern(topic: &str) -> bool {
    topic.starts_with('^')
}

/// What the operator sees of the group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqConsumerGroupStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision that clients are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<i64>,
    /// The newest revision. Other than the current one: it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<i64>,
    /// Revisions that a client refused; they are never sent again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected_revisions: Vec<i64>,
    /// The connected clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,
    /// The values in force, read back from a live client.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub effective: BTreeMap<String, ConfigValue>,
    /// The topics that the patterns of spec.topics match. Absent: there are no patterns, or it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_topics: Option<MatchedTopics>,
    /// Who is in the group, as its coordinator knows it: read once a minute, and more often while it settles after a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// How far behind the group is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// The last decision about replicas, with its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// Ready, ConfigApplied, KeepingUp, ScalingActive, and Reconciling or Stalled while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
