//! A small deterministic plant that drives the decisions of mq-core, and any other scaler, with a load that is known.
//!
//! ```text
//! plant   what the world is like: partitions, pods, faults
//! world   that world in steps of 100 ms
//! drive   a scaler and a load in it, and what came of that
//! ours    the scaler that asks mq-core
//! ```
//! Nothing here reads a clock or a random number: the same plant, scaler and load always give the same run.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the plant counts in fractions, Kafka in whole messages; both are small"
)]

#[cfg(test)]
mod blindfold;
mod drive;
mod ours;
mod plant;
#[cfg(test)]
mod runs;
mod world;

pub use drive::{Change, Run, Scaler, drive};
pub use ours::{CYCLE, Ours, Seen};
pub use plant::Plant;
pub use world::World;

/// Between -1 and 1, the same for the same seed and second.
pub fn noise(seed: u64, second: u32) -> f64 {
    let mut x = seed ^ (u64::from(second) << 17) ^ 0x9E37_79B9_7F4A_7C15;
    for _ in 0..3 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}
