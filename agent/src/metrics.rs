//! The counters of every client of a process in one place: for a Prometheus registry, for a callback, for anybody who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::consumer::{Consumer, WeakConsumer};
use crate::producer::{Producer, WeakProducer};
use crate::stats::{ConsumerStats, ProducerStats};

/// The counters of all clients that were made with it (see [`Options::metrics`](crate::Options::metrics)). Cheap to clone: clones are
/// the same.
///
/// With the feature `prometheus` it is a collector: `registry.register(Box::new(metrics.clone()))` shows
/// `mq_producer_{messages_sent, bytes_sent, send_errors, retry_count, average_latency_ms, queue_size}` and
/// `mq_consumer_{messages_consumed, bytes_consumed, processing_errors, commit_errors, average_process_time_ms, lag}`
/// and a few more of the counters that are not of the original design, each with the label `name`. A client that was dropped is no longer shown.
///
/// ```
/// use mq_agent::{Metrics, Options};
///
/// let metrics = Metrics::default();
/// let options = Options::in_pod().metrics(metrics.clone());
/// assert!(metrics.read().is_empty(), "no client has been made yet");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Clients>>);

/// Weak: what is watched is not kept alive. Of two clients of one name, the newer.
#[derive(Debug, Default)]
struct Clients {
    producers: BTreeMap<String, WeakProducer>,
    consumers: BTreeMap<String, WeakConsumer>,
}

/// The counters of one client.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// use mq_agent::{ClientStats, Metrics, Options, Producer};
///
/// let metrics = Metrics::default();
/// let producer = Producer::new(&broker.config(), &Options::default().metrics(metrics.clone())).await?;
/// for client in metrics.read() {
///     match client {
///         ClientStats::Producer { name, stats } => println!("{name} sent {}", stats.messages_sent),
///         ClientStats::Consumer { name, stats } => println!("{name} handled {}", stats.messages_consumed),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientStats {
    /// Of a producer.
    Producer {
        /// The name under which it is configured.
        name: String,
        /// Its counters.
        stats: ProducerStats,
    },
    /// Of a consumer.
    Consumer {
        /// The name under which it is configured.
        name: String,
        /// Its counters.
        stats: ConsumerStats,
    },
}

impl ClientStats {
    /// The name under which the client is configured.
    pub fn name(&self) -> &str {
        match self {
            Self::Producer { name, .. } | Self::Consumer { name, .. } => name,
        }
    }
}

impl Metrics {
    /// The counters of every client that lives, producers first, by name.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// let metrics = mq_agent::Metrics::default();
    /// let options = mq_agent::Options::default().metrics(metrics.clone());
    /// let producer = mq_agent::Producer::new(&broker.config(), &options).await?;
    /// assert_eq!(metrics.read().len(), 1);
    /// drop(producer);
    /// assert!(metrics.read().is_empty());
    /// # Ok(()) }
    /// ```
    pub fn read(&self) -> Vec<ClientStats> {
        let mut clients = self.clients();
        clients.producers.retain(|_, producer| producer.upgrade().is_some());
        clients.consumers.retain(|_, consumer| consumer.upgrade().is_some());
        let producers = clients.producers.iter().filter_map(|(name, producer)| {
            Some(ClientStats::Producer { name: name.clone(), stats: producer.upgrade()?.stats() })
        });
        let consumers = clients.consumers.iter().filter_map(|(name, consumer)| {
            Some(ClientStats::Consumer { name: name.clone(), stats: consumer.upgrade()?.stats() })
        });
        producers.chain(consumers).collect()
    }

    pub(crate) fn watch_producer(&self, producer: &Producer) {
        self.clients().producers.insert(producer.name().to_owned(), producer.downgrade());
    }

    pub(crate) fn watch_consumer(&self, consumer: &Consumer) {
        self.clients().consumers.insert(consumer.name().to_owned(), consumer.downgrade());
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "prometheus")]
mod collector {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    use std::time::Duration;

    use prometheus::core::{Collector, Desc};
    use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

    use super::{ClientStats, Metrics};

    /// One metric: its name, what it says, whether it only grows, and its value of a client that has it.
    struct Shown {
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        value: fn(&ClientStats) -> Option<f64>,
    }

    macro_rules! shown {
        ($side:ident $name:literal $help:literal $kind:ident |$stats:ident| $value:expr) => {
            Shown {
                name: $name,
                help: $help,
                kind: MetricType::$kind,
                value: |client| {
                    let ClientStats::$side { stats: $stats, .. } = client else { return None };
                    $value
                },
            }
        };
    }

    const SHOWN: [Shown; 22] = [
        shown!(Producer "mq_producer_messages_sent" "Messages that the broker acknowledged." COUNTER |s| number(s.messages_sent)),
        shown!(Producer "mq_producer_bytes_sent" "Bytes of key and payload of those." COUNTER |s| number(s.bytes_sent)),
        shown!(Producer "mq_producer_send_errors" "Messages that were refused or never acknowledged." COUNTER |s| number(s.send_errors)),
        shown!(Producer "mq_producer_retry_count" "Requests that were sent again." COUNTER |s| number(s.retry_count)),
        shown!(Producer "mq_producer_average_latency_ms" "Mean time from send to acknowledgement since the start." GAUGE |s| milliseconds(s.average_latency)),
        shown!(Producer "mq_producer_queue_size" "Messages taken and not yet acknowledged." GAUGE |s| number(s.current_queue_size as u64)),
        shown!(Consumer "mq_consumer_messages_consumed" "Records whose handling ended: with success or in the dead-letter topic." COUNTER |s| number(s.messages_consumed)),
        shown!(Consumer "mq_consumer_bytes_consumed" "Bytes of those." COUNTER |s| number(s.bytes_consumed)),
        shown!(Consumer "mq_consumer_processing_errors" "Attempts of the handler that failed." COUNTER |s| number(s.processing_errors)),
        shown!(Consumer "mq_consumer_commit_errors" "Commits that failed." COUNTER |s| number(s.commit_errors)),
        shown!(Consumer "mq_consumer_average_process_time_ms" "Mean time of one attempt of the handler since the start." GAUGE |s| milliseconds(s.average_process_time)),
        shown!(Consumer "mq_consumer_lag" "Messages of the assigned partitions that are not finished; absent while unknown." GAUGE |s| s.lag.and_then(number)),
        shown!(Producer "mq_producer_recreated" "Exchanges of the Kafka client for a new configuration or after a fatal error." COUNTER |s| number(s.recreated)),
        shown!(Producer "mq_producer_fatal_errors" "Fatal errors of an idempotent client, each followed by a new client." COUNTER |s| number(s.fatal_errors)),
        shown!(Consumer "mq_consumer_fetch_errors" "Fetches that failed, each for one partition." COUNTER |s| number(s.fetch_errors)),
        shown!(Consumer "mq_consumer_dead_letters" "Records that went to the dead-letter topic." COUNTER |s| number(s.dead_letters)),
        shown!(Consumer "mq_consumer_held_dead_letters" "Records that failed and are held, because too many would become dead letters: something seems broken." GAUGE |s| number(s.held_dead_letters as u64)),
        shown!(Consumer "mq_consumer_stopped_keys" "Keys that stand still until somebody mends something: their record is held or its dead letter cannot be delivered." GAUGE |s| number(s.stopped_keys as u64)),
        shown!(Consumer "mq_consumer_paused_partitions" "Partitions that pause far beyond a record that is not finished." GAUGE |s| number(s.paused_partitions as u64)),
        shown!(Consumer "mq_consumer_oldest_unfinished_ms" "Age of the oldest record in hand, since it was taken from Kafka." GAUGE |s| milliseconds(s.oldest_unfinished)),
        shown!(Consumer "mq_consumer_since_poll_ms" "Time since the poll thread had its last turn." GAUGE |s| milliseconds(s.since_poll)),
        shown!(Consumer "mq_consumer_in_flight" "Records taken from Kafka and not finished." GAUGE |s| number(s.in_flight as u64)),
    ];

    /// The same for every collector, so that a registry takes one of them.
    static DESCRIPTIONS: LazyLock<Vec<Desc>> = LazyLock::new(|| {
        let labels = || vec!["name".to_owned()];
        let describe =
            |shown: &Shown| Desc::new(shown.name.to_owned(), shown.help.to_owned(), labels(), HashMap::new());
        SHOWN.iter().filter_map(|shown| describe(shown).ok()).collect()
    });

    #[expect(clippy::unnecessary_wraps, reason = "every value of the table has this form")]
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' values are floats; counts are exact up to 2^53")]
    fn number(value: u64) -> Option<f64> {
        Some(value as f64)
    }

    fn milliseconds(time: Option<Duration>) -> Option<f64> {
        time.map(|time| time.as_secs_f64() * 1_000.0)
    }

    impl Collector for Metrics {
        fn desc(&self) -> Vec<&Desc> {
            DESCRIPTIONS.iter().collect()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            let clients = self.read();
            SHOWN.iter().map(|shown| shown.family(&clients)).filter(|family| !family.get_metric().is_empty()).collect()
        }
    }

    impl Shown {
        fn family(&self, clients: &[ClientStats]) -> MetricFamily {
            let mut family = MetricFamily::default();
            family.set_name(self.name.to_owned());
            family.set_help(self.help.to_owned());
            family.set_field_type(self.kind);
            let metrics = clients.iter().filter_map(|client| Some(self.metric(client.name(), (self.value)(client)?)));
            family.set_metric(metrics.collect());
            family
        }

        fn metric(&self, name: &str, value: f64) -> Metric {
            let mut label = LabelPair::default();
            label.set_name("name".to_owned());
            label.set_value(name.to_owned());
            let mut metric = Metric::default();
            metric.set_label(vec![label]);
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        }
    }
}
