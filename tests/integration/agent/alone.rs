//! Clients that the code itself configures, and what they say of themselves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{ClientStats, Config, Consumer, Env, Message, Metrics, Options, Producer, SendError, TraceContext};
use mq_testkit::{Broker, TestEnv, wait_until};

use super::{DRAIN, PATIENCE};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn config(kafka: &Broker) -> Config {
    Config::for_env(Env::Development).brokers([kafka.bootstrap()])
}

async fn topic(kafka: &Broker, name: &str) -> Result<String> {
    let topic = kafka.unique(name);
    kafka.create_topic(&topic, 1).await?;
    Ok(topic)
}

#[tokio::test]
async fn a_batch_has_one_outcome_for_each_message_in_their_order() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = topic(&kafka, "batch").await?;
    let producer = Producer::new(&config(&kafka), &Options::default()).await?;
    let small = |number: usize| Message::to(&topic).key("k").payload(number.to_string());
    let messages =
        (0..100).map(|number| if number == 50 { small(50).payload(vec![0; 2_000_000]) } else { small(number) });
    let outcomes = producer.send_batch(messages).await;
    assert_eq!(outcomes.len(), 100);
    let mut offsets = Vec::new();
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(ack) => offsets.push(ack.offset.context("the broker tells no offset")?),
            Err(error) => assert!(number == 50 && matches!(error, SendError::TooLarge { .. }), "{number}: {error}"),
        }
    }
    assert_eq!(offsets, (0..99).collect::<Vec<i64>>());
    let stats = producer.stats();
    assert_eq!((stats.messages_sent, stats.send_errors, stats.current_queue_size), (99, 1, 0));
    assert!(stats.latency_p50 > Some(Duration::ZERO) && stats.latency_p50 <= stats.latency_p99, "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn clients_without_an_agent_carry_the_trace_and_show_their_metrics() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (orders, invoices) = (topic(&kafka, "orders").await?, topic(&kafka, "invoices").await?);
    let (metrics, registry) = (Metrics::default(), prometheus::Registry::new());
    registry.register(Box::new(metrics.clone()))?;
    let options = Options::default().metrics(metrics.clone());
    let producer = Producer::new(&config(&kafka), &options).await?;
    let group = kafka.unique("alone");
    let consumer = Consumer::new(&config(&kafka), &group, [&orders], &options).await?;

    let context = TraceContext::default().with_traceparent(PARENT).with_tracestate("vendor=1");
    context.scope(producer.send_sync(Message::to(&orders).key("7").payload("order"))).await?;
    let subscription = tokio::spawn({
        let (consumer, producer, invoices) = (consumer.clone(), producer.clone(), invoices.clone());
        async move {
            consumer
                .subscribe(move |record| {
                    let (producer, message) =
                        (producer.clone(), Message::to(&invoices).key(record.key().unwrap_or_default()));
                    async move { Ok(producer.send_sync(message.payload("invoice")).await.map(drop)?) }
                })
                .await
        }
    });
    wait_until("the invoice is written", PATIENCE, async || {
        let invoices = kafka.read_all(&invoices).await?;
        ensure!(invoices.len() == 1, "{} are", invoices.len());
        let [id, parent, state] = ["X-Trace-ID", "traceparent", "tracestate"].map(|name| invoices[0].header_str(name));
        assert_eq!((id, parent, state), (Some("4bf92f3577b34da6a3ce929d0e0e4736"), Some(PARENT), Some("vendor=1")));
        Ok(())
    })
    .await?;
    consumer.close(DRAIN).await;
    subscription.await??;

    let shown: Vec<(String, String, f64)> = registry
        .gather()
        .iter()
        .flat_map(|family| {
            let values = family.get_metric().iter().map(|metric| {
                let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
                (family.name().to_owned(), metric.get_label()[0].value().to_owned(), value)
            });
            values.collect::<Vec<_>>()
        })
        .collect();
    let value = |metric: &str, client: &str| {
        shown.iter().find(|(name, of, _)| name == metric && of == client).map(|(_, _, value)| *value)
    };
    assert_eq!(value("mq_producer_messages_sent", producer.name()), Some(2.0), "{shown:?}");
    assert_eq!(value("mq_producer_queue_size", producer.name()), Some(0.0));
    assert!(value("mq_producer_average_latency_ms", producer.name()) > Some(0.0));
    assert_eq!(value("mq_consumer_messages_consumed", &group), Some(1.0));
    assert_eq!(value("mq_consumer_commit_errors", &group), Some(0.0));
    drop(producer);
    let left = metrics.read();
    assert!(matches!(&left[..], [ClientStats::Consumer { name, .. }] if *name == group), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn stats_are_reported_again_and_again() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = topic(&kafka, "report").await?;
    let reports: Arc<Mutex<Vec<u64>>> = Arc::default();
    let seen = Arc::clone(&reports);
    let nowhere = std::path::Path::new("/nonexistent");
    let options = Options::in_folders(nowhere, nowhere).config(config(&kafka)).report_stats(
        Duration::from_millis(50),
        move |clients| {
            let sent = clients.iter().map(|client| match client {
                ClientStats::Producer { stats, .. } => stats.messages_sent,
                _ => 0,
            });
            seen.lock().unwrap().push(sent.sum());
        },
    );
    let agent = mq_agent::Agent::connect_with(options).await;
    agent.producer("p").await?.send_sync(Message::to(&topic).payload("x")).await?;
    wait_until("two reports tell of the message", PATIENCE, async || {
        let reports = reports.lock().unwrap().clone();
        ensure!(reports.iter().filter(|sent| **sent == 1).count() >= 2, "{reports:?}");
        Ok(())
    })
    .await?;
    assert!(agent.ready() && agent.live());
    agent.drain(DRAIN).await;
    assert!(!agent.ready(), "a service that drains wants no more requests");
    Ok(())
}

#[tokio::test]
async fn a_callback_that_panics_does_not_silence_the_producer() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = topic(&kafka, "panic").await?;
    let producer = Producer::new(&config(&kafka), &Options::default()).await?;
    producer.send_with(Message::to(&topic).payload("x"), |_| panic!("a bug of the service")).await?;
    producer.flush(PATIENCE).await?;
    producer.send_sync(Message::to(&topic).payload("y")).await?;
    assert_eq!(kafka.read_all(&topic).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_in_words() -> Result<()> {
    let no_brokers = Producer::new(&Config::for_env(Env::Production), &Options::default()).await.unwrap_err();
    assert!(no_brokers.to_string().contains("names no brokers"), "{no_brokers}");
    let mut config = Config::for_env(Env::Production).brokers(["kafka:9092"]);
    config.consumer.max_poll_records = Some(0);
    let wrong = Consumer::new(&config, "g", ["t"], &Options::default()).await.unwrap_err();
    assert!(wrong.to_string().contains("maxPollRecords"), "{wrong}");
    Ok(())
}

/// Nobody waits for it any more, and its linger is longer than anybody would.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_dropped_sends_what_it_was_given() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = kafka.unique("dropped");
    kafka.create_topic(&topic, 1).await?;
    let mut config = config(&kafka);
    config.producer.linger_ms = Some(60_000);
    let producer = Producer::new(&config, &Options::default()).await?;
    let (told, hears) = tokio::sync::oneshot::channel();
    producer.send_with(Message::to(&topic).payload("0"), |outcome| drop(told.send(outcome))).await?;
    drop(producer);
    let acknowledged = tokio::time::timeout(Duration::from_secs(10), hears).await.context("waiting for the outcome")?;
    assert_eq!(acknowledged??.offset, Some(0));
    Ok(())
}

#[tokio::test]
async fn what_the_api_server_would_refuse_is_refused_in_code_too() -> Result<()> {
    let config = Config::for_env(Env::Production).brokers(["kafka:9092"]);
    let long = "g".repeat(246);
    let cases: [(&str, &[&str], &str); 5] = [
        ("g", &["orders", "g.dlq"], "the dead-letter topic g.dlq"),
        ("a group", &["orders"], "groupId: as a topic name \"a group\" must be 1 to 249 characters"),
        (&long, &["orders"], "<groupId>.dlq): topic name"),
        ("g", &["orders", "a b"], "topics[1]: topic name \"a b\""),
        ("g", &["orders", "orders"], "topics[1], orders, is there twice"),
    ];
    for (group, topics, words) in cases {
        let error =
            Consumer::new(&config, group, topics.iter().copied(), &Options::default()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let config = Config::for_env(Env::Production).brokers(["kafka:9092", "kafka-1"]);
    let error = Producer::new(&config, &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("brokers[1]: broker address \"kafka-1\" must be host:port"), "{error}");
    Ok(())
}
