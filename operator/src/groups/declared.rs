//! What objects declare of their groups, and what is known of these in return.

use std::time::Duration;

use mq_core::{
    condition::{Condition, Verdict},
    effect::ObjectKey,
    lag::ResetPolicy,
    scaling::{Mode, Objective},
};
use mq_crds::{Lag, MatchedTopics, Members, ScalingStatus, TargetRef};

use super::{schedule::Schedule, topics::Topics};

/// What an object says about its group. Equal declarations change nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredGroup {
    /// The object.
    pub(crate) object: ObjectKey,
    /// Its `MqCluster`.
    pub(crate) cluster: String,
    /// The group in Kafka.
    pub(crate) group_id: String,
    /// Its topics in Kafka.
    pub(crate) topics: Topics,
    /// Where it starts without a commit.
    pub(crate) reset: ResetPolicy,
    /// How often its members commit.
    pub(crate) commit_interval: Duration,
    /// How long its handlers may take.
    pub(crate) longest: Duration,
    /// Identity of the configuration that its clients run.
    pub(crate) config: String,
    /// Watched, but nothing is changed.
    pub(crate) paused: bool,
    /// How it is scaled, if it is.
    pub(crate) scaling: Option<DesiredScaling>,
}

/// How a group is scaled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredScaling {
    /// The workload, in the namespace of the object.
    pub(crate) target: TargetRef,
    /// Whether anything is decided, and carried out.
    pub(crate) mode: Mode,
    /// The promise.
    pub(crate) objective: Objective,
    /// Fewest replicas.
    pub(crate) min: u32,
    /// Most replicas.
    pub(crate) max: u32,
    /// Messages per second that one replica handles, if the user knows.
    pub(crate) capacity: Option<f64>,
    /// Window of quiet before a step down.
    pub(crate) window: Duration,
    /// No replicas are taken away.
    pub(crate) keep: bool,
    /// Most replicas that one step takes away.
    pub(crate) max_step: Option<u32>,
    /// Times with a higher minimum.
    pub(crate) schedules: Vec<Schedule>,
}

/// What is known about a group. Changes only when a status should.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GroupView {
    /// What the patterns among its topics match.
    pub(crate) matched: Option<MatchedTopics>,
    /// Who is in the group; not while it rebalances.
    pub(crate) members: Option<Members>,
    /// Rounded; renewed once a minute.
    pub(crate) lag: Option<Lag>,
    /// The last decision that said something new.
    pub(crate) scaling: Option<ScalingStatus>,
    /// `KeepingUp`.
    pub(crate) keeping_up: Option<Condition>,
    /// `ScalingActive`.
    pub(crate) active: Option<Condition>,
    /// What keeps the group from being as declared.
    pub(crate) problem: Option<Verdict>,
}
