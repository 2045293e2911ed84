//! The ground the other modules stand on: the servers answer and the testkit's tools tell the truth about them.

use std::time::Duration;

use anyhow::Result;
use mq_testkit::{TestEnv, wait_until};

#[tokio::test]
async fn namespace_of_a_test_is_usable_and_its_own() -> Result<()> {
    let control_plane = TestEnv::control_plane().await?;
    let (one, two) = (control_plane.namespace("ground").await?, control_plane.namespace("ground").await?);
    assert_ne!(one.name(), two.name());
    Ok(())
}

#[tokio::test]
async fn records_come_back_in_order_with_their_keys() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = kafka.unique("ground");
    kafka.create_topic(&topic, 3).await?;
    let sent: Vec<_> = (0..100).map(|i| (format!("key-{}", i % 7), format!("{i}"))).collect();
    kafka.produce(&topic, sent.iter().map(|(key, value)| (key.as_str(), value.as_str()))).await?;

    let records = kafka.read_all(&topic).await?;

    assert_eq!(records.len(), sent.len());
    for key in 0..7 {
        let key = format!("key-{key}");
        let expected: Vec<_> = sent.iter().filter(|(k, _)| *k == key).map(|(_, value)| value.as_str()).collect();
        let found: Vec<_> =
            records.iter().filter(|r| r.key_str() == Some(&key)).map(|r| r.value_str().unwrap()).collect();
        assert_eq!(found, expected, "records of {key}");
    }
    Ok(())
}

#[tokio::test]
async fn broker_counts_the_requests_it_serves() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let before = kafka.requests("CreateTopics").await?;
    kafka.create_topic(&kafka.unique("counted"), 1).await?;
    wait_until("the broker counts one more CreateTopics", Duration::from_secs(10), async || {
        let now = kafka.requests("CreateTopics").await?;
        anyhow::ensure!(now > before, "still {now}");
        Ok(())
    })
    .await
}
