//! `MqCluster`: connected, not reachable, not the right one, gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mq_crds::MqProducerConfig;
use mq_testkit::wait_until;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_is_read_and_not_written() -> Result<()> {
    let (world, _operator) = World::served("hold").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.declare("leaving", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("orders", "InSync").await?;
    world.until("leaving", "InSync").await?;

    let pause = |value| json!({"metadata": {"annotations": {"mq.infra-kit.io/paused": value}}});
    let patch = async |value| {
        world.clusters().patch(&world.cluster, &PatchParams::default(), &Patch::Merge(pause(value))).await
    };
    patch(Some("true")).await?;
    world.until_cluster("Paused").await?;
    let paused = world.until("orders", "Paused").await?;
    assert!(message(&paused).contains("MqCluster is paused"), "{}", message(&paused));
    assert!(paused.status.is_some_and(|status| status.topic_id.is_some()), "the status keeps what is owned");
    world.meddle("orders", "retention.ms", "1000").await?;
    world.declare("new", json!({})).await?;
    world.delete("leaving").await?;
    world.until("new", "Paused").await?;
    wait_until("the deletion says how to let go", Duration::from_secs(30), async || {
        let leaving = world.topics().get("leaving").await?;
        ensure!(message(&leaving).contains("spec.reclaimPolicy: Retain"), "{}", message(&leaving));
        Ok(())
    })
    .await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "1000");
    assert_eq!(world.partitions("new").await?, None);
    assert_eq!(world.partitions("leaving").await?, Some(3));

    patch(None).await?;
    world.until_event("orders", "DriftRepaired").await?;
    world.until("orders", "InSync").await?;
    world.until("new", "InSync").await?;
    world.until_gone("leaving").await?;
    assert_eq!(world.partitions("leaving").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_not_sent_to_another_kafka_cluster() -> Result<()> {
    let (world, operator) = World::served("sent").await?;
    let producers: Api<MqProducerConfig> = Api::namespaced(world.client.clone(), world.namespace());
    let producer = json!({"apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqProducerConfig",
        "metadata": {"name": "orders"}, "spec": {"cluster": world.cluster}});
    producers.create(&PostParams::default(), &serde_json::from_value(producer)?).await?;
    let until = async |reason: &str| {
        wait_until(&format!("the producer is {reason}"), Duration::from_mins(1), async || {
            let status = producers.get("orders").await?.status.context("no status")?;
            ensure!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == reason), "{status:?}");
            Ok(status)
        })
        .await
    };
    until("NoClients").await?;
    operator.stop().await?;

    // The brokers, by another address, answer for another cluster than the one that the object is bound to.
    let status = json!({"status": {"clusterId": "another-cluster"}});
    world.clusters().patch_status(&world.cluster, &PatchParams::default(), &Patch::Merge(status)).await?;
    let mut spec = world.spec_of_cluster();
    let (_, port) = world.kafka.bootstrap().rsplit_once(':').context("no port")?;
    spec["brokers"] = json!([format!("localhost:{port}")]);
    world.apply_cluster(&spec).await?;
    let _operator = world.operator("two").await?;

    let held = until("WrongCluster").await?;
    assert_eq!(held.current_revision, Some(1), "what is in force stays");
    let revisions: Api<ControllerRevision> = Api::namespaced(world.client.clone(), world.namespace());
    assert_eq!(revisions.list(&ListParams::default()).await?.items.len(), 1);
    Ok(())
}
