//! The lag that the operator tells is the lag that there is.

use std::time::Duration;

use anyhow::{Result, ensure};
use mq_crds::{LagState, MqConsumerGroupStatus};
use mq_testkit::{unique, wait_until};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    bounds, kubelet, target,
    world::{SOON, World},
};

#[tokio::test]
async fn lag_is_what_is_not_committed() -> Result<()> {
    let world = World::new("lag").await?;
    let (topic, group) = (world.topic(3).await?, unique("lag"));
    world.fill(&topic, 3, 30).await?;
    world.commit(&group, &topic, &[30, 20, 5]).await?;
    world.declare(&group, &topic, None).await?;

    let status = world.wait_for(&group, "the lag is known", |s| s.lag.is_some()).await?;

    let lag = status.lag.unwrap();
    assert_eq!((lag.state, lag.messages, lag.late, lag.reason), (LagState::Known, Some(35), None, None));
    assert_eq!(status.scaling, None);
    Ok(())
}

#[tokio::test]
async fn what_the_last_cycle_found_is_served_as_it_is() -> Result<()> {
    let world = World::new("live").await?;
    let topic = world.topic(3).await?;
    world.fill(&topic, 3, 50).await?;
    for group in ["watched", "scaled"] {
        world.commit(group, &topic, &[50, 20, 4]).await?;
    }
    world.declare("watched", &topic, None).await?;
    world.declare("scaled", &topic, Some(bounds(&target("apps/v1", "Deployment"), 1, 2))).await?;
    let asked =
        async |query: &str| anyhow::Ok(serde_json::from_str::<Value>(&world.get(&format!("/groups{query}")).await?)?);
    let answer = wait_until("both groups were looked at", SOON, async || {
        let answer = asked("").await?;
        let groups = answer["groups"].as_array().map(Vec::len);
        ensure!(groups == Some(2) && answer["groups"][0]["scaling"]["reason"] == "TargetNotFound", "{answer}");
        Ok(answer)
    })
    .await?;
    assert_eq!(answer["leader"], true);
    let (scaled, watched) = (&answer["groups"][0], &answer["groups"][1]);
    assert_eq!((&scaled["name"], &watched["name"]), (&json!("scaled"), &json!("watched")));
    assert_eq!(watched["namespace"], world.namespace.name());
    // To the message: a status rounds.
    assert_eq!(watched["lag"], json!({"state": "Known", "messages": 76}));
    assert_eq!(watched["scaling"], Value::Null);

    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    wait_until("its decision is there", SOON, async || {
        let answer = asked(&format!("?namespace={}&name=scaled", world.namespace.name())).await?;
        let group = &answer["groups"][0];
        ensure!(group["scaling"]["current"] == 1 && group["scaling"]["terms"]["backlog"].is_number(), "{answer}");
        ensure!(answer["groups"].as_array().map(Vec::len) == Some(1) && group["lookedAt"] != scaled["lookedAt"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_a_commit_the_reset_policy_says_what_is_owed() -> Result<()> {
    let world = World::new("reset").await?;
    let topic = world.topic(2).await?;
    world.fill(&topic, 2, 20).await?;
    let (earliest, latest) = (unique("earliest"), unique("latest"));
    world.declare(&earliest, &topic, None).await?;
    world.declare(&latest, &topic, None).await?;
    world.edit(&latest, &json!({"spec": {"consumer": {"autoOffsetReset": "latest"}}})).await?;

    world.wait_for_metric("mq_group_lag_messages", &earliest, 40.0).await?;
    world.wait_for_metric("mq_group_lag_messages", &latest, 0.0).await
}

#[tokio::test]
async fn what_is_not_known_is_never_zero() -> Result<()> {
    let world = World::new("unknown").await?;
    let (missing, beyond) = (unique("missing"), unique("beyond"));
    world.declare(&missing, &unique("no-such-topic"), None).await?;
    let topic = world.topic(1).await?;
    world.commit(&beyond, &topic, &[900]).await?;
    world.declare(&beyond, &topic, None).await?;

    for (group, words) in [(&missing, "the topic does not exist"), (&beyond, "re-created or truncated")] {
        let status = world.wait_for(group, "its lag is judged", |s| s.lag.is_some()).await?;
        let lag = status.lag.unwrap();
        assert_eq!((lag.state, lag.messages), (LagState::Unknown, None));
        assert!(lag.reason.as_ref().is_some_and(|reason| reason.contains(words)), "{lag:?}");
        assert!(world.metric("mq_group_lag_messages", group).await.is_err(), "no series for {group}");
    }
    Ok(())
}

#[tokio::test]
async fn late_is_what_waits_longer_than_the_objective() -> Result<()> {
    let world = World::new("late").await?;
    let (topic, group) = (world.topic(2).await?, unique("late"));
    world.commit(&group, &topic, &[0, 0]).await?;
    let scaling = json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"},
        "objective": {"age": "11s"}, "maxReplicas": 2,
    });
    world.declare(&group, &topic, Some(scaling)).await?;
    world.wait_for_metric("mq_group_late_messages", &group, 0.0).await?;

    world.fill(&topic, 2, 25).await?;
    let written = Instant::now();
    world.wait_for_metric("mq_group_lag_messages", &group, 50.0).await?;
    let late = world.metric("mq_group_late_messages", &group).await?;
    ensure!(
        late == 0.0 || written.elapsed() > Duration::from_secs(11),
        "{late} are late after {:?}",
        written.elapsed()
    );
    world.wait_for_metric("mq_group_late_messages", &group, 50.0).await?;
    assert!(written.elapsed() >= Duration::from_secs(11), "late before the objective: {:?}", written.elapsed());

    let keeping_up = |reason: &'static str| {
        move |s: &MqConsumerGroupStatus| s.conditions.iter().any(|c| c.type_ == "KeepingUp" && c.reason == reason)
    };
    world.wait_for(&group, "the broken promise is said", keeping_up("ObjectiveBreached")).await?;

    world.commit(&group, &topic, &[25, 15]).await?;
    world.wait_for_metric("mq_group_late_messages", &group, 10.0).await?;
    world.commit(&group, &topic, &[25, 25]).await?;
    world.wait_for_metric("mq_group_late_messages", &group, 0.0).await?;
    world.wait_for(&group, "the promise is kept again", keeping_up("KeepsUp")).await?;
    Ok(())
}

#[tokio::test]
async fn groups_that_nobody_declared_have_a_lag_too() -> Result<()> {
    let world = World::new("others").await?;
    let (topic, group) = (world.topic(2).await?, unique("others"));
    world.fill(&topic, 2, 10).await?;
    world.commit(&group, &topic, &[10, 3]).await?;

    wait_until("the group is counted", SOON, async || {
        let lag = world.series("mq_kafka_group_lag_messages", "group", &group).await?;
        ensure!((lag - 7.0).abs() < 0.5, "its lag is {lag}");
        ensure!(world.series("mq_kafka_groups", "lag", "shown").await? > 0.5);
        Ok(())
    })
    .await?;

    // Kafka forgets what was committed of a topic that goes.
    world.delete_topic(&topic).await?;
    wait_until("the group has no series", SOON, async || {
        ensure!(world.series("mq_kafka_group_lag_messages", "group", &group).await.is_err(), "it still has one");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_topic_that_is_created_anew_has_the_lag_of_the_new_one() -> Result<()> {
    let world = World::new("anew").await?;
    let (topic, group) = (world.topic(2).await?, unique("anew"));
    world.fill(&topic, 2, 30).await?;
    world.commit(&group, &topic, &[30, 20]).await?;
    // Scaled, so that it is read in every cycle.
    let scaling = bounds(&target("apps/v1", "Deployment"), 1, 2);
    world.declare(&group, &topic, Some(scaling)).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 10.0).await?;

    world.delete_topic(&topic).await?;
    wait_until("the topic is gone and made again", SOON, async || {
        world.kafka.create_topic(&topic, 2).await?;
        Ok(())
    })
    .await?;
    world.fill(&topic, 2, 4).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 8.0).await?;
    world.commit(&group, &topic, &[4, 2]).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 2.0).await
}

/// Fifty groups, read in every cycle, cost as many requests as one.
#[tokio::test]
async fn fifty_groups_are_read_in_three_requests() -> Result<()> {
    const GROUPS: usize = 50;
    const CYCLES: u32 = 12;
    let world = World::new("many").await?;
    let topic = world.topic(4).await?;
    world.fill(&topic, 4, 1).await?;
    let names: Vec<String> = (0..GROUPS).map(|n| unique(&format!("many-{n}"))).collect();
    for name in &names {
        let scaling = json!({
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"},
            "objective": {"lag": 100}, "maxReplicas": 2,
        });
        world.declare(name, &topic, Some(scaling)).await?;
    }
    wait_until("the lag of all groups is told", SOON, async || {
        for name in &names {
            ensure!((world.metric("mq_group_lag_messages", name).await? - 4.0).abs() < 0.5, "{name}");
        }
        Ok(())
    })
    .await?;

    let before = (world.kafka.requests("OffsetFetch").await?, world.kafka.requests("ListOffsets").await?);
    sleep(Duration::from_secs(1) * CYCLES).await;
    let fetched = world.kafka.requests("OffsetFetch").await? - before.0;
    let listed = world.kafka.requests("ListOffsets").await? - before.1;

    eprintln!("{CYCLES} cycles of {GROUPS} groups: {fetched} OffsetFetch, {listed} ListOffsets (other tests included)");
    // Other tests of this run read their groups at the same time: a few requests per second. One request per group would be 600.
    assert!(fetched >= u64::from(CYCLES) / 2, "nothing was read: {fetched}");
    assert!(fetched <= u64::from(CYCLES) * 12, "{fetched} OffsetFetch in {CYCLES} cycles");
    assert!(listed <= u64::from(CYCLES) * 12, "{listed} ListOffsets in {CYCLES} cycles");
    Ok(())
}
