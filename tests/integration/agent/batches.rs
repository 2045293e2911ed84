//! A handler that gets many records at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{BatchFailure, Batches, Failure, Message, Record};
use mq_testkit::wait_until;
use tokio::time::Instant;

use super::stage::{Log, Stage};
use super::{DRAIN, PATIENCE, check_handled, dead_letters, produce_numbered};

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

#[tokio::test(flavor = "multi_thread")]
async fn records_gather_until_a_batch_is_full_or_has_waited_and_no_end_waits_for_them() -> Result<()> {
    const WAIT: Duration = Duration::from_secs(2);
    let stage = Stage::new("gather", 1, "{}").await?;
    let (agent, consumer) = stage.consumer(2).await?;
    let producer = agent.producer("p").await?;
    let (log, batches) = (Log::default(), Arc::new(Mutex::new(Vec::new())));
    let subscription = tokio::spawn({
        let (consumer, log, batches) = (consumer.clone(), log.clone(), Arc::clone(&batches));
        async move {
            let handler = move |records: Vec<Record>| {
                batches.lock().unwrap().push((Instant::now(), records.len()));
                for record in &records {
                    log.add(record);
                }
                async { Ok(()) }
            };
            consumer.subscribe_batch(Batches::of(100).max_wait(WAIT), handler).await
        }
    });
    // It has joined.
    produce_numbered(&stage.kafka, &stage.topic, 1, 1).await?;
    log.wait_len(1).await?;
    let began = Instant::now();
    for number in 1..11 {
        producer.send_sync(Message::to(&stage.topic).key("k0").payload(number.to_string())).await?;
    }
    log.wait_len(11).await?;
    let few = batches.lock().unwrap().clone();
    ensure!(few[1].0 - began >= WAIT && few.len() <= 4, "{few:?}, begun at {began:?}");
    produce_numbered(&stage.kafka, &stage.topic, 10, 20).await?;
    log.wait_len(211).await?;
    let full = batches.lock().unwrap().iter().skip(few.len()).map(|(_, records)| *records).collect::<Vec<_>>();
    assert_eq!(full, [100, 100]);
    stage.wait_committed(211).await?;
    produce_numbered(&stage.kafka, &stage.topic, 10, 1).await?;
    wait_until("the next ones gather", PATIENCE, async || {
        ensure!(consumer.stats().in_flight == 10, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    let closing = Instant::now();
    consumer.close(DRAIN).await;
    subscription.await??;
    ensure!(closing.elapsed() < WAIT, "the drain waited for {:?}", closing.elapsed());
    assert_eq!((log.len(), stage.committed().await?), (211, 211), "they are read again");
    Ok(())
}
