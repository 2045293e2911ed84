//! For unit tests: a consumer without Kafka, whose records come from the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use tokio::runtime::Handle;

use super::dead_letter::{DeadLetters, Target};
use super::desk::{Desk, Start};
use super::ordering::Ordering;
use super::state::{Limits, Shared};
use crate::record::{Batch, Source};
use crate::stats::{ConsumerStats, Held};

pub(super) struct Stage {
    work: Arc<dyn Start>,
    source: Source,
    next: i64,
}

impl Stage {
    pub(super) fn new<W: Start + 'static>(concurrency: usize, work: impl FnOnce(Desk) -> Arc<W>) -> Self {
        let limits = Limits {
            auto_commit: None,
            max_poll_records: 100_000,
            concurrency,
            max_poll_interval: Duration::from_secs(6),
            revoke_budget: Duration::ZERO,
        };
        let shared = Arc::new(Shared::new("c", Ordering::Key, limits));
        let target = Target { topic: "g.dlq".into(), group: "g".into(), config: ClientConfig::new() };
        let assignment = shared.lock().assign("t", 0);
        let dead_letters = Arc::new(DeadLetters::new("c", target));
        let work = work(Desk { shared, dead_letters, runtime: Handle::current() });
        Self { work, source: Source { topic: "t".into(), partition: 0, assignment }, next: 0 }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.work.desk().shared
    }

    /// Reads records with these keys, each with its key as payload.
    pub(super) fn read(&mut self, keys: impl IntoIterator<Item = String>) {
        let records: Vec<_> = (self.next..).zip(keys.into_iter().map(Some)).collect();
        self.next += i64::try_from(records.len()).unwrap();
        let batch = Batch::for_test(self.source.clone(), records);
        let accepted = self.shared().lock().accept(vec![batch], Instant::now());
        Arc::clone(&self.work).start(accepted.slots);
    }

    /// Waits until so many records are handled, and does meanwhile what the poll thread does.
    pub(super) async fn finished(&self, records: u64) {
        let all = async {
            while self.stats().messages_consumed < records {
                let slots = self.shared().lock().serve(Instant::now());
                Arc::clone(&self.work).start(slots);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), all).await.expect("not all records were handled");
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        let held = Held { in_flight: 0, stopped_keys: 0, paused_partitions: 0, lag: None };
        self.shared().counters.read(held)
    }
}
