//! Topics by pattern: the operator measures what the agent reads.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use mq_agent::{Agent, Options};
use mq_crds::{LagState, MqConsumerGroupStatus};
use mq_testkit::{unique, wait_until};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    condition, kubelet,
    world::{SOON, World},
};

/// Declares a group that consumes what is named or matched, in every cycle.
async fn declare(world: &World, name: &str, topics: &[&str]) -> Result<()> {
    let object = json!({
        "apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqConsumerGroup", "metadata": {"name": name},
        "spec": {"cluster": world.cluster, "topics": topics,
            "consumer": {"overrides": {"topic.metadata.refresh.interval.ms": 1_000}}, "scaling": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "objective": {"lag": 1_000_000}, "maxReplicas": 1, "mode": "Off",
        }},
    });
    world.groups().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

fn matches(names: &[&String]) -> impl Fn(&MqConsumerGroupStatus) -> bool {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    move |status| {
        let found = status.matched_topics.as_ref().is_some_and(|found| found.names == names);
        found && status.lag.as_ref().is_some_and(|lag| lag.state == LagState::Known)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_the_lag_of_what_its_pattern_matches_and_reads_just_that() -> Result<()> {
    let world = World::new("pattern").await?;
    let group = unique("pattern");
    let base = world.kafka.unique("by-pattern");
    let [eu, us, late, dead, other] = ["eu", "us", "zz", "dlq", "other"]
        .map(|end| if end == "other" { format!("x{base}") } else { format!("{base}.{end}") });
    for topic in [&eu, &us, &dead, &other] {
        world.kafka.create_topic(topic, 2).await?;
        world.fill(topic, 2, 5).await?;
    }
    let pattern = format!(r"^{}\.[a-z]+$", base.replace('.', r"\."));
    declare(&world, &group, &[&pattern]).await?;
    world.edit(&group, &json!({"spec": {"deadLetter": {"topic": dead}}})).await?;
    world.wait_for(&group, "its topics are found", matches(&[&eu, &us])).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 20.0).await?;

    // The agent is told the pattern, and reads the same topics.
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), world.namespace.name());
    let pod = wait_until("there is a pod", SOON, async || {
        pods.list(&ListParams::default()).await?.items.pop().context("none")
    })
    .await?;
    let projected = kubelet::projected(world.client.clone(), &pod).await?;
    let agent = Agent::connect_with(Options::in_folders(projected.path(), &projected.path().join("none"))).await;
    let consumer = agent.consumer(&group).await.with_context(|| pod.name_any())?;
    let (handled, mut records) = mpsc::unbounded_channel();
    let handling = tokio::spawn(async move {
        let tell = move |record: mq_agent::Record| {
            let told = handled.send(record.topic().to_owned());
            async move { told.map_err(mq_agent::Failure::retry) }
        };
        consumer.subscribe(tell).await
    });
    world.wait_for_metric("mq_group_lag_messages", &group, 0.0).await?;

    world.kafka.create_topic(&late, 2).await?;
    world.fill(&late, 2, 5).await?;
    world.wait_for(&group, "the new topic is found", matches(&[&eu, &us, &late])).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 0.0).await?;
    let mut read = Vec::new();
    while let Ok(topic) = records.try_recv() {
        read.push(topic);
    }
    read.sort();
    read.dedup();
    ensure!(read == [eu.clone(), us.clone(), late.clone()], "{read:?}");
    agent.drain_on(std::future::ready(()), SOON).await?;
    handling.await??;
    Ok(())
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_is_a_state_and_no_lag_of_zero() -> Result<()> {
    let world = World::new("no-match").await?;
    let (group, topic) = (unique("no-match"), world.kafka.unique("later"));
    declare(&world, &group, &[&format!("^{topic}$")]).await?;
    let unknown = |s: &MqConsumerGroupStatus| s.lag.as_ref().is_some_and(|lag| lag.state == LagState::Unknown);
    let status = world.wait_for(&group, "nothing is found", unknown).await?;
    let lag = status.lag.clone().context("a lag")?;
    assert_eq!((lag.messages, status.matched_topics.clone().map(|found| found.count)), (None, Some(0)));
    assert!(lag.reason.as_ref().is_some_and(|why| why.contains("no topic of the cluster matches it")), "{lag:?}");
    assert!(world.metric("mq_group_lag_messages", &group).await.is_err(), "what is not known is no number");

    world.kafka.create_topic(&topic, 3).await?;
    world.fill(&topic, 3, 2).await?;
    world.wait_for(&group, "it is found", matches(&[&topic])).await?;
    world.wait_for_metric("mq_group_lag_messages", &group, 6.0).await?;
    // It has as many partitions as the topic that was found.
    let dead = format!("{group}.dlq");
    wait_until("the dead-letter topic is made", SOON, async || {
        let client = mq_kafka::Client::new([world.kafka.bootstrap()], mq_kafka::Options::default());
        let found = client.describe_topics([&dead]).await.remove(&dead).context("asked for")??;
        ensure!(found.partitions.len() == 3, "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pattern_that_matches_more_than_is_granted_is_refused() -> Result<()> {
    let world = World::new("ungranted").await?;
    let group = unique("ungranted");
    let clusters: Api<mq_crds::MqCluster> = Api::all(world.client.clone());
    let grant =
        json!({"spec": {"namespaces": [{"name": world.namespace.name(), "topics": ["orders.*", "ungranted*"]}]}});
    clusters.patch(&world.cluster, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&grant)).await?;
    declare(&world, &group, &["^orders"]).await?;
    let refused = |s: &MqConsumerGroupStatus| condition(s, "Ready") == ("False", "NotGranted");
    let status = world.wait_for(&group, "it is refused", refused).await?;
    let said = status.conditions.iter().find(|condition| condition.type_ == "Ready").context("a condition")?;
    ensure!(said.message.contains("^orders matches names such as orders*"), "{}", said.message);
    world.edit(&group, &json!({"spec": {"topics": [r"^orders\."]}})).await?;
    world.wait_for(&group, "it is granted", |s| condition(s, "Ready").1 != "NotGranted").await?;
    Ok(())
}
