//! A producer under load that remembers what it was told of every message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Message, Producer};
use mq_testkit::wait_until;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::Sent;

/// Writes `k0 n`, `k1 n`, … for ascending n, with a pause after each n, until it is told to stop. It waits for no acknowledgement.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<Result<Vec<Sent>, JoinError>>,
}

impl Writer {
    pub fn start(producer: Producer, topic: &str, keys: usize, pause: Duration) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter, topic) = (Arc::clone(&stop), Arc::clone(&acknowledged), topic.to_owned());
        let task = tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for number in 0_u32.. {
                for key in 0..keys {
                    let key = format!("k{key}");
                    let since = Instant::now();
                    let message = Message::to(&topic).key(key.clone()).payload(number.to_string());
                    // Taken in this order, which is that of the log.
                    let taken = producer.send(message).await;
                    let counter = Arc::clone(&counter);
                    outcomes.push(tokio::spawn(async move {
                        let outcome = match taken {
                            Ok(delivery) => delivery.await,
                            Err(error) => Err(error),
                        };
                        counter.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
                        Sent { key, number, outcome, took: since.elapsed() }
                    }));
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
            futures::future::try_join_all(outcomes).await
        });
        Self { stop, acknowledged, task }
    }

    /// How many messages were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more messages than now are acknowledged.
    pub async fn wait_more(&self, count: usize, patience: Duration) -> Result<()> {
        let before = self.acknowledged();
        wait_until(&format!("{count} more messages are acknowledged"), patience, async || {
            let more = self.acknowledged() - before;
            ensure!(more >= count, "{more} are");
            Ok(())
        })
        .await
    }

    /// Everything that was sent, with its outcome, once all outcomes are known.
    pub async fn stop(self) -> Result<Vec<Sent>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await??)
    }
}
