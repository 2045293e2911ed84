//! The ground the other modules stand on: the node runs pods, and its broker can be disturbed and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_testkit::{TestEnv, wait_until};
use tokio::{net::TcpStream, time::timeout};

#[tokio::test]
async fn pods_run_and_end() -> Result<()> {
    let node = TestEnv::node().await?;
    let namespace = node.control_plane.namespace("ground").await?;
    let kubectl = |args: &str| -> Result<String> {
        let output = node.control_plane.kubectl().args(["-n", namespace.name()]).args(args.split(' ')).output()?;
        ensure!(output.status.success(), "kubectl {args}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    kubectl("create deployment waits --replicas 2 --image mq.test/pause:1")?;
    kubectl("wait --for=condition=Available deployment/waits --timeout=60s")?;
    assert_eq!(kubectl("get pods -o jsonpath={.items[*].spec.nodeName}")?, "node node");
    kubectl("delete deployment waits")?;
    wait_until("the pods are gone", Duration::from_mins(1), async || {
        let left = kubectl("get pods -o name")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn broker_keeps_its_records_through_every_fault() -> Result<()> {
    let kafka = TestEnv::node().await?.kafka;
    let topic = kafka.unique("ground");
    kafka.create_topic(&topic, 1).await?;
    kafka.produce(&topic, [("a", "1")]).await?;

    kafka.stop().await?;
    assert!(TcpStream::connect(kafka.bootstrap()).await.is_err(), "a stopped broker takes connections");
    let refusal = kafka.stop().await.unwrap_err();
    assert!(format!("{refusal:#}").contains("is stopped"), "stopping it twice: {refusal:#}");
    kafka.start().await?;

    kafka.kill().await?;
    assert!(TcpStream::connect(kafka.bootstrap()).await.is_err(), "a killed broker takes connections");
    kafka.start().await?;

    kafka.pause().await?;
    let answer = timeout(Duration::from_secs(2), kafka.requests("Metadata")).await;
    kafka.resume().await?;
    assert!(answer.is_err(), "a paused broker answers");

    let records = kafka.read_all(&topic).await?;
    let record = records.first().context("the record is gone")?;
    assert_eq!((record.key_str(), record.value_str(), records.len()), (Some("a"), Some("1"), 1));
    Ok(())
}
