//! `MqProducerConfig`: the settings of one named producer client.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use mq_core::{settings::ProducerSettings, value::ConfigValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{clients::Clients, rules::immutable};

/// The settings of a producer, written by the team that owns the service.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mq.infra-kit.io",
    version = "v1alpha1",
    kind = "MqProducerConfig",
    plural = "mqproducerconfigs",
    namespaced,
    shortname = "mqp",
    category = "mq",
    doc = "The settings of the producer of that name in the pods of this namespace.",
    status = "MqProducerConfigStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MqProducerConfigSpec {
    /// The MqCluster that the producer sends to. Immutable.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = immutable("cluster"))]
    pub cluster: String,
    /// The settings, beside `cluster`.
    #[serde(flatten)]
    pub settings: ProducerSettings,
}

/// What the operator sees of the producer's clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqProducerConfigStatus {
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
    /// Ready, and Reconciling or Stalled while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
