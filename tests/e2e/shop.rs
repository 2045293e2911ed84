//! A shop of one test: the demo's objects and services in a namespace of their own, with topics and a group of their own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_demo::fault::Fault;
use mq_demo::install;
use mq_demo::story::{Setting, Stage};
use mq_testkit::{Namespace, Node, TestEnv, unique, wait_until};
use serde_json::Value;

/// The objects of the demo, not yet applied. Namespace and `MqCluster` go when it is dropped.
pub(crate) struct Shop {
    pub(crate) node: Node,
    pub(crate) stage: Stage,
    /// Deleted after the shop's `MqCluster`.
    _namespace: Namespace,
}

impl Shop {
    /// Sees to it that the operator is installed, and makes the namespace.
    pub(crate) async fn open(base: &str, fault: Option<Fault>) -> Result<Self> {
        let node = TestEnv::node().await?;
        install::operator(&node)?;
        let namespace = node.control_plane.namespace(base).await?;
        let setting = setting(&node, namespace.name(), fault)?;
        let stage = Stage::new(node.control_plane.client()?, setting);
        Ok(Self { node, stage, _namespace: namespace })
    }

    /// Applies everything and waits until it is ready and the services run.
    pub(crate) async fn with_services(base: &str, fault: Option<Fault>) -> Result<Self> {
        let shop = Self::open(base, fault).await?;
        shop.stage.declare().await?;
        shop.stage.declared().await?;
        shop.stage.start_services().await?;
        for service in ["order-service", "notification-service"] {
            shop.kubectl(&["rollout", "status", "--timeout=60s", &format!("deployment/{service}")])?;
        }
        Ok(shop)
    }

    /// `kubectl` in the shop's namespace; returns what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.node.control_plane.kubectl();
        install::run(kubectl.args(["-n", &self.stage.setting().namespace]).args(arguments))
    }

    /// Edits an object (`mqtopic/orders`) with a JSON merge patch.
    pub(crate) fn patch(&self, object: &str, patch: &str) -> Result<String> {
        self.kubectl(&["patch", object, "--type=merge", "-p", patch])
    }

    /// Until both pods of the order service are connected and run what is declared; a story does nothing before.
    pub(crate) async fn connected(&self) -> Result<()> {
        wait_until("both pods run what is declared", Duration::from_mins(1), async || {
            let status = self.status("MqProducerConfig", "orders").await?;
            ensure!(status["clients"]["applied"] == 2, "{status}");
            Ok(())
        })
        .await
    }

    /// The status of one of our objects; an error if the object or its status is not there.
    pub(crate) async fn status(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.stage.get(kind, name).await?;
        let status = object.and_then(|object| object.data.get("status").cloned());
        status.with_context(|| format!("{kind} {name} has no status"))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let mut kubectl = self.node.control_plane.kubectl();
        kubectl.args(["delete", "mqcluster", "--wait=false", &self.stage.setting().cluster]);
        let _ignored = kubectl.stdout(Stdio::null()).stderr(Stdio::null()).spawn(); // best effort: all goes with the run
    }
}

fn setting(node: &Node, namespace: &str, fault: Option<Fault>) -> Result<Setting> {
    Ok(Setting {
        kubeconfig: Some(node.control_plane.kubeconfig().to_owned()),
        namespace: namespace.to_owned(),
        cluster: namespace.to_owned(),
        brokers: node.kafka.bootstrap().to_owned(),
        prefix: format!("{}.", unique("shop")),
        order_image: node.image("order-service")?.to_owned(),
        notification_image: node.image("notification-service")?.to_owned(),
        pull_policy: "Never".to_owned(),
        fault,
    })
}

/// The program `mq-demo`, which `make images` builds beside the tests.
pub(crate) fn mq_demo() -> Result<PathBuf> {
    let tests = std::env::current_exe().context("cannot find this test program")?;
    let path = tests.ancestors().nth(2).context("this test program lies in no target folder")?.join("mq-demo");
    anyhow::ensure!(path.exists(), "{} is not there: `make images` builds it", path.display());
    Ok(path)
}
