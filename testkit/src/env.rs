//! The description file of the launcher, and what it gives to tests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use tokio::process::Command;

use crate::{Audit, Broker, ControlPlane, KafkaCluster, Process, Secure};

const VARIABLE: &str = "MQ_TESTKIT";

/// What `mq-cluster run` wrote about the servers it started.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    /// Folder of `kubectl`, `helm` and the servers' binaries.
    bin: PathBuf,
    /// Unix socket that takes fault commands.
    control: PathBuf,
    control_plane: Option<ControlPlaneDescription>,
    kafka: Option<BrokerDescription>,
    #[serde(default)]
    kafka_cluster: Vec<BrokerDescription>,
    node: Option<NodeDescription>,
}

#[derive(Debug, Deserialize)]
struct ControlPlaneDescription {
    kubeconfig: PathBuf,
}

#[derive(Debug, Deserialize)]
struct BrokerDescription {
    bootstrap: String,
    metrics: String,
    secure: Option<Secure>,
    link: Option<LinkDescription>,
}

/// A listener of a broker that tells its clients to come by another address.
#[derive(Debug, Deserialize)]
struct LinkDescription {
    /// Where it listens.
    broker: String,
    /// Where it says that it does.
    link: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeDescription {
    kubeconfig: PathBuf,
    audit_log: PathBuf,
    address: String,
    kafka: BrokerDescription,
    images: BTreeMap<String, String>,
}

/// The way in: each function attaches to one kind of server of the running instance.
///
/// All of them fail when the instance does not have that server, naming the command that starts one.
#[derive(Debug)]
pub struct TestEnv;

impl TestEnv {
    /// An API server with the built-in controllers and no node: objects are real, pods never run.
    ///
    /// # Errors
    /// No such server in this run, or its kubeconfig is unusable.
    pub async fn control_plane() -> Result<ControlPlane> {
        let description = read()?;
        let found = description.control_plane.context(missing("--control-plane"))?;
        ControlPlane::attach(found.kubeconfig, &description.bin).await
    }

    /// A Kafka broker on the loopback interface.
    ///
    /// # Errors
    /// No such server in this run.
    #[expect(clippy::unused_async, reason = "the same shape as its siblings, and it may have to connect one day")]
    pub async fn kafka() -> Result<Broker> {
        kafka(read()?)
    }

    /// The broker of the run that this file describes.
    pub(crate) fn kafka_of(description: &Path) -> Result<Broker> {
        kafka(read_file(description)?)
    }

    /// The program that started the servers.
    pub(crate) fn launcher() -> Result<PathBuf> {
        Ok(read()?.bin.join("mq-cluster"))
    }

    /// A Java program, run from its source, that finds the classes of the brokers' version of Kafka.
    ///
    /// # Errors
    /// Without a run.
    pub fn java(source: &Path) -> Result<Command> {
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(read()?.bin.join("kafka-home/lib/*")).arg(source);
        java.kill_on_drop(true);
        Ok(java)
    }

    /// Three Kafka brokers on the loopback interface, all of them up and with every copy in place: what an earlier test left stopped
    /// or frozen goes on first. A test that disturbs them has to be the only one of its run.
    ///
    /// # Errors
    /// No such servers in this run, or they do not come up within a minute.
    pub async fn kafka_cluster() -> Result<KafkaCluster> {
        let description = read()?;
        anyhow::ensure!(!description.kafka_cluster.is_empty(), missing("--kafka-cluster"));
        let (mut brokers, mut links) = (Vec::new(), Vec::new());
        for (index, found) in description.kafka_cluster.into_iter().enumerate() {
            let (name, control) = (format!("kafka-{}", index + 1), description.control.clone());
            brokers.push(Broker::attach(name, found.bootstrap, found.metrics, found.secure, control));
            let link = found.link.context("a broker of the cluster has no listener behind a link")?;
            links.push((link.link, link.broker));
        }
        let cluster = KafkaCluster::attach(brokers, links);
        cluster.restore().await?;
        Ok(cluster)
    }

    /// A whole node: pods run, and one Kafka broker is reachable from them and from the host by the same address.
    ///
    /// # Errors
    /// No such server in this run (it needs root), or its kubeconfig is unusable.
    pub async fn node() -> Result<Node> {
        let description = read()?;
        let found = description.node.context(missing("--node"))?;
        Ok(Node {
            control_plane: ControlPlane::attach(found.kubeconfig, &description.bin).await?,
            kafka: Broker::attach(
                "node-kafka".to_owned(),
                found.kafka.bootstrap,
                found.kafka.metrics,
                None,
                description.control,
            ),
            address: found.address,
            audit_log: found.audit_log,
            images: found.images,
        })
    }
}

/// A one-node cluster with its broker.
#[derive(Debug)]
pub struct Node {
    pub control_plane: ControlPlane,
    pub kafka: Broker,
    /// IP of the node; pods and the host reach it by this address.
    pub address: String,
    audit_log: PathBuf,
    images: BTreeMap<String, String>,
}

impl Node {
    /// Full name of an image that was imported into the node, by its short name: `mq-operator` → `mq.test/mq-operator:dev`.
    ///
    /// # Errors
    /// The launcher was not given such an image.
    pub fn image(&self, short: &str) -> Result<&str> {
        let known = || self.images.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let image = self.images.get(short).with_context(|| {
            format!(
                "no image `{short}` in the node (there is: {}); `make images` builds them, `--image` imports them",
                known()
            )
        })?;
        Ok(image)
    }

    /// Everybody's writes at the API server from now on.
    ///
    /// # Errors
    /// The API server's audit log is not there.
    pub fn audit(&self) -> Result<Audit> {
        Audit::begin(&self.audit_log)
    }

    /// The process of a pod with one container, for faults.
    ///
    /// # Errors
    /// The pod does not run.
    pub fn process(&self, pod: &Pod) -> Result<Process> {
        Process::of(pod)
    }
}

fn read() -> Result<Description> {
    let path = std::env::var_os(VARIABLE).with_context(|| {
        format!(
            "{VARIABLE} is not set: this test needs real servers, run it with `make test` or under `mq-cluster run`"
        )
    })?;
    read_file(Path::new(&path))
}

fn read_file(path: &Path) -> Result<Description> {
    let attempt = || format!("reading {} (named by {VARIABLE}); is its `mq-cluster run` still alive?", path.display());
    let text = std::fs::read(path).with_context(attempt)?;
    serde_json::from_slice(&text).with_context(attempt)
}

fn kafka(description: Description) -> Result<Broker> {
    let found = description.kafka.context(missing("--kafka"))?;
    Ok(Broker::attach("kafka".to_owned(), found.bootstrap, found.metrics, found.secure, description.control))
}

fn missing(option: &str) -> String {
    format!("this run has no such server: start it with `mq-cluster run {option} -- …`, or use `make test`")
}
