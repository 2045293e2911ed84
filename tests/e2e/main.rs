//! End-to-end suite: real pods on a real kubelet, beside a real Kafka broker; needs root. One module per subject.
//! A test that runs longer than a minute is `#[ignore = "long: …"]` and runs with `make test-e2e`.

#![forbid(unsafe_code)]

mod at_rest;
mod chart;
mod config_push;
mod drain;
mod kafka_faults;
mod operator;
mod servers;
mod shop;
mod story;
