//! `mq-kafka` and a broker that stops, dies and hangs.

use std::time::Duration;

use anyhow::Result;
use mq_kafka::{Client, ErrorKind, Options};
use mq_testkit::{TestEnv, wait_until};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_client_survives_restart_kill_and_freeze_of_its_broker() -> Result<()> {
    let kafka = TestEnv::node().await?.kafka;
    let options = Options {
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let client = Client::new([kafka.bootstrap()], options);
    let heals = async || wait_until("the client heals", SOON, async || Ok(client.describe_cluster().await?)).await;
    let before = client.describe_cluster().await?;

    kafka.stop().await?;
    let stopped = client.describe_cluster().await;
    kafka.start().await?;
    let error = stopped.expect_err("nobody is there");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(heals().await?.id, before.id);

    kafka.kill().await?;
    let killed = client.describe_cluster().await;
    kafka.start().await?;
    assert!(killed.expect_err("nobody is there").is_retryable());
    heals().await?;

    kafka.pause().await?;
    let frozen = tokio::time::timeout(Duration::from_secs(10), client.describe_cluster()).await;
    kafka.resume().await?;
    let error = frozen.expect("bounded by the request's own limit").expect_err("nobody answers");
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    heals().await?;
    Ok(())
}
