//! The dead-letter topic of a group: made if it is missing, and otherwise none of the operator's business.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use mq_crds::MqConsumerGroup;
use mq_testkit::wait_until;
use serde_json::{Value, json};

use crate::world::World;

const PATIENCE: Duration = Duration::from_mins(1);

fn groups(world: &World) -> Api<MqConsumerGroup> {
    Api::namespaced(world.client.clone(), world.namespace())
}

/// A group of `orders`; `more` adds to its spec.
async fn declare(world: &World, name: &str, more: Value) -> Result<()> {
    let mut spec =
        json!({"cluster": world.cluster, "groupId": world.kafka_name(name), "topics": [world.kafka_name("orders")]});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    let group = json!({"apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqConsumerGroup",
        "metadata": {"name": name}, "spec": spec});
    groups(world).create(&PostParams::default(), &serde_json::from_value(group)?).await?;
    Ok(())
}

/// Waits until the group is so, and says something with `part` in it.
async fn until(world: &World, group: &str, reason: &str, part: &str) -> Result<Condition> {
    wait_until(&format!("MqConsumerGroup {group} is {reason}"), PATIENCE, async || {
        let status = groups(world).get(group).await?.status.context("no status")?;
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready").context("no Ready")?;
        ensure!(ready.reason == reason && ready.message.contains(part), "it is {}: {}", ready.reason, ready.message);
        Ok(ready)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_once_and_left_alone() -> Result<()> {
    let (world, _operator) = World::served("letters").await?;
    declare(&world, "g", json!({})).await?;
    until(&world, "g", "Progressing", &world.kafka_name("orders")).await?;

    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    let note = world.until_event("g", "TopicCreated").await?;
    assert!(note.contains(&world.kafka_name("g.dlq")), "{note}");
    until(&world, "g", "NoClients", "").await?;
    wait_until("the brokers show as many partitions as those of its source", PATIENCE, async || {
        ensure!(world.partitions("g.dlq").await? == Some(3));
        Ok(())
    })
    .await?;
    assert_eq!(world.config("g.dlq", "retention.ms").await?.0, "2592000000");

    world.meddle("g.dlq", "retention.ms", "1000").await?;
    world.meddle("orders", "retention.ms", "1000").await?;
    // By the time that the witness is repaired, the other was seen as well.
    world.until_event("orders", "DriftRepaired").await?;
    assert_eq!(world.config("g.dlq", "retention.ms").await?.0, "1000", "it is whoever's who changes it");

    groups(&world).delete("g", &DeleteParams::default()).await?;
    world.declare("witness", json!({})).await?;
    world.until("witness", "InSync").await?;
    assert_eq!(world.partitions("g.dlq").await?, Some(3), "the records outlive the group");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_for_it_says_how_it_is() -> Result<()> {
    let (world, _operator) = World::served("letters").await?;
    world.declare("orders", json!({})).await?;
    // In the order of the worse chance.
    declare(&world, "declared", json!({})).await?;
    declare(&world, "broken", json!({})).await?;
    world.declare("declared.dlq", json!({"partitions": 1, "config": {"retention.ms": 7_200_000}})).await?;
    world.declare("broken.dlq", json!({"config": {"no.such.key": "1"}})).await?;
    declare(&world, "witness", json!({})).await?;

    world.until_event("witness", "TopicCreated").await?;
    world.until("declared.dlq", "InSync").await?;
    world.until("broken.dlq", "RefusedByKafka").await?;
    for group in ["declared", "broken", "witness"] {
        until(&world, group, "NoClients", "").await?;
    }
    assert_eq!(world.partitions("declared.dlq").await?, Some(1));
    assert_eq!(world.config("declared.dlq", "retention.ms").await?.0, "7200000");
    assert_eq!(world.partitions("broken.dlq").await?, None, "nobody else makes what an object declares");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_granted_is_told() -> Result<()> {
    let (world, _operator) = World::served("letters").await?;
    world.declare("orders", json!({})).await?;
    world.until("orders", "InSync").await?;
    let foreign = world.kafka.unique("foreign");
    declare(&world, "g", json!({"deadLetter": {"topic": foreign}})).await?;

    let refused = until(&world, "g", "NotGranted", "the dead-letter topic of the group").await?;
    for part in [&foreign, "spec.deadLetter.topic"] {
        assert!(refused.message.contains(part), "{}", refused.message);
    }
    Ok(())
}
