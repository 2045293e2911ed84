//! Topics by pattern.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use mq_agent::{Config, Consumer, Env, Failure, Options};
use mq_testkit::{Broker, TestEnv, wait_until};

use super::stage::subscribe;
use super::{DRAIN, PATIENCE};

fn config(kafka: &Broker) -> Config {
    let mut config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    config.consumer.overrides.insert("topic.metadata.refresh.interval.ms".to_owned(), "500".into());
    config
}

/// The pattern also finds the group's own dead-letter topic: a dead letter must not be handled and buried again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_later_is_consumed_and_the_own_dead_letters_are_not() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let base = kafka.unique("pattern");
    let [early, late, other, dlq] = ["-early", "-late", "x-other", ".dlq"].map(|end| format!("{base}{end}"));
    for topic in [&early, &other, &dlq] {
        kafka.create_topic(topic, 1).await?;
    }
    let pattern = format!("^{base}[-.]");
    let consumer = Consumer::new(&config(&kafka), &base, [pattern], &Options::default()).await?;
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let subscription = subscribe(&consumer, {
        let seen = Arc::clone(&seen);
        move |record| {
            let payload = String::from_utf8_lossy(record.payload()).into_owned();
            let outcome = if payload == "bad" { Err(Failure::reject("bad")) } else { Ok(()) };
            seen.lock().unwrap().push((record.topic().to_owned(), payload));
            async move { outcome }
        }
    });
    kafka.produce(&other, [("k", "not read")]).await?;
    kafka.produce(&early, [("k", "1"), ("k", "bad")]).await?;
    wait_until("the bad record is buried", PATIENCE, async || {
        let stats = consumer.stats();
        ensure!(stats.dead_letters == 1, "{stats:?}");
        Ok(())
    })
    .await?;
    kafka.create_topic(&late, 1).await?;
    kafka.produce(&late, [("k", "2")]).await?;
    let expected =
        [(&early, "1"), (&early, "bad"), (&late, "2")].map(|(topic, payload)| (topic.clone(), payload.to_owned()));
    wait_until("the late topic is read", PATIENCE, async || {
        let seen = seen.lock().unwrap().clone();
        ensure!(seen.len() >= expected.len(), "{seen:?}");
        Ok(())
    })
    .await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(kafka.read_all(&dlq).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_pattern_that_cannot_be_read_is_refused_by_its_field() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let refused = Consumer::new(&config(&kafka), "g", ["orders", "^orders("], &Options::default()).await.unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("topics[1], ^orders(, is no pattern that librdkafka can read"), "{words}");
    Ok(())
}
