//! Telling the service the counters of its clients again and again, for as long as there is one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::consumer::Consumer;
use crate::guard::guarded;
use crate::metrics::{ClientStats, Metrics};
use crate::producer::Producer;

/// A shorter time would keep the runtime busy with nothing else.
pub(crate) const LEAST: Duration = Duration::from_millis(10);

type ReportTo = dyn Fn(&[ClientStats]) + Send + Sync;

/// Who is told the counters, and how often.
#[derive(Clone)]
pub(crate) struct Report {
    every: Duration,
    to: Arc<ReportTo>,
    /// What the task that does it keeps alive: one that ends with its runtime does it no longer.
    task: Arc<Mutex<Weak<()>>>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Report").field("every", &self.every).finish_non_exhaustive()
    }
}

impl Report {
    pub(crate) fn new(every: Duration, to: impl Fn(&[ClientStats]) + Send + Sync + 'static) -> Self {
        Self { every: every.max(LEAST), to: Arc::new(to), task: Arc::default() }
    }

    /// The same for the clients of other metrics.
    pub(crate) fn anew(self) -> Self {
        Self { task: Arc::default(), ..self }
    }

    /// There is a client.
    fn start(&self, metrics: &Metrics) {
        let alive = Arc::new(());
        {
            let mut task = self.task();
            if task.strong_count() > 0 {
                return;
            }
            *task = Arc::downgrade(&alive);
        }
        let (report, metrics) = (self.clone(), metrics.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(report.every).await;
                let Some(clients) = report.read(&metrics) else { break };
                guarded("the callback for counters", || (report.to)(&clients));
            }
            // Held until here, or until the runtime ends.
            drop(alive);
        });
    }

    /// `None`: there is no client any more, and the next one starts it again.
    fn read(&self, metrics: &Metrics) -> Option<Vec<ClientStats>> {
        let mut task = self.task();
        let clients = metrics.read();
        if clients.is_empty() {
            *task = Weak::new();
            return None;
        }
        Some(clients)
    }

    fn task(&self) -> MutexGuard<'_, Weak<()>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the counters of clients are shown.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(crate) metrics: Metrics,
    pub(crate) report: Option<Report>,
}

impl Watch {
    pub(crate) fn producer(&self, producer: &Producer) {
        self.metrics.watch_producer(producer);
        self.start();
    }

    pub(crate) fn consumer(&self, consumer: &Consumer) {
        self.metrics.watch_consumer(consumer);
        self.start();
    }

    fn start(&self) {
        if let Some(report) = &self.report {
            report.start(&self.metrics);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Config, Env, Options};

    /// Clients without an agent, which reach no broker.
    #[tokio::test(start_paused = true)]
    async fn counters_are_told_for_as_long_as_there_is_a_client_and_never_without_a_pause() {
        let config = Config::for_env(Env::Development).brokers(["127.0.0.1:1"]);
        let (told, clients) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (tells, counts) = (Arc::clone(&told), Arc::clone(&clients));
        let options = Options::default().report_stats(Duration::ZERO, move |seen| {
            tells.fetch_add(1, Ordering::SeqCst);
            counts.store(seen.len(), Ordering::SeqCst);
            panic!("a bug of the service");
        });
        for round in 0..2 {
            let producer = Producer::new(&config, &options).await.unwrap();
            let consumer = Consumer::new(&config, "g", ["t"], &options).await.unwrap();
            told.store(0, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (often, of) = (told.load(Ordering::SeqCst), clients.load(Ordering::SeqCst));
            assert!((90..=100).contains(&often) && of == 2, "round {round}: {often} times of {of}");
            drop((producer, consumer));
            tokio::time::sleep(LEAST * 2).await;
            told.store(0, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(told.load(Ordering::SeqCst), 0, "round {round}: nobody is there to tell of");
        }
    }

    /// The first one ends while there is a client.
    #[test]
    fn counters_are_told_in_a_second_runtime_too() {
        let config = Config::for_env(Env::Development).brokers(["127.0.0.1:1"]);
        let told = Arc::new(AtomicUsize::new(0));
        let tells = Arc::clone(&told);
        let options = Options::default().report_stats(Duration::ZERO, move |_| {
            tells.fetch_add(1, Ordering::SeqCst);
        });
        let mut producers = Vec::new();
        for round in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            told.store(0, Ordering::SeqCst);
            runtime.block_on(async {
                producers.push(Producer::new(&config, &options).await.unwrap());
                tokio::time::sleep(Duration::from_secs(1)).await;
            });
            let often = told.load(Ordering::SeqCst);
            assert!((90..=100).contains(&often), "round {round}: {often} times");
        }
    }
}
