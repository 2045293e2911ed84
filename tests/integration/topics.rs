//! `MqTopic` against a real broker: made, kept, taken over, left alone, deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use mq_crds::MqTopic;
use mq_testkit::wait_until;
use rdkafka::{
    ClientConfig,
    consumer::{Consumer, StreamConsumer},
};
use serde_json::json;

use crate::world::{World, has, message, ready};

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_grown_and_configured_as_declared() -> Result<()> {
    let (world, _operator) = World::served("topics").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;

    let topic = world.until("orders", "InSync").await?;
    let found = world.in_kafka("orders").await?.context("no topic")?;
    let status = topic.status.context("no status")?;
    assert_eq!(status.topic_id, Some(found.id.to_string()));
    assert_eq!((status.partitions, status.replication_factor), (Some(3), Some(1)));
    assert_eq!(found.partitions.len(), 3);
    assert_eq!(world.config("orders", "retention.ms").await?, ("3600000".into(), true));
    world.until_event("orders", "TopicCreated").await?;

    world.meddle("orders", "segment.ms", "600000").await?;
    world.edit("orders", json!({"spec": {"partitions": 5, "config": {"cleanup.policy": "compact, delete"}}})).await?;
    let topic = world.until("orders", "InSync").await?;
    assert_eq!(world.partitions("orders").await?, Some(5));
    assert_eq!(topic.status.and_then(|status| status.partitions), Some(5));
    assert_eq!(world.config("orders", "cleanup.policy").await?, ("compact,delete".into(), true));
    world.until_note("orders", "TopicGrown", "3 → 5").await?;
    world.edit("orders", json!({"spec": {"partitions": 6}})).await?;
    world.until_note("orders", "TopicGrown", "5 → 6").await?;

    world.edit("orders", json!({"spec": {"config": {"retention.ms": null}}})).await?;
    world.until("orders", "InSync").await?;
    let (_, set) = world.config("orders", "retention.ms").await?;
    assert!(!set, "a key that is no longer declared goes back to the default");
    assert_eq!(world.config("orders", "segment.ms").await?, ("600000".into(), true), "a foreign key is left alone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired_and_told() -> Result<()> {
    let (world, operator) = World::served("drift").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.until("orders", "InSync").await?;

    world.meddle("orders", "retention.ms", "1000").await?;

    let note = world.until_event("orders", "DriftRepaired").await?;
    assert!(note.contains("retention.ms 1000 → 3600000"), "{note}");
    wait_until("the status tells the drift", Duration::from_secs(30), async || {
        let topic = world.topics().get("orders").await?;
        let drift = topic.status.and_then(|status| status.last_drift).context("no lastDrift")?;
        ensure!((drift.key.as_str(), drift.was.as_str()) == ("retention.ms", "1000"), "{drift:?}");
        Ok(())
    })
    .await?;
    world.until("orders", "InSync").await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "3600000");
    assert!(operator.metric("mq_drift_total", &world.cluster).await? >= 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fight_about_a_setting_is_not_taken_up() -> Result<()> {
    let (world, operator) = World::served("fight").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.until("orders", "InSync").await?;

    wait_until("the status tells the fight", Duration::from_mins(1), async || {
        world.meddle("orders", "retention.ms", "1000").await?;
        let topic = world.topics().get("orders").await?;
        ensure!(ready(&topic)?.reason == "DriftContested", "{}", ready(&topic)?.reason);
        Ok(())
    })
    .await?;
    let note = world.until_event("orders", "DriftContested").await?;
    assert!(note.contains("orders: retention.ms;"), "{note}");
    let repaired = operator.metric("mq_drift_total", &world.cluster).await?;
    assert!((3.0..6.0).contains(&repaired), "{repaired} repairs");

    // The other side gave up.
    world.until("orders", "InSync").await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "3600000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_topic_is_taken_over_only_as_allowed() -> Result<()> {
    let (world, _operator) = World::served("adopt").await?;
    world.kafka.create_topic(&world.kafka_name("same"), 3).await?;
    world.kafka.create_topic(&world.kafka_name("other"), 2).await?;

    world.declare("same", json!({})).await?;
    world.declare("other", json!({"config": {"retention.ms": 3_600_000}})).await?;

    world.until("same", "InSync").await?;
    world.until_event("same", "TopicAdopted").await?;
    let conflict = world.until("other", "ResourceConflict").await?;
    assert!(
        message(&conflict).contains("partitions 2 (declared 3), retention.ms 604800000 (declared 3600000)"),
        "{}",
        message(&conflict)
    );
    assert!(has(&conflict, "Stalled"));
    assert_eq!(conflict.status.and_then(|status| status.topic_id), None, "nothing is owned");
    assert_eq!(world.partitions("other").await?, Some(2), "nothing was overwritten");

    world.edit("other", json!({"spec": {"adoption": "Always"}})).await?;
    world.until("other", "InSync").await?;
    assert_eq!(world.partitions("other").await?, Some(3));
    assert_eq!(world.config("other", "retention.ms").await?.0, "3600000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_stays_when_its_object_goes_unless_told_otherwise() -> Result<()> {
    let (world, _operator) = World::served("delete").await?;
    world.declare("kept", json!({})).await?;
    world.declare("empty", json!({"reclaimPolicy": "Delete"})).await?;
    world.declare("full", json!({"reclaimPolicy": "Delete"})).await?;
    for topic in ["kept", "empty", "full"] {
        world.until(topic, "InSync").await?;
    }
    world.kafka.produce(&world.kafka_name("full"), [("key", "value")]).await?;
    let kept = world.topics().get("kept").await?;
    assert_eq!(kept.metadata.finalizers, None, "Retain never holds up a namespace");

    for topic in ["kept", "empty", "full"] {
        world.delete(topic).await?;
    }

    world.until_gone("kept").await?;
    world.until_gone("empty").await?;
    assert_eq!(world.partitions("kept").await?, Some(3));
    assert_eq!(world.partitions("empty").await?, None);
    let guarded = world.until("full", "TopicNotEmpty").await?;
    assert!(message(&guarded).contains("holds 1 records"), "{}", message(&guarded));
    assert_eq!(world.partitions("full").await?, Some(3));
    world.until_event("full", "TopicNotEmpty").await?;

    world.edit("full", json!({"spec": {"forceDelete": world.kafka_name("full")}})).await?;
    world.until_gone("full").await?;
    assert_eq!(world.partitions("full").await?, None);
    world.until_event("full", "TopicDeleted").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_in_use_is_not_deleted() -> Result<()> {
    let (world, _operator) = World::served("used").await?;
    world.declare("orders", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("orders", "InSync").await?;
    let group = world.kafka.unique("used");
    let consumer = member(&world, &group, "orders")?;
    wait_until("the consumer owns partitions", Duration::from_secs(30), async || {
        let _ = tokio::time::timeout(Duration::from_millis(50), consumer.recv()).await;
        ensure!(consumer.assignment()?.count() == 3);
        Ok(())
    })
    .await?;

    world.delete("orders").await?;
    let guarded = world.until("orders", "TopicInUse").await?;
    assert!(message(&guarded).contains(&group), "{}", message(&guarded));
    assert_eq!(world.partitions("orders").await?, Some(3));

    drop(consumer);
    world.until_gone("orders").await?;
    assert_eq!(world.partitions("orders").await?, None);
    Ok(())
}

fn member(world: &World, group: &str, object: &str) -> Result<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", world.kafka.bootstrap())
        .set("group.id", group)
        .set("session.timeout.ms", "6000")
        .create()?;
    consumer.subscribe(&[&world.kafka_name(object)])?;
    Ok(consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_objects_for_one_topic_the_older_wins() -> Result<()> {
    let (world, _operator) = World::served("twice").await?;
    world.declare("first", json!({})).await?;
    world.until("first", "InSync").await?;
    let first = world.topics().get("first").await?;
    wait_until("a second later", Duration::from_secs(5), async || {
        // Creation times have seconds; the second object shall really be younger.
        let probe = world.topics().get("first").await?;
        let age = k8s_openapi::jiff::Timestamp::now() - probe.metadata.creation_timestamp.context("no time")?.0;
        ensure!(age.get_milliseconds() + age.get_seconds() * 1000 > 1100);
        Ok(())
    })
    .await?;

    let same_topic = json!({"topicName": world.kafka_name("first"), "partitions": 9, "adoption": "Always", "reclaimPolicy": "Delete", "forceDelete": world.kafka_name("first")});
    world.declare("second", same_topic).await?;

    let loser = world.until("second", "ResourceConflict").await?;
    assert!(message(&loser).contains(&format!("{}/first", world.namespace())), "{}", message(&loser));
    assert_eq!(world.partitions("first").await?, Some(3));
    world.delete("second").await?;
    world.until_gone("second").await?;
    assert_eq!(
        world.in_kafka("first").await?.map(|t| Some(t.id.to_string())),
        Some(first.status.and_then(|s| s.topic_id))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_declares_what_the_admin_did_not_grant() -> Result<()> {
    let (world, _operator) = World::served("grant").await?;
    let foreign = world.kafka.unique("foreign");
    world.declare("orders", json!({"topicName": foreign, "reclaimPolicy": "Delete"})).await?;

    let refused = world.until("orders", "NotGranted").await?;
    assert!(message(&refused).contains(&format!("only {}*, not {foreign}", world.prefix)), "{}", message(&refused));
    world.until_event("orders", "NotGranted").await?;

    let mut spec = world.spec_of_cluster();
    spec["namespaces"][0]["topics"] = json!([foreign]);
    world.apply_cluster(&spec).await?;
    world.until("orders", "InSync").await?;

    // The grant is taken back: the object may not delete any more, and holds up nobody.
    world.apply_cluster(&world.spec_of_cluster()).await?;
    world.until("orders", "NotGranted").await?;
    world.delete("orders").await?;
    world.until_gone("orders").await?;
    assert_eq!(world.kafka.read_all(&foreign).await?, [], "the topic is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_object_is_left_alone() -> Result<()> {
    let (world, _operator) = World::served("paused").await?;
    world.declare("orders", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.declare("witness", json!({"config": {"retention.ms": 3_600_000}})).await?;
    world.until("orders", "InSync").await?;
    world.until("witness", "InSync").await?;
    world.declare("leaving", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("leaving", "InSync").await?;
    for object in ["orders", "leaving"] {
        world.edit(object, json!({"metadata": {"annotations": {"mq.infra-kit.io/paused": "true"}}})).await?;
        world.until(object, "Paused").await?;
    }
    let paused = world.topics().get("orders").await?;
    assert_eq!(ready(&paused)?.status, "Unknown");
    assert!(paused.status.is_some_and(|status| status.topic_id.is_some()), "the status keeps what is owned");

    world.meddle("orders", "retention.ms", "1000").await?;
    world.meddle("witness", "retention.ms", "1000").await?;
    // By the time that the witness is repaired, the paused topic was seen as well.
    world.until_event("witness", "DriftRepaired").await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "1000");
    world.delete("leaving").await?;
    wait_until("a paused deletion says what it waits for", Duration::from_secs(30), async || {
        let leaving = world.topics().get("leaving").await?;
        ensure!(message(&leaving).contains("the deletion waits for that"), "{}", message(&leaving));
        Ok(())
    })
    .await?;

    world.edit("leaving", json!({"metadata": {"annotations": {"mq.infra-kit.io/paused": null}}})).await?;
    world.until_gone("leaving").await?;
    world.edit("orders", json!({"metadata": {"annotations": {"mq.infra-kit.io/paused": null}}})).await?;
    world.until_event("orders", "DriftRepaired").await?;
    world.until("orders", "InSync").await?;
    assert_eq!(world.config("orders", "retention.ms").await?.0, "3600000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_by_someone_else_is_not_taken_silently() -> Result<()> {
    let (world, operator) = World::served("anew").await?;
    world.declare("orders", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("orders", "InSync").await?;
    operator.stop().await?;
    world.delete_in_kafka("orders").await?;
    world.kafka.create_topic(&world.kafka_name("orders"), 3).await?;

    let _operator = world.operator("two").await?;
    let held = world.until("orders", "TopicRecreated").await?;
    assert!(has(&held, "Stalled"));
    world.edit("orders", json!({"spec": {"adoption": "Always"}})).await?;
    world.until("orders", "InSync").await?;

    // One that vanishes is made again, loudly.
    world.delete_in_kafka("orders").await?;
    let note = world.until_event("orders", "TopicVanished").await?;
    assert!(note.contains("records are gone"), "{note}");
    wait_until("the topic is there again", Duration::from_secs(30), async || {
        ensure!(world.partitions("orders").await? == Some(3));
        Ok(())
    })
    .await?;
    world.until("orders", "InSync").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_told_in_its_words_and_heals() -> Result<()> {
    let (world, _operator) = World::served("refused").await?;
    world.declare("bad", json!({"config": {"no.such.key": "1"}})).await?;
    world.declare("good", json!({})).await?;

    world.until("good", "InSync").await?;
    let refused = world.until("bad", "RefusedByKafka").await?;
    assert!(message(&refused).contains("no.such.key"), "{}", message(&refused));
    world.until_event("bad", "RefusedByKafka").await?;

    world.edit("bad", json!({"spec": {"config": {"no.such.key": null}}})).await?;
    world.until("bad", "InSync").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_does_not_deserialize_stops_no_other() -> Result<()> {
    let (world, operator) = World::served("broken").await?;
    world.declare("broken", json!({"reclaimPolicy": "Delete"})).await?;
    world.until("broken", "InSync").await?;
    operator.stop().await?;
    // The API server does not hold `format: int32` against a number; the operator's types do.
    let resource = ApiResource::erase::<MqTopic>(&());
    let untyped: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), world.namespace(), &resource);
    let status = json!({"status": {"partitions": 3_000_000_000_u32}});
    untyped.patch_status("broken", &PatchParams::default(), &Patch::Merge(status)).await?;

    let operator = world.operator("two").await?;
    world.declare("good", json!({})).await?;
    world.until("good", "InSync").await?;
    let note = world.until_event("broken", "Undeserializable").await?;
    assert!(note.contains("3000000000"), "{note}");
    // Its name is not up for grabs.
    world.declare("rival", json!({"topicName": world.kafka_name("broken"), "adoption": "Always"})).await?;
    let loser = world.until("rival", "ResourceConflict").await?;
    assert!(message(&loser).contains("/broken"), "{}", message(&loser));
    assert!((operator.metric("mq_undeserializable_objects", "MqTopic").await? - 1.0).abs() < f64::EPSILON);
    // Its deletion waits, and says how to let go.
    untyped.delete("broken", &kube::api::DeleteParams::default()).await?;
    wait_until("the status says how to let go", Duration::from_secs(30), async || {
        let broken = untyped.get("broken").await?;
        let status = broken.data["status"].to_string();
        ensure!(status.contains("the finalizer mq.infra-kit.io/topic is removed by hand"), "{status}");
        Ok(())
    })
    .await?;
    let let_go = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    untyped.patch("broken", &PatchParams::default(), &let_go).await?;
    world.until_gone("broken").await?;
    assert_eq!(world.partitions("broken").await?, Some(3));
    Ok(())
}
