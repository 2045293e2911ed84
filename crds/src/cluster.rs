//! `MqCluster`: a Kafka cluster, and which namespaces may use it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use mq_core::security::{SaslMechanism, SecurityProtocol};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Kafka cluster, written by the platform admin.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mq.infra-kit.io",
    version = "v1alpha1",
    kind = "MqCluster",
    plural = "mqclusters",
    shortname = "mqc",
    category = "mq",
    doc = "A Kafka cluster and the namespaces that may use it.",
    status = "MqClusterStatus",
    derive = "PartialEq"
)]
#[x_kube(
    validation = Rule::new("has(self.sasl) == self.securityProtocol.startsWith('SASL')")
        .message("sasl.mechanism is required with securityProtocol SASL_PLAINTEXT and SASL_SSL, and must not be set with others"),
    validation = Rule::new("has(self.admin) || !self.securityProtocol.startsWith('SASL')")
        .message("admin.credentialsSecretRef is required with securityProtocol SASL_PLAINTEXT and SASL_SSL: the operator logs in, too"),
    validation = Rule::new("!has(self.caBundle) || self.securityProtocol.endsWith('SSL')")
        .message("caBundle is for securityProtocol SSL and SASL_SSL only")
)]
#[serde(rename_all = "camelCase")]
pub struct MqClusterSpec {
    /// Addresses (host:port) of some brokers; the others are learnt from them.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 262)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r"self.all(broker, broker.matches('^([a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\]):[1-9][0-9]{0,4}$'))")
            .message("each broker must be host:port, such as kafka-0.kafka:9092 or [::1]:9092")
    )]
    pub brokers: Vec<String>,
    /// How clients and the operator speak to the brokers.
    #[serde(default)]
    pub security_protocol: SecurityProtocol,
    /// How clients and the operator log in; with SASL_PLAINTEXT and SASL_SSL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// The authorities that the brokers' certificates must come from, as PEM; with SSL and SASL_SSL. Absent: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 49_152))]
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')")
        .message("caBundle must be one or more certificates as PEM"))]
    pub ca_bundle: Option<String>,
    /// What the operator itself needs; required with SASL_PLAINTEXT and SASL_SSL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// The namespaces that may use this cluster, and what for. Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub namespaces: Vec<NamespaceGrant>,
}

/// How the operator and clients log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sasl {
    /// PLAIN sends the password as it is: use it inside TLS. The others prove that both sides know it.
    pub mechanism: SaslMechanism,
}

/// What the operator itself needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Admin {
    /// The Secret with what the operator proves itself with, in the operator's own namespace: username and password for SASL, tls.crt and
    /// tls.key for a client certificate. It is read again when it changes. Clients have credentials of their own, as files of their pods.
    pub credentials_secret_ref: SecretRef,
}

/// A Secret by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What one namespace may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceGrant {
    /// The namespace.
    #[schemars(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The topics and groups that it may declare and use: names, or prefixes that end in `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 249), pattern(r"^([a-zA-Z0-9._-]+\*?|\*)$")))]
    pub topics: Vec<String>,
}

/// What the operator sees of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id that the cluster gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// How many brokers the cluster has at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers: Option<i32>,
    /// Ready, and Reconciling or Stalled while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
