//! `MqCluster`: connected, not reachable, not the right one, gone.

use anyhow::{Context, Result};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::world::{World, message};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_says_what_it_is() -> Result<()> {
    let (world, _operator) = World::served("cluster").await?;
    let cluster = world.until_cluster("Connected").await?;
    let status = cluster.status.context("no status")?;
    assert_eq!(status.brokers, Some(1));
    assert!(status.cluster_id.is_some_and(|id| !id.is_empty()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_changes_nothing_and_heals() -> Result<()> {
    let world = World::empty("unreachable").await?;
    let mut spec = world.spec_of_cluster();
    spec["brokers"] = json!(["127.0.0.1:1"]);
    world.apply_cluster(&spec).await?;
    let _operator = world.operator("one").await?;
    world.declare("orders", json!({})).await?;
    world.declare("leaving", json!({"reclaimPolicy": "Delete"})).await?;

    world.until_cluster("ClusterUnreachable").await?;
    let topic = world.until("orders", "ClusterUnreachable").await?;
    assert!(message(&topic).contains("127.0.0.1:1"), "{}", message(&topic));

    // A deletion waits, says how to go on, and goes on.
    world.until("leaving", "ClusterUnreachable").await?;
    world.delete("leaving").await?;
    world.edit("leaving", json!({"spec": {"reclaimPolicy": "Retain"}})).await?;
    world.until_gone("leaving").await?;

    world.apply_cluster(&world.spec_of_cluster()).await?;
    world.until_cluster("Connected").await?;
    world.until("orders", "InSync").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kafka_cluster_behind_the_address_is_not_touched() -> Result<()> {
    let world = World::empty("wrong").await?;
    world.apply_cluster(&world.spec_of_cluster()).await?;
    let status = json!({"status": {"clusterId": "another-cluster"}});
    world.clusters().patch_status(&world.cluster, &PatchParams::default(), &Patch::Merge(status)).await?;
    world.declare("orders", json!({})).await?;
    let _operator = world.operator("one").await?;

    world.until_cluster("WrongCluster").await?;
    world.until("orders", "WrongCluster").await?;
    assert_eq!(world.partitions("orders").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_outlive_their_cluster_object_and_say_so() -> Result<()> {
    let (world, _operator) = World::served("orphan").await?;
    world.declare("orders", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("orders", "InSync").await?;

    world.clusters().delete(&world.cluster, &DeleteParams::default()).await?;
    world.until("orders", "ClusterNotFound").await?;
    world.delete("orders").await?;
    let waiting = world.until("orders", "ClusterNotFound").await?;
    assert!(message(&waiting).contains("spec.reclaimPolicy: Retain"), "{}", message(&waiting));
    world.edit("orders", json!({"spec": {"reclaimPolicy": "Retain"}})).await?;
    world.until_gone("orders").await?;
    world.until_event("orders", "TopicKept").await?;
    assert_eq!(world.partitions("orders").await?, Some(3));
    Ok(())
}
