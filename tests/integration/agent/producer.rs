//! A producer keeps what it was given, in order, whatever is done to the client inside of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Agent, Message, Producer, SendError, TraceId};
use mq_protocol::message::{Kind, NackReason};
use mq_testkit::{Broker, TestEnv, wait_until};

use super::fake_operator::FakeOperator;
use super::{DRAIN, PATIENCE, producer_body, producer_settings};

/// As fast as a broker takes it.
const FAST: Duration = Duration::from_millis(5);

/// Senders of one key each that send a hundred messages per pause until told to stop, and then say how many were acknowledged.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<tokio::task::JoinHandle<Result<u32, SendError>>>,
}

impl Load {
    pub(super) fn start(producer: &Producer, topic: &str, keys: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders =
            (0..keys).map(|key| tokio::spawn(send(producer.clone(), topic.to_owned(), key, pause, Arc::clone(&stop))));
        Self { senders: senders.collect(), stop }
    }

    pub(super) async fn stop(self) -> Result<Vec<u32>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for sender in self.senders {
            sent.push(sender.await??);
        }
        Ok(sent)
    }
}

async fn send(
    producer: Producer,
    topic: String,
    key: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Result<u32, SendError> {
    let mut deliveries = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = deliveries.len().to_string();
        deliveries.push(producer.send(Message::to(&topic).key(format!("k{key}")).payload(number)).await?);
        tokio::task::yield_now().await;
        if deliveries.len() % 100 == 0 {
            tokio::time::sleep(pause).await;
        }
    }
    let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(count)
}

/// The topic holds exactly what was acknowledged, each key in its order, nothing twice.
pub(super) async fn check_topic(kafka: &Broker, topic: &str, sent: &[u32]) -> Result<()> {
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    for record in kafka.read_all(topic).await? {
        let key = record.key_str().unwrap_or_default().to_owned();
        let number: u32 = record.value_str().unwrap_or_default().parse()?;
        let expected = next.entry(key.clone()).or_default();
        ensure!(number == *expected, "{key}: {number} where {expected} was next");
        *expected += 1;
    }
    for (key, count) in sent.iter().enumerate() {
        let written = next.get(&format!("k{key}")).copied().unwrap_or_default();
        ensure!(written == *count, "k{key}: {count} were acknowledged, {written} are in the topic");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_under_load_lose_and_reorder_nothing() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("exchange");
    kafka.create_topic(&topic, 4).await?;
    let body =
        |linger: i64| producer_body(kafka.bootstrap(), &producer_settings(&format!("{{\"lingerMs\": {linger}}}"))?);
    operator.push(Kind::Producer, "p", 1, &body(5)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    let load = Load::start(&producer, &topic, 6, FAST);
    for revision in 2..=6 {
        let version = operator.push(Kind::Producer, "p", revision, &body(revision * 10)?);
        let (effective, _) = operator.acknowledged(&version).await?;
        assert_eq!(effective["lingerMs"], (revision * 10).to_string());
    }
    let sent = load.stop().await?;
    assert_eq!(producer.stats().recreated, 5);
    ensure!(sent.iter().all(|count| *count > 0), "nothing was sent: {sent:?}");
    check_topic(&kafka, &topic, &sent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_broker_address_is_rejected_and_loses_nothing() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("dead");
    kafka.create_topic(&topic, 4).await?;
    let settings = producer_settings("{}")?;
    let good = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &settings)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&good).await?;
    let load = Load::start(&producer, &topic, 3, FAST);
    // Port 1: nothing listens there.
    let dead = operator.push(Kind::Producer, "p", 2, &producer_body("127.0.0.1:1", &settings)?);
    let (reason, detail) = operator.rejected(&dead).await?;
    assert_eq!(reason, NackReason::ProbeFailed, "{detail}");
    let before = producer.stats().messages_sent;
    wait_until("the producer goes on", PATIENCE, async || {
        let now = producer.stats().messages_sent;
        ensure!(now > before, "still {now}");
        Ok(())
    })
    .await?;
    let sent = load.stop().await?;
    assert_eq!(producer.stats().recreated, 0);
    check_topic(&kafka, &topic, &sent).await
}

/// The way out of a cluster that is gone for good: not the fault of the change, and not to be refused for every other pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_be_sent_delays_a_change_and_does_not_reject_it() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("stuck");
    kafka.create_topic(&topic, 1).await?;
    // Longer than a flush waits.
    let settings = producer_settings(r#"{"overrides": {"delivery.timeout.ms": "14000"}}"#)?;
    let gone = operator.push(Kind::Producer, "p", 1, &producer_body("127.0.0.1:1", &settings)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&gone).await?;
    let stuck = producer.send(Message::to(&topic).payload("0")).await?;
    let moved = operator.push(Kind::Producer, "p", 2, &producer_body(kafka.bootstrap(), &settings)?);
    operator.acknowledged(&moved).await?;
    let failed = stuck.await.unwrap_err();
    ensure!(failed.is_retryable(), "{failed}");
    producer.send_sync(Message::to(&topic).payload("1")).await?;
    assert_eq!(kafka.read_all(&topic).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn one_name_is_one_client_and_a_closed_one_is_made_anew() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("name");
    kafka.create_topic(&topic, 1).await?;
    operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let (one, two) = (agent.producer("p").await?, agent.producer("p").await?);
    one.send_sync(Message::to(&topic).payload("1")).await?;
    assert_eq!(two.stats().messages_sent, 1);
    two.close(DRAIN).await?;
    let refused = one.send_sync(Message::to(&topic).payload("2")).await.unwrap_err();
    assert!(matches!(refused, SendError::Closed { .. }), "{refused}");
    agent.producer("p").await?.send_sync(Message::to(&topic).payload("3")).await?;
    let values: Vec<_> =
        kafka.read_all(&topic).await?.iter().filter_map(|r| r.value_str().map(str::to_owned)).collect();
    assert_eq!(values, ["1", "3"]);
    Ok(())
}

/// The message waits for a linger of a minute; closing must not.
#[tokio::test(flavor = "multi_thread")]
async fn flush_overrides_linger() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("flush");
    kafka.create_topic(&topic, 1).await?;
    let settings = producer_settings(r#"{"lingerMs": 60000}"#)?;
    operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &settings)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    let delivery = producer.send(Message::to(&topic).key("k").payload("0")).await?;
    producer.flush(DRAIN).await?;
    assert_eq!(delivery.await?.offset, Some(0));
    let (told, hears) = tokio::sync::oneshot::channel();
    producer.send_with(Message::to(&topic).key("k").payload("1"), |outcome| drop(told.send(outcome))).await?;
    producer.close(DRAIN).await?;
    assert_eq!(hears.await??.offset, Some(1));
    Ok(())
}

#[tokio::test]
async fn errors_say_whether_trying_again_helps() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("errors");
    kafka.create_topic(&topic, 1).await?;
    operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    let large = producer.send_sync(Message::to(&topic).payload(vec![0_u8; 2_000_000])).await.unwrap_err();
    assert!(matches!(large, SendError::TooLarge { .. }) && !large.is_retryable(), "{large}");
    let absent = producer.send_sync(Message::to(&topic).partition(9).payload("x")).await.unwrap_err();
    assert!(matches!(absent, SendError::Refused { .. }), "{absent}");
    assert_eq!(producer.stats().send_errors, 2);
    Ok(())
}

#[tokio::test]
async fn a_message_carries_the_trace_of_its_task_unless_it_has_one() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("trace");
    kafka.create_topic(&topic, 1).await?;
    operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    let send = |message: Message| producer.send_sync(message);
    send(Message::to(&topic).payload("none")).await?;
    TraceId::new("t1").scope(send(Message::to(&topic).payload("task"))).await?;
    TraceId::new("t1").scope(send(Message::to(&topic).payload("own").header(mq_agent::TRACE_HEADER, "t2"))).await?;
    let traces: Vec<Option<String>> =
        kafka.read_all(&topic).await?.iter().map(|r| r.header_str("X-Trace-ID").map(str::to_owned)).collect();
    assert_eq!(traces, [None, Some("t1".to_owned()), Some("t2".to_owned())]);
    Ok(())
}
