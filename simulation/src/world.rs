//! Partitions, pods with a capacity, changes that take time; everything in steps of 100 ms.

use std::time::Duration;

use mq_core::lag::{Reading, TopicPartition};
use mq_core::scaling::{Members, Target, Work};

use crate::Plant;

pub(crate) const TICKS_PER_SECOND: u32 = 10;
/// What is behind the pods makes them wait from this part on of what it can do.
const LIMITED: f64 = 0.98;
const TICK: f64 = 1.0 / TICKS_PER_SECOND as f64;

#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    arrived: f64,
    handled: f64,
    committed: f64,
    owner: Option<usize>,
    stands_until: f64,
}

/// A [`Plant`] at one moment, as a scaler may look at it.
#[derive(Debug)]
pub struct World<'a> {
    plant: &'a Plant,
    now: f64,
    partitions: Vec<Partition>,
    /// When each pod asked for is ready.
    pods: Vec<f64>,
    serving: usize,
    rebalancing_until: f64,
    /// What had arrived at the first partition at each tick.
    arrivals: Vec<f64>,
    /// Handled by each pod since it was asked for last.
    work: Vec<f64>,
    /// The part of the arrival that each partition gets.
    weights: Vec<f64>,
    /// What each pod can still do in this tick, and among how many partitions it divides that.
    left: Vec<(f64, u32)>,
}

impl<'a> World<'a> {
    pub(crate) fn new(plant: &'a Plant, replicas: u32) -> Self {
        let mut world = Self {
            weights: plant.weights(),
            plant,
            now: 0.0,
            partitions: vec![Partition::default(); plant.partitions],
            pods: vec![0.0; replicas as usize],
            serving: 0,
            rebalancing_until: 0.0,
            arrivals: Vec::new(),
            work: Vec::new(),
            left: Vec::new(),
        };
        world.rebalance();
        world
    }

    fn ready(&self) -> usize {
        self.pods.iter().filter(|ready| **ready <= self.now).count()
    }

    pub(crate) fn scale(&mut self, replicas: u32) {
        let ready = self.now + self.plant.start;
        self.pods.resize(replicas as usize, ready);
    }

    fn rebalance(&mut self) {
        self.serving = self.ready();
        let until = if self.now > 0.0 { self.now + self.plant.rebalance } else { 0.0 };
        self.rebalancing_until = until;
        for (n, partition) in self.partitions.iter_mut().enumerate() {
            let owner = self.plant.owner(n, self.serving);
            if owner != partition.owner || self.plant.eager {
                partition.stands_until = until;
            }
            partition.owner = owner;
        }
    }

    pub(crate) fn tick(&mut self, arrival: f64) {
        self.now += TICK;
        if self.ready() != self.serving {
            self.rebalance();
        }
        for (partition, weight) in self.partitions.iter_mut().zip(&self.weights) {
            partition.arrived += arrival * TICK * weight;
        }
        self.arrivals.push(self.partitions.first().map_or(0.0, |first| first.arrived));
        self.work.resize(self.serving, 0.0);
        self.left.clear();
        self.left.resize(self.serving, (self.plant.pace(self.serving, self.now) * TICK, 0));
        // Around and around: what one partition does not need the others may have.
        while self.handle() {}
        for (work, (left, _)) in self.work.iter_mut().zip(&self.left) {
            *work += self.plant.pace(self.serving, self.now) * TICK - left;
        }
    }

    /// Every pod divides what it can do among its partitions in which something waits. Says whether something is left of both.
    fn handle(&mut self) -> bool {
        let (plant, now) = (self.plant, self.now);
        let able = |(n, p): (usize, &Partition)| {
            let waits = p.stands_until <= now && p.arrived - p.handled > 1e-9;
            p.owner.filter(|_| waits && !plant.is_away(n, now) && !plant.is_poisoned(n, now))
        };
        for (_, busy) in &mut self.left {
            *busy = 0;
        }
        for owner in self.partitions.iter().enumerate().filter_map(able) {
            self.left[owner].1 += 1;
        }
        let slices: Vec<f64> = self.left.iter().map(|(left, busy)| left / f64::from((*busy).max(1))).collect();
        for (n, partition) in self.partitions.iter_mut().enumerate() {
            let Some(owner) = able((n, partition)) else { continue };
            let work = slices[owner].min(partition.arrived - partition.handled);
            partition.handled += work;
            self.left[owner].0 -= work;
        }
        // Whoever divided it among all gave it away, whoever did not need his part is done: there are fewer each time.
        let more = |p: &Partition| p.owner.is_some_and(|owner| self.left[owner].0 > 1e-9);
        self.partitions.iter().enumerate().any(|(n, p)| able((n, p)).is_some() && more(p))
    }

    pub(crate) fn commit(&mut self) {
        for partition in &mut self.partitions {
            partition.committed = partition.handled;
        }
    }

    /// Age of the oldest message that is not handled, in seconds; but for what waits behind a poisonous record, for which no number of
    /// replicas does anything.
    pub fn oldest(&self) -> f64 {
        // The first partition stands for the arrivals of all: theirs are fixed fractions of its.
        let done = |p: &Partition| if p.arrived > 0.0 { p.handled / p.arrived } else { 1.0 };
        let counts = |(n, p): (usize, &Partition)| (!self.plant.is_poisoned(n, self.now)).then(|| done(p));
        let least = self.partitions.iter().enumerate().filter_map(counts).fold(1.0, f64::min);
        let behind = least * self.partitions.first().map_or(0.0, |first| first.arrived);
        let first = self.arrivals.partition_point(|arrived| *arrived <= behind + 1e-6);
        if first == self.arrivals.len() { 0.0 } else { self.now - first as f64 * TICK }
    }

    /// Messages that are not handled.
    pub fn backlog(&self) -> f64 {
        self.partitions.iter().map(|partition| partition.arrived - partition.handled).sum()
    }

    /// What can be read of the group's offsets: whole messages, and no end of a partition without leader.
    pub fn readings(&self) -> Vec<Reading> {
        let topic: std::sync::Arc<str> = "orders".into();
        let read = |(n, p): (usize, &Partition)| Reading {
            of: TopicPartition { topic: topic.clone(), partition: i32::try_from(n).unwrap_or(i32::MAX) },
            committed: Ok(Some(p.committed as i64)),
            end: if self.plant.is_away(n, self.now) { Err("no leader".into()) } else { Ok(p.arrived as i64) },
            start: None,
            topic_id: None,
            tail: None,
        };
        self.partitions.iter().enumerate().map(read).collect()
    }

    /// What the agents say of the time since they were asked last, if there are agents.
    pub fn work(&mut self, period: Duration) -> Option<Work> {
        let handled = std::mem::take(&mut self.work);
        if !self.plant.agents || self.now >= self.plant.silent {
            return None;
        }
        // Who waits for what is behind it is busy.
        let limited = handled.iter().sum::<f64>() >= self.plant.together(self.now) * period.as_secs_f64() * LIMITED;
        let pace = if limited { self.plant.pace(handled.len(), self.now) } else { self.plant.able(self.now) };
        let busy = handled.iter().map(|handled| handled / pace);
        Some(Work {
            handled: handled.iter().sum::<f64>() as u64,
            busy: Duration::from_secs_f64(busy.clone().sum()),
            average: busy.clone().sum::<f64>() / period.as_secs_f64() / handled.len().max(1) as f64,
            busiest: busy.fold(0.0, f64::max) / period.as_secs_f64(),
            period,
        })
    }

    /// The workload as its controller sees it.
    pub fn target(&self) -> Target {
        Target { replicas: self.replicas(), ready: count(self.ready()), rolling: false, template: "one".into() }
    }

    /// The group as its coordinator sees it.
    pub fn members(&self) -> Members {
        let owners = self.partitions.iter().map(|partition| partition.owner.map(count)).collect();
        Members { count: count(self.serving), stable: self.rebalancing_until <= self.now, unowned: 0, owners }
    }

    /// Pods that were asked for.
    pub fn replicas(&self) -> u32 {
        count(self.pods.len())
    }
}

fn count(pods: usize) -> u32 {
    u32::try_from(pods).unwrap_or(u32::MAX)
}
