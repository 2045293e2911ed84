//! What the world outside of the operator is like.

use std::ops::Range;

/// Partitions, pods with a capacity, changes that take time, and faults. Rates are messages per second.
#[derive(Debug, Clone)]
pub struct Plant {
    /// Partitions of the group's one topic.
    pub partitions: usize,
    /// Messages per second that one pod handles.
    pub capacity: f64,
    /// Messages per second that all pods together can handle (a downstream system), …
    pub downstream: f64,
    /// … in these seconds.
    pub narrow: Range<f64>,
    /// Seconds until a new pod is ready.
    pub start: f64,
    /// Seconds for which moved partitions stand still.
    pub rebalance: f64,
    /// Everything stands still during a rebalance, not only what moves.
    pub eager: bool,
    /// What arrives at a partition, as a multiple of what arrives at its neighbour: 1 is even; below it the first are hot, the last
    /// cold.
    pub skew: f64,
    /// Partitions are dealt out in turns, not in blocks.
    pub turns: bool,
    /// The pods have agents, which say how busy they are.
    pub agents: bool,
    /// The second from which on they say nothing.
    pub silent: f64,
    /// The second from which on the next record of the first partition is never handled, nor what comes after it there.
    pub poison: f64,
    /// The second from which on each pod handles half as much.
    pub halved: f64,
    /// The seconds in which a broker is away: every third partition has no leader. Producers keep what they have for it.
    pub away: Range<f64>,
}

impl Default for Plant {
    fn default() -> Self {
        Self {
            partitions: 24,
            capacity: 480.0,
            downstream: f64::INFINITY,
            narrow: 0.0..f64::INFINITY,
            start: 2.0,
            rebalance: 3.0,
            eager: false,
            skew: 1.0,
            turns: false,
            agents: false,
            silent: f64::INFINITY,
            poison: f64::INFINITY,
            halved: f64::INFINITY,
            away: f64::INFINITY..f64::INFINITY,
        }
    }
}

impl Plant {
    /// The part of the whole load that each partition gets.
    pub fn weights(&self) -> Vec<f64> {
        // Hot partitions lie apart by a step that has no factor in common with their number.
        let place = |n: usize| if self.turns { n * 5 % self.partitions } else { n };
        let weights: Vec<f64> = (0..self.partitions).map(|n| self.skew.powf(place(n) as f64)).collect();
        let all: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / all).collect()
    }

    /// Which of so many pods has the partition; none of none.
    pub fn owner(&self, partition: usize, pods: usize) -> Option<usize> {
        match pods {
            0 => None,
            pods if self.turns => Some(partition % pods),
            pods => Some(partition * pods / self.partitions),
        }
    }

    /// Messages per second that a pod handles if nothing behind it limits.
    pub fn able(&self, second: f64) -> f64 {
        if second >= self.halved { self.capacity / 2.0 } else { self.capacity }
    }

    /// Messages per second that all pods can handle together.
    pub fn together(&self, second: f64) -> f64 {
        if self.narrow.contains(&second) { self.downstream } else { f64::INFINITY }
    }

    /// Messages per second that each of so many pods handles, if all of them have enough to do.
    pub fn pace(&self, pods: usize, second: f64) -> f64 {
        self.able(second).min(self.together(second) / pods.max(1) as f64)
    }

    /// Whether nobody can read a partition at the moment.
    pub fn is_away(&self, partition: usize, second: f64) -> bool {
        partition.is_multiple_of(3) && self.away.contains(&second)
    }

    /// Whether a partition stands still for a record that nobody can handle.
    pub fn is_poisoned(&self, partition: usize, second: f64) -> bool {
        partition == 0 && second >= self.poison
    }
}
