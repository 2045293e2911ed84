//! Every setting of the original design, pushed and seen again in what the live client says of itself.

use anyhow::{Context, Result, ensure};
use mq_agent::{Agent, Config, Env};
use mq_protocol::message::{Kind, NackReason};
use mq_testkit::TestEnv;

use super::fake_operator::FakeOperator;
use super::{consumer_body, consumer_settings, producer_body, producer_settings};

/// Starts a client from the production preset, changes one setting, and returns what the client then says of it.
async fn pushed_producer(name: &str, value: &str) -> Result<String> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let first = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let _producer = agent.producer("p").await?;
    operator.acknowledged(&first).await?;
    let settings = producer_settings(&format!("{{\"{name}\": {value}}}"))?;
    let changed = operator.push(Kind::Producer, "p", 2, &producer_body(kafka.bootstrap(), &settings)?);
    let (effective, not_applied) = operator.acknowledged(&changed).await?;
    ensure!(not_applied.is_empty(), "not applied: {not_applied:?}");
    effective.get(name).cloned().context("the Ack does not name the setting")
}

async fn pushed_consumer(name: &str, value: &str) -> Result<String> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("settings");
    let body = |settings: &str| consumer_body(kafka.bootstrap(), &topic, &topic, &consumer_settings(settings)?);
    let first = operator.push(Kind::Consumer, "c", 1, &body("{}")?);
    let agent = Agent::connect_with(operator.options()).await;
    let _consumer = agent.consumer("c").await?;
    operator.acknowledged(&first).await?;
    let changed = operator.push(Kind::Consumer, "c", 2, &body(&format!("{{\"{name}\": {value}}}"))?);
    let (effective, not_applied) = operator.acknowledged(&changed).await?;
    ensure!(not_applied.is_empty(), "not applied: {not_applied:?}");
    effective.get(name).cloned().context("the Ack does not name the setting")
}

/// One test per setting: the value to push, and how the client spells it.
macro_rules! seen_in_effective {
    ($($test:ident: $push:ident($name:literal, $value:literal) is $effective:literal;)*) => {$(
        #[tokio::test]
        async fn $test() -> Result<()> {
            assert_eq!($push($name, $value).await?, $effective);
            Ok(())
        }
    )*};
}

seen_in_effective! {
    acks_none: pushed_producer("acks", "0") is "0";
    acks_leader: pushed_producer("acks", "1") is "1";
    retry_max: pushed_producer("retryMax", "7") is "7";
    batch_size: pushed_producer("batchSize", "12345") is "12345";
    linger_ms: pushed_producer("lingerMs", "37") is "37";
    compression: pushed_producer("compression", "4") is "zstd";
    auto_offset_reset: pushed_consumer("autoOffsetReset", "\"latest\"") is "latest";
    enable_auto_commit: pushed_consumer("enableAutoCommit", "false") is "false";
    auto_commit_interval_ms: pushed_consumer("autoCommitIntervalMs", "2500") is "2500";
    session_timeout_ms: pushed_consumer("sessionTimeoutMs", "12000") is "12000";
    max_poll_records: pushed_consumer("maxPollRecords", "77") is "77";
    max_poll_interval_ms: pushed_consumer("maxPollIntervalMs", "123000") is "123000";
}

#[tokio::test]
async fn acks_all_is_a_word_and_comes_from_the_preset() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let version = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let _producer = agent.producer("p").await?;
    let (effective, not_applied) = operator.acknowledged(&version).await?;
    let pairs: Vec<_> = effective.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("acks", "all"),
            ("batchSize", "65536"),
            ("compression", "lz4"),
            ("enable.idempotence", "true"),
            ("lingerMs", "10"),
            ("max.in.flight.requests.per.connection", "5"),
            ("retryMax", "10")
        ]
    );
    assert!(not_applied.is_empty());
    Ok(())
}

/// Without all replicas there is no idempotence, and only one request at a time keeps the order.
#[tokio::test]
async fn what_follows_from_fewer_acknowledgements_is_seen() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let settings = producer_settings(r#"{"acks": 1}"#)?;
    let version = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &settings)?);
    let agent = Agent::connect_with(operator.options()).await;
    let _producer = agent.producer("p").await?;
    let (effective, _) = operator.acknowledged(&version).await?;
    assert_eq!(effective["enable.idempotence"], "false");
    assert_eq!(effective["max.in.flight.requests.per.connection"], "1");
    Ok(())
}

/// Effective is what the client says, not what it was told: a process that keeps its own value is found out.
#[tokio::test]
async fn a_setting_that_a_process_keeps_is_not_applied() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let body = producer_body(kafka.bootstrap(), &producer_settings(r#"{"lingerMs": 50}"#)?)?;
    let version = operator.push(Kind::Producer, "p", 1, &body);
    let agent =
        Agent::connect_with(operator.options().config(Config::for_env(Env::Production)).keep(["lingerMs"])).await;
    let _producer = agent.producer("p").await?;
    let (effective, not_applied) = operator.acknowledged(&version).await?;
    assert_eq!(effective["lingerMs"], "10");
    assert_eq!(not_applied, ["settings.lingerMs"]);
    Ok(())
}

#[tokio::test]
async fn overrides_are_applied_and_unknown_keys_are_reported() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let settings =
        producer_settings(r#"{"overrides": {"socket.timeout.ms": "12345", "socket.keepalive.enable": "1"}}"#)?;
    let body = producer_body(kafka.bootstrap(), &settings)?.replacen("{\"acks\"", "{\"warp\":9,\"acks\"", 1);
    ensure!(body.contains("warp"), "{body}");
    let version = operator.push(Kind::Producer, "p", 1, &body);
    let agent = Agent::connect_with(operator.options()).await;
    let _producer = agent.producer("p").await?;
    let (effective, not_applied) = operator.acknowledged(&version).await?;
    assert_eq!(effective["overrides.socket.timeout.ms"], "12345");
    assert_eq!(effective["overrides.socket.keepalive.enable"], "true");
    assert_eq!(not_applied, ["settings.warp"]);
    Ok(())
}

#[tokio::test]
async fn what_librdkafka_refuses_is_rejected_with_its_words_and_the_client_goes_on() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("refused");
    kafka.create_topic(&topic, 1).await?;
    let body = |json: &str| producer_body(kafka.bootstrap(), &producer_settings(json)?);
    let good = operator.push(Kind::Producer, "p", 1, &body("{}")?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&good).await?;
    let bad = operator.push(Kind::Producer, "p", 2, &body(r#"{"overrides": {"socket.timeout.ms": "soon"}}"#)?);
    let (reason, detail) = operator.rejected(&bad).await?;
    assert_eq!(reason, NackReason::ClientRefused);
    assert!(detail.contains("socket.timeout.ms"), "{detail}");
    producer.send_sync(mq_agent::Message::to(&topic).payload("still here")).await?;
    let back = operator.push(Kind::Producer, "p", 3, &body("{}")?);
    operator.acknowledged(&back).await?;
    Ok(())
}

#[tokio::test]
async fn another_group_id_needs_a_restart() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let (topic, group) = (kafka.unique("group"), kafka.unique("group"));
    let body = |group: &str| consumer_body(kafka.bootstrap(), group, &topic, &consumer_settings("{}")?);
    let first = operator.push(Kind::Consumer, "c", 1, &body(&group)?);
    let agent = Agent::connect_with(operator.options()).await;
    let _consumer = agent.consumer("c").await?;
    operator.acknowledged(&first).await?;
    let other = operator.push(Kind::Consumer, "c", 2, &body("another")?);
    let (reason, detail) = operator.rejected(&other).await?;
    assert_eq!(reason, NackReason::NeedsRestart);
    assert!(detail.contains("restart"), "{detail}");
    Ok(())
}
