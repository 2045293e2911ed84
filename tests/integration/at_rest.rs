//! A system in which nothing changes writes nothing.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, ResourceExt, api::ListParams};
use mq_testkit::wait_until;
use serde_json::json;

use crate::world::{Operator, World};

const TOPICS: usize = 20;

/// Everything that a write would move.
#[derive(Debug, PartialEq)]
struct Traces {
    versions: BTreeMap<String, Option<String>>,
    events: usize,
    writes: f64,
    effects: f64,
}

async fn traces(world: &World, operator: &Operator) -> Result<Traces> {
    let mut versions = BTreeMap::new();
    for topic in world.topics().list(&ListParams::default()).await?.items {
        versions.insert(topic.name_any(), topic.resource_version());
    }
    let cluster = world.clusters().get(&world.cluster).await?;
    versions.insert(cluster.name_any(), cluster.resource_version());
    let events: Api<Event> = Api::namespaced(world.client.clone(), world.namespace());
    Ok(Traces {
        versions,
        events: events.list(&ListParams::default()).await?.items.len(),
        writes: operator.metric("mq_kubernetes_writes_total", "").await?,
        effects: operator.metric("mq_effects_total", "").await?,
    })
}

async fn cycles(operator: &Operator) -> Result<f64> {
    operator.metric("mq_cycle_seconds_count", "observe").await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_nothing_changes() -> Result<()> {
    let (world, operator) = World::served("rest").await?;
    for index in 0..TOPICS {
        let config = json!({"retention.ms": 3_600_000, "cleanup.policy": "compact, delete", "preallocate": "TRUE"});
        world.declare(&format!("t{index}"), json!({"config": config, "reclaimPolicy": "Delete"})).await?;
    }
    for index in 0..TOPICS {
        world.until(&format!("t{index}"), "InSync").await?;
    }
    // What is still on its way after the last status has come to rest when two cycles leave no trace.
    let mut before = traces(&world, &operator).await?;
    wait_until("the system comes to rest", Duration::from_secs(30), async || {
        let now = traces(&world, &operator).await?;
        let rests = now == before;
        before = now;
        ensure!(rests, "something was written");
        Ok(())
    })
    .await?;

    let start = cycles(&operator).await?;
    wait_until("ten more cycles were run", Duration::from_mins(1), async || {
        let more = cycles(&operator).await? - start;
        ensure!(more >= 10.0, "{more} so far");
        Ok(())
    })
    .await?;

    assert_eq!(traces(&world, &operator).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_writes_nothing_either() -> Result<()> {
    let (world, operator) = World::served("restart").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.until("orders", "InSync").await?;
    world.until_cluster("Connected").await?;
    operator.stop().await?;

    let operator = world.operator("two").await?;
    wait_until("the new one has looked twice", Duration::from_mins(1), async || {
        ensure!(cycles(&operator).await? >= 3.0);
        Ok(())
    })
    .await?;

    assert!(operator.metric("mq_kubernetes_writes_total", "").await? < 0.5);
    assert!(operator.metric("mq_effects_total", "").await? < 0.5);
    Ok(())
}
