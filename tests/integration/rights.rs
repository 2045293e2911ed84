//! `MqTopic` at a broker that authorizes: each change needs its right, is refused without it by name, and goes on when it is there.

use anyhow::{Context, Result, ensure};
use mq_testkit::{
    AUTHORIZING,
    Operation::{self, Alter, AlterConfigs, Create, Delete, Describe, DescribeConfigs},
    OwnBroker, Resource, wait_until,
};
use serde_json::json;

use crate::{
    secure::{alice, by},
    world::{PATIENCE, World, ready},
};

/// Grants what the topic is refused for, after it has said so: the change, and the right.
async fn refused(world: &World, change: &str, without: Operation) -> Result<()> {
    let right = format!("grant the operator's Kafka user {without:?} on this topic");
    wait_until(&right, PATIENCE, async || {
        let topic = world.topics().get("orders").await?;
        let ready = ready(&topic)?;
        ensure!(ready.reason == "NotAuthorized", "it is {}: {}", ready.reason, ready.message);
        ensure!(ready.message.contains(change) && ready.message.contains(&right), "{}", ready.message);
        Ok(())
    })
    .await?;
    let user = &world.kafka.secure()?.users[0].username;
    world.kafka.grant(user, &Resource::Topic(world.kafka_name("orders")), without).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_kafka_does_not_allow_says_which_and_goes_on_with_the_right() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let own = OwnBroker::configured(folder.path(), AUTHORIZING).await?;
    let world = World::with("rights", own.kafka.clone()).await?;
    let secure = own.kafka.secure()?;
    alice(&world, secure).await?;
    world.apply_cluster(&by(&world, &secure.sasl_plaintext, "SASL_PLAINTEXT", Some("PLAIN"), None)).await?;
    let _operator = world.operator("one").await?;
    world.until_cluster("Connected").await?;

    let spec = json!({"config": {"retention.ms": 3_600_000}, "reclaimPolicy": "Delete"});
    world.declare("orders", spec).await?;
    refused(&world, "", Describe).await?;
    refused(&world, "3 partitions", Create).await?;
    refused(&world, "", DescribeConfigs).await?;
    world.until("orders", "InSync").await?;

    world.edit("orders", json!({"spec": {"partitions": 5}})).await?;
    refused(&world, "3 → 5", Alter).await?;
    world.until("orders", "InSync").await?;
    assert_eq!(world.partitions("orders").await?, Some(5));

    world.edit("orders", json!({"spec": {"config": {"retention.ms": 7_200_000}}})).await?;
    refused(&world, "retention.ms", AlterConfigs).await?;
    world.until("orders", "InSync").await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "7200000");

    world.delete("orders").await?;
    refused(&world, "", Delete).await?;
    world.until_gone("orders").await?;
    ensure!(world.in_kafka("orders").await?.is_none(), "the topic is still there");
    own.end().await.context("ending the broker")
}
