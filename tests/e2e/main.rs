//! End-to-end suite: real pods on a real kubelet, beside a real Kafka broker; needs root. One module per subject.
//! A test that runs longer than a minute is `#[ignore = "long: …"]` and runs with `make test-e2e`. Excepted are
//! `at_rest`, which has to look on for a minute, and `consumers_scale_out_and_in`: every run must show them.

#![forbid(unsafe_code)]

mod at_rest;
mod chart;
mod config_push;
mod drain;
mod full_disk;
mod kafka_faults;
mod operator;
mod servers;
mod shop;
mod step;
mod story;
