//! The one runner behind all kinds.
//!
//! ```text
//! watch ─┐                       ┌ refused ─┐
//! wakes ─┴→ dereference → validate → decide → apply → events, status, finalizer
//!           async reads   pure       pure     async
//! ```
//! It alone owns watches, objects that do not deserialize, the pause annotation, finalizers, status, events, and what happens after
//! an error. A kind only says what it reads, what it accepts, what it decides and how that is carried out.
//!
//! **To add a kind**, implement [`Kind`] in `controllers/<kind>.rs` (decisions belong into `mq-core`), and run a [`Runner`] for it in
//! `lib.rs`. Return what the status shall say in a [`Report`]; never write status, events or finalizers yourself. If something outside
//! of the object changes the answer, call [`Waker::wake`]; it costs nothing when nothing changed.

mod memory;
mod runner;

pub use runner::{Runner, Shared, Source, Waker};

use crate::{
    events::Event,
    object::{Guarded, Object, key_of},
    writer::WriteError,
};
use mq_core::{
    condition::{Condition, Verdict},
    effect::ObjectKey,
    reason::Reason,
};
use serde_json::{Map, Value};
use std::time::Duration;

/// Pauses an object when it is `true`.
pub const PAUSED: &str = "mq.infra-kit.io/paused";

/// Any new value makes the operator look at the object at once.
pub const RECONCILE_AT: &str = "mq.infra-kit.io/reconcile-at";

/// What differs between kinds.
pub trait Kind: Send + Sync + 'static {
    /// The Kubernetes type.
    type Object: Object;
    /// What [`Kind::dereference`] read.
    type Inputs: Send;
    /// A specification that can be carried out. After `validate` nothing reads the raw spec.
    type Valid: Send + Sync;
    /// What shall be done.
    type Decision: Send + Sync;

    /// Put on objects for which [`Kind::needs_finalizer`] says so.
    const FINALIZER: &'static str;

    /// The `MqCluster` that the object belongs to; objects of clusters that are not served here are ignored.
    fn cluster(object: &Guarded<Self::Object>) -> String {
        object.cluster.clone()
    }

    /// Reads everything that the object points at. Changes nothing.
    fn dereference(&self, object: &Self::Object) -> impl Future<Output = Result<Self::Inputs, Error>> + Send;

    /// Checks the specification.
    ///
    /// # Errors
    /// What is wrong with it, for its user.
    fn validate(&self, object: &Self::Object, inputs: Self::Inputs) -> Result<Self::Valid, Refusal>;

    /// Decides. Pure.
    fn decide(&self, valid: &Self::Valid) -> Self::Decision;

    /// Whether the object must not vanish before [`Report::released`]. The finalizer is on the object before `apply` runs.
    fn needs_finalizer(&self, _decision: &Self::Decision) -> bool {
        false
    }

    /// Carries the decision out. May be cancelled never and repeated always.
    fn apply(
        &self,
        object: &Self::Object,
        valid: Self::Valid,
        decision: Self::Decision,
    ) -> impl Future<Output = Result<Report, Error>> + Send;

    /// The object is paused: keep what it claims, change nothing.
    fn pause(&self, object: &Self::Object);

    /// The object is gone: nothing may be done on its behalf any more.
    fn forget(&self, key: &ObjectKey);

    /// The object was refused by [`Kind::validate`]: nothing may be done on its behalf.
    fn refused(&self, object: &Self::Object) {
        self.forget(&key_of(object));
    }

    /// The object does not deserialize: nothing may be done on its behalf, but it keeps what it claims as far as that can be read.
    fn unreadable(&self, object: &Guarded<Self::Object>) {
        self.forget(&key_of(object));
    }
}

/// A specification that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the status says.
    pub verdict: Verdict,
    /// If the object is being deleted, its finalizer goes all the same, with this event: waiting would be for nothing.
    pub release: Option<(Reason, String)>,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, release: None }
    }
}

/// What a kind found out and did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How the object is; `None` while that is not known yet, which leaves an earlier verdict standing.
    pub verdict: Option<Verdict>,
    /// Conditions besides those of the verdict.
    pub conditions: Vec<Condition>,
    /// The whole status but `conditions`. Nothing in it may depend on the clock alone.
    pub status: Map<String, Value>,
    /// What was done, in order.
    pub events: Vec<Event>,
    /// The object may vanish.
    pub released: bool,
    /// When to look again although nothing changed.
    pub again: Option<Duration>,
}

/// A reconciliation that is tried again, later and later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read from the Kubernetes API.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was read.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// Something could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}
