//! One of several operators works; another takes over, at once after an orderly end, after the lease otherwise.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use mq_testkit::wait_until;
use serde_json::{Value, json};

use crate::world::World;

async fn holder(world: &World) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), world.namespace());
    let spec = leases.get("mq-operator").await?.spec.context("no spec")?;
    spec.holder_identity.context("nobody holds it")
}

async fn until_held_by(world: &World, pod: &str) -> Result<()> {
    wait_until(&format!("{pod} leads"), Duration::from_secs(30), async || {
        let holder = holder(world).await?;
        ensure!(holder.starts_with(&format!("{pod}_")), "{holder} leads");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_ready_writes_nothing_and_takes_over_at_once() -> Result<()> {
    let (world, first) = World::served("handover").await?;
    until_held_by(&world, "one").await?;
    let second = world.operator("two").await?;
    world.declare("orders", json!({})).await?;
    world.until("orders", "InSync").await?;
    wait_until("the follower is ready", Duration::from_secs(30), async || second.get("/readyz").await).await?;
    assert!(second.metric("mq_kubernetes_writes_total", "").await? < 0.5);
    assert!(second.metric("mq_leader", "").await? < 0.5);
    let groups: Value = serde_json::from_str(&second.get("/groups").await?)?;
    assert_eq!((&groups["leader"], &groups["groups"]), (&json!(false), &json!([])));
    assert!(groups["message"].as_str().is_some_and(|said| said.contains("does not lead")), "{groups}");

    let asked = Instant::now();
    first.stop().await?;
    until_held_by(&world, "two").await?;
    assert!(asked.elapsed() < Duration::from_secs(5), "took {:?} although the lease was released", asked.elapsed());
    world.edit("orders", json!({"spec": {"partitions": 4}})).await?;
    world.until("orders", "InSync").await?;
    assert_eq!(world.partitions("orders").await?, Some(4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_when_its_lease_expires() -> Result<()> {
    let (world, first) = World::served("dead").await?;
    until_held_by(&world, "one").await?;
    world.declare("orders", json!({})).await?;
    world.until("orders", "InSync").await?;
    let _second = world.operator("two").await?;

    first.kill();
    until_held_by(&world, "two").await?;
    world.edit("orders", json!({"spec": {"partitions": 4}})).await?;
    world.until("orders", "InSync").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_was_taken_ends_instead_of_writing() -> Result<()> {
    let (world, first) = World::served("taken").await?;
    until_held_by(&world, "one").await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), world.namespace());
    wait_until("someone else took the lease", Duration::from_secs(10), async || {
        let mut lease = leases.get("mq-operator").await?;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some("someone-else".into());
        }
        leases.replace("mq-operator", &kube::api::PostParams::default(), &lease).await?;
        Ok(())
    })
    .await?;

    let ended = first.ended().await?;
    assert!(ended.to_string().contains("someone-else"), "{ended}");
    Ok(())
}
