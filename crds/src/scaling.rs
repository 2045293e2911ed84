//! The scaling of a consumer group: what is promised, within which bounds, and what was decided.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use mq_core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many replicas the consuming workload has.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas must not be more than maxReplicas"),
    validation = Rule::new("!has(self.schedules) || self.schedules.all(schedule, schedule.minReplicas <= self.maxReplicas)")
        .message("minReplicas of a schedule must not be more than maxReplicas")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// What is made of the numbers.
    #[serde(default)]
    pub mode: ScalingMode,
    /// The workload that consumes, in the namespace of this object. Several groups may name the same one: the most that any asks for
    /// counts.
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
    /// Times at which there are never fewer replicas than so many. Of several, the highest counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub schedules: Vec<Schedule>,
    /// Messages per second that one replica handles. Absent: the operator measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub capacity_per_replica: Option<i64>,
}

fn one() -> i32 {
    1
}

/// What is made of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// Decided and carried out.
    #[default]
    Auto,
    /// Decided and said in status, not carried out.
    Observe,
    /// The lag is watched, nothing is decided.
    Off,
}

/// A time at which there are never fewer replicas than so many.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// When it begins: a cron expression of five fields, such as "0 8 * * MON-FRI".
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new(r"self.matches('^\\S+( \\S+){4}$')")
        .message("start must be a cron expression of five fields, such as 0 8 * * MON-FRI"))]
    pub start: String,
    /// When it ends: another cron expression, or a length of time after the begin, such as 8h.
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new(r"self.matches('^([1-9][0-9]*(s|m|h)|\\S+( \\S+){4})$')")
        .message("end must be a cron expression of five fields or a length of time, such as 0 20 * * MON-FRI or 12h"))]
    pub end: String,
    /// The time zone of both, by its IANA name, such as Europe/Berlin.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Never fewer replicas than this.
    #[schemars(range(min = 1, max = 10_000))]
    pub min_replicas: i32,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A workload of any kind that has the subresource `scale`: Deployments, StatefulSets, those of other operators.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Its API and version, such as apps/v1.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$')")
        .message("targetRef.apiVersion must be a group and a version, such as apps/v1"))]
    pub api_version: String,
    /// Its kind, such as Deployment.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z][a-zA-Z0-9]*$')")
        .message("targetRef.kind must be written as in the workload's manifest, such as Deployment"))]
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
    /// No message waits longer than this, such as 15s. At least 10s and autoCommitIntervalMs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('168h')")
        .message("objective.age must be from 10s to 168h"))]
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
    /// Replicas are never taken away, but those above maxReplicas.
    #[serde(default)]
    pub disabled: bool,
    /// Most replicas that are taken away at once. Absent: as many as are not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_step: Option<i32>,
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
    /// What is odd about up to five partitions whose lag is known: commits that expired or were deleted, transactions that are not ended, a
    /// lag without records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub notes: Vec<String>,
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
    /// What keeps the replicas below what is needed. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<LimitedBy>,
    /// The last changes of replicas, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<ScalingChange>,
}

/// What keeps replicas below what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitedBy {
    /// spec.scaling.maxReplicas.
    MaxReplicas,
    /// More replicas than partitions have nothing to do.
    Partitions,
    /// The last step up brought next to nothing: something behind the replicas is slow.
    Downstream,
}

/// A change of replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingChange {
    /// When.
    pub time: Time,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence with the numbers.
    pub message: String,
    /// The numbers that it was decided from.
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
    /// How many times an even share of the load the busiest replica has: 1 is even.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imbalance: Option<f64>,
}
