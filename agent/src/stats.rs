//! Counters of one client since it was made. Cheap to read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a producer has done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Messages that the broker acknowledged.
    pub messages_sent: u64,
    /// Bytes of key and payload of those.
    pub bytes_sent: u64,
    /// Messages that were refused or never acknowledged.
    pub send_errors: u64,
    /// Mean time from `send` to the acknowledgement; `None` before the first.
    pub average_latency: Option<Duration>,
    /// Messages taken and not yet acknowledged.
    pub current_queue_size: usize,
    /// How often the client was re-created for a new configuration.
    pub recreated: u64,
}

/// What a consumer has done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Records whose handling ended: with success or in the dead-letter topic.
    pub messages_consumed: u64,
    /// Bytes of key, payload and headers of those.
    pub bytes_consumed: u64,
    /// Attempts that failed, panics among them.
    pub processing_errors: u64,
    /// Records that went to the dead-letter topic.
    pub dead_letters: u64,
    /// Commits that the broker refused or that were not answered.
    pub commit_errors: u64,
    /// Mean time of one attempt of the handler; `None` before the first.
    pub average_process_time: Option<Duration>,
    /// All the time that handlers have run, summed over the slots.
    pub busy: Duration,
    /// Records taken from Kafka and not yet finished.
    pub in_flight: usize,
    /// Keys that stopped because their dead letter cannot be delivered (`DeadLetterTopicMissing`).
    pub stopped_keys: usize,
}

#[derive(Debug, Default)]
pub(crate) struct ProducerCounters {
    sent: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    latency_us: AtomicU64,
    recreated: AtomicU64,
}

impl ProducerCounters {
    pub(crate) fn acknowledged(&self, bytes: usize, latency: Duration) {
        self.sent.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.latency_us.fetch_add(micros(latency), Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn recreated(&self) {
        self.recreated.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self, current_queue_size: usize) -> ProducerStats {
        let messages_sent = self.sent.load(Relaxed);
        ProducerStats {
            messages_sent,
            bytes_sent: self.bytes.load(Relaxed),
            send_errors: self.errors.load(Relaxed),
            average_latency: mean(self.latency_us.load(Relaxed), messages_sent),
            current_queue_size,
            recreated: self.recreated.load(Relaxed),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ConsumerCounters {
    consumed: AtomicU64,
    bytes: AtomicU64,
    attempts: AtomicU64,
    busy_us: AtomicU64,
    processing_errors: AtomicU64,
    dead_letters: AtomicU64,
    commit_errors: AtomicU64,
}

impl ConsumerCounters {
    pub(crate) fn attempt(&self, time: Duration, failed: bool) {
        self.attempts.fetch_add(1, Relaxed);
        self.busy_us.fetch_add(micros(time), Relaxed);
        self.processing_errors.fetch_add(u64::from(failed), Relaxed);
    }

    pub(crate) fn consumed(&self, bytes: usize) {
        self.consumed.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Relaxed);
    }

    pub(crate) fn commit_failed(&self) {
        self.commit_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self, in_flight: usize, stopped_keys: usize) -> ConsumerStats {
        let busy_us = self.busy_us.load(Relaxed);
        ConsumerStats {
            messages_consumed: self.consumed.load(Relaxed),
            bytes_consumed: self.bytes.load(Relaxed),
            processing_errors: self.processing_errors.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
            commit_errors: self.commit_errors.load(Relaxed),
            average_process_time: mean(busy_us, self.attempts.load(Relaxed)),
            busy: Duration::from_micros(busy_us),
            in_flight,
            stopped_keys,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn mean(sum_us: u64, count: u64) -> Option<Duration> {
    sum_us.checked_div(count).map(Duration::from_micros)
}
