//! Order by something else than the key.

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Agent, Failure, Ordering};

use super::stage::{Stage, subscribe};
use super::{DRAIN, produce_numbered};

/// Keys share their partitions, there are slots for all of them, and one record fails at first.
#[tokio::test(flavor = "multi_thread")]
async fn with_partition_order_a_partition_is_handled_record_by_record_and_waits_for_its_retries() -> Result<()> {
    let stage = Stage::new("partition-order", 2, "{}").await?;
    produce_numbered(&stage.kafka, &stage.topic, 12, 20).await?;
    let options = stage.operator.options().concurrency(8).ordering(Ordering::Partition);
    let agent = Agent::connect_with(options).await;
    let consumer = agent.consumer("c").await?;
    let seen: Arc<Mutex<[Vec<i64>; 2]>> = Arc::default();
    let running: Arc<[AtomicI32; 2]> = Arc::default();
    let subscription = subscribe(&consumer, {
        let (seen, running) = (Arc::clone(&seen), Arc::clone(&running));
        move |record| {
            let (seen, running) = (Arc::clone(&seen), Arc::clone(&running));
            async move {
                let at = usize::try_from(record.partition())?;
                let alone = running[at].fetch_add(1, SeqCst) == 0;
                tokio::time::sleep(Duration::from_millis(1)).await;
                running[at].fetch_sub(1, SeqCst);
                let mut seen = seen.lock().unwrap();
                seen[at].push(if alone { record.offset() } else { -1 });
                let first = seen[at].iter().filter(|offset| **offset == 5).count() == 1;
                if at == 0 && record.offset() == 5 && first { Err(Failure::retry("not yet")) } else { Ok(()) }
            }
        }
    });
    stage.wait_committed(240).await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    let [mut zero, one] = seen.lock().unwrap().clone();
    ensure!(zero.len() > 6 && !one.is_empty(), "not both partitions have records: {zero:?} and {one:?}");
    assert_eq!((zero[5], zero.remove(6)), (5, 5), "it was tried again before anything after it");
    for offsets in [zero, one] {
        assert_eq!(offsets, (0..i64::try_from(offsets.len())?).collect::<Vec<_>>());
    }
    Ok(())
}
