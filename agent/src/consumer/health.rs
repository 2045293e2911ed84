//! How a consumer does: for probes, for its counters, for whoever looks for what is slow.

use std::time::{Duration, Instant};

use mq_protocol::message::Health;

use super::{Consumer, Phase};
use crate::stats::{ConsumerStats, Gauges, HotKey};

/// Longer than anything that the poll thread does in one turn.
const STALLED: Duration = Duration::from_mins(1);
/// How soon a handler that ran for too long is ended, if it can be.
const ENDING: Duration = Duration::from_secs(5);

impl Consumer {
    /// The consumer's counters, and how it stands now.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// let stats = consumer.stats();
    /// println!("{} handled, lag {:?}, {} keys stand still", stats.messages_consumed, stats.lag, stats.stopped_keys);
    /// assert_eq!(stats.since_poll, None, "nobody is subscribed");
    /// # Ok(()) }
    /// ```
    pub fn stats(&self) -> ConsumerStats {
        let running = matches!(*self.phase(), Phase::Running(_));
        let gauges = {
            let (state, now) = (self.shared().lock(), Instant::now());
            Gauges {
                in_flight: state.budget.records(),
                oldest_unfinished: state.oldest(now),
                since_poll: running.then(|| now.saturating_duration_since(state.turn)),
                held_dead_letters: state.held_back(),
                stopped_keys: state.lanes.stopped(),
                paused_partitions: state.far_ahead.len(),
                lag: state.lag,
            }
        };
        self.shared().counters.read(gauges)
    }

    /// The keys that hold most of the records in hand, at most so many, the fullest first. A key far before the others is what a
    /// consumer waits for when its slots are idle and its lag grows: its records are handled one after the other. Looks at every key
    /// in hand, so it is for now and then.
    ///
    /// ```no_run
    /// # fn example(consumer: mq_agent::Consumer) {
    /// for hot in consumer.hot_keys(3) {
    ///     println!("{} records of {:?} in {}-{}", hot.records, hot.key, hot.topic, hot.partition);
    /// }
    /// # }
    /// ```
    pub fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.shared().lock().hot_keys(most)
    }

    /// How it was since this was asked last; nothing while it does not read.
    pub(crate) fn health(&self) -> Option<Health> {
        let health = self.shared().lock().health();
        matches!(*self.phase(), Phase::Running(_)).then_some(health)
    }

    /// Whether the consumer is alive, for a liveness probe: false once its poll thread has had no turn for a minute, and while a handler
    /// keeps its thread for longer than `maxPollIntervalMs` (and 5 s) without waiting for anything. A drain and a rebalance, which wait
    /// for handlers, stay below that. A consumer that is not subscribed is alive.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// let status = if consumer.live() { "200 OK" } else { "503 Service Unavailable" };
    /// assert_eq!(status, "200 OK");
    /// # Ok(()) }
    /// ```
    pub fn live(&self) -> bool {
        if !matches!(*self.phase(), Phase::Running(_)) {
            return true;
        }
        let state = self.shared().lock();
        let stuck = state.slots.longest(Instant::now()) > state.limits.max_poll_interval + ENDING;
        state.turn.elapsed() < STALLED && !stuck
    }
}
