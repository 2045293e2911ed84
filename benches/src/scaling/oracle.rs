//! A scaler that knows the trace: the fewest useful pods at each time, asked for so early that they work when they are needed.

use std::collections::BTreeSet;

use mq_core::scaling::useful;
use mq_simulation::{Scaler, World};

use super::traces::Trace;

/// Seconds for which it does not go down if it had to come up again within them.
const HOLD: usize = 60;
/// Of the promised age, the seconds that are left for what stands still in a rebalance.
const SPARE: u32 = 5;

/// How much of what a pod can do it plans with. Which of them keeps the promise with the fewest pods is tried in the plant.
pub(super) const UTILISATIONS: [f64; 6] = [1.0, 0.97, 0.94, 0.9, 0.85, 0.8];

/// Replicas for each second.
#[derive(Debug)]
pub(super) struct Oracle(Vec<u32>);

impl Oracle {
    /// A message may wait for `age` seconds, so it is enough to handle at each time the mean of what arrived within them.
    pub(super) fn plan(trace: &Trace, age: u32, utilisation: f64) -> Self {
        let plant = &trace.plant;
        let all = u32::try_from(plant.partitions).unwrap_or(u32::MAX);
        let counts: Vec<usize> =
            (1..=all).map(|n| useful(n, all)).collect::<BTreeSet<_>>().into_iter().map(|n| n as usize).collect();
        let workable = workable(trace);
        let window = age.saturating_sub(SPARE).max(1) as usize;
        let mut mean = vec![0.0; plant.partitions];
        let mut left = vec![0.0; plant.partitions];
        let mut needs = Vec::with_capacity(workable.len());
        for second in 0..workable.len() {
            for (n, mean) in mean.iter_mut().enumerate() {
                let over = second.checked_sub(window).map_or(0.0, |second| workable[second][n]);
                *mean += (workable[second][n] - over) / f64::from(u32::try_from(window).unwrap_or(u32::MAX));
            }
            let demand: Vec<f64> = mean.iter().zip(&left).map(|(mean, left)| mean + left).collect();
            let load = |pods: usize| {
                let mut pods_load = vec![0.0; pods];
                for (n, demand) in demand.iter().enumerate() {
                    if let Some(owner) = plant.owner(n, pods) {
                        pods_load[owner] += demand;
                    }
                }
                pods_load
            };
            let now = f64::from(u32::try_from(second).unwrap_or(u32::MAX));
            let busiest = |pods: usize| load(pods).into_iter().fold(0.0, f64::max) / plant.pace(pods, now);
            let best = counts.iter().map(|pods| busiest(*pods)).fold(f64::INFINITY, f64::min);
            let enough = utilisation.max(best + 1e-9);
            let pods = counts.iter().copied().find(|pods| busiest(*pods) <= enough).unwrap_or(plant.partitions);
            // What even that many cannot handle waits for the next second.
            let loads = load(pods);
            for (n, left) in left.iter_mut().enumerate() {
                let over =
                    plant.owner(n, pods).map_or(0.0, |owner| 1.0 - plant.pace(pods, now) / loads[owner].max(1e-9));
                *left = demand[n] * over.max(0.0);
            }
            needs.push(u32::try_from(pods).unwrap_or(u32::MAX));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
        let lead = (plant.start + plant.rebalance).ceil() as usize + 1;
        let most = |from: usize| needs[from..needs.len().min(from + lead + HOLD)].iter().copied().max().unwrap_or(1);
        Self((0..needs.len()).map(most).collect())
    }

    /// Replicas that it begins with.
    pub(super) fn first(&self) -> u32 {
        self.0.first().copied().unwrap_or(1)
    }
}

/// What can be begun with in each second, for each partition: what is held back arrives when its broker does.
fn workable(trace: &Trace) -> Vec<Vec<f64>> {
    let (plant, weights) = (&trace.plant, trace.plant.weights());
    let mut held = vec![0.0; plant.partitions];
    (0..trace.seconds)
        .map(|second| {
            let arrival = trace.arrival(second);
            let part = |(n, (held, weight)): (usize, (&mut f64, &f64))| {
                let now = f64::from(second);
                let waits = *held + arrival * weight;
                let away = plant.is_away(n, now);
                *held = if away { waits } else { 0.0 };
                if away || plant.is_poisoned(n, now) { 0.0 } else { waits }
            };
            held.iter_mut().zip(&weights).enumerate().map(part).collect()
        })
        .collect()
}

impl Scaler for Oracle {
    fn look(&mut self, second: u32, _: &mut World<'_>) -> Option<(u32, String)> {
        Some((*self.0.get(second as usize)?, "knows what comes".to_owned()))
    }
}
