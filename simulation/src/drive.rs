//! A scaler and a load in a plant, and what came of that.

use std::time::Duration;

use crate::Plant;
use crate::world::{TICKS_PER_SECOND, World};

/// Whoever sets the replicas.
pub trait Scaler {
    /// Is asked once in every second, and answers with the replicas that it wants and why, if it wants others than there are.
    fn look(&mut self, second: u32, world: &mut World<'_>) -> Option<(u32, String)>;
}

/// A change of replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub second: u32,
    /// To how many.
    pub replicas: u32,
    /// In the words of the scaler.
    pub why: String,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// All changes, in their order.
    pub path: Vec<Change>,
    /// Seconds in which a message older than promised waited.
    pub breached: Vec<u32>,
    /// Replicas asked for at the end.
    pub replicas: u32,
    /// Pods asked for, times the seconds of it.
    pub pod_seconds: f64,
    /// Each second: the age of the oldest message in seconds, messages that wait, replicas.
    pub seconds: Vec<(f64, f64, u32)>,
}

impl Run {
    /// The replicas after each change.
    pub fn counts(&self) -> Vec<u32> {
        self.path.iter().map(|change| change.replicas).collect()
    }
}

/// Drives a plant for so many seconds. `age` is what was promised, `commit` how often the group commits, `arrival` what arrives in each
/// second.
pub fn drive(
    plant: &Plant,
    scaler: &mut dyn Scaler,
    (age, commit): (Duration, Duration),
    replicas: u32,
    seconds: u32,
    arrival: impl Fn(u32) -> f64,
) -> Run {
    let mut world = World::new(plant, replicas);
    let mut run = Run { replicas, ..Run::default() };
    let ticks_per_commit = ((commit.as_secs_f64() * f64::from(TICKS_PER_SECOND)) as u32).max(1);
    for second in 0..seconds {
        let arrives = arrival(second);
        for tick in second * TICKS_PER_SECOND..(second + 1) * TICKS_PER_SECOND {
            world.tick(arrives);
            // Halfway between two looks: what was handled since then is seen as waiting.
            if (tick + ticks_per_commit / 2).is_multiple_of(ticks_per_commit) {
                world.commit();
            }
            if tick.is_multiple_of(TICKS_PER_SECOND) {
                look(second, scaler, &mut world, &mut run, age);
            }
            run.pod_seconds += f64::from(run.replicas) / f64::from(TICKS_PER_SECOND);
        }
    }
    run
}

fn look(second: u32, scaler: &mut dyn Scaler, world: &mut World<'_>, run: &mut Run, age: Duration) {
    let oldest = world.oldest();
    if oldest > age.as_secs_f64() {
        run.breached.push(second);
    }
    run.seconds.push((oldest, world.backlog(), run.replicas));
    if let Some((replicas, why)) = scaler.look(second, world).filter(|(replicas, _)| *replicas != run.replicas) {
        world.scale(replicas);
        run.replicas = replicas;
        run.path.push(Change { second, replicas, why });
    }
}
