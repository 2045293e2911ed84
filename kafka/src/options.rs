//! How a client reaches Kafka, and how long it waits.

use std::time::Duration;

use crate::Security;

/// How a [`crate::Client`] connects and how long it waits.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name that brokers see in logs, metrics and quotas.
    pub client_id: String,
    /// How connections are encrypted and what the client proves itself with.
    pub security: Security,
    /// Limit for resolving, connecting, negotiating and logging in with one broker.
    pub connect_timeout: Duration,
    /// Limit for one request; afterwards its connection is closed. Brokers get three quarters of it to carry out a change,
    /// so that they answer before the client gives up.
    pub request_timeout: Duration,
    /// Largest response accepted, in bytes. Metadata of 40,000 topics with 12 partitions is about 20 MiB.
    pub max_response_bytes: usize,
    /// Longest pause before the next attempt to connect to a broker that was not reached. Pauses start at 50 ms, double, and
    /// are shortened at random by up to half.
    pub max_backoff: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_id: "mq".to_owned(),
            security: Security::default(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            max_response_bytes: 64 * 1024 * 1024,
            max_backoff: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// The time that brokers get, in the unit of the wire.
    pub(crate) fn broker_timeout_ms(&self) -> i32 {
        i32::try_from(self.request_timeout.as_millis() * 3 / 4).unwrap_or(i32::MAX)
    }

    /// Pause after `failures` attempts in a row.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let full = Duration::from_millis(50).saturating_mul(1 << failures.min(10)).min(self.max_backoff);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}
