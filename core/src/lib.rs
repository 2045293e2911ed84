//! Pure decisions: input structs in, effects and reasons out. No I/O and no clock; time is a parameter.
//!
//! ```text
//! declared (topic) ┐
//!                  ├─ plan ─→ effects (effect) + one outcome per object (condition, reason)
//! observed (topic) ┘
//!
//! offsets of each cycle ─ lag ─→ scaling ─→ how many replicas, and why
//!
//! settings + presets ─ resolve, by the table of knobs ─→ what a client runs with, or everything that is wrong
//!
//! hash, generation → revision: when a new one is made
//! revisions + what clients refused → rollout: which one is in force
//! ```
#![forbid(unsafe_code)]

pub mod absence;
pub mod alert;
pub mod canonical;
pub mod cluster;
pub mod condition;
pub mod duration;
pub mod effect;
pub mod knobs;
pub mod lag;
pub mod overrides;
pub mod plan;
pub mod presets;
pub mod reason;
pub mod resolve;
pub mod revision;
pub mod rollout;
pub mod scaling;
pub mod security;
pub mod settings;
pub mod tenancy;
pub mod topic;
pub mod value;
