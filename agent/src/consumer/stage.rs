//! For unit tests: a consumer without Kafka, whose records come from the test.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use tokio::runtime::Handle;

use super::breaker::DeadLetterBreaker;
use super::dead_letter::{DeadLetters, Target};
use super::desk::{Desk, Start};
use super::fixed::Fixed;
use super::state::{Limits, Shared};
use crate::options::Options;
use crate::record::{Batch, Source};
use crate::stats::{ConsumerStats, Gauges};

pub(super) struct Stage {
    work: Arc<dyn Start>,
    source: Source,
    next: i64,
}

impl Stage {
    pub(super) fn new<W: Start + 'static>(concurrency: usize, work: impl FnOnce(Desk) -> Arc<W>) -> Self {
        Self::with_breaker(DeadLetterBreaker::default(), concurrency, work)
    }

    pub(super) fn with_breaker<W: Start + 'static>(
        breaker: DeadLetterBreaker,
        concurrency: usize,
        work: impl FnOnce(Desk) -> Arc<W>,
    ) -> Self {
        let limits = Limits {
            auto_commit: None,
            max_poll_records: 100_000,
            concurrency,
            max_poll_interval: Duration::from_secs(6),
            revoke_budget: Duration::ZERO,
        };
        let options = Options::in_folders(Path::new("/"), Path::new("/")).dead_letter_breaker(breaker);
        let fixed = Fixed::of(&options).unwrap();
        let shared = Arc::new(Shared::new("c", fixed, limits));
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

    /// The partition leaves and comes back.
    pub(super) fn reassign(&mut self) {
        let mut state = self.work.desk().shared.lock();
        let all = state.all();
        state.release(&all);
        self.source.assignment = state.assign("t", 0);
    }

    /// What the poll thread does at that time.
    pub(super) fn serve(&self, now: Instant) {
        let slots = self.shared().serve(now);
        Arc::clone(&self.work).start(slots);
    }

    /// Waits until so many records are handled, and does meanwhile what the poll thread does.
    pub(super) async fn finished(&self, records: u64) {
        let all = async {
            while self.stats().messages_consumed < records {
                self.serve(Instant::now());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), all).await.expect("not all records were handled");
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        let gauges = Gauges { held_dead_letters: self.shared().lock().held_back(), ..Gauges::default() };
        self.shared().counters.read(gauges)
    }
}
