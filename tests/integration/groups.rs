//! Consumer groups on real servers: their lag as the operator tells it, and their replicas.
//!
//! The control plane has no kubelet: [`kubelet`] makes pods ready and runs a real consumer for each of them.

mod between;
mod breaker;
mod faults;
mod interrupted;
mod kubelet;
mod lag;
mod loaded;
mod marks;
mod members;
mod odd;
mod patterns;
mod rights;
mod scaling;
mod stopped;
mod targets;
mod world;

use mq_crds::MqConsumerGroupStatus;
use serde_json::{Value, json};

/// Why the replicas are as they are.
fn reason(status: &MqConsumerGroupStatus) -> &str {
    status.scaling.as_ref().map_or("", |scaling| scaling.reason.as_str())
}

/// Status and reason of a condition.
fn condition<'a>(status: &'a MqConsumerGroupStatus, kind: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found.map_or(("", ""), |condition| (condition.status.as_str(), condition.reason.as_str()))
}

/// Bounds alone: what they ask for does not depend on the lag.
fn bounds(target: &Value, min: i32, max: i32) -> Value {
    json!({"targetRef": target, "objective": {"age": "20s"}, "minReplicas": min, "maxReplicas": max})
}

/// A workload of the name `worker`.
fn target(api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": "worker"})
}
