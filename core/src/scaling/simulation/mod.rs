//! A small deterministic plant that the real decision code drives.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the plant counts in fractions, Kafka in whole messages; both are small"
)]

mod plant;
mod runs;
