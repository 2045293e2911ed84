//! A handler that gets many records at once.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use mq_agent::{BatchFailure, Failure, Record};

use super::stage::{Log, Stage};
use super::{DRAIN, check_handled, dead_letters, produce_numbered};

/// Two records fail: one at first, one always.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_handled_in_order_and_only_what_fails_alone_becomes_a_dead_letter() -> Result<()> {
    let stage = Stage::new("batches", 2, "{}").await?;
    stage.kafka.create_topic(&dead_letters(&stage.group), 1).await?;
    produce_numbered(&stage.kafka, &stage.topic, 10, 40).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let (log, sizes) = (Log::default(), Arc::new(Mutex::new(Vec::new())));
    let subscription = tokio::spawn({
        let (consumer, log, sizes) = (consumer.clone(), log.clone(), Arc::clone(&sizes));
        async move {
            let handler = move |records: Vec<Record>| {
                let (log, sizes) = (log.clone(), Arc::clone(&sizes));
                async move {
                    sizes.lock().unwrap().push(records.len());
                    let poison = |record: &Record| record.key() == Some(b"k0") && record.payload() == b"39";
                    if records.iter().any(poison) {
                        return Err(BatchFailure::from(Failure::reject("poison")));
                    }
                    let is_late = |record: &Record| {
                        record.key() == Some(b"k1") && record.payload() == b"20" && record.attempt() == 1
                    };
                    let Some(late) = records.iter().position(is_late) else {
                        for record in &records {
                            log.add(record);
                        }
                        return Ok(());
                    };
                    // What it did of later records of that key does not count.
                    let done =
                        records.iter().enumerate().filter(|(at, record)| *at < late || record.key() != Some(b"k1"));
                    done.for_each(|(_, record)| log.add(record));
                    Err(BatchFailure::of([(late, Failure::retry("not yet"))]))
                }
            };
            consumer.subscribe_batch(50, handler).await
        }
    });
    stage.wait_committed(400).await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    let handled = log.entries();
    assert_eq!(handled.len(), 399, "all but the poison, and each once");
    let mut whole = handled.clone();
    whole.push(("k0".to_owned(), 39));
    assert_eq!(check_handled(&whole, 10, 40)?, 0);
    assert_eq!(stage.kafka.read_all(&dead_letters(&stage.group)).await?.len(), 1);
    let sizes = sizes.lock().unwrap();
    ensure!(sizes.iter().all(|size| *size <= 50) && sizes.iter().any(|size| *size > 10), "{sizes:?}");
    Ok(())
}
