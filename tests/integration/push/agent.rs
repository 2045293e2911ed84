//! The operator and the agent together: what is declared runs in a live client of a real broker, and is read back from it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mq_agent::{Agent, Message, Options};
use mq_core::value::ConfigValue;
use mq_crds::{MqCluster, MqProducerConfigStatus};
use mq_protocol::TOKEN_AUDIENCE;
use mq_testkit::{TestEnv, wait_until};
use serde_json::json;
use tempfile::TempDir;

use super::rig::{Rig, SOON, timed};

async fn point_at(rig: &Rig, brokers: &str) -> Result<()> {
    let clusters: Api<MqCluster> = Api::all(rig.client.clone());
    let patch = Patch::Merge(json!({"spec": {"brokers": [brokers]}}));
    clusters.patch(&rig.cluster, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The folder that a pod has as /var/run/mq.
async fn projected(rig: &Rig) -> Result<TempDir> {
    let map = wait_until("the ConfigMap mq-agent is there", SOON, async || rig.config_map("mq-agent").await).await?;
    let pod = rig.pod(&rig.namespace, TOKEN_AUDIENCE).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("token"), pod.token)?;
    for name in ["ca.crt", "endpoint"] {
        std::fs::write(folder.path().join(name), map.get(name).context(name)?)?;
    }
    Ok(folder)
}

fn runs_with_linger(status: &MqProducerConfigStatus, milliseconds: i64) -> bool {
    let clients = status.clients.clone().unwrap_or_default();
    let linger = status.effective.get("lingerMs");
    clients.connected > 0 && clients.applied == clients.connected && linger == Some(&ConfigValue::Integer(milliseconds))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_runs_in_the_agent_and_a_dead_broker_is_taken_back() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = kafka.unique("pushed");
    kafka.create_topic(&topic, 1).await?;
    let rig = Rig::start().await?;
    point_at(&rig, kafka.bootstrap()).await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let folder = projected(&rig).await?;
    let none = folder.path().join("none");
    let agent = Agent::connect_with(Options::in_folders(folder.path(), &none)).await;
    let producer = agent.producer("orders").await?;
    rig.status("the client runs with 5 ms", |status| runs_with_linger(status, 5)).await?;

    let (_, took) = timed(async {
        rig.edit_orders(json!({"lingerMs": 25})).await?;
        rig.status("the client runs with 25 ms", |status| runs_with_linger(status, 25)).await
    })
    .await?;
    eprintln!("from edit to status, read back from the live client: {took:?}");

    // The agent tries a new client on the dead address, keeps the old one, and says why.
    point_at(&rig, "127.0.0.1:1").await?;
    let patience = Duration::from_mins(1);
    let producers = rig.producers();
    let status = wait_until("the dead broker is rejected", patience, async || {
        let status = producers.get("orders").await?.status.context("no status")?;
        ensure!(!status.rejected_revisions.is_empty(), "{status:?}");
        Ok(status)
    })
    .await?;
    let rejected = status.conditions.iter().find(|c| c.type_ == "Reconciling").context("stalled")?;
    assert_eq!(rejected.reason, "RejectedByClient");
    assert!(rejected.message.contains("ProbeFailed"), "{}", rejected.message);
    producer.send_sync(Message::to(&topic).key("1").payload("still here")).await?;
    assert_eq!(kafka.read_all(&topic).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_agent_does_not_apply_is_named_in_the_status() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let rig = Rig::start().await?;
    point_at(&rig, kafka.bootstrap()).await?;
    rig.declare_orders(json!({"lingerMs": 5})).await?;
    let folder = projected(&rig).await?;
    let none = folder.path().join("none");
    let options = Options::in_folders(folder.path(), &none).keep(["lingerMs"]);
    let agent = Agent::connect_with(options).await;
    let _producer = agent.producer("orders").await?;
    let named = |status: &MqProducerConfigStatus| {
        let deviating = status.clients.iter().flat_map(|clients| &clients.deviating);
        deviating
            .into_iter()
            .any(|client| client.message.contains("does not apply") && client.message.contains("lingerMs"))
    };
    rig.status("lingerMs is named", named).await?;
    Ok(())
}
