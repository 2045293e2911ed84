//! The kinds of `mq.infra-kit.io/v1alpha1`: what users declare, and what the operator answers in status.
//!
//! Rules that the API server can check are CEL in the schema, so that a mistake is refused when it is made; the rest is
//! checked by `mq-core` and answered in conditions. [`manifest`] renders the YAML files beside this crate, which
//! `kubectl apply -f crds/` installs.

#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "the comments on fields are what `kubectl explain` prints, without backticks")]
#![allow(unreachable_pub, reason = "the schema derive of kube copies each struct, with its `pub`, into a function")]

pub mod clients;
mod cluster;
mod columns;
pub mod conditions;
mod consumer_group;
pub mod manifest;
mod producer_config;
mod reference;
mod rules;
mod scaling;
mod topic;

pub use cluster::{Admin, MqCluster, MqClusterSpec, MqClusterStatus, NamespaceGrant, Sasl, SecretRef};
pub use consumer_group::{
    DeadLetter, MatchedTopics, Member, Members, MqConsumerGroup, MqConsumerGroupSpec, MqConsumerGroupStatus, is_pattern,
};
pub use producer_config::{MqProducerConfig, MqProducerConfigSpec, MqProducerConfigStatus};
pub use scaling::{
    Lag, LagState, LimitedBy, Objective, ScaleDown, Scaling, ScalingChange, ScalingMode, ScalingStatus, Schedule,
    TargetRef, Terms,
};
pub use topic::{Adoption, Drift, MqTopic, MqTopicSpec, MqTopicStatus, ReclaimPolicy};

/// The API group of all kinds.
pub const GROUP: &str = "mq.infra-kit.io";
