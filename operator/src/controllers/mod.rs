//! What differs between the kinds.

mod client_config;
pub(crate) mod cluster;
pub(crate) mod consumer_group;
pub(crate) mod producer_config;
pub(crate) mod topic;

pub(crate) use client_config::Configs;

use mq_core::tenancy::Grant;
use mq_crds::MqClusterSpec;

/// What a cluster grants.
fn grants(cluster: &MqClusterSpec) -> Vec<Grant> {
    let grants = cluster.namespaces.iter();
    grants.map(|grant| Grant { namespace: grant.name.clone(), topics: grant.topics.clone() }).collect()
}
