//! Pure decisions: input structs in, effects and reasons out. No I/O and no clock; time is a parameter.
//!
//! ```text
//! declared (topic) ┐
//!                  ├─ plan ─→ effects (effect) + one outcome per object (condition, reason)
//! observed (topic) ┘
//! ```
#![forbid(unsafe_code)]

pub mod condition;
pub mod effect;
pub mod plan;
pub mod reason;
pub mod tenancy;
pub mod topic;
