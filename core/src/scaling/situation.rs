//! What a decision looks at.

use std::time::Duration;

use super::{Capacity, Ineffective, Load, Need};
use crate::lag::TopicPartition;

/// Why a group has not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsettled {
    /// The workload: rollout, or pods that are not ready.
    Rollout(String),
    /// The group: members, ownership, no progress, or a step whose effect is not yet seen.
    Group(String),
}

/// Everything that [`super::decide()`] looks at.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each read by one rule")]
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// Replicas asked for now.
    pub replicas: u32,
    /// As many replicas as can have partitions of the group's topics; more than that are idle.
    pub partitions: u32,
    /// Somebody else set the replicas; how long that is still respected, and whether it happened twice.
    pub by_hand: Option<(Duration, bool)>,
    /// Observations were missing just before this one.
    pub gap: bool,
    /// Why some partitions are unknown.
    pub unknown: Option<String>,
    /// Whether nothing is known.
    pub all_unknown: bool,
    /// Why the group is not settled, and how long that is still waited for.
    pub unsettled: Option<(Unsettled, Duration)>,
    /// Arrival and backlog, once there is a rate.
    pub load: Option<Load>,
    /// Messages that break the promise.
    pub broken: Option<u64>,
    /// Replicas that were too few while their capacity was not known, and the arrival of then.
    pub broke: Option<(u32, f64)>,
    /// Largest arrival in the window.
    pub most_arrival: Option<f64>,
    /// Capacity of one replica.
    pub capacity: Capacity,
    /// How many times an even share of the load the busiest replica has, measured or told from the partitions.
    pub imbalance: Option<f64>,
    /// What the load asks for, when the capacity is known.
    pub need: Option<Need>,
    /// The most that a step down had to aim at in the window.
    pub most_need: Option<f64>,
    /// The same without its first cycles: what it will be soon, if nothing new comes.
    pub coming_need: Option<f64>,
    /// Cycles in a row that asked for more.
    pub asked: u32,
    /// Messages that break the promise do not become fewer.
    pub worsening: bool,
    /// The last step up still has to show what it brought.
    pub judging: bool,
    /// Most of the members have something to do all the time.
    pub busy: bool,
    /// For how long fewer replicas would have done.
    pub fewer_for: Duration,
    /// Something waits, and nothing was committed since the last step up.
    pub fruitless: bool,
    /// For so long, it counts that a step up brought next to nothing.
    pub downstream: Option<(Duration, Ineffective)>,
    /// That counted, and nothing shows yet that it is over.
    pub suspects_downstream: bool,
    /// Partitions at which more arrives than one member of the group can handle.
    pub hot: Vec<TopicPartition>,
    /// Nothing waits beyond what measurement delay explains, nothing breaks the promise, everything is known, no replica is full.
    pub quiet: bool,
    /// For how long.
    pub quiet_for: Duration,
    /// Quiet but for the busiest replica, which is full.
    pub full: bool,
    /// How long the group has been watched without a gap with the same meaning of its numbers.
    pub watched_for: Duration,
    /// Time since the last change of replicas.
    pub unchanged_for: Option<Duration>,
    /// How long a change takes.
    pub change: Duration,
}
