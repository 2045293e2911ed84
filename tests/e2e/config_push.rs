//! An edit of a client's settings reaches every running pod, and status tells the truth about each of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mq_demo::fault::Fault;
use mq_demo::install::{self, NAMESPACE};
use mq_testkit::wait_until;
use serde_json::Value;

use crate::shop::Shop;

const WITHIN: Duration = Duration::from_secs(10);

/// `lingerMs` that the live clients run with, as status has it: a number or its text.
fn linger(status: &Value) -> String {
    status["effective"]["lingerMs"].to_string().trim_matches('"').to_owned()
}

async fn status(shop: &Shop) -> Result<Value> {
    shop.status("MqProducerConfig", "orders").await
}

/// (uid, restarts) of each pod of the order service.
fn pods(shop: &Shop) -> Result<Vec<String>> {
    let columns = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let listed = shop.kubectl(&["get", "pods", "-l", "app=order-service", "-o", columns])?;
    let mut pods: Vec<String> = listed.lines().map(str::to_owned).collect();
    pods.sort();
    Ok(pods)
}

#[tokio::test]
async fn config_push_is_acknowledged() -> Result<()> {
    let shop = Shop::with_services("push", None).await?;
    shop.stage.load(10).await?;
    wait_until("both pods run the first revision", WITHIN, async || {
        let status = status(&shop).await?;
        ensure!(status["clients"]["applied"] == 2 && linger(&status) == "10", "{status}");
        Ok(())
    })
    .await?;
    let before = pods(&shop)?;
    let first = status(&shop).await?["currentRevision"].as_i64().context("no current revision")?;

    let edited = Instant::now();
    shop.stage.linger(35).await?;
    let now = wait_until("both pods run the edit", WITHIN, async || {
        let status = status(&shop).await?;
        let clients = &status["clients"];
        ensure!(linger(&status) == "35" && clients["applied"] == 2 && clients["connected"] == 2, "{status}");
        Ok(status)
    })
    .await?;
    println!("acknowledged by both pods after {:?}", edited.elapsed());
    assert_eq!(now["currentRevision"].as_i64(), Some(first + 1), "{now}");
    assert_eq!(now["updateRevision"], now["currentRevision"], "{now}");
    assert_eq!(pods(&shop)?, before, "a pod was restarted or replaced");

    // The operator knows a pod by the uid that the API server's TokenReview gave it.
    let log =
        install::run(shop.node.control_plane.kubectl().args(["-n", NAMESPACE, "logs", "deployment/mq-operator"]))?;
    for pod in &before {
        let uid = pod.split(' ').next().unwrap_or_default();
        assert!(
            log.lines().any(|line| line.contains("agent connected") && line.contains(uid)),
            "{uid} is not in:\n{log}"
        );
    }
    Ok(())
}

/// A pod that keeps a setting of its own is named, with what it did not apply.
#[tokio::test]
async fn a_pod_that_ignores_a_setting_is_named() -> Result<()> {
    let shop = Shop::with_services("keeps", Some(Fault::IgnorePush)).await?;
    shop.stage.linger(35).await?;
    let names =
        shop.kubectl(&["get", "pods", "-l", "app=order-service", "-o", "jsonpath={.items[*].metadata.name}"])?;
    wait_until("status names both pods", WITHIN, async || {
        let status = status(&shop).await?;
        let deviating = status["clients"]["deviating"].as_array().cloned().unwrap_or_default();
        for name in names.split(' ') {
            let found = deviating.iter().find(|one| one["pod"].as_str().is_some_and(|pod| pod.contains(name)));
            let message = found.with_context(|| format!("{name} is not in {status}"))?["message"].as_str();
            ensure!(message.is_some_and(|message| message.contains("lingerMs")), "{status}");
        }
        Ok(())
    })
    .await
}
