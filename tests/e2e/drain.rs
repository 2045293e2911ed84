//! A pod that is told to go finishes what it began: nothing is lost, and nothing is handled twice.

use std::time::Duration;

use anyhow::{Result, ensure};
use mq_demo::summary::claims::{Expect, name};
use mq_demo::summary::timeline::Timeline;
use mq_demo::summary::{Scene, Summary, topics};
use mq_testkit::wait_until;

use crate::shop::Shop;

#[tokio::test]
async fn a_deleted_pod_finishes_what_it_began() -> Result<()> {
    let shop = Shop::with_services("drain", None).await?;
    let client = shop.node.control_plane.client()?;
    let scene = Scene::read(&client, &shop.stage.setting().namespace).await?;
    let (brokers, names) = (scene.brokers.clone(), scene.topics.clone());
    let counts = async || -> Result<(i64, i64)> {
        let (brokers, names) = (brokers.clone(), names.clone());
        let count =
            move || Ok((topics::count(&brokers, &names.orders)?, topics::count(&brokers, &names.notifications)?));
        tokio::task::spawn_blocking(count).await?
    };

    shop.stage.load(20).await?;
    for app in ["notification-service", "order-service"] {
        let (_, before) = counts().await?;
        wait_until("orders are being handled", Duration::from_secs(30), async || {
            let (_, handled) = counts().await?;
            ensure!(handled > before + 100, "{handled} handled");
            Ok(())
        })
        .await?;
        shop.kubectl(&["delete", "pod", "-l", &format!("app={app}"), "--timeout=40s"])?;
        shop.kubectl(&["rollout", "status", "--timeout=60s", &format!("deployment/{app}")])?;
    }
    shop.stage.load(0).await?;
    let mut last = (0, 0);
    wait_until("every order is handled", Duration::from_mins(1), async || {
        let now = counts().await?;
        let quiet = std::mem::replace(&mut last, now) == now;
        ensure!(quiet && now.0 <= now.1, "{} orders, {} notifications", now.0, now.1);
        tokio::time::sleep(Duration::from_secs(1)).await; // the kubelet tells the services of the new load a second later
        Ok(())
    })
    .await?;

    let summary = Summary::of(&scene, &Timeline::default(), Expect::default()).await?;
    assert!(summary.holds, "{}", summary.human());
    let handled = summary.claims.iter().find(|claim| claim.name == name::LOST).map(|claim| claim.says.as_str());
    assert!(handled.is_some_and(|says| says.ends_with("; 0 handled again")), "a drain commits: {}", summary.human());
    Ok(())
}
