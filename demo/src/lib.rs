//! The demo: an order service and a notification service that link the agent, a story that drives them through a load step, and a
//! reader that judges the outcome from the topics and the API server alone.
//!
//! - [`order`]: the records
//! - [`load`], [`fault`]: what the services are told, while they run and (in tests) when they start
//! - [`summary`]: the reader, with no way to be told what to find
//! - [`story`]: the two minutes

#![forbid(unsafe_code)]

pub mod fault;
pub mod load;
pub mod order;
pub mod story;
pub mod summary;
