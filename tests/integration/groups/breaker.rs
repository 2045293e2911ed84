//! What an agent says of its dead-letter breaker is a condition of the group.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{Api, ResourceExt, api::ListParams};
use mq_agent::{Agent, DeadLetterBreaker, Failure, Options};
use mq_testkit::{unique, wait_until};
use serde_json::json;

use super::{
    condition, kubelet,
    world::{SOON, World},
};

/// What was told of the group, by reason.
async fn told(world: &World, reason: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), world.namespace.name());
    let all = events.list(&ListParams::default()).await?.items;
    let told = all.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
    Ok(told.filter_map(|event| event.note).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_dead_letter_breaker_is_a_condition_of_the_group_until_it_closes() -> Result<()> {
    let world = World::new("breaker").await?;
    let (topic, group) = (world.topic(2).await?, unique("breaker"));
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let scaling = json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
        "objective": {"age": "10m"}, "maxReplicas": 1, "mode": "Off",
    });
    world.declare(&group, &topic, Some(scaling)).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), world.namespace.name());
    let pod = wait_until("there is a pod", SOON, async || {
        pods.list(&ListParams::default()).await?.items.pop().context("none")
    })
    .await?;
    let projected = kubelet::projected(world.client.clone(), &pod).await?;
    // The first record that fails is held, so nothing is buried.
    let options = Options::in_folders(projected.path(), &projected.path().join("none"))
        .dead_letter_breaker(DeadLetterBreaker::new(1, 1));
    let agent = Agent::connect_with(options).await;
    let consumer = agent.consumer(&group).await?;
    let broken = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let (consumer, broken) = (consumer.clone(), Arc::clone(&broken));
        async move {
            let handler = move |_| {
                let broken = broken.load(Ordering::SeqCst);
                async move { if broken { Err(Failure::reject("no database")) } else { Ok(()) } }
            };
            consumer.subscribe(handler).await
        }
    });
    world.fill(&topic, 2, 5).await?;
    world.wait_for(&group, "it keeps up", |s| condition(s, "KeepingUp") == ("True", "KeepsUp")).await?;
    world.wait_for_metric("mq_group_open_breakers", &group, 0.0).await?;

    broken.store(true, Ordering::SeqCst);
    world.fill(&topic, 2, 5).await?;
    let held = world.wait_for(&group, "records are held", |s| condition(s, "KeepingUp").1 == "DeadLettersHeld").await?;
    assert_eq!(condition(&held, "KeepingUp").0, "False");
    let said = held.conditions.iter().find(|condition| condition.type_ == "KeepingUp").context("no condition")?;
    let words = format!("so many records failed (\"no database\") in {} that", pod.name_any());
    ensure!(said.message.contains(&words), "{}", said.message);
    world.wait_for_metric("mq_group_open_breakers", &group, 1.0).await?;
    ensure!(world.metric("mq_group_oldest_in_hand_seconds", &group).await? > 0.0);
    wait_until("an event says it", SOON, async || {
        let told = told(&world, "DeadLettersHeld").await?;
        ensure!(told.iter().any(|note| note.contains(&words)), "{told:?}");
        Ok(())
    })
    .await?;

    // One record is tried again after a while.
    broken.store(false, Ordering::SeqCst);
    world.wait_for(&group, "it keeps up again", |s| condition(s, "KeepingUp") == ("True", "KeepsUp")).await?;
    world.wait_for_metric("mq_group_open_breakers", &group, 0.0).await?;
    wait_until("an event says that it is over", SOON, async || {
        ensure!(!told(&world, "KeepsUp").await?.is_empty(), "none");
        Ok(())
    })
    .await?;
    assert_eq!(consumer.stats().dead_letters, 0);
    consumer.close(SOON).await;
    reading.await??;
    Ok(())
}
