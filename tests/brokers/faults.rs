//! Brokers that die, hang and restart while records flow.

use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Message, SendError};
use mq_testkit::{TestEnv, wait_until};
use tokio::time::Instant;

use super::scene::{PATIENCE, Scene, TWO, producer, watched};

/// Requests are given up soon, so that a broker that hangs is left while it hangs.
const IMPATIENT: &str = r#"{"overrides": {"socket.timeout.ms": "3000", "request.timeout.ms": "2000"}}"#;

/// Waits until another broker leads the partition than this one.
async fn wait_leader_moved(scene: &Scene, leader: i32) -> Result<()> {
    wait_until("another broker leads", PATIENCE, async || {
        let now = scene.cluster.leader(&scene.group.topic, 0).await?;
        ensure!(now != leader, "{now} still does");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_and_reorders_nothing() -> Result<()> {
    let scene = Scene::new("killed").await?;
    let members = [scene.join()?, scene.join()?];
    let writer = scene.write(&scene.cluster.bootstrap(), "{}").await?;
    watched!(scene, async {
        scene.flows(&writer, &members).await?;
        let leader = scene.cluster.leader(&scene.group.topic, 0).await?;
        scene.cluster.broker(leader)?.kill().await?;
        wait_leader_moved(&scene, leader).await?;
        scene.flows(&writer, &members).await?;
        scene.cluster.broker(leader)?.start().await?;
        scene.flows(&writer, &members).await?;
        scene.tell_all(writer).await
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_with_another_coordinator() -> Result<()> {
    let scene = Scene::new("coordinator").await?;
    let members = [scene.join()?, scene.join()?];
    let writer = scene.write(&scene.cluster.bootstrap(), "{}").await?;
    watched!(scene, async {
        scene.flows(&writer, &members).await?;
        scene.commits().await?;
        let coordinator = scene.cluster.coordinator(&scene.group.id).await?;
        scene.cluster.broker(coordinator)?.kill().await?;
        wait_until("another broker coordinates", PATIENCE, async || {
            let now = scene.cluster.coordinator(&scene.group.id).await?;
            ensure!(now != coordinator, "{now} still does");
            Ok(())
        })
        .await?;
        scene.commits().await?;
        scene.flows(&writer, &members).await?;
        scene.tell_all(writer).await
    })
}

/// When it wakes it still takes itself for the leader, and finds the requests of clients that have long gone to another. For a moment it
/// also answers what was committed when it stopped, so what it says is not watched; that no commit goes back shows the log of commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_left_and_does_no_harm_when_it_wakes() -> Result<()> {
    let scene = Scene::new("hangs").await?;
    let members = [scene.join()?, scene.join()?];
    let writer = scene.write(&scene.cluster.bootstrap(), IMPATIENT).await?;
    scene.flows(&writer, &members).await?;
    let leader = scene.cluster.leader(&scene.group.topic, 0).await?;
    scene.cluster.broker(leader)?.pause().await?;
    wait_leader_moved(&scene, leader).await?;
    scene.flows(&writer, &members).await?;
    scene.cluster.broker(leader)?.resume().await?;
    scene.flows(&writer, &members).await?;
    scene.tell_all(writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_enough_copies_a_send_waits_or_fails_and_is_never_acknowledged() -> Result<()> {
    let cluster = TestEnv::kafka_cluster().await?;
    let topic = cluster.unique("copies");
    cluster.create_topic(&topic, 1, 2, &[TWO]).await?;
    let leader = cluster.leader(&topic, 0).await?;
    let follower = cluster.in_sync(&topic, 0).await?.into_iter().find(|id| *id != leader).unwrap_or_default();
    let patient = producer(&cluster.bootstrap(), r#"{"retryMax": 1000}"#).await?;
    let hasty = producer(&cluster.bootstrap(), r#"{"retryMax": 3}"#).await?;
    patient.send_sync(Message::to(&topic).key("k").payload("before")).await?;

    cluster.broker(follower)?.kill().await?;
    wait_until("one copy is left", PATIENCE, async || {
        let in_sync = cluster.in_sync(&topic, 0).await?;
        ensure!(in_sync == [leader], "in sync are {in_sync:?}");
        Ok(())
    })
    .await?;
    let mut waits = patient.send(Message::to(&topic).key("k").payload("waits")).await?;
    let failed = hasty.send_sync(Message::to(&topic).key("k").payload("fails")).await.unwrap_err();
    ensure!(matches!(failed, SendError::NotAcknowledged { .. }) && failed.is_retryable(), "{failed}");
    ensure!(failed.to_string().contains("Not enough in-sync replicas"), "{failed}");
    let early = tokio::time::timeout(Duration::from_secs(1), &mut waits).await;
    ensure!(early.is_err(), "one copy was enough: {early:?}");

    cluster.broker(follower)?.start().await?;
    let ack = tokio::time::timeout(PATIENCE, waits).await??;
    let log = cluster.read_all(&topic).await?;
    let values: Vec<_> = log.iter().filter_map(mq_testkit::Record::value_str).collect();
    // What failed may have been written, if the leader had not heard yet that it is alone; never what was acknowledged twice.
    ensure!(values == ["before", "waits"] || values == ["before", "waits", "fails"], "{values:?}");
    ensure!(ack.offset.is_none_or(|offset| offset == 1), "{ack:?}");
    Ok(())
}

/// A coordinator that takes over was seen to answer an older commit for a moment, so what it says is not watched; that no commit goes back
/// shows the log of commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_not_noticed() -> Result<()> {
    let scene = Scene::new("rolling").await?;
    let members = [scene.join()?, scene.join()?];
    let writer = scene.write(&scene.cluster.bootstrap(), "{}").await?;
    scene.flows(&writer, &members).await?;
    for broker in scene.cluster.brokers() {
        broker.stop().await?;
        scene.flows(&writer, &members).await?;
        broker.start().await?;
        scene.cluster.wait_in_sync(&scene.group.topic).await?;
    }
    scene.flows(&writer, &members).await?;
    scene.tell_all(writer).await
}

/// Nobody can say who leads: nothing is acknowledged, and all of it arrives when the brokers are back. A coordinator that wakes or takes
/// over answers an older commit for a moment, so what it says is not watched; that no commit goes back shows the log of commits.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: brokers are killed and frozen at random for three minutes"]
async fn brokers_that_fail_again_and_again_lose_and_reorder_nothing() -> Result<()> {
    let scene = Scene::new("again").await?;
    let members = [scene.join()?, scene.join()?];
    let writer = scene.write(&scene.cluster.bootstrap(), IMPATIENT).await?;
    let end = Instant::now() + Duration::from_mins(3);
    while Instant::now() < end {
        scene.flows(&writer, &members).await?;
        let ids: Vec<i32> = (1..=3).collect();
        let failing = &ids[fastrand::usize(0..2)..];
        let pause = fastrand::bool();
        println!("{} {failing:?}", if pause { "freezing" } else { "killing" });
        for id in failing {
            let broker = scene.cluster.broker(*id)?;
            if pause { broker.pause().await? } else { broker.kill().await? }
        }
        tokio::time::sleep(Duration::from_secs(fastrand::u64(2..10))).await;
        scene.cluster.restore().await?;
    }
    let told = scene.tell(writer).await?;
    ensure!(told.written.failed == 0, "{} messages failed", told.written.failed);
    Ok(())
}
