//! `MqConsumerGroup`: a consumer group, the settings of its clients, and how the workload that consumes is scaled.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use mq_core::{settings::ConsumerSettings, value::ConfigValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    clients::Clients,
    rules::{age_beyond_commits, immutable, immutable_optional, kafka_name, session_within_poll_interval},
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
    /// The topics that the group consumes, by their names in Kafka.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 249)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(topic, topic.matches('^[a-zA-Z0-9._-]+$') && topic != '.' && topic != '..')")
            .message("each topic must have 1 to 249 characters of a-z, A-Z, 0-9, dot, underscore and dash, and not be . or ..")
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
