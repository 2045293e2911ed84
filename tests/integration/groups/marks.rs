//! Of a Deployment that gets fewer replicas, the pods that have least to do go first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use mq_testkit::{unique, wait_until};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    bounds,
    kubelet::{self, Work},
    target,
    world::{SOON, World, until_scaled},
};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

type Costs = Arc<Mutex<BTreeMap<String, String>>>;

/// The deletion costs that are set from now on, by pod.
fn costs(pods: Api<Pod>) -> (Costs, AbortOnDropHandle<()>) {
    let seen = Costs::default();
    let noted = Arc::clone(&seen);
    let watching = tokio::spawn(async move {
        let mut changes = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
        while let Some(change) = changes.next().await {
            // A watch that breaks is taken up again.
            let Ok(pod) = change else { continue };
            if let Some(cost) = pod.annotations().get(COST) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.name_any(), cost.clone());
            }
        }
    });
    (seen, AbortOnDropHandle::new(watching))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_least_to_do_go_first_and_nothing_is_written_while_replicas_stay() -> Result<()> {
    let world = World::new("marks").await?;
    let (topic, group) = (world.topic(3).await?, unique("marks"));
    let (config, namespace) = (world.kafka.client_config(), world.namespace.name());
    kubelet::deploy(&world.client, namespace, "worker", 3).await?;
    let work = Work { config: config.clone(), group: group.clone(), topic: topic.clone(), per_second: 50, agent: true };
    let _kubelet = kubelet::run(world.client.clone(), namespace, Some(work));
    world.declare(&group, &topic, Some(bounds(&target("apps/v1", "Deployment"), 3, 3))).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    let (costs, _watching) = costs(pods.clone());
    let costs = || costs.lock().unwrap_or_else(PoisonError::into_inner).clone();

    // Nobody writes to the third partition: two pods are busy for two fifths of their time, and one is idle.
    let _load = kubelet::load_on(&config, topic.clone(), 40, &[0, 1])?;
    wait_until("three agents say how busy they are", SOON, async || {
        let busy = world.metric("mq_group_busy_ratio", &group).await?;
        ensure!((0.2..0.35).contains(&busy), "{busy} on average");
        Ok(())
    })
    .await?;
    assert_eq!(costs(), BTreeMap::new());

    world.edit(&group, &json!({"spec": {"scaling": {"minReplicas": 2, "maxReplicas": 2}}})).await?;
    until_scaled(&Api::<Deployment>::namespaced(world.client.clone(), namespace), 2).await?;
    wait_until("the marked pod went", SOON, async || {
        let found = pods.list(&ListParams::default()).await?.items;
        let left: Vec<_> = found.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        let costs = costs();
        ensure!(left.len() == 2 && costs.values().eq(["-1"]), "{} pods are left, marked were {costs:?}", left.len());
        ensure!(left.iter().all(|pod| !costs.contains_key(&pod.name_any())), "another one went");
        Ok(())
    })
    .await
}
