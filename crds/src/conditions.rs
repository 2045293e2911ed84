//! The conditions of the four kinds, in the form that kstatus, Argo CD, Flux and `kubectl wait` understand.

/// `True`: the object is as declared. Always present.
pub const READY: &str = "Ready";
/// Present and `True` only while work is under way.
pub const RECONCILING: &str = "Reconciling";
/// Present and `True` only while the object cannot become ready without a change by somebody.
pub const STALLED: &str = "Stalled";
/// Whether every connected client runs the current revision (consumer groups).
pub const CONFIG_APPLIED: &str = "ConfigApplied";
/// Whether the operator decides the number of replicas (consumer groups with `scaling`).
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// Whether nothing is lost, stuck or later than promised (consumer groups).
pub const KEEPING_UP: &str = "KeepingUp";
