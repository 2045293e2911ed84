//! A handler that keeps its thread: it cannot be cancelled, and nothing but its own record waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_testkit::wait_until;

use super::stage::{Log, Stage, subscribe};
use super::{DRAIN, PATIENCE};

/// Ends a blocked handler also when the test fails: the runtime waits for it.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_handler_is_seen_and_holds_up_nothing_but_its_record() -> Result<()> {
    let stage = Stage::new("blocked", 1, r#"{"sessionTimeoutMs": 6000, "maxPollIntervalMs": 6000}"#).await?;
    let (agent, consumer) = stage.consumer(2).await?;
    let (log, release) = (Log::default(), Release(Arc::default()));
    let subscription = subscribe(&consumer, {
        let (log, released) = (log.clone(), Arc::clone(&release.0));
        move |record| {
            let (log, released) = (log.clone(), Arc::clone(&released));
            async move {
                if record.key() == Some(b"blocks") {
                    while !released.load(Ordering::SeqCst) {
                        #[expect(clippy::disallowed_methods, reason = "the handler is to block its thread")]
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    // Enough short ones that a slot takes many at once.
    let keys: Vec<String> = (0..2_000).map(|key| format!("k{key}")).collect();
    stage.kafka.produce(&stage.topic, keys.iter().map(|key| (key.as_str(), "0"))).await?;
    stage.wait_committed(2_000).await?;
    let before = keys.iter().take(20).map(|key| (key.as_str(), "1"));
    let after = keys.iter().skip(20).take(20).map(|key| (key.as_str(), "1"));
    stage.kafka.produce(&stage.topic, before.chain([("blocks", "0")]).chain(after)).await?;
    log.wait_len(2_040).await?;
    stage.wait_committed(2_020).await?;
    ensure!(agent.live() && consumer.stats().in_flight == 1, "{:?}", consumer.stats());
    wait_until("the consumer is seen not to be alive", PATIENCE, async || {
        ensure!(!consumer.live() && !agent.live(), "it is");
        Ok(())
    })
    .await?;
    let (stats, hot) = (consumer.stats(), consumer.hot_keys(5));
    ensure!(stats.oldest_unfinished.is_some_and(|age| age >= Duration::from_secs(11)), "{stats:?}");
    ensure!(stats.since_poll.is_some_and(|since| since < Duration::from_secs(5)), "{stats:?}");
    ensure!(hot.len() == 1 && hot[0].key.as_deref() == Some(b"blocks") && hot[0].records == 1, "{hot:?}");
    stage.kafka.produce(&stage.topic, [("k0", "2")]).await?;
    log.wait_len(2_041).await?;
    drop(release);
    stage.wait_committed(2_042).await?;
    ensure!(consumer.live() && agent.live(), "it came back");
    assert_eq!((consumer.stats().oldest_unfinished, consumer.hot_keys(5).len()), (None, 0));
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}
