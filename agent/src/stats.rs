//! Counters of one client since it was made. Cheap to read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use mq_protocol::message::Health;

/// What a producer has done.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
/// let stats = producer.stats();
/// println!("{} sent, {} wait, half of them within {:?}", stats.messages_sent, stats.current_queue_size, stats.latency_p50);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Messages that the broker acknowledged.
    pub messages_sent: u64,
    /// Bytes of key and payload of those.
    pub bytes_sent: u64,
    /// Messages that were refused or never acknowledged.
    pub send_errors: u64,
    /// Requests that librdkafka sent again, each with all messages of its batch. Counted every 5 s.
    pub retry_count: u64,
    /// Mean time from `send` to the acknowledgement, to 1 %, from a microsecond to 10 minutes; `None` before the first. This and the
    /// following are measured on each of the first 1,000 messages and on every eighth of those after them.
    pub average_latency: Option<Duration>,
    /// The time within which half of the messages were acknowledged.
    pub latency_p50: Option<Duration>,
    /// The same for 99 of a hundred.
    pub latency_p99: Option<Duration>,
    /// Messages taken and not yet acknowledged.
    pub current_queue_size: usize,
    /// How often the client was re-created for a new configuration.
    pub recreated: u64,
    /// Fatal errors of librdkafka, such as one that would break the order or write twice. After each a new client took over.
    pub fatal_errors: u64,
}

/// What a consumer has done.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
/// let stats = consumer.stats();
/// println!("{} handled, {} in hand, lag {:?}", stats.messages_consumed, stats.in_flight, stats.lag);
/// # Ok(()) }
/// ```
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
    /// Fetches that failed, each for one partition: not allowed, or not to be read. What could not be read comes when it can be.
    pub fetch_errors: u64,
    /// Mean time of one attempt of the handler; `None` before the first.
    pub average_process_time: Option<Duration>,
    /// All the time that handlers have run, summed over the slots.
    pub busy: Duration,
    /// Messages of the assigned partitions that are not finished yet, read or not; looked at every 5 s. Of a transactional topic also
    /// its markers. `None`: not known of every partition, for example because one is paused.
    pub lag: Option<u64>,
    /// Records taken from Kafka and not yet finished.
    pub in_flight: usize,
    /// How long ago the oldest record was taken from Kafka that is not finished; `None` without one.
    pub oldest_unfinished: Option<Duration>,
    /// How long ago the poll thread had its last turn; milliseconds while it is well, and up to the budget while it waits for handlers in
    /// a rebalance, a seek or a drain. `None` while nobody is subscribed.
    pub since_poll: Option<Duration>,
    /// Records that failed and are held instead of becoming dead letters, because too many would be: something seems broken that they
    /// need. One at a time is tried again. See [`DeadLetterBreaker`](crate::DeadLetterBreaker).
    pub held_dead_letters: usize,
    /// Keys that stand still until somebody mends something: their record is held, or its dead letter cannot be delivered because the
    /// topic is missing or refuses it.
    pub stopped_keys: usize,
    /// Partitions that pause because of one record that is not finished: 50 000 were taken in from it on, or so many fewer that a commit
    /// might have no room to say which of them are finished.
    pub paused_partitions: usize,
}

/// A key and how many records it holds. See [`Consumer::hot_keys`](crate::Consumer::hot_keys).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotKey {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The key. `None`: all of the partition waits in one line ([`Ordering::Partition`](crate::Ordering::Partition)).
    pub key: Option<Bytes>,
    /// Records of it that were taken from Kafka and are not finished: the one that is handled and those that wait for it.
    pub records: usize,
}

/// The longest time that the quantiles tell from a longer one; beyond any `message.timeout.ms` of ours.
const MAX_LATENCY_US: u64 = 600_000_000;

/// A counter in cache lines of its own: it is written by the threads that send, those beside it by the one that is told of deliveries.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

const ALL_MEASURED: u64 = 1_000;
const MEASURED_OF: u64 = 8;

#[derive(Debug)]
pub(crate) struct ProducerCounters {
    taken: Alone,
    sent: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    /// Written by the one thread that is told of deliveries. `None`: the library refused its bounds, which are constants.
    latencies: Option<Mutex<Histogram<u64>>>,
    recreated: AtomicU64,
    fatal_errors: AtomicU64,
}

impl Default for ProducerCounters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        let latencies = Histogram::new_with_max(MAX_LATENCY_US, 2).ok().map(Mutex::new);
        Self {
            taken: Alone::default(),
            sent: zero(),
            bytes: zero(),
            refused: zero(),
            failed: zero(),
            retries: zero(),
            latencies,
            recreated: zero(),
            fatal_errors: zero(),
        }
    }
}

impl ProducerCounters {
    /// librdkafka took a message.
    pub(crate) fn taken(&self) {
        self.taken.0.fetch_add(1, Relaxed);
    }

    /// Messages taken and not yet acknowledged.
    pub(crate) fn waiting(&self) -> usize {
        // The outcomes first: read the other way round, a message that was acknowledged meanwhile would count as never taken.
        let done = self.sent.load(Relaxed) + self.failed.load(Relaxed);
        usize::try_from(self.taken.0.load(Relaxed).saturating_sub(done)).unwrap_or(usize::MAX)
    }

    /// Whether the latency of the next message is measured. Not of each: to read the clock for one whose memory is no longer in the
    /// processor's caches costs as much as everything else that its acknowledgement does.
    pub(crate) fn measures_next(&self) -> bool {
        let taken = self.taken.0.load(Relaxed);
        taken < ALL_MEASURED || taken.is_multiple_of(MEASURED_OF)
    }

    pub(crate) fn acknowledged(&self, bytes: usize, latency: Option<Duration>) {
        self.sent.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if let (Some(latency), Some(latencies)) = (latency, &self.latencies) {
            latencies.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros(latency));
        }
    }

    /// librdkafka did not take a message and never will.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A message that was taken was not acknowledged.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn retried(&self, requests: u64) {
        self.retries.fetch_add(requests, Relaxed);
    }

    pub(crate) fn recreated(&self) {
        self.recreated.fetch_add(1, Relaxed);
    }

    pub(crate) fn fatal(&self) {
        self.fatal_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> ProducerStats {
        let (messages_sent, failed) = (self.sent.load(Relaxed), self.failed.load(Relaxed));
        let latencies =
            self.latencies.as_ref().map(|latencies| latencies.lock().unwrap_or_else(PoisonError::into_inner));
        let latencies = latencies.filter(|latencies| !latencies.is_empty());
        let quantile = |quantile| Some(Duration::from_micros(latencies.as_ref()?.value_at_quantile(quantile)));
        ProducerStats {
            messages_sent,
            bytes_sent: self.bytes.load(Relaxed),
            send_errors: failed + self.refused.load(Relaxed),
            retry_count: self.retries.load(Relaxed),
            average_latency: latencies.as_ref().map(|latencies| Duration::from_secs_f64(latencies.mean() / 1e6)),
            latency_p50: quantile(0.5),
            latency_p99: quantile(0.99),
            current_queue_size: self.waiting(),
            recreated: self.recreated.load(Relaxed),
            fatal_errors: self.fatal_errors.load(Relaxed),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ConsumerCounters {
    consumed: AtomicU64,
    bytes: AtomicU64,
    attempts: AtomicU64,
    busy_ns: AtomicU64,
    processing_errors: AtomicU64,
    dead_letters: AtomicU64,
    commit_errors: AtomicU64,
    fetch_errors: AtomicU64,
}

impl ConsumerCounters {
    /// So many attempts of the handler took that time together.
    pub(crate) fn attempts(&self, time: Duration, attempts: u32) {
        self.attempts.fetch_add(attempts.into(), Relaxed);
        self.busy_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.processing_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn consumed(&self, records: u64, bytes: usize) {
        self.consumed.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Relaxed);
    }

    pub(crate) fn commit_failed(&self) {
        self.commit_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn fetch_failed(&self) {
        self.fetch_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self, gauges: Gauges) -> ConsumerStats {
        let Gauges {
            oldest_unfinished,
            since_poll,
            held_dead_letters,
            in_flight,
            stopped_keys,
            paused_partitions,
            lag,
        } = gauges;
        let busy_ns = self.busy_ns.load(Relaxed);
        ConsumerStats {
            messages_consumed: self.consumed.load(Relaxed),
            bytes_consumed: self.bytes.load(Relaxed),
            processing_errors: self.processing_errors.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
            commit_errors: self.commit_errors.load(Relaxed),
            fetch_errors: self.fetch_errors.load(Relaxed),
            average_process_time: busy_ns.checked_div(self.attempts.load(Relaxed)).map(Duration::from_nanos),
            busy: Duration::from_nanos(busy_ns),
            lag,
            in_flight,
            oldest_unfinished,
            since_poll,
            held_dead_letters,
            stopped_keys,
            paused_partitions,
        }
    }
}

/// What is no counter but how it stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gauges {
    pub(crate) oldest_unfinished: Option<Duration>,
    pub(crate) since_poll: Option<Duration>,
    pub(crate) held_dead_letters: usize,
    pub(crate) in_flight: usize,
    pub(crate) stopped_keys: usize,
    pub(crate) paused_partitions: usize,
    pub(crate) lag: Option<u64>,
}

/// How busy a consumer is: the handlers that run over those that could run, summed over time. A handler that waits holds its slot,
/// so it counts like one that computes.
#[derive(Debug)]
pub(crate) struct Occupancy {
    began: Instant,
    noted: Instant,
    busy: Duration,
    handled: u64,
}

impl Occupancy {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, noted: now, busy: Duration::ZERO, handled: 0 }
    }

    /// Since it was noted last, so many handlers ran of so many that could have.
    pub(crate) fn note(&mut self, now: Instant, running: usize, possible: usize) {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let possible = u32::try_from(possible).unwrap_or(u32::MAX).max(running).max(1);
        self.busy += now.saturating_duration_since(self.noted) * running / possible;
        // Threads read the clock before they take the lock: what was noted later by another one does not count again.
        self.noted = self.noted.max(now);
    }

    pub(crate) fn handled(&mut self) {
        self.handled += 1;
    }

    /// How it was since this was asked last, up to what was noted last.
    pub(crate) fn take(&mut self, outstanding: usize) -> Health {
        let Self { began, noted, busy, handled } = std::mem::replace(self, Self::new(self.noted));
        let period = noted.saturating_duration_since(began);
        Health { period, busy, handled, outstanding: outstanding as u64, standing: None }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_ran_over_what_could_have_run() {
        let start = Instant::now();
        let mut occupancy = Occupancy::new(start);
        let mut second = 0;
        // One of four slots for 2 s, all four for 1 s, none for 1 s; the order of keys allowed one, and it ran, for 1 s; a slot was
        // taken away from five running for 1 s.
        for (seconds, running, possible) in [(2, 1, 4), (1, 4, 4), (1, 0, 4), (1, 1, 1), (1, 5, 4)] {
            second += seconds;
            occupancy.note(start + Duration::from_secs(second), running, possible);
        }
        occupancy.handled();
        let health = occupancy.take(3);
        let (period, busy) = (Duration::from_secs(6), Duration::from_millis(3_500));
        assert_eq!(health, Health { period, busy, handled: 1, outstanding: 3, standing: None });
        occupancy.note(start + Duration::from_secs(7), 4, 4);
        let second = Duration::from_secs(1);
        assert_eq!(occupancy.take(0), Health { period: second, busy: second, ..Health::default() });
    }

    #[test]
    fn time_that_is_noted_late_does_not_count_twice() {
        let start = Instant::now();
        let mut occupancy = Occupancy::new(start);
        for second in [4, 2, 5] {
            occupancy.note(start + Duration::from_secs(second), 1, 1);
        }
        let health = occupancy.take(0);
        assert_eq!((health.period, health.busy), (Duration::from_secs(5), Duration::from_secs(5)));
    }
}
