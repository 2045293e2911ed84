//! The loads that every scaler is measured with, and the plants that they meet.

use std::f64::consts::TAU;

use mq_simulation::{Plant, noise};

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;

/// A load in a plant.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) name: &'static str,
    pub(super) says: &'static str,
    pub(super) plant: Plant,
    pub(super) seconds: u32,
    load: fn(u32) -> f64,
}

impl Trace {
    /// Messages per second: the load, and noise that lasts 5 s and is up to a tenth of it.
    pub(super) fn arrival(&self, second: u32) -> f64 {
        let seed = self.name.bytes().map(u64::from).sum();
        (self.load)(second) * (1.0 + 0.1 * noise(seed, second / 5))
    }
}

/// 24 partitions; a pod handles 480 messages a second, is ready 10 s after it was asked for, and what moves stands still for 3 s.
fn plant() -> Plant {
    Plant { start: 10.0, ..Plant::default() }
}

/// From 20 to 40 minutes of the hour `times` as much.
fn raised(second: u32, load: f64, times: f64) -> f64 {
    if (20 * MINUTE..40 * MINUTE).contains(&second) { load * times } else { load }
}

pub(super) fn all() -> Vec<Trace> {
    let away = f64::from(20 * MINUTE)..f64::from(21 * MINUTE);
    vec![
        Trace { name: "steady", says: "1,500 msg/s", plant: plant(), seconds: HOUR, load: |_| 1_500.0 },
        Trace {
            name: "step",
            says: "600 msg/s, four times as much for 20 minutes",
            plant: plant(),
            seconds: HOUR,
            load: |second| raised(second, 600.0, 4.0),
        },
        Trace {
            name: "spike",
            says: "600 msg/s, ten times as much for a minute",
            plant: plant(),
            seconds: HOUR,
            load: |second| if second / MINUTE == 20 { 6_000.0 } else { 600.0 },
        },
        Trace {
            name: "day",
            says: "between 200 and 2,800 msg/s within 24 hours",
            plant: plant(),
            seconds: 24 * HOUR,
            load: |second| 1_500.0 - 1_300.0 * (f64::from(second) / f64::from(24 * HOUR) * TAU).cos(),
        },
        Trace {
            name: "hot_partition",
            says: "the first partition gets a fifth of it, each next one a fifth less; 600 msg/s, three times as much for 20 minutes",
            plant: Plant { skew: 0.8, ..plant() },
            seconds: HOUR,
            load: |second| raised(second, 600.0, 3.0),
        },
        Trace {
            name: "slow_downstream",
            says: "all pods together can handle 1,500 msg/s; 900 msg/s, twice as much for 20 minutes",
            plant: Plant { downstream: 1_500.0, ..plant() },
            seconds: 2 * HOUR,
            load: |second| raised(second, 900.0, 2.0),
        },
        Trace {
            name: "poison",
            says: "1,500 msg/s; after 20 minutes one partition stands still for good (what waits there breaks no promise here)",
            plant: Plant { poison: f64::from(20 * MINUTE), ..plant() },
            seconds: 2 * HOUR,
            load: |_| 1_500.0,
        },
        Trace {
            name: "broker_loss",
            says: "1,500 msg/s; for a minute every third partition has no leader",
            plant: Plant { away, ..plant() },
            seconds: HOUR,
            load: |_| 1_500.0,
        },
        Trace {
            name: "slow_start",
            says: "the step, with pods that are ready after 60 s",
            plant: Plant { start: 60.0, ..plant() },
            seconds: HOUR,
            load: |second| raised(second, 600.0, 4.0),
        },
    ]
}
