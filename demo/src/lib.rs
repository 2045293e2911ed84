//! The demo: an order service and a notification service that link the agent, a story that drives them through a load step, and a
//! reader that judges the outcome from the topics and the API server alone.
//!
//! - [`order`]: the records
//! - [`service`], [`load`], [`fault`]: how the services start, what they are told while they run and (in tests) what they do wrong
//! - [`install`]: the operator on a local node, by Helm
//! - [`summary`]: the reader, with no way to be told what to find
//! - [`story`]: the two minutes

#![forbid(unsafe_code)]

pub mod fault;
pub mod install;
pub mod load;
pub mod order;
pub mod service;
pub mod story;
pub mod summary;
