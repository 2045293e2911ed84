//! The operator's own pods: who leads, and what happens to a leader that was stopped and goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{Api, ResourceExt, api::ListParams};
use mq_demo::install::{self, NAMESPACE, RELEASE};
use mq_testkit::{Node, wait_until};

use crate::{at_rest::changes, shop::Shop};

/// The operator at the API server.
pub(crate) const USER: &str = "system:serviceaccount:mq-system:mq-operator";

/// The pod that leads: it carries the label, alone.
pub(crate) async fn leader(node: &Node) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(node.control_plane.client()?, NAMESPACE);
    let leader = ListParams::default().labels("mq.infra-kit.io/leader=true");
    wait_until("one pod carries the leader's label", Duration::from_secs(30), async || {
        let mut found = pods.list(&leader).await?.items;
        ensure!(found.len() == 1, "{:?}", found.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        found.pop().context("gone")
    })
    .await
}

/// Returns once so many replicas are there.
pub(crate) fn scale(node: &Node, replicas: u8) -> Result<()> {
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = node.control_plane.kubectl();
        install::run(kubectl.args(["-n", NAMESPACE]).args(arguments)).map(drop)
    };
    let deployment = format!("deployment/{RELEASE}");
    kubectl(&["scale", &deployment, &format!("--replicas={replicas}")])?;
    kubectl(&["rollout", "status", &deployment, "--timeout=60s"])
}

/// Leaves one replica to the other tests, however this one ends.
struct Alone<'a>(&'a Node);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Err(error) = scale(self.0, 1) {
            eprintln!("the operator was not scaled back to one replica: {error:#}");
        }
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

/// The lease runs out while the leader is stopped; another one takes over, and the first writes nothing when it goes on.
#[tokio::test]
async fn a_stopped_leader_that_goes_on_writes_nothing() -> Result<()> {
    let shop = Shop::with_services("stopped", None).await?;
    let (node, client) = (&shop.node, shop.node.control_plane.client()?);
    shop.connected().await?;
    let _alone = Alone(node);
    scale(node, 2)?;
    let old = leader(node).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);

    let stopped = node.process(&old)?.pause()?;
    // What the old leader will find undone by its own belief.
    shop.stage.linger(35).await?;
    shop.patch("mqtopic/orders", r#"{"spec":{"config":{"retention.ms":7200000}}}"#)?;
    let holder = wait_until("another one holds the Lease", Duration::from_secs(30), async || {
        let holder = leases.get(RELEASE).await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        ensure!(!holder.is_empty() && !holder.starts_with(&old.name_any()), "{holder}");
        Ok(holder)
    })
    .await?;
    wait_until("the new leader works", Duration::from_secs(20), async || {
        let object = shop.stage.get("MqTopic", "orders").await?.context("it is gone")?;
        let (generation, status) = (object.metadata.generation, &object.data["status"]);
        ensure!(status["observedGeneration"].as_i64() == generation, "{status}");
        Ok(())
    })
    .await?;
    let new = leader(node).await?;
    assert!(holder.starts_with(&format!("{}_", new.name_any())), "{holder} leads, {} is labelled", new.name_any());

    let (audit, before) = (node.audit()?, changes(&node.kafka).await?);
    drop(stopped);
    wait_until("the old leader ends and comes back as a follower", Duration::from_mins(1), async || {
        let pod = pods.get(&old.name_any()).await?;
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ensure!(ready && restarts(&pod) > restarts(&old), "{} restarts, ready: {ready}", restarts(&pod));
        Ok(())
    })
    .await?;
    let mut log = node.control_plane.kubectl();
    let log = install::run(log.args(["-n", NAMESPACE, "logs", "--previous", "--tail=20", &old.name_any()]))?;
    // Or it was asked to end: the kubelet, too, noticed that it hung.
    assert!(log.contains("lost the Lease") || log.contains("finishing"), "{log}");

    // The agents come back to the one that leads, and take the edit from it.
    wait_until("both pods run the edit", Duration::from_mins(1), async || {
        let status = shop.status("MqProducerConfig", "orders").await?;
        ensure!(status["clients"]["applied"] == 2 && status["currentRevision"] == 2, "{status}");
        Ok(())
    })
    .await?;
    assert_eq!(leader(node).await?.uid(), new.uid(), "the leader changed again");
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let service = ListParams::default().labels(&format!("kubernetes.io/service-name={RELEASE}-push"));
    let slices = slices.list(&service).await?.items;
    let behind = slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|end| Some(&end.target_ref.as_ref()?.uid));
    assert_eq!(behind.collect::<Vec<_>>(), [&new.metadata.uid], "what agents reach");
    // What was refused was tried all the same. Not so the renewal that it was stopped in: that is how it learns that it has lost.
    let (leases, others) = (audit.writes()?, audit.attempts()?);
    let leases = leases.into_iter().filter(|write| write.resource == "leases");
    let all = others.into_iter().filter(|write| write.resource != "leases").chain(leases);
    let by_old = all.filter(|write| write.pod.as_ref() == old.metadata.name.as_ref());
    let by_old: Vec<String> = by_old.map(|write| write.to_string()).collect();
    assert_eq!(by_old, [""; 0], "written by the old leader after it went on");
    assert_eq!(changes(&node.kafka).await?, before, "Kafka was changed again");
    Ok(())
}
