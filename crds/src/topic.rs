//! `MqTopic`: a topic that stays as declared.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use mq_core::value::ConfigValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{immutable, immutable_optional, kafka_name};

/// A Kafka topic, written by the team that owns it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mq.infra-kit.io",
    version = "v1alpha1",
    kind = "MqTopic",
    plural = "mqtopics",
    namespaced,
    shortname = "mqt",
    category = "mq",
    doc = "A Kafka topic that stays as declared.",
    status = "MqTopicStatus",
    derive = "PartialEq",
    validation = Rule::new("has(self.spec.topicName) || self.metadata.name.size() <= 249")
        .message("metadata.name is longer than a topic name can be (249): set spec.topicName"),
    validation = Rule::new(
        "!has(self.spec.forceDelete) || self.spec.forceDelete == (has(self.spec.topicName) ? self.spec.topicName : self.metadata.name)"
    )
    .message("forceDelete must repeat the Kafka name of the topic (topicName, else metadata.name)")
)]
#[x_kube(validation = immutable_optional("topicName"))]
#[serde(rename_all = "camelCase")]
pub struct MqTopicSpec {
    /// The MqCluster that holds the topic. Immutable.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = immutable("cluster"))]
    pub cluster: String,
    /// The topic's name in Kafka; metadata.name if absent. Can be neither changed nor added later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = kafka_name("topicName"))]
    #[x_kube(validation = Rule::new("!self.startsWith('__')")
        .message("topicName must not begin with __: those topics belong to Kafka itself"))]
    pub topic_name: Option<String>,
    /// How many partitions the topic has. It can grow, never shrink.
    #[schemars(range(min = 1, max = 100_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf")
        .message("partitions can only grow: Kafka cannot remove partitions; declare a new topic instead"))]
    pub partitions: i32,
    /// How many brokers keep a copy of each partition; the cluster's own default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32_767))]
    pub replication_factor: Option<i32>,
    /// Topic configuration by Kafka's names, such as retention.ms. What is not listed here is not touched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 100))]
    pub config: BTreeMap<String, ConfigValue>,
    /// What happens to the topic when this object is deleted: Retain leaves it; Delete removes it if it is empty and
    /// unused, or if forceDelete names it.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// Repeats the topic's Kafka name to delete it together with the records it holds, when reclaimPolicy is Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub force_delete: Option<String>,
    /// What happens if the topic exists already when this object is created: IfMatches takes it over only if it is as
    /// declared, Always takes it over and changes it, Never refuses it.
    #[serde(default)]
    pub adoption: Adoption,
}

/// What happens to a topic whose object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes, if it is empty and unused or `forceDelete` names it.
    Delete,
}

/// What happens to a topic that exists before its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Adoption {
    /// It is taken over only if it is as declared.
    #[default]
    IfMatches,
    /// It is taken over and changed.
    Always,
    /// It is refused.
    Never,
}

/// What the operator sees of the topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqTopicStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id that Kafka gave the topic; another one means that it was created anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// How many partitions the topic has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How many replicas its partitions have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,
    /// What Kafka has for the keys of spec.config.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, ConfigValue>,
    /// The last change by somebody else that was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drift: Option<Drift>,
    /// Ready, and Reconciling or Stalled while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A configuration value that was not as declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The configuration key.
    pub key: String,
    /// The value that was found.
    pub was: String,
    /// When it was found.
    pub at: Time,
}
