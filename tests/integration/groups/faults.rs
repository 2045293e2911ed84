//! Faults around a group that is scaled: what is asked for, and what is said, while they last.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ResourceQuota};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use mq_crds::MqConsumerGroupStatus;
use mq_testkit::{unique, wait_until};
use serde_json::json;

use super::{
    between::between,
    bounds, kubelet, reason, target,
    world::{SOON, World, until_scaled},
};

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
    let two = |s: &MqConsumerGroupStatus| {
        s.scaling.as_ref().is_some_and(|s| s.message.contains("of 4 replicas are ready; waiting for at most"))
    };
    world.wait_for(&group, "it says how many are ready", two).await?;

    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let paused = json!({"spec": {"paused": true}});
    deployments.patch("worker", &PatchParams::default(), &Patch::Merge(&paused)).await?;
    world.edit(&group, &json!({"spec": {"scaling": {"minReplicas": 5}}})).await?;
    until_scaled(&deployments, 5).await
}

#[tokio::test]
async fn a_step_whose_answer_is_lost_is_the_operators_and_no_persons() -> Result<()> {
    let (client, lost) = (crate::crds::installed().await?.client()?, Arc::new(AtomicBool::new(false)));
    let loses = Arc::clone(&lost);
    // The answer to the first write of `/scale` is lost.
    let lossy = between(client, move |client, request| {
        let lost = Arc::clone(&loses);
        async move {
            let scale = request.method() == "PATCH" && request.uri().path().ends_with("/scale");
            let answer = client.send(request).await?;
            if scale && !lost.swap(true, Ordering::Relaxed) {
                return Err(kube::Error::Service("the connection broke".into()));
            }
            Ok(answer)
        }
    });
    let world = World::with_client("lost", lossy).await?;
    let (topic, group) = (world.topic(8).await?, unique("lost"));
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    world.declare(&group, &topic, Some(bounds(&target("apps/v1", "Deployment"), 4, 8))).await?;

    let changes = |s: &MqConsumerGroupStatus| {
        let history = s.scaling.iter().flat_map(|s| &s.history);
        history.map(|change| (change.from, change.to, change.reason.clone())).collect::<Vec<_>>()
    };
    let step = (1, 4, "BelowMinimum".to_owned());
    world.wait_for(&group, "the step is told", |s| changes(s) == [step.clone()]).await?;
    ensure!(lost.load(Ordering::Relaxed), "no answer was lost");
    // It goes on from there: somebody else's number would have been respected for a window first.
    world.edit(&group, &json!({"spec": {"scaling": {"minReplicas": 5}}})).await?;
    let next = (4, 5, "BelowMinimum".to_owned());
    world.wait_for(&group, "the next step is told", |s| changes(s) == [next.clone(), step.clone()]).await?;
    Ok(())
}
