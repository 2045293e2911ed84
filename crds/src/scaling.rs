//! The scaling of a consumer group: what is promised, within which bounds, and what was decided.

use kube::KubeSchema;
use mq_core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many replicas the consuming workload has.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not be more than maxReplicas"))]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// The workload that consumes, in the namespace of this object.
    pub target_ref: TargetRef,
    /// What is promised.
    pub objective: Objective,
    /// Never fewer replicas than this.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_replicas: i32,
    /// Never more replicas than this.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_replicas: i32,
    /// When replicas are taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScaleDown>,
    /// Messages per second that one replica handles. Absent: the operator measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub capacity_per_replica: Option<i64>,
}

fn one() -> i32 {
    1
}

/// A workload with a scale subresource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Such as apps/v1.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// Such as Deployment.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What is promised about the group's backlog: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.age) != has(self.lag)")
    .message("objective must have exactly one of age and lag"))]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// No message waits longer than this, such as 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('168h')")
        .message("objective.age must be from 1s to 168h"))]
    pub age: Option<Span>,
    /// No more messages than this wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub lag: Option<i64>,
}

/// When replicas are taken away.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleDown {
    /// Fewer replicas must have been enough for this long.
    #[serde(default = "five_minutes")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("scaleDown.window must be from 1s to 24h"))]
    pub window: Span,
}

fn five_minutes() -> Span {
    ScaleDown::DEFAULT_WINDOW
}

impl ScaleDown {
    /// The window of a group that sets none.
    pub const DEFAULT_WINDOW: Span = Span::from_secs(300);
}

/// How far behind a group is. Numbers are rounded and written at most once a minute; metrics have the exact ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Whether the numbers can be relied on.
    pub state: LagState,
    /// Why the state is not Known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Messages that are not finished. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// Of these, those that wait longer than the objective allows. Absent: not known, or no age is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<i64>,
}

/// Whether a number about lag can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LagState {
    /// All partitions are known.
    Known,
    /// Some partitions are not known, or the watch is younger than the objective and counts as late what it found at its start.
    Estimated,
    /// Nothing is known, and so nothing is decided.
    Unknown,
}

/// The last decision about replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Replicas that the workload had. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<i32>,
    /// Replicas that it should have. Absent: no decision yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<i32>,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence with the numbers.
    pub message: String,
    /// The numbers that the decision was made from.
    #[serde(default)]
    pub terms: Terms,
}

/// The numbers of a decision. What is absent was not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Messages that arrive per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<f64>,
    /// Messages per second that one replica handles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// Messages that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<f64>,
    /// Replicas that these numbers need, before rounding and bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<f64>,
}
