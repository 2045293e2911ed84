//! What deciding costs: one cycle of many groups, from their offsets to what is to be done.

use std::time::{Duration, Instant};

use mq_core::lag::{GroupTracker, Reading, ResetPolicy, TopicPartition, Watch};
use mq_core::scaling::{History, Members, Objective, Observation, Policy, Target, decide};
use mq_simulation::{CYCLE, noise};

const GROUPS: u32 = 10_000;
const PARTITIONS: u32 = 8;
const WARM: u32 = 12;
const CYCLES: u32 = 30;

struct Group {
    tracker: GroupTracker,
    history: History,
    ends: Vec<i64>,
    replicas: u32,
}

/// Milliseconds of each cycle.
pub(super) fn cycles(policy: &Policy) -> Vec<f64> {
    let new = |_| Group {
        tracker: GroupTracker::new(),
        history: History::new(),
        ends: vec![0; PARTITIONS as usize],
        replicas: 2,
    };
    let mut groups: Vec<Group> = (0..GROUPS).map(new).collect();
    let mut cycles = Vec::new();
    for cycle in 0..WARM + CYCLES {
        let readings: Vec<Vec<Reading>> = (0..).zip(&mut groups).map(|(n, group)| readings(group, n, cycle)).collect();
        let started = Instant::now();
        for (group, readings) in groups.iter_mut().zip(&readings) {
            turn(policy, group, CYCLE * cycle, readings);
        }
        if cycle >= WARM {
            cycles.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    cycles
}

fn turn(policy: &Policy, group: &mut Group, at: Duration, readings: &[Reading]) {
    let Objective::Age(age) = policy.objective else { return };
    let watch = Watch {
        age: Some(age),
        reset: ResetPolicy::Earliest,
        commit_interval: policy.commit_interval,
        longest: Duration::ZERO,
    };
    let lag = group.tracker.observe(at, &watch, readings);
    let n = group.replicas;
    let target = Target { replicas: n, ready: n, rolling: false, template: "one".into() };
    let members = Some(Members { count: n, stable: true, unowned: 0, owners: Vec::new() });
    let seen = Observation { at, lag, target, members, config: "one".into(), work: None };
    group.history.observe(policy, &seen);
    let decision = decide(policy, &group.history.situation(policy, &seen));
    if decision.is_step() {
        group.history.applied(at, &decision);
        group.replicas = decision.desired;
    }
}

/// A load that goes up and down, handled but for the last second.
fn readings(group: &mut Group, n: u32, cycle: u32) -> Vec<Reading> {
    let topic: std::sync::Arc<str> = "orders".into();
    let mut readings = Vec::new();
    for (partition, end) in (0..).zip(&mut group.ends) {
        #[expect(clippy::cast_possible_truncation, reason = "some hundreds")]
        let arrived = 300 + (200.0 * noise(n.into(), cycle + partition * 100)) as i64;
        *end += arrived;
        readings.push(Reading {
            of: TopicPartition { topic: topic.clone(), partition: i32::try_from(partition).unwrap_or_default() },
            committed: Ok(Some(*end - arrived / 5)),
            end: Ok(*end),
            start: None,
            topic_id: None,
            tail: None,
        });
    }
    readings
}
