//! Partitions, pods with a capacity, changes that take time; everything in steps of 100 ms.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lag::{GroupTracker, Reading, ResetPolicy, TopicPartition, Watch};
use crate::scaling::{Decision, History, Members, Mode, Objective, Observation, Policy, Target, Work, decide};

pub(super) const CYCLE: Duration = Duration::from_secs(5);
const TICKS_PER_SECOND: u32 = 10;

/// The world outside of the operator.
#[derive(Debug, Clone)]
pub(super) struct Plant {
    pub(super) partitions: usize,
    /// Messages per second that one pod handles.
    pub(super) capacity: f64,
    /// Messages per second that all pods together can handle (a downstream system).
    pub(super) downstream: f64,
    /// Seconds until a new pod is ready.
    pub(super) start: f64,
    /// Seconds for which moved partitions stand still.
    pub(super) rebalance: f64,
    /// Everything stands still during a rebalance, not only what moves.
    pub(super) eager: bool,
    /// What arrives at a partition, as a multiple of what arrives at its neighbour: 1 is even; below it the first are hot, the last
    /// cold.
    pub(super) skew: f64,
    /// Partitions are dealt out in turns, not in blocks.
    pub(super) turns: bool,
    /// The pods have agents, which say how busy they are.
    pub(super) agents: bool,
    /// The second from which on they say nothing.
    pub(super) silent: f64,
}

impl Default for Plant {
    fn default() -> Self {
        Self {
            partitions: 24,
            capacity: 480.0,
            downstream: f64::INFINITY,
            start: 2.0,
            rebalance: 3.0,
            eager: false,
            skew: 1.0,
            turns: false,
            agents: false,
            silent: f64::INFINITY,
        }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Second, replicas, reason of each change.
    pub(super) path: Vec<(u64, u32, String)>,
    /// Seconds (of whole cycles) in which a message older than the objective waited.
    pub(super) breached: Vec<u64>,
    pub(super) last: Option<Decision>,
    pub(super) reasons: BTreeSet<&'static str>,
    pub(super) replicas: u32,
    pub(super) pod_seconds: f64,
}

impl Run {
    pub(super) fn counts(&self) -> Vec<u32> {
        self.path.iter().map(|(_, replicas, _)| *replicas).collect()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    arrived: f64,
    handled: f64,
    committed: f64,
    owner: usize,
    stands_until: f64,
}

struct World<'a> {
    plant: &'a Plant,
    now: f64,
    partitions: Vec<Partition>,
    /// When each pod asked for is ready.
    pods: Vec<f64>,
    serving: usize,
    rebalancing_until: f64,
    arrivals: Vec<f64>,
    /// Handled by each pod since the last cycle.
    work: Vec<f64>,
    /// The part of the arrival that each partition gets.
    weights: Vec<f64>,
}

impl<'a> World<'a> {
    fn new(plant: &'a Plant, replicas: u32) -> Self {
        let pods = vec![0.0; replicas as usize];
        let partitions = vec![Partition::default(); plant.partitions];
        // Hot partitions lie apart by a step that has no factor in common with their number.
        let place = |n: usize| if plant.turns { n * 5 % plant.partitions } else { n };
        let weights: Vec<f64> = (0..plant.partitions).map(|n| plant.skew.powf(place(n) as f64)).collect();
        let all: f64 = weights.iter().sum();
        let mut world = Self {
            weights: weights.iter().map(|weight| weight / all).collect(),
            plant,
            now: 0.0,
            partitions,
            pods,
            serving: 0,
            rebalancing_until: 0.0,
            arrivals: Vec::new(),
            work: Vec::new(),
        };
        world.rebalance();
        world
    }

    fn ready(&self) -> usize {
        self.pods.iter().filter(|ready| **ready <= self.now).count()
    }

    fn scale(&mut self, replicas: u32) {
        let ready = self.now + self.plant.start;
        self.pods.resize(replicas as usize, ready);
    }

    fn rebalance(&mut self) {
        self.serving = self.ready();
        let until = if self.now > 0.0 { self.now + self.plant.rebalance } else { 0.0 };
        self.rebalancing_until = until;
        let all = self.partitions.len();
        for (n, partition) in self.partitions.iter_mut().enumerate() {
            let owner = match self.serving {
                0 => usize::MAX,
                serving if self.plant.turns => n % serving,
                serving => n * serving / all,
            };
            if owner != partition.owner || self.plant.eager {
                partition.stands_until = until;
            }
            partition.owner = owner;
        }
    }

    fn tick(&mut self, arrival: f64, commit: bool) {
        let seconds = 1.0 / f64::from(TICKS_PER_SECOND);
        self.now += seconds;
        if self.ready() != self.serving {
            self.rebalance();
        }
        for (partition, weight) in self.partitions.iter_mut().zip(&self.weights) {
            partition.arrived += arrival * seconds * weight;
        }
        self.arrivals.push(self.partitions[0].arrived);
        let each = self.plant.capacity.min(self.plant.downstream / self.serving.max(1) as f64) * seconds;
        let now = self.now;
        for pod in 0..self.serving {
            let mut left = each;
            // Twice around: what one partition does not need the others may have.
            for _ in 0..2 {
                let able = |p: &&mut Partition| p.owner == pod && p.stands_until <= now && p.arrived - p.handled > 1e-9;
                let busy = self.partitions.iter_mut().filter(able).count();
                let slice = left / busy.max(1) as f64;
                for partition in self.partitions.iter_mut().filter(able) {
                    let work = slice.min(partition.arrived - partition.handled);
                    partition.handled += work;
                    left -= work;
                }
            }
            self.work.resize(self.serving, 0.0);
            self.work[pod] += each - left;
        }
        if commit {
            for partition in &mut self.partitions {
                partition.committed = partition.handled;
            }
        }
    }

    /// Age of the oldest message that is not handled, in seconds.
    fn oldest(&self) -> f64 {
        // The first partition stands for the arrivals of all: theirs are fixed fractions of its.
        let done = |p: &Partition| if p.arrived > 0.0 { p.handled / p.arrived } else { 1.0 };
        let behind = self.partitions.iter().map(done).fold(f64::INFINITY, f64::min) * self.partitions[0].arrived;
        let first = self.arrivals.partition_point(|arrived| *arrived <= behind + 1e-6);
        if first == self.arrivals.len() { 0.0 } else { self.now - first as f64 / f64::from(TICKS_PER_SECOND) }
    }

    fn readings(&self) -> Vec<Reading> {
        let read = |(n, p): (usize, &Partition)| Reading {
            of: TopicPartition { topic: "orders".into(), partition: i32::try_from(n).unwrap() },
            committed: Ok(Some(p.committed as i64)),
            end: Ok(p.arrived as i64),
            start: None,
        };
        self.partitions.iter().enumerate().map(read).collect()
    }

    /// What the agents say of the last cycle, if there are agents.
    fn work(&mut self) -> Option<Work> {
        let handled = std::mem::take(&mut self.work);
        if !self.plant.agents || self.now >= self.plant.silent {
            return None;
        }
        let busy = handled.iter().map(|handled| handled / self.plant.capacity);
        Some(Work {
            handled: handled.iter().sum::<f64>() as u64,
            busy: Duration::from_secs_f64(busy.clone().sum()),
            average: busy.clone().sum::<f64>() / CYCLE.as_secs_f64() / handled.len().max(1) as f64,
            busiest: busy.fold(0.0, f64::max) / CYCLE.as_secs_f64(),
            period: CYCLE,
        })
    }

    fn target(&self) -> Target {
        Target {
            replicas: u32::try_from(self.pods.len()).unwrap(),
            ready: u32::try_from(self.ready()).unwrap(),
            rolling: false,
            template: "one".into(),
        }
    }

    fn members(&self) -> Members {
        let stable = self.rebalancing_until <= self.now;
        Members { count: u32::try_from(self.serving).unwrap(), stable, unowned: 0 }
    }
}

pub(super) fn policy(age: u64, max: u32, window: u64) -> Policy {
    Policy {
        objective: Objective::Age(Duration::from_secs(age)),
        mode: Mode::Auto,
        min: 1,
        scheduled: None,
        max,
        capacity: None,
        window: Duration::from_secs(window),
        keep: false,
        max_step: None,
        cycle: CYCLE,
        commit_interval: Duration::from_secs(1),
        paused: false,
    }
}

/// Drives the plant for so many seconds. `restarts` are seconds at which the operator loses its memory.
pub(super) fn run(
    plant: &Plant,
    policy: &Policy,
    replicas: u32,
    seconds: u32,
    restarts: &[u32],
    arrival: impl Fn(u32) -> f64,
) -> Run {
    let mut world = World::new(plant, replicas);
    let mut run = Run { replicas, ..Run::default() };
    let (mut tracker, mut history) = (GroupTracker::new(), History::new());
    let Objective::Age(age) = policy.objective else { panic!("the plant measures age") };
    let watch = Watch { age: Some(age), reset: ResetPolicy::Earliest, commit_interval: policy.commit_interval };
    let ticks_per_commit = u32::try_from(policy.commit_interval.as_millis()).unwrap() / 100;
    for tick in 0..seconds * TICKS_PER_SECOND {
        world.tick(arrival(tick / TICKS_PER_SECOND), tick % ticks_per_commit == 0);
        run.pod_seconds += world.pods.len() as f64 / f64::from(TICKS_PER_SECOND);
        if tick % (TICKS_PER_SECOND * 5) != 0 {
            continue;
        }
        let second = tick / TICKS_PER_SECOND;
        if restarts.contains(&second) {
            (tracker, history) = (GroupTracker::new(), History::new());
        }
        if world.oldest() > age.as_secs_f64() {
            run.breached.push(u64::from(second));
        }
        let at = Duration::from_secs(u64::from(second));
        let lag = tracker.observe(at, &watch, &world.readings());
        let (target, members) = (world.target(), Some(world.members()));
        let seen = Observation { at, lag, target, members, config: "one".into(), work: world.work() };
        history.observe(policy, &seen);
        let decision = decide(policy, &history.situation(policy, &seen));
        run.reasons.insert(decision.reason.as_str());
        if decision.is_step() {
            world.scale(decision.desired);
            history.applied(at, &decision);
            run.replicas = decision.desired;
            run.path.push((
                u64::from(second),
                decision.desired,
                format!("{:?}: {}", decision.reason, decision.message),
            ));
        }
        run.last = Some(decision);
    }
    run
}
