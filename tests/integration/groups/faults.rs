//! Faults around a group that is scaled: what is asked for, and what is said, while they last.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ResourceQuota};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use mq_testkit::{unique, wait_until};
use serde_json::json;

use super::{
    bounds,
    kubelet::{self, Work},
    reason, target,
    world::{SOON, World},
};

async fn until_replicas(api: &Api<Deployment>, wanted: i32) -> Result<()> {
    wait_until(&format!("{wanted} replicas are asked for"), SOON, async || {
        let found = api.get("worker").await?.spec.and_then(|spec| spec.replicas);
        ensure!(found == Some(wanted), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_quota_that_prevents_pods_is_waited_for_and_a_paused_deployment_scaled() -> Result<()> {
    let world = World::new("quota").await?;
    let (topic, group) = (world.topic(8).await?, unique("quota"));
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), world.namespace.name());
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    wait_until("the quota is in force", SOON, async || {
        let status = quotas.get("few").await?.status.context("no status yet")?;
        ensure!(status.hard.is_some(), "{status:?}");
        Ok(())
    })
    .await?;
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let _kubelet = kubelet::run(world.client.clone(), world.namespace.name(), None);
    world.declare(&group, &topic, Some(bounds(&target("apps/v1", "Deployment"), 4, 8))).await?;

    let waits = world.wait_for(&group, "it waits for the pods", |s| reason(s) == "Rollout").await?;
    let said = waits.scaling.context("a decision")?;
    assert_eq!((said.current, said.desired), (Some(4), Some(4)), "{}", said.message);
    let two = |s: &mq_crds::MqConsumerGroupStatus| {
        s.scaling.as_ref().is_some_and(|s| s.message.contains("of 4 replicas are ready; waiting for at most"))
    };
    world.wait_for(&group, "it says how many are ready", two).await?;

    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let paused = json!({"spec": {"paused": true}});
    deployments.patch("worker", &PatchParams::default(), &Patch::Merge(&paused)).await?;
    world.edit(&group, &json!({"spec": {"scaling": {"minReplicas": 5}}})).await?;
    until_replicas(&deployments, 5).await
}

/// The write arrives and its answer does not, until the step shows in the target.
#[tokio::test]
async fn a_step_whose_answer_is_late_is_the_operators_and_no_second_one_follows() -> Result<()> {
    let (link, client) = crate::crds::installed().await?.link().await?;
    let world = World::with_client("late-answer", client).await?;
    let (topic, group) = (world.topic(12).await?, unique("late-answer"));
    let work = Work {
        config: world.kafka.client_config(),
        group: group.clone(),
        topic: topic.clone(),
        per_second: 50,
        agent: false,
    };
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let _kubelet = kubelet::run(world.client.clone(), world.namespace.name(), Some(work));
    let mut scaling = bounds(&target("apps/v1", "Deployment"), 1, 12);
    scaling["capacityPerReplica"] = 50.into();
    world.declare(&group, &topic, Some(scaling)).await?;
    world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;

    link.mute();
    let _load = kubelet::load(&world.kafka.client_config(), topic.clone(), 180)?;
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let wanted = wait_until("the step was written", SOON, async || {
        let wanted = deployments.get("worker").await?.spec.and_then(|spec| spec.replicas).unwrap_or_default();
        ensure!(wanted > 1, "{wanted}");
        Ok(wanted)
    })
    .await?;
    link.mend();

    let stepped = world.wait_for(&group, "the step is told", |s| reason(s) == "BelowNeed").await?;
    let history = stepped.scaling.context("a decision")?.history;
    assert_eq!(history.iter().map(|change| (change.from, change.to)).collect::<Vec<_>>(), [(1, wanted)]);
    let settled = world.wait_for(&group, "it fits", |s| reason(s) == "WithinBand").await?;
    assert_eq!(settled.scaling.context("a decision")?.history.len(), 1, "one step");
    Ok(())
}
