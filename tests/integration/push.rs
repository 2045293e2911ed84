//! Config push over a real API server: tokens, revisions, status, and what pods hear.

mod agent;
mod rig;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use mq_core::value::ConfigValue;
use mq_crds::MqCluster;
use mq_protocol::{
    TOKEN_AUDIENCE,
    message::{ClientRef, FromAgent, FromServer, Kind, Version},
};
use mq_testkit::wait_until;
use rig::{Rig, SOON, orders, timed};
use serde_json::{Value, json};
use tonic::Code;

#[tokio::test]
async fn an_edit_reaches_the_pod_within_a_second_and_its_ack_the_status() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    agent.subscribe(None).await?;
    let (version, body) = agent.config().await?;
    assert_eq!((version.revision, &body["settings"]["lingerMs"]), (1, &json!(5)));
    assert_eq!(body["brokers"], json!(["127.0.0.1:1"]));
    agent.ack(&version, &[("lingerMs", "5"), ("acks", "all")]).await?;
    let status =
        rig.status("the client runs revision 1", |s| s.clients.as_ref().is_some_and(|c| c.applied == 1)).await?;
    assert_eq!(status.effective.get("lingerMs"), Some(&ConfigValue::Integer(5)));
    assert_eq!(status.effective.get("acks"), Some(&ConfigValue::Text("all".into())));
    assert_eq!(ready(&status.conditions), ("True".into(), "Applied".into()));

    let ((version, body), took) = timed(async {
        rig.edit_orders(json!({"lingerMs": 20})).await?;
        agent.config().await
    })
    .await?;
    assert_eq!((version.revision, &body["settings"]["lingerMs"]), (2, &json!(20)));
    ensure!(took < Duration::from_secs(1), "the edit took {took:?}");
    eprintln!("from edit to pod: {took:?}");
    agent.ack(&version, &[("lingerMs", "20")]).await?;
    let applied = |s: &mq_crds::MqProducerConfigStatus| s.effective.get("lingerMs") == Some(&ConfigValue::Integer(20));
    rig.status("the new value is effective", applied).await?;
    Ok(())
}

#[tokio::test]
async fn a_refused_revision_is_taken_back_and_never_sent_again() -> Result<()> {
    let mut rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let (mut first, mut second) = (rig.agent().await?, rig.agent().await?);
    let mut versions = Vec::new();
    for agent in [&mut first, &mut second] {
        agent.subscribe(None).await?;
        let (version, _) = agent.config().await?;
        agent.ack(&version, &[]).await?;
        versions.push(version);
    }
    rig.edit_orders(json!({"lingerMs": 50})).await?;
    let (bad, _) = first.config().await?;
    assert_eq!(second.config().await?.0, bad);
    first.nack(&bad, "no broker answers").await?;
    // The one that works on it still is told to go back; the one that refused runs the old one anyway.
    let (back, _) = second.config().await?;
    assert_eq!(back, versions[0]);
    second.ack(&back, &[]).await?;
    assert_eq!(first.hears().await?, FromServer::UpToDate { client: orders(), revision: 1 });
    first.ack(&versions[0], &[]).await?;

    let status = rig.status("revision 2 is rejected", |s| s.rejected_revisions == [2]).await?;
    assert_eq!((status.current_revision, status.update_revision), (Some(1), Some(2)));
    let rejected = status.conditions.iter().find(|c| c.type_ == "Reconciling").context("stalled")?;
    assert_eq!(rejected.reason, "RejectedByClient");
    let words = format!("pod {}: ProbeFailed: no broker answers", first.pod);
    assert!(rejected.message.contains(&words), "{}", rejected.message);

    // Neither a new pod gets it, nor anybody from the next leader, who also keeps the words.
    let mut third = rig.agent().await?;
    third.subscribe(None).await?;
    assert_eq!(third.config().await?.0, versions[0]);
    rig.stop_operator().await?;
    rig.run_operator();
    let mut fourth = rig.agent().await?;
    fourth.subscribe(None).await?;
    assert_eq!(fourth.config().await?.0, versions[0]);
    let status = rig.status("the rejection is remembered", |s| s.rejected_revisions == [2]).await?;
    let rejected = status.conditions.iter().find(|c| c.type_ == "Reconciling").context("stalled")?;
    assert!(rejected.message.contains(&words), "{}", rejected.message);

    // An edit heals it.
    rig.edit_orders(json!({"lingerMs": 7})).await?;
    let (healed, body) = fourth.config().await?;
    assert_eq!((healed.revision, &body["settings"]["lingerMs"]), (3, &json!(7)));
    fourth.ack(&healed, &[]).await?;
    rig.status("revision 3 is in force", |s| {
        s.current_revision == Some(3) && ready(&s.conditions).1 != "RejectedByClient"
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_operator_that_starts_again_sends_nothing_that_is_held_already() -> Result<()> {
    let mut rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    agent.subscribe(None).await?;
    let (version, _) = agent.config().await?;
    agent.ack(&version, &[("lingerMs", "5")]).await?;
    rig.status("the client runs revision 1", |s| s.clients.as_ref().is_some_and(|c| c.applied == 1)).await?;
    let revisions = revisions(&rig).await?;
    assert_eq!(revisions.len(), 1);
    let before = rig.producers().get("orders").await?.resource_version();

    rig.stop_operator().await?;
    assert!(matches!(agent.hears().await?, FromServer::Reconnect { .. }));
    rig.run_operator();
    let mut agent = rig.agent().await?;
    agent.subscribe(Some(version.clone())).await?;
    assert_eq!(agent.hears().await?, FromServer::UpToDate { client: orders(), revision: 1 });
    agent.ack(&version, &[("lingerMs", "5")]).await?;
    agent.is_silent(async { Ok(()) }).await?;
    // The same revision, and not even the status was written meanwhile.
    assert_eq!(self::revisions(&rig).await?, revisions);
    assert_eq!(rig.producers().get("orders").await?.resource_version(), before);
    Ok(())
}

#[tokio::test]
async fn deletion_is_told_and_another_object_of_the_name_is_another() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    agent.subscribe(None).await?;
    agent.config().await?;
    rig.delete_orders().await?;
    assert_eq!(agent.hears().await?, FromServer::Tombstone(orders()));
    wait_until("the file of the deleted object is gone", SOON, async || {
        let files = rig.config_map("mq-config").await?;
        ensure!(files.is_empty(), "{files:?}");
        Ok(())
    })
    .await?;
    rig.declare_orders(json!({"lingerMs": 6})).await?;
    loop {
        // Before its first revision is in force, an object may be seen without any.
        match agent.hears().await? {
            FromServer::NotReady { .. } => {}
            FromServer::Config { version, .. } => {
                assert_eq!(version.revision, 1);
                return Ok(());
            }
            other => anyhow::bail!("heard {other:?}"),
        }
    }
}

#[tokio::test]
async fn only_pods_of_granted_namespaces_with_the_right_token_come_in() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let refused = async |token: Option<&str>| -> Result<(Code, String)> {
        let status = rig.refusal(token).await?;
        Ok((status.code(), status.message().to_owned()))
    };
    let (code, message) = refused(None).await?;
    assert_eq!(code, Code::Unauthenticated, "{message}");
    assert!(message.contains("no token"), "{message}");
    let (code, message) = refused(Some("not.a.token")).await?;
    assert_eq!(code, Code::Unauthenticated, "{message}");

    let other_audience = rig.pod(&rig.namespace, "somebody-else").await?;
    let (code, message) = refused(Some(&other_audience.token)).await?;
    assert_eq!(code, Code::Unauthenticated, "{message}");
    assert!(message.contains("audience mq-operator"), "{message}");

    let unbound = rig.token(rig.namespace.name(), TOKEN_AUDIENCE, None).await?;
    let (code, message) = refused(Some(&unbound)).await?;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    assert!(message.contains("not bound to a pod"), "{message}");

    let stranger = rig.pod(&rig.stranger, TOKEN_AUDIENCE).await?;
    let (code, message) = refused(Some(&stranger.token)).await?;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    assert!(message.contains(rig.stranger.name()), "{message}");

    // Granted, it comes in, and still sees nothing of other namespaces.
    grant(&rig, json!([rig.namespace.name(), rig.stranger.name()])).await?;
    let mut agent = wait_until("the grant takes effect", SOON, async || rig.connect(&stranger).await).await?;
    agent.subscribe(None).await?;
    assert_eq!(agent.hears().await?, FromServer::Tombstone(orders()));
    Ok(())
}

#[tokio::test]
async fn a_full_server_says_so_and_serves_again_when_a_stream_ends() -> Result<()> {
    let rig = Rig::start_with(&["--push-max-streams=1"]).await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let (first, second) =
        (rig.pod(&rig.namespace, TOKEN_AUDIENCE).await?, rig.pod(&rig.namespace, TOKEN_AUDIENCE).await?);
    let agent = rig.connect(&first).await?;
    assert_eq!(rig.refusal(Some(&second.token)).await?.code(), Code::ResourceExhausted);
    drop(agent);
    let mut agent = wait_until("there is room again", SOON, async || rig.connect(&second).await).await?;
    agent.subscribe(None).await?;
    agent.config().await?;
    Ok(())
}

#[tokio::test]
async fn an_edit_of_the_cluster_is_a_new_revision() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    agent.subscribe(None).await?;
    agent.config().await?;
    let clusters: Api<MqCluster> = Api::all(rig.client.clone());
    let patch = Patch::Merge(json!({"spec": {"brokers": ["127.0.0.1:1", "127.0.0.1:2"]}}));
    clusters.patch(&rig.cluster, &PatchParams::default(), &patch).await?;
    let (version, body) = agent.config().await?;
    assert_eq!((version.revision, &body["brokers"]), (2, &json!(["127.0.0.1:1", "127.0.0.1:2"])));
    Ok(())
}

#[tokio::test]
async fn config_maps_say_where_to_connect_and_what_to_run_without_an_operator() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    let body = wait_until("the file of orders is there", SOON, async || {
        rig.config_map("mq-config").await?.remove("producer.orders.json").context("no file")
    })
    .await?;
    // What the file holds is what the server would send: it says so.
    let held = Version { revision: 0, hash: mq_protocol::body::hash(&body) };
    agent.subscribe(Some(held)).await?;
    assert_eq!(agent.hears().await?, FromServer::UpToDate { client: orders(), revision: 1 });

    let secrets: Api<Secret> = Api::namespaced(rig.client.clone(), rig.namespace.name());
    let secret = secrets.get(&format!("{}-push-tls", rig.cluster)).await?;
    let names: BTreeSet<String> = secret.data.unwrap_or_default().into_keys().collect();
    assert!(names.is_superset(&["ca.key".to_owned(), "tls.key".to_owned()].into()), "{names:?}");
    let public = [rig.config_map("mq-agent").await?, rig.config_map("mq-config").await?];
    assert!(public.iter().flatten().all(|(_, text)| !text.contains("PRIVATE KEY")));
    assert!(public[0]["ca.crt"].contains("BEGIN CERTIFICATE"));

    // Somebody's change is set right; without the grant they go.
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(rig.client.clone(), rig.namespace.name());
    let patch = Patch::Merge(json!({"data": {"endpoint": "https://evil"}}));
    maps.patch("mq-agent", &PatchParams::default(), &patch).await?;
    wait_until("the endpoint is set right", SOON, async || {
        let endpoint = rig.config_map("mq-agent").await?["endpoint"].clone();
        ensure!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
        Ok(())
    })
    .await?;
    grant(&rig, json!([])).await?;
    wait_until("the ConfigMaps of a namespace without grant are gone", SOON, async || {
        ensure!(maps.get_opt("mq-agent").await?.is_none() && maps.get_opt("mq-config").await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn somebody_elses_config_map_is_left_alone_and_told() -> Result<()> {
    let rig = Rig::start().await?;
    let namespace = rig.stranger.name();
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(rig.client.clone(), namespace);
    let foreign = json!({"metadata": {"name": "mq-config"}, "data": {"mine": "yes"}});
    maps.create(&kube::api::PostParams::default(), &serde_json::from_value(foreign)?).await?;
    grant(&rig, json!([rig.namespace.name(), namespace])).await?;

    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(rig.client.clone(), namespace);
    wait_until("an event says so", SOON, async || {
        let all = events.list(&ListParams::default()).await?.items;
        let about = |name: &str| all.iter().filter(|event| event.note.iter().any(|note| note.contains(name))).count();
        ensure!(about("ConfigMap mq-config was not made by mq-operator") == 1, "{all:?}");
        Ok(())
    })
    .await?;
    wait_until("the other one is made", SOON, async || maps.get("mq-agent").await.map(drop).map_err(Into::into))
        .await?;
    let left = maps.get("mq-config").await?;
    assert_eq!(left.data, Some([("mine".to_owned(), "yes".to_owned())].into()));
    assert!(!left.labels().contains_key("app.kubernetes.io/managed-by"), "{:?}", left.labels());

    maps.delete("mq-config", &kube::api::DeleteParams::default()).await?;
    wait_until("its name is free", SOON, async || {
        let map = maps.get("mq-config").await?;
        ensure!(map.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == "mq-operator"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_invalid_edit_changes_nothing_for_clients_and_a_group_is_pushed_too() -> Result<()> {
    let rig = Rig::start().await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let mut agent = rig.agent().await?;
    agent.subscribe(None).await?;
    let (version, _) = agent.config().await?;
    agent.ack(&version, &[]).await?;
    // What CEL cannot see: a property that a setting stands for.
    agent
        .is_silent(async {
            rig.edit_orders(json!({"overrides": {"delivery.timeout.ms": 3}})).await?;
            let status = rig.status("the edit is refused", |s| has(&s.conditions, "Stalled")).await?;
            assert_eq!(ready(&status.conditions), ("False".into(), "InvalidSpec".into()));
            assert_eq!(status.current_revision, Some(1));
            Ok(())
        })
        .await?;

    let group: mq_crds::MqConsumerGroup = serde_json::from_value(json!({
        "apiVersion": "mq.infra-kit.io/v1alpha1",
        "kind": "MqConsumerGroup",
        "metadata": {"name": "notifications"},
        "spec": {"cluster": rig.cluster, "topics": ["orders"], "consumer": {"maxPollRecords": 200}},
    }))?;
    let groups: Api<mq_crds::MqConsumerGroup> = Api::namespaced(rig.client.clone(), rig.namespace.name());
    groups.create(&kube::api::PostParams::default(), &group).await?;
    let client = ClientRef::new(Kind::Consumer, "notifications");
    wait_until("the group has a revision in force", SOON, async || {
        let status = groups.get("notifications").await?.status.context("no status")?;
        ensure!(status.current_revision == Some(1), "{status:?}");
        Ok(())
    })
    .await?;
    agent.say(FromAgent::Subscribe { client: client.clone(), held: None }).await?;
    let FromServer::Config { client: told, version, body } = agent.hears().await? else {
        anyhow::bail!("no configuration")
    };
    assert_eq!(told, client);
    let body: Value = serde_json::from_slice(&body)?;
    assert_eq!(body["groupId"], "notifications");
    assert_eq!(body["deadLetter"]["topic"], "notifications.dlq");
    assert_eq!(body["settings"]["maxPollRecords"], 200);
    agent.say(FromAgent::Ack { client, version, effective: [].into(), not_applied: vec![] }).await?;
    wait_until("the group's configuration is applied", SOON, async || {
        let status = groups.get("notifications").await?.status.context("no status")?;
        let applied = status.conditions.iter().any(|c| c.type_ == "ConfigApplied" && c.status == "True");
        ensure!(applied, "{:?}", status.conditions);
        Ok(())
    })
    .await
}

fn ready(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> (String, String) {
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| (condition.status.clone(), condition.reason.clone()))
        .unwrap_or_default()
}

fn has(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind)
}

async fn grant(rig: &Rig, names: Value) -> Result<()> {
    let names = names.as_array().cloned().unwrap_or_default();
    let grants: Vec<_> = names.iter().map(|name| json!({"name": name, "topics": ["*"]})).collect();
    let clusters: Api<MqCluster> = Api::all(rig.client.clone());
    clusters
        .patch(&rig.cluster, &PatchParams::default(), &Patch::Merge(json!({"spec": {"namespaces": grants}})))
        .await?;
    Ok(())
}

/// Names and resourceVersions of the stored revisions.
async fn revisions(rig: &Rig) -> Result<BTreeSet<(String, Option<String>)>> {
    let api: Api<ControllerRevision> = Api::namespaced(rig.client.clone(), rig.namespace.name());
    let list = api.list(&ListParams::default().labels("app.kubernetes.io/managed-by=mq-operator")).await?;
    Ok(list.items.iter().map(|revision| (revision.name_any(), revision.resource_version())).collect())
}
