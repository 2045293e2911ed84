//! Who is in a group, and what each member has, in its status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use mq_crds::{Members, MqConsumerGroupStatus};
use mq_testkit::unique;
use rdkafka::consumer::{Consumer, StreamConsumer};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{condition, scaling::workers, world::World};

fn members(status: &MqConsumerGroupStatus) -> Members {
    status.members.clone().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_is_named_with_its_partitions_and_news_alone_is_written() -> Result<()> {
    let world = World::new("members").await?;
    let (topic, group) = (world.topic(5).await?, unique("members"));
    // Else the group is not ready for a moment while it is made.
    world.kafka.create_topic(&format!("{group}.dlq"), 1).await?;
    world.declare(&group, &topic, None).await?;
    let nobody = |s: &MqConsumerGroupStatus| s.members == Some(Members::default());
    world.wait_for(&group, "it has no members", nobody).await?;

    let _workers = workers(&world, &group, &topic, 1, true).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), world.namespace.name());
    let one = |s: &MqConsumerGroupStatus| members(s).shown.iter().map(|m| m.partitions).collect::<Vec<_>>() == [5];
    let named = |s: &MqConsumerGroupStatus| one(s) && members(s).shown[0].pod.is_some();
    let found = members(&world.wait_for(&group, "it has one member", named).await?);
    let pod = pods.list(&ListParams::default()).await?.items.pop().context("no pod")?;
    let member = &found.shown[0];
    assert_eq!((found.count, found.imbalance), (1, Some(1.0)));
    assert_eq!((member.pod.clone(), member.host.as_str()), (Some(pod.name_any()), "127.0.0.1"));
    assert_eq!((member.client_id.clone(), member.assigned.clone()), (format!("mq-{group}"), format!("{topic} 0-4")));

    // Looked at again and again, written once. What its client runs may be told a moment later.
    let told =
        |s: &MqConsumerGroupStatus| condition(s, "ConfigApplied") == ("True", "Applied") && !s.effective.is_empty();
    world.wait_for(&group, "its client is told of", told).await?;
    sleep(Duration::from_secs(2)).await;
    let before = world.groups().get(&group).await?;
    sleep(Duration::from_secs(14)).await;
    let after = world.groups().get(&group).await?;
    ensure!(after.resource_version() == before.resource_version(), "{:?} became {:?}", before.status, after.status);

    // Somebody from elsewhere joins.
    let mut config = world.kafka.client_config();
    config
        .set("group.id", &group)
        .set("client.id", "foreign")
        .set("partition.assignment.strategy", "cooperative-sticky");
    let foreign: StreamConsumer = config.create()?;
    foreign.subscribe(&[&topic])?;
    let _polling = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let _ = foreign.recv().await;
        }
    }));
    let shared = |s: &MqConsumerGroupStatus| {
        let mut each: Vec<_> = members(s).shown.iter().map(|member| member.partitions).collect();
        each.sort_unstable();
        each == [2, 3]
    };
    let found = members(&world.wait_for(&group, "both have partitions", shared).await?);
    assert_eq!((found.count, found.imbalance), (2, Some(1.2)));
    let foreign = found.shown.iter().find(|member| member.client_id == "foreign").context("it is not named")?;
    assert_eq!(foreign.pod, None, "it comes from the address of the pod, and is not that pod");
    Ok(())
}
