//! Attaches tests, demo and benches to the real servers that `mq-cluster run` started.
//!
//! The servers belong to the launcher (`testkit/cluster`), which `make` starts; nothing here starts or stops a machine. The
//! launcher names a description file in `MQ_TESTKIT`; [`TestEnv`] reads it and hands out what a test asked for, or fails with
//! the command that would have provided it. A test never skips.
//!
//! Tests run in parallel on the same servers, so each works in names of its own: [`ControlPlane::namespace`] and
//! [`Broker::unique`]. A test that disturbs the broker itself ([`Broker::stop`] and friends) disturbs every other test of its
//! run; such tests live in the suites `brokers` and `e2e`, which run them one after the other.

#![forbid(unsafe_code)]

mod audit;
mod broker;
mod cluster;
mod control_plane;
mod env;
mod foreign;
mod link;
mod own;
mod process;
mod records;
mod rights;
mod secure;
mod wait;
mod wire;

pub use audit::{Audit, Write};
pub use broker::Broker;
pub use cluster::KafkaCluster;
pub use control_plane::{ControlPlane, Namespace};
pub use env::{Node, TestEnv};
pub use link::Link;
pub use own::OwnBroker;
pub use process::{Paused, Process};
pub use records::Record;
pub use rights::{AUTHORIZING, Operation, Resource};
pub use secure::{Secure, User};
pub use wait::wait_until;

/// A name that no other test uses: `base` and eight hex digits, valid for Kubernetes objects and for topics.
pub fn unique(base: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{base}-{}", &id[..8])
}
