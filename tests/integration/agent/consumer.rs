//! A consumer handles everything at least once, keys in order, and commits only what is finished.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Agent, ConsumeError, Consumer, Failure, Message, TraceId};
use mq_protocol::message::Kind;
use mq_testkit::wait_until;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::stage::{Log, Stage, Subscription, subscribe, subscribe_log};
use super::{DRAIN, PATIENCE, check_handled, dead_letters, produce_numbered, producer_body, producer_settings};

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_handled_in_order_and_committed() -> Result<()> {
    let stage = Stage::new("plain", 3, "{}").await?;
    produce_numbered(&stage.kafka, &stage.topic, 10, 50).await?;
    let (_agent, consumer) = stage.consumer(4).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::from_millis(1));
    stage.wait_committed(500).await?;
    assert_eq!(check_handled(&log.entries(), 10, 50)?, 0);
    let stats = consumer.stats();
    assert_eq!((stats.messages_consumed, stats.in_flight), (500, 0));
    ensure!(stats.average_process_time.is_some_and(|time| time >= Duration::from_millis(1)), "{stats:?}");
    consumer.close(DRAIN).await;
    subscription.await??;
    let closed = consumer.subscribe(|_| async { Ok(()) }).await.unwrap_err();
    assert!(matches!(closed, ConsumeError::Closed { .. }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_key_delays_only_itself() -> Result<()> {
    let stage = Stage::new("slow", 1, "{}").await?;
    produce_numbered(&stage.kafka, &stage.topic, 5, 20).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let _subscription = subscribe(&consumer, {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        move |record| {
            let (log, gate) = (log.clone(), Arc::clone(&gate));
            async move {
                if record.key() == Some(b"k0") && record.payload() == b"0" {
                    gate.acquire().await.map_err(Failure::reject)?.forget();
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    log.wait_len(80).await?;
    ensure!(log.entries().iter().all(|(key, _)| key != "k0"), "k0 was overtaken by itself");
    assert_eq!(stage.committed().await.unwrap_or_default(), 0, "the first record is not finished");
    gate.add_permits(1);
    stage.wait_committed(100).await?;
    assert_eq!(check_handled(&log.entries(), 5, 20)?, 0);
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_record_is_tried_three_times_and_buried_while_others_go_on() -> Result<()> {
    let stage = Stage::new("retry", 1, "{}").await?;
    stage.kafka.create_topic(&dead_letters(&stage.group), 1).await?;
    let (_agent, consumer) = stage.consumer(1).await?;
    let tries = Arc::new(Mutex::new(Vec::new()));
    let log = Log::default();
    let _subscription = subscribe(&consumer, {
        let (tries, log) = (Arc::clone(&tries), log.clone());
        move |record| {
            let (tries, log) = (Arc::clone(&tries), log.clone());
            async move {
                if record.key() == Some(b"bad") {
                    tries.lock().unwrap().push(Instant::now());
                    return Err(Failure::retry("no such user"));
                }
                ensure_not(record.key() == Some(b"worse"), "never")?;
                assert!(record.key() != Some(b"panics"), "the handler is broken");
                log.add(&record);
                Ok(())
            }
        }
    });
    let records = [("bad", "0"), ("ok", "0"), ("worse", "0"), ("panics", "0"), ("bad", "1"), ("ok", "1")];
    let began = Instant::now();
    stage.kafka.produce(&stage.topic, records).await?;
    log.wait_len(2).await?;
    ensure!(tries.lock().unwrap().len() == 1, "one slot, and it was not given to the others between two tries");
    stage.wait_committed(6).await?;
    ensure!(began.elapsed() >= Duration::from_secs(6), "two records of one key, each 1 s + 2 s apart");

    let buried = stage.kafka.read_all(&dead_letters(&stage.group)).await?;
    let key = |name: &str| buried.iter().filter(|r| r.key_str() == Some(name)).collect::<Vec<_>>();
    let bad = key("bad");
    assert_eq!(bad.iter().map(|r| r.value_str()).collect::<Vec<_>>(), [Some("0"), Some("1")], "in their order");
    for (header, value) in [
        ("mq-original-topic", stage.topic.as_str()),
        ("mq-original-partition", "0"),
        ("mq-original-offset", "0"),
        ("mq-original-group", &stage.group),
        ("mq-attempts", "3"),
        ("mq-exception-message", "no such user"),
    ] {
        assert_eq!(bad[0].header_str(header), Some(value), "{header}");
    }
    assert_eq!(key("worse")[0].header_str("mq-attempts"), Some("1"), "rejected at once");
    assert_eq!(key("panics")[0].header_str("mq-attempts"), Some("3"));
    let words = key("panics")[0].header_str("mq-exception-message").unwrap_or_default();
    ensure!(words.contains("the handler is broken"), "{words}");
    let tries = tries.lock().unwrap().clone();
    assert_eq!(tries.len(), 6);
    ensure!(tries[1] - tries[0] >= Duration::from_secs(1) && tries[2] - tries[1] >= Duration::from_secs(2));
    let stats = consumer.stats();
    assert_eq!((stats.dead_letters, stats.processing_errors), (4, 6 + 1 + 3));
    consumer.close(DRAIN).await;
    Ok(())
}

fn ensure_not(reject: bool, why: &str) -> Result<(), Failure> {
    if reject { Err(Failure::reject(why)) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dead_letter_topic_the_key_stops_until_there_is_one() -> Result<()> {
    let stage = Stage::new("missing", 1, r#"{"autoCommitIntervalMs": 100}"#).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let _subscription = subscribe(&consumer, {
        let log = log.clone();
        move |record| {
            let log = log.clone();
            async move {
                ensure_not(record.payload() == b"1" && record.key() == Some(b"k0"), "never")?;
                log.add(&record);
                Ok(())
            }
        }
    });
    produce_numbered(&stage.kafka, &stage.topic, 2, 10).await?;
    wait_until("the key is reported as stopped", PATIENCE, async || {
        ensure!(consumer.stats().stopped_keys == 1, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    // All of k1, and k0 up to the record that cannot be buried.
    log.wait_len(11).await?;
    stage.wait_committed(2).await?;
    stage.kafka.create_topic(&dead_letters(&stage.group), 1).await?;
    stage.wait_committed(20).await?;
    assert_eq!(log.len(), 19);
    assert_eq!(stage.kafka.read_all(&dead_letters(&stage.group)).await?.len(), 1);
    assert_eq!(consumer.stats().stopped_keys, 0);
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_the_next_one_goes_on_there() -> Result<()> {
    let stage = Stage::new("drain", 2, r#"{"enableAutoCommit": false}"#).await?;
    produce_numbered(&stage.kafka, &stage.topic, 8, 50).await?;
    let (agent, consumer) = stage.consumer(4).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::from_millis(20));
    log.wait_len(60).await?;
    let began = Instant::now();
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    let drained = agent.drain_on(async { drop(signalled.await) }, DRAIN);
    drop(signal);
    drained.await?;
    subscription.await??;
    ensure!(began.elapsed() < Duration::from_secs(5), "a drain is not the whole queue: {:?}", began.elapsed());
    let first = log.len();
    ensure!(first < 400, "the drain waited for everything");
    let there = usize::try_from(stage.committed().await?)?;
    assert_eq!(there, first, "everything handled is committed, nothing else");

    let (_agent, consumer) = stage.consumer(4).await?;
    let _subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    log.wait_len(400).await?;
    assert_eq!(check_handled(&log.entries(), 8, 50)?, 0);
    consumer.close(DRAIN).await;
    stage.wait_committed(400).await
}

/// The handler never ends and the message waits for a linger of a minute: neither may take what belongs to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_its_budget_and_leaves_time_for_the_producers() -> Result<()> {
    let stage = Stage::new("budget-split", 1, "{}").await?;
    let settings = producer_settings(r#"{"lingerMs": 60000}"#)?;
    stage.operator.push(Kind::Producer, "p", 2, &producer_body(stage.kafka.bootstrap(), &settings)?);
    let (agent, consumer) = stage.consumer(1).await?;
    let begun = Arc::new(Semaphore::new(0));
    let subscription = subscribe(&consumer, {
        let begun = Arc::clone(&begun);
        move |_| {
            let begun = Arc::clone(&begun);
            async move {
                begun.add_permits(1);
                std::future::pending().await
            }
        }
    });
    stage.kafka.produce(&stage.topic, [("k", "0")]).await?;
    begun.acquire().await?.forget();
    let delivery = agent.producer("p").await?.send(Message::to(&stage.topic).key("k").payload("1")).await?;
    let since = Instant::now();
    agent.drain(DRAIN).await;
    ensure!(since.elapsed() < DRAIN, "{:?}", since.elapsed());
    ensure!(delivery.await.is_ok(), "the message was not flushed");
    subscription.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_without_loss_and_in_order() -> Result<()> {
    let stage = Stage::new("members", 4, "{}").await?;
    let log = Log::default();
    let (agent, a) = stage.consumer(4).await?;
    let (_other_agent, b) = stage.consumer(4).await?;
    let time = Duration::from_millis(2);
    let subscription = subscribe_log(&a, &log, time);
    let writer = stage.write(&agent, 12, Duration::ZERO);
    log.wait_len(100).await?;
    let other = subscribe_log(&b, &log, time);
    wait_until("the second member handles records", PATIENCE, async || {
        ensure!(b.stats().messages_consumed > 100, "{:?}", b.stats());
        Ok(())
    })
    .await?;
    a.close(DRAIN).await;
    subscription.await??;
    let each = writer.stop().await?;
    stage.wait_committed(i64::try_from(12 * each)?).await?;
    let repeated = check_handled(&log.entries(), 12, each)?;
    assert_eq!(repeated, 0, "every move was drained");
    b.close(DRAIN).await;
    other.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_timeout_is_applied_by_leaving_and_joining_without_loss() -> Result<()> {
    let stage = Stage::new("recreate", 3, "{}").await?;
    let (agent, consumer) = stage.consumer(4).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::from_millis(1));
    let writer = stage.write(&agent, 10, Duration::ZERO);
    log.wait_len(100).await?;
    let version = stage.push(2, r#"{"sessionTimeoutMs": 15000}"#)?;
    let (effective, _) = stage.operator.acknowledged(&version).await?;
    assert_eq!(effective["sessionTimeoutMs"], "15000");
    let each = writer.stop().await?;
    stage.wait_committed(i64::try_from(10 * each)?).await?;
    assert_eq!(check_handled(&log.entries(), 10, each)?, 0);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_auto_commit_only_a_commit_commits() -> Result<()> {
    let stage = Stage::new("manual", 1, r#"{"enableAutoCommit": false}"#).await?;
    produce_numbered(&stage.kafka, &stage.topic, 2, 10).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    assert!(matches!(consumer.commit().await, Err(ConsumeError::Closed { .. })), "not subscribed yet");
    let log = Log::default();
    let _subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    log.wait_len(20).await?;
    // Twice the interval of the preset.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.committed().await?, 0);
    consumer.commit().await?;
    assert_eq!(stage.committed().await?, 20, "the answer was waited for");
    let version = stage.push(2, r#"{"enableAutoCommit": true}"#)?;
    stage.operator.acknowledged(&version).await?;
    produce_numbered(&stage.kafka, &stage.topic, 1, 5).await?;
    stage.wait_committed(25).await?;
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_max_poll_records_are_in_flight() -> Result<()> {
    let stage = Stage::new("budget", 2, r#"{"maxPollRecords": 10}"#).await?;
    // Keys of their own: what waits for a key that does not end does not count.
    produce_numbered(&stage.kafka, &stage.topic, 200, 1).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let _subscription = subscribe(&consumer, {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        move |record| {
            let (log, gate) = (log.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await.map_err(Failure::reject)?.forget();
                log.add(&record);
                Ok(())
            }
        }
    });
    wait_until("the budget is full", PATIENCE, async || {
        ensure!(consumer.stats().in_flight == 10, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    // Long enough for the partitions to be paused, which must not lose anything either.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(consumer.stats().in_flight, 10);
    gate.add_permits(200);
    stage.wait_committed(200).await?;
    assert_eq!(check_handled(&log.entries(), 200, 1)?, 0);
    consumer.close(DRAIN).await;
    Ok(())
}

/// Handles records into the log. Those of the keys `stuck…` wait for the gate.
fn subscribe_gated(consumer: &Consumer, log: &Log, gate: &Arc<Semaphore>) -> Subscription {
    let (log, gate) = (log.clone(), Arc::clone(gate));
    subscribe(consumer, move |record| {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        async move {
            if record.key().is_some_and(|key| key.starts_with(b"stuck")) {
                gate.acquire().await.map_err(Failure::reject)?.forget();
            }
            log.add(&record);
            Ok(())
        }
    })
}

/// Five times as many as may be in hand.
#[tokio::test(flavor = "multi_thread")]
async fn many_records_of_a_key_that_does_not_end_keep_no_other_key_from_being_taken_in() -> Result<()> {
    let stage = Stage::new("stuck", 2, r#"{"maxPollRecords": 10}"#).await?;
    let stuck: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    stage.kafka.produce(&stage.topic, stuck.iter().map(|number| ("stuck", number.as_str()))).await?;
    produce_numbered(&stage.kafka, &stage.topic, 10, 5).await?;
    let (_agent, consumer) = stage.consumer(4).await?;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let _subscription = subscribe_gated(&consumer, &log, &gate);
    log.wait_len(50).await?;
    assert_eq!(check_handled(&log.entries(), 10, 5)?, 0);
    assert_eq!(consumer.stats().in_flight, 50, "all of the key that does not end are in hand");
    gate.add_permits(50);
    stage.wait_committed(100).await?;
    let stuck = log.entries().split_off(50);
    assert_eq!(stuck, (0..50).map(|number| ("stuck".to_owned(), number)).collect::<Vec<_>>());
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_key_that_does_not_end_stays_within_the_memory() -> Result<()> {
    const EACH: usize = 10_000;
    // Four fifths of 8 MiB.
    const FIT: usize = 8 * 1024 * 1024 / 5 * 4 / EACH;
    let stage = Stage::new("stuck-memory", 1, r#"{"maxPollRecords": 10}"#).await?;
    let numbers: Vec<String> = (0..2 * FIT).map(|number| format!("{number:0EACH$}")).collect();
    stage.kafka.produce(&stage.topic, numbers.iter().map(|number| ("stuck", number.as_str()))).await?;
    let agent = Agent::connect_with(stage.operator.options().concurrency(2).memory_mib(8)).await;
    let consumer = agent.consumer("c").await?;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let _subscription = subscribe_gated(&consumer, &log, &gate);
    wait_until("the memory is full", PATIENCE, async || {
        ensure!(consumer.stats().in_flight > FIT * 9 / 10, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    // Long enough for another look and for the partition to be paused.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(consumer.stats().in_flight <= FIT + 1, "{:?}, and {FIT} fit", consumer.stats());
    gate.add_permits(2 * FIT);
    stage.wait_committed(i64::try_from(2 * FIT)?).await?;
    let handled: Vec<u32> = log.entries().into_iter().map(|(_, number)| number).collect();
    assert_eq!(handled, (0..u32::try_from(2 * FIT)?).collect::<Vec<_>>());
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_concurrency_begins_what_waits_at_once() -> Result<()> {
    let stage = Stage::new("raised", 1, "{}").await?;
    produce_numbered(&stage.kafka, &stage.topic, 4, 1).await?;
    let (_agent, consumer) = stage.consumer(1).await?;
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let _subscription = subscribe(&consumer, {
        let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
        move |_| {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            async move {
                begun.add_permits(1);
                gate.acquire().await.map_err(Failure::reject)?.forget();
                Ok(())
            }
        }
    });
    wait_until("all records wait for the one slot", PATIENCE, async || {
        ensure!(consumer.stats().in_flight == 4, "{:?}", consumer.stats());
        Ok(())
    })
    .await?;
    assert_eq!(begun.available_permits(), 1);
    consumer.set_concurrency(4);
    // No record ends and none comes: nothing else starts them.
    tokio::time::timeout(PATIENCE, begun.acquire_many(4)).await.context("still one")??.forget();
    gate.add_permits(4);
    stage.wait_committed(4).await?;
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_through_handler_and_producer() -> Result<()> {
    let stage = Stage::new("trace", 1, "{}").await?;
    let answers = stage.kafka.unique("answers");
    stage.kafka.create_topic(&answers, 1).await?;
    let (agent, consumer) = stage.consumer(1).await?;
    let producer = agent.producer("p").await?;
    let _subscription = subscribe(&consumer, {
        let (producer, answers) = (producer.clone(), answers.clone());
        move |record| {
            let (producer, answers) = (producer.clone(), answers.clone());
            async move {
                let seen = TraceId::current().map(|trace| trace.to_string()).unwrap_or_default();
                assert_eq!(TraceId::current(), record.trace_id());
                producer.send_sync(Message::to(answers).payload(seen)).await?;
                Ok(())
            }
        }
    });
    TraceId::new("t-77").scope(producer.send_sync(Message::to(&stage.topic).payload("x"))).await?;
    producer.send_sync(Message::to(&stage.topic).payload("y")).await?;
    stage.wait_committed(2).await?;
    let mut found: Vec<_> = stage
        .kafka
        .read_all(&answers)
        .await?
        .iter()
        .map(|r| (r.value_str().unwrap_or_default().to_owned(), r.header_str("X-Trace-ID").map(str::to_owned)))
        .collect();
    found.sort();
    assert_eq!(found, [(String::new(), None), ("t-77".to_owned(), Some("t-77".to_owned()))]);
    consumer.close(DRAIN).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_subscription_drains_and_leaves() -> Result<()> {
    let stage = Stage::new("dropped", 1, "{}").await?;
    produce_numbered(&stage.kafka, &stage.topic, 2, 10).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    log.wait_len(20).await?;
    subscription.abort();
    stage.wait_committed(20).await?;
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    wait_until("the group is empty", PATIENCE, async || {
        let group = client.describe_groups([&stage.group]).await.remove(&stage.group).context("no answer")??;
        ensure!(group.members.is_empty(), "{} members", group.members.len());
        Ok(())
    })
    .await
}
