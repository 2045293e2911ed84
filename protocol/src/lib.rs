//! The contract between the operator and the agents in pods.
//!
//! ```text
//! wire      what prost and tonic generate from proto/mq/agent/v1alpha1/agent.proto
//! message   the same messages, checked: what both sides work with
//! body      the configuration inside a `Config`: canonical JSON and its hash
//! limits    every bound and every interval, with its reason
//! ```
//!
//! Reading is total: whatever bytes arrive, the result is a value or a typed error.

#![forbid(unsafe_code)]

pub mod body;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod limits;
pub mod message;

/// Generated from `proto/mq/agent/v1alpha1/agent.proto`; the comments there are the documentation.
#[allow(
    clippy::pedantic,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code"
)]
pub mod wire {
    tonic::include_proto!("mq.agent.v1alpha1");
}

/// Audience that the projected token of a pod must have.
pub const TOKEN_AUDIENCE: &str = "mq-operator";

/// Kubernetes name and TLS server name of the push service within the operator's namespace.
pub const SERVICE_NAME: &str = "mq-operator-push";
