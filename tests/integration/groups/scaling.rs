//! The replicas follow the load, by few steps, and the status says why.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use mq_crds::MqConsumerGroupStatus;
use mq_testkit::{unique, wait_until};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::{
    condition,
    kubelet::{self, Work},
    reason,
    world::{SOON, World},
};

pub(super) fn scaling(capacity: Option<i64>) -> Value {
    let mut scaling = json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
        "objective": {"age": "20s"},
        "minReplicas": 1,
        "maxReplicas": 12,
        "scaleDown": {"window": "8s"},
    });
    if let Some(capacity) = capacity {
        scaling["capacityPerReplica"] = capacity.into();
    }
    scaling
}

/// The Deployment of the group's members, each of which handles 50 messages per second.
pub(super) async fn workers(
    world: &World,
    group: &str,
    topic: &str,
    replicas: i32,
    agent: bool,
) -> Result<AbortOnDropHandle<()>> {
    let config = world.kafka.client_config();
    let work = Work { config, group: group.to_owned(), topic: topic.to_owned(), per_second: 50, agent };
    kubelet::deploy(&world.client, world.namespace.name(), "worker", replicas).await?;
    Ok(kubelet::run(world.client.clone(), world.namespace.name(), Some(work)))
}

/// Every value that `spec.replicas` takes from now on.
pub(super) fn path(world: &World) -> (Arc<Mutex<Vec<i32>>>, AbortOnDropHandle<()>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let api: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let noted = Arc::clone(&seen);
    let watching = tokio::spawn(async move {
        let mut changes = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
        while let Some(change) = changes.next().await {
            // A watch that breaks is taken up again.
            let Ok(deployment) = change else { continue };
            let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            let mut seen = lock(&noted);
            if seen.last() != Some(&replicas) {
                seen.push(replicas);
            }
        }
    });
    (seen, AbortOnDropHandle::new(watching))
}

pub(super) fn lock(path: &Mutex<Vec<i32>>) -> MutexGuard<'_, Vec<i32>> {
    path.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no message is late and fewer than so many wait.
pub(super) async fn keeps_up(world: &World, group: &str, most: f64) -> Result<()> {
    wait_until("nothing is late and little waits", SOON, async || {
        ensure!(world.metric("mq_group_late_messages", group).await? < 0.5);
        let lag = world.metric("mq_group_lag_messages", group).await?;
        ensure!(lag < most, "{lag} wait");
        Ok(())
    })
    .await
}

/// Waits until the replicas are back at one, and returns the way they went.
async fn back_at_one(world: &World, group: &str, path: &Mutex<Vec<i32>>) -> Result<Vec<i32>> {
    wait_until("it is back at one replica", SOON * 2, async || {
        let path = lock(path).clone();
        ensure!(path.last() == Some(&1) && path.len() > 1, "{path:?}, {:?}", world.status(group).await?.scaling);
        Ok(())
    })
    .await?;
    let path = lock(path).clone();
    eprintln!("replicas: {path:?}");
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_the_load_up_in_one_step_and_down_again() -> Result<()> {
    let world = World::new("follow").await?;
    let (topic, group) = (world.topic(12).await?, unique("follow"));
    let _workers = workers(&world, &group, &topic, 1, false).await?;
    let (path, _watching) = path(&world);
    world.declare(&group, &topic, Some(scaling(Some(50)))).await?;
    world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;

    // 180 messages per second at 50 per replica: at the aimed 70 % that is 5.1, and 12 partitions are shared evenly by 6.
    let load = kubelet::load(&world.kafka.client_config(), topic.clone(), 180)?;
    let grown = world.wait_for(&group, "it has grown", |s| reason(s) == "BelowNeed").await?;
    let said = grown.scaling.clone().context("a decision")?;
    eprintln!("{}: {}", said.reason, said.message);
    assert_eq!((said.current, said.terms.capacity), (Some(1), Some(50.0)), "{}", said.message);
    // A machine that is busy with other tests may hold up whoever writes: what was seen then asks for less.
    let held_up = said.terms.arrival.context("an arrival")? < 150.0;
    let need = said.terms.need.context("a need")?;
    assert!(held_up || (need > 4.0 && need <= 6.0 && said.desired == Some(6)), "{}", said.message);
    assert_eq!(condition(&grown, "ScalingActive"), ("True", "BelowNeed"));
    world.wait_for(&group, "it fits", |s| reason(s) == "WithinBand").await?;
    keeps_up(&world, &group, 400.0).await?;

    drop(load);
    let path = back_at_one(&world, &group, &path).await?;
    let ups = path.windows(2).take_while(|step| step[0] < step[1]).count();
    assert!(ups == 1 || (held_up && ups == 2), "one step up: {path:?}");
    assert_eq!(path[ups], 6, "{path:?}");
    assert!(path.len() <= ups + 4 && path[ups..].is_sorted_by(|a, b| a > b), "few steps down: {path:?}");

    // The newest change first, each as it was decided.
    let to = |s: &MqConsumerGroupStatus| {
        s.scaling.iter().flat_map(|s| s.history.iter().rev()).map(|change| change.to).collect::<Vec<_>>()
    };
    let remembered = world.wait_for(&group, "the changes are remembered", |s| to(s) == path[1..]).await?;
    let history = remembered.scaling.context("a decision")?.history;
    let up = history.last().context("a change")?;
    assert_eq!((up.from, up.reason.as_str(), up.terms.capacity), (1, "BelowNeed", Some(50.0)));

    let events: Api<Event> = Api::namespaced(world.client.clone(), world.namespace.name());
    let told = events.list(&ListParams::default()).await?.items;
    let up: Vec<_> = told.iter().filter(|event| event.reason.as_deref() == Some("BelowNeed")).collect();
    assert_eq!(up.len(), ups, "one step, one event");
    let first = format!("scaled Deployment worker from 1 to {}", path[1]);
    assert!(up.iter().any(|event| event.note.as_deref().is_some_and(|note| note.contains(&first))));
    Ok(())
}

#[tokio::test]
async fn without_a_stated_capacity_it_is_measured() -> Result<()> {
    let world = World::new("measure").await?;
    let (topic, group) = (world.topic(12).await?, unique("measure"));
    let _workers = workers(&world, &group, &topic, 1, false).await?;
    world.declare(&group, &topic, Some(scaling(None))).await?;
    world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;

    let _load = kubelet::load(&world.kafka.client_config(), topic.clone(), 180)?;

    let known = |s: &MqConsumerGroupStatus| {
        s.scaling.as_ref().is_some_and(|s| s.reason == "BelowNeed" && s.terms.capacity.is_some())
    };
    let grown = world.wait_for(&group, "it grows by a measured capacity", known).await?;
    let said = grown.scaling.context("a decision")?;
    eprintln!("{}: {}", said.reason, said.message);
    let capacity = said.terms.capacity.context("a capacity")?;
    assert!((40.0..60.0).contains(&capacity), "a replica really handles 50 per second: {}", said.message);
    Ok(())
}

/// Keys are not even: of twelve partitions three are hot, four are cold, five have nothing. So there is never work in all of them.
const UNEVEN: &[i32] = &[0, 4, 8, 0, 4, 8, 1, 5, 9, 2];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stated_capacity_agents_say_how_busy_they_are() -> Result<()> {
    let world = World::new("busy").await?;
    let (topic, group) = (world.topic(12).await?, unique("busy"));
    let config = world.kafka.client_config();
    let _workers = workers(&world, &group, &topic, 1, true).await?;
    let (path, _watching) = path(&world);
    world.declare(&group, &topic, Some(scaling(None))).await?;
    world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;
    let load = kubelet::load_on(&config, topic.clone(), 20, UNEVEN)?;
    wait_until("the agent says how busy it is", SOON, async || {
        let (busy, capacity) = (
            world.metric("mq_group_busy_ratio", &group).await?,
            world.metric("mq_group_capacity_messages_per_second", &group).await?,
        );
        // 20 a second at 50 a second; the timer and the runtime add a little.
        ensure!((0.3..0.6).contains(&busy) && (40.0..60.0).contains(&capacity), "busy {busy}, capacity {capacity}");
        Ok(())
    })
    .await?;
    drop(load);

    // In blocks of two, the busiest of six has three tenths of it: more than half of what it can do, and room enough.
    let load = kubelet::load_on(&config, topic.clone(), 100, UNEVEN)?;
    let grown = world.wait_for(&group, "it has grown", |s| reason(s) == "BelowNeed").await?;
    let said = grown.scaling.context("a decision")?;
    eprintln!("{}: {}", said.reason, said.message);
    assert!(said.message.contains("per replica (measured by how busy the pods are)"), "{}", said.message);
    let capacity = said.terms.capacity.context("a capacity")?;
    assert!((40.0..60.0).contains(&capacity), "a replica really handles 50 per second: {}", said.message);
    world.wait_for(&group, "it fits", |s| reason(s) == "WithinBand").await?;
    keeps_up(&world, &group, 300.0).await?;

    drop(load);
    let path = back_at_one(&world, &group, &path).await?;
    let ups = path.windows(2).filter(|step| step[1] > step[0]).count();
    assert!(path[1] > 2 && ups <= 2 && path.iter().all(|n| *n < 12), "few steps, each of the right size: {path:?}");
    Ok(())
}

#[tokio::test]
async fn a_missing_deployment_is_said_and_heals() -> Result<()> {
    let world = World::new("target").await?;
    let (topic, group) = (world.topic(2).await?, unique("target"));
    world.declare(&group, &topic, Some(scaling(Some(50)))).await?;

    let missing = world.wait_for(&group, "the target is missed", |s| reason(s) == "TargetNotFound").await?;
    assert_eq!(condition(&missing, "ScalingActive"), ("False", "TargetNotFound"));
    let sentence = missing.scaling.context("a decision")?.message;
    assert!(sentence.contains("there is no Deployment worker; create it"), "{sentence}");

    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let _kubelet = kubelet::run(world.client.clone(), world.namespace.name(), None);
    world.wait_for(&group, "scaling is active", |s| condition(s, "ScalingActive").0 == "True").await?;
    Ok(())
}

#[tokio::test]
async fn replicas_set_by_a_person_are_respected_for_a_window() -> Result<()> {
    let world = World::new("hand").await?;
    let (topic, group) = (world.topic(12).await?, unique("hand"));
    let _workers = workers(&world, &group, &topic, 1, false).await?;
    world.declare(&group, &topic, Some(scaling(Some(50)))).await?;
    world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;

    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let by_hand = json!({"spec": {"replicas": 3}});
    deployments.patch_scale("worker", &PatchParams::default(), &Patch::Merge(&by_hand)).await?;

    let held = world.wait_for(&group, "the person's word is respected", |s| reason(s) == "ScaledByHand").await?;
    assert_eq!(held.scaling.context("a decision")?.desired, Some(3));
    // Nothing arrives, so after its windows the operator goes back to the minimum.
    wait_until("it scales again", Duration::from_secs(90), async || {
        let replicas = deployments.get("worker").await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(1), "{replicas:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn replicas_are_taken_away_only_as_the_user_allows() -> Result<()> {
    let world = World::new("down").await?;
    let (topic, group) = (world.topic(12).await?, unique("down"));
    let _workers = workers(&world, &group, &topic, 6, false).await?;
    let mut kept = scaling(Some(50));
    kept["scaleDown"] = json!({"window": "2s", "disabled": true});
    world.declare(&group, &topic, Some(kept)).await?;
    let said = world.wait_for(&group, "it keeps what it has", |s| reason(s) == "ScaleDownDisabled").await?;
    let decision = said.scaling.clone().context("a decision")?;
    assert_eq!((decision.current, decision.desired), (Some(6), Some(6)));
    assert!(decision.message.contains("spec.scaling.scaleDown.disabled keeps 6"), "{}", decision.message);
    assert_eq!(condition(&said, "ScalingActive"), ("True", "ScaleDownDisabled"));

    let (path, _watching) = path(&world);
    wait_until("the replicas are watched", SOON, async || {
        ensure!(*lock(&path) == [6], "{:?}", lock(&path));
        Ok(())
    })
    .await?;
    world.edit(&group, &json!({"spec": {"scaling": {"scaleDown": {"disabled": false, "maxStep": 2}}}})).await?;
    assert_eq!(back_at_one(&world, &group, &path).await?, [6, 4, 2, 1]);
    Ok(())
}

#[tokio::test]
async fn what_is_observed_is_said_and_a_schedule_holds_once_it_may() -> Result<()> {
    let world = World::new("observe").await?;
    let (topic, group) = (world.topic(12).await?, unique("observe"));
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let _kubelet = kubelet::run(world.client.clone(), world.namespace.name(), None);
    let mut observed = scaling(Some(50));
    observed["mode"] = "Observe".into();
    observed["schedules"] =
        json!([{"start": "0 0 * * *", "end": "24h", "timeZone": "Europe/Berlin", "minReplicas": 3}]);
    world.declare(&group, &topic, Some(observed)).await?;

    let said = world.wait_for(&group, "it says what it would do", |s| reason(s) == "ScheduledMinimum").await?;
    assert_eq!(condition(&said, "ScalingActive"), ("False", "ScalingObserved"));
    let decision = said.scaling.context("a decision")?;
    assert_eq!((decision.current, decision.desired), (Some(1), Some(3)), "{}", decision.message);
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), world.namespace.name());
    let replicas = async || anyhow::Ok(deployments.get("worker").await?.spec.and_then(|spec| spec.replicas));
    assert_eq!(replicas().await?, Some(1));

    world.edit(&group, &json!({"spec": {"scaling": {"mode": "Auto"}}})).await?;
    wait_until("the schedule holds", SOON, async || {
        let replicas = replicas().await?;
        ensure!(replicas == Some(3), "{replicas:?}");
        Ok(())
    })
    .await?;
    world.edit(&group, &json!({"spec": {"scaling": {"mode": "Off", "schedules": null}}})).await?;
    let off = world.wait_for(&group, "it is off", |s| reason(s) == "ScalingOff").await?;
    assert_eq!(condition(&off, "ScalingActive"), ("False", "ScalingOff"));
    assert!(off.lag.is_some(), "the lag is watched all the same");
    assert_eq!(replicas().await?, Some(3));
    Ok(())
}
