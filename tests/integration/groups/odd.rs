//! Lags that are not as they look, and groups of clients that know nothing of mq.

use std::{collections::BTreeSet, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use mq_core::lag::{GroupTracker, Oddity, ResetPolicy, Unknown, Watch};
use mq_crds::{LagState, MqConsumerGroupStatus};
use mq_kafka::{Client, Options};
use mq_operator::groups::collect::{Offsets, Wanted};
use mq_testkit::{TestEnv, unique, wait_until};
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    condition,
    world::{SOON, World},
};

/// Read in each cycle, and left alone.
pub(super) fn watched() -> Value {
    json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"},
        "objective": {"lag": 1_000_000}, "maxReplicas": 1, "mode": "Off",
    })
}

/// Waits until the live answer has a note with these words, or none at all.
pub(super) async fn noted(world: &World, group: &str, words: Option<&str>, messages: i64) -> Result<()> {
    wait_until(&format!("{words:?} is said of {group}"), SOON, async || {
        let answer: Value = serde_json::from_str(&world.get(&format!("/groups?name={group}")).await?)?;
        let lag = &answer["groups"][0]["lag"];
        let notes = lag["notes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said = match words {
            Some(words) => notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains(words))),
            None => notes.is_empty(),
        };
        ensure!(said && lag["state"] == "Known" && lag["messages"] == messages, "{answer}");
        Ok(())
    })
    .await
}

type Transactional = ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

/// Leaves five records, and behind them one of a transaction that its producer has to end.
async fn begin_transaction(world: &World, topic: &str) -> Result<Arc<Transactional>> {
    world.fill(topic, 1, 5).await?;
    let mut config = world.kafka.client_config();
    config.set("transactional.id", topic);
    let producer: Arc<Transactional> = Arc::new(config.create()?);
    let (begins, into) = (Arc::clone(&producer), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        begins.init_transactions(SOON)?;
        begins.begin_transaction()?;
        begins.send(BaseRecord::<(), _>::to(&into).payload("x")).map_err(|(error, _)| error)?;
        begins.flush(SOON)
    })
    .await??;
    Ok(producer)
}

async fn end_transaction(producer: Arc<Transactional>) -> Result<()> {
    Ok(tokio::task::spawn_blocking(move || producer.commit_transaction(SOON)).await??)
}

/// Leaves five records, and behind them one of a transaction and its marker.
pub(super) async fn transact(world: &World, topic: &str) -> Result<()> {
    end_transaction(begin_transaction(world, topic).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_not_ended_and_one_that_left_only_its_marker_are_named() -> Result<()> {
    let world = World::new("transaction").await?;
    let (topic, group) = (world.topic(1).await?, unique("transaction"));
    let producer = begin_transaction(&world, &topic).await?;
    world.commit(&group, &topic, &[5]).await?;
    world.declare(&group, &topic, Some(watched())).await?;
    noted(&world, &group, Some("a transaction that began at offset 5 is not ended"), 1).await?;

    end_transaction(producer).await?;
    noted(&world, &group, None, 2).await?;
    // After the record, as clients commit that do not know of the marker behind it.
    world.commit(&group, &topic, &[6]).await?;
    noted(&world, &group, Some("from the committed offset to the end there are only markers"), 0).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 0.0).await?;
    world.fill(&topic, 1, 3).await?;
    noted(&world, &group, None, 3).await
}

#[tokio::test]
async fn commits_that_were_there_and_are_gone_are_told_from_none() -> Result<()> {
    let world = World::new("forgotten").await?;
    let topic = world.topic(2).await?;
    let (forgotten, never) = (unique("forgotten"), unique("never"));
    world.fill(&topic, 2, 10).await?;
    world.commit(&forgotten, &topic, &[7, 10]).await?;
    for group in [&forgotten, &never] {
        world.declare(group, &topic, Some(watched())).await?;
    }
    noted(&world, &forgotten, None, 3).await?;
    let admin: AdminClient<_> = world.kafka.client_config().create()?;
    for deleted in admin.delete_groups(&[&forgotten], &AdminOptions::new()).await? {
        deleted.map_err(|(group, code)| anyhow!("{group}: {code}"))?;
    }
    noted(&world, &forgotten, Some("the committed offset 7 expired or was deleted"), 20).await?;
    noted(&world, &never, None, 20).await?;
    let said = |reason: &'static str| move |s: &MqConsumerGroupStatus| condition(s, "KeepingUp").1 == reason;
    world.wait_for(&forgotten, "it is said", said("OffsetsForgotten")).await?;
    world.wait_for_metric("mq_group_forgotten_partitions", &forgotten, 2.0).await?;
    world.commit(&forgotten, &topic, &[9, 10]).await?;
    world.wait_for(&forgotten, "it has committed again", said("KeepsUp")).await?;
    noted(&world, &forgotten, None, 1).await
}

/// Nothing but the topic's id tells that a log of the same length is another one.
#[tokio::test]
async fn a_commit_to_the_topic_before_says_nothing_of_the_one_that_was_created_anew() -> Result<()> {
    let world =
        World::without_operator("by-id", crate::crds::installed().await?.client()?, TestEnv::kafka().await?, "15s");
    let world = world.await?;
    let (topic, group) = (world.topic(1).await?, unique("by-id"));
    let client = Client::new([world.kafka.bootstrap()], Options::default());
    let topics = BTreeSet::from([topic.clone()]);
    let wanted = |topics_anew| Wanted {
        groups: [(group.clone(), (topics.clone(), ResetPolicy::Earliest))].into(),
        topics_anew,
        ..Wanted::default()
    };
    let watch = Watch {
        age: None,
        reset: ResetPolicy::Earliest,
        commit_interval: Duration::from_secs(1),
        longest: Duration::ZERO,
    };
    let (mut offsets, mut tracker, mut cycle) = (Offsets::default(), GroupTracker::new(), 0);
    let mut look = async |anew: bool| {
        offsets.read(&client, &wanted(anew)).await;
        cycle += 1;
        let lag = tracker.observe_beside(
            Duration::from_secs(5) * cycle,
            &watch,
            &offsets.readings(&group, &topics),
            &offsets.unread(&topics),
        );
        (lag.outstanding, lag.unknown.into_values().next(), lag.oddities.into_values().next())
    };
    let anew = async || {
        world.delete_topic(&topic).await?;
        wait_until("it is made again", SOON, async || world.kafka.create_topic(&topic, 1).await).await?;
        wait_until("Kafka has forgotten the commit", SOON, async || {
            let found = client.committed_offsets([&group]).await.remove(&group).context("asked for")??;
            ensure!(found.committed(&topic, 0) == Ok(None), "{found:?}");
            Ok(())
        })
        .await?;
        world.fill(&topic, 1, 20).await
    };

    world.fill(&topic, 1, 20).await?;
    world.commit(&group, &topic, &[15]).await?;
    assert_eq!(look(true).await, (5, None, None));

    // A member that has not noticed commits what it had.
    anew().await?;
    world.commit(&group, &topic, &[15]).await?;
    assert_eq!(look(true).await, (0, Some(Unknown::OfAnotherTopic { committed: 15 }), None));
    world.commit(&group, &topic, &[3]).await?;
    assert_eq!(look(false).await, (17, None, None));

    // Kafka forgets what was committed of a topic that goes: that is a reason to look at its id before its turn.
    anew().await?;
    let forgotten = Oddity::Forgotten { committed: 3, reset: ResetPolicy::Earliest };
    assert_eq!(look(false).await, (20, None, Some(forgotten)));
    assert_eq!(look(false).await, (20, None, None));
    Ok(())
}

/// The consumer of Kafka's own tools.
fn java(world: &World, kafka: &Path, group: &str, topic: &str, more: &[&str]) -> Command {
    let classes = kafka.join("lib").join("*");
    let mut java = Command::new("java");
    java.args(["-Xmx128m", "-cp"]).arg(classes).arg("org.apache.kafka.tools.VerifiableConsumer");
    java.args(["--bootstrap-server", world.kafka.bootstrap(), "--topic", topic, "--group-id", group]);
    java.args(["--reset-policy", "earliest"]).args(more);
    java.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    java
}

#[tokio::test]
async fn groups_of_java_clients_of_both_protocols_are_read_rightly() -> Result<()> {
    let world = World::new("java").await?;
    let control_plane = crate::crds::installed().await?;
    let kafka = Path::new(control_plane.kubectl().get_program()).with_file_name("kafka-home");
    let sticky = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
    let mut running = Vec::new();
    for more in [&["--group-protocol", "consumer"][..], &["--assignment-strategy", sticky]] {
        let (topic, group) = (world.topic(3).await?, unique("java"));
        world.fill(&topic, 3, 5).await?;
        world.declare(&group, &topic, Some(watched())).await?;
        let client = java(&world, &kafka, &group, &topic, more).spawn()?;
        running.push((topic, group, client));
    }
    for (topic, group, _client) in running {
        let shown = |s: &MqConsumerGroupStatus| {
            let members = s.members.as_ref().map(|members| (members.count, &members.shown[..]));
            let all = format!("{topic} 0-2");
            matches!(members, Some((1, [one])) if one.partitions == 3 && one.assigned == all && one.host == "127.0.0.1")
        };
        let status = world.wait_for(&group, "its member is shown", shown).await?;
        ensure!(status.lag.as_ref().is_some_and(|lag| lag.state == LagState::Known), "{status:?}");
        world.wait_for_metric("mq_group_lag_messages", &group, 0.0).await?;
    }
    Ok(())
}
