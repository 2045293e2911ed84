//! A namespace, an `MqCluster` and an operator of one test; other tests' operators do not touch them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mq_crds::{MqCluster, MqTopic};
use mq_kafka::{ConfigChange, TopicError};
use mq_operator::{Options, RunError};
use mq_testkit::{Broker, ControlPlane, Namespace, TestEnv, unique, wait_until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What a test works on.
pub(crate) struct World {
    pub(crate) kafka: Broker,
    pub(crate) client: Client,
    pub(crate) cluster: String,
    /// All topics of the test begin with it; the `MqCluster` grants them.
    pub(crate) prefix: String,
    control_plane: ControlPlane,
    namespace: Namespace,
    admin: mq_kafka::Client,
}

impl World {
    /// A namespace; neither `MqCluster` nor operator.
    pub(crate) async fn empty(base: &str) -> Result<Self> {
        Self::with(base, TestEnv::kafka().await?).await
    }

    /// The same with this broker.
    pub(crate) async fn with(base: &str, kafka: Broker) -> Result<Self> {
        let control_plane = crate::crds::installed().await?;
        let namespace = control_plane.namespace(base).await?;
        Ok(Self {
            client: control_plane.client()?,
            cluster: unique(base),
            prefix: unique(base),
            admin: mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default()),
            control_plane,
            namespace,
            kafka,
        })
    }

    /// A namespace with an `MqCluster` that grants the test's topics, and an operator.
    pub(crate) async fn served(base: &str) -> Result<(Self, Operator)> {
        let world = Self::empty(base).await?;
        world.apply_cluster(&world.spec_of_cluster()).await?;
        let operator = world.operator("one").await?;
        Ok((world, operator))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    pub(crate) fn spec_of_cluster(&self) -> Value {
        let topics = [format!("{}*", self.prefix)];
        json!({"brokers": [self.kafka.bootstrap()], "namespaces": [{"name": self.namespace(), "topics": topics}]})
    }

    pub(crate) async fn apply_cluster(&self, spec: &Value) -> Result<MqCluster> {
        let body = json!({"apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqCluster",
            "metadata": {"name": self.cluster}, "spec": spec});
        let apply = PatchParams::apply("test").force();
        Ok(self.clusters().patch(&self.cluster, &apply, &Patch::Apply(&body)).await?)
    }

    /// An operator that serves this world alone; `name` is its pod's.
    pub(crate) async fn operator(&self, name: &str) -> Result<Operator> {
        // The port is free a moment later as well: the kernel hands out another one to everybody else first.
        let metrics = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let options = Options::try_parse_from([
            "mq-operator",
            &format!("--clusters={}", self.cluster),
            &format!("--namespace={}", self.namespace()),
            &format!("--lease-namespace={}", self.namespace()),
            &format!("--pod-name={name}"),
            "--lease-duration=6s",
            "--topic-interval=1s",
            &format!("--metrics-addr={metrics}"),
        ])?;
        let shutdown = CancellationToken::new();
        let client = self.control_plane.client()?;
        let task = tokio::spawn(mq_operator::run(options, client, shutdown.clone()));
        Ok(Operator { shutdown, task, metrics })
    }

    pub(crate) fn clusters(&self) -> Api<MqCluster> {
        Api::all(self.client.clone())
    }

    pub(crate) fn topics(&self) -> Api<MqTopic> {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    /// The Kafka name of the object's topic.
    pub(crate) fn kafka_name(&self, object: &str) -> String {
        format!("{}.{object}", self.prefix)
    }

    /// Creates an `MqTopic` of 3 partitions; `more` adds to its spec or replaces fields.
    pub(crate) async fn declare(&self, object: &str, more: Value) -> Result<MqTopic> {
        let mut spec = json!({"cluster": self.cluster, "topicName": self.kafka_name(object), "partitions": 3});
        merge(&mut spec, more);
        let topic = json!({"apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqTopic",
            "metadata": {"name": object}, "spec": spec});
        let topic: MqTopic = serde_json::from_value(topic)?;
        Ok(self.topics().create(&PostParams::default(), &topic).await?)
    }

    /// Changes fields of an `MqTopic`; null removes one.
    pub(crate) async fn edit(&self, object: &str, patch: Value) -> Result<MqTopic> {
        Ok(self.topics().patch(object, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    pub(crate) async fn delete(&self, object: &str) -> Result<()> {
        self.topics().delete(object, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until the status answers for the newest spec with this reason.
    pub(crate) async fn until(&self, object: &str, reason: &str) -> Result<MqTopic> {
        let what = format!("MqTopic {object} is {reason}");
        wait_until(&what, PATIENCE, async || {
            let topic = self.topics().get(object).await?;
            let ready = ready(&topic)?;
            ensure!(ready.observed_generation == topic.metadata.generation, "an earlier spec is {}", ready.reason);
            ensure!(ready.reason == reason, "it is {}: {}", ready.reason, ready.message);
            Ok(topic)
        })
        .await
    }

    pub(crate) async fn until_cluster(&self, reason: &str) -> Result<MqCluster> {
        let what = format!("MqCluster {} is {reason}", self.cluster);
        wait_until(&what, PATIENCE, async || {
            let cluster = self.clusters().get(&self.cluster).await?;
            let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
            let ready = conditions.clone().find(|c| c.type_ == "Ready").context("no status yet")?;
            ensure!(ready.reason == reason, "it is {}: {}", ready.reason, ready.message);
            Ok(cluster)
        })
        .await
    }

    pub(crate) async fn until_gone(&self, object: &str) -> Result<()> {
        let what = format!("MqTopic {object} is gone");
        wait_until(&what, PATIENCE, async || match self.topics().get_opt(object).await? {
            None => Ok(()),
            Some(topic) => Err(anyhow!("it is {:?}", ready(&topic).map(|c| &c.message))),
        })
        .await
    }

    /// Waits until an event with this reason is there for the object, and returns its note.
    pub(crate) async fn until_event(&self, object: &str, reason: &str) -> Result<String> {
        self.until_note(object, reason, "").await
    }

    /// The same, of an event whose note contains these words.
    pub(crate) async fn until_note(&self, object: &str, reason: &str, words: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), self.namespace());
        wait_until(&format!("there is an event {reason} for {object}"), PATIENCE, async || {
            let all = events.list(&ListParams::default()).await?.items;
            let of_object =
                |event: &&Event| event.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(object));
            let notes: Vec<_> = all.iter().filter(of_object).map(|event| (&event.reason, &event.note)).collect();
            let mut with_reason =
                notes.iter().filter(|(of, _)| of.as_deref() == Some(reason)).filter_map(|(_, note)| note.as_ref());
            with_reason.find(|note| note.contains(words)).cloned().with_context(|| format!("there are {notes:?}"))
        })
        .await
    }

    /// The topic as Kafka has it; `None` if it has none.
    pub(crate) async fn in_kafka(&self, object: &str) -> Result<Option<mq_kafka::Topic>> {
        let name = self.kafka_name(object);
        match self.admin.describe_topics([&name]).await.remove(&name).context("no answer")? {
            Ok(topic) => Ok(Some(topic)),
            Err(TopicError::Absent) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn partitions(&self, object: &str) -> Result<Option<usize>> {
        Ok(self.in_kafka(object).await?.map(|topic| topic.partitions.len()))
    }

    /// A config as Kafka has it, and whether it is set on the topic itself.
    pub(crate) async fn config(&self, object: &str, key: &str) -> Result<(String, bool)> {
        let name = self.kafka_name(object);
        let mut all = self.admin.describe_configs([&name]).await.remove(&name).context("no answer")??;
        let entry = all.remove(key).with_context(|| format!("the topic has no {key}"))?;
        Ok((entry.value.unwrap_or_default(), entry.source == mq_kafka::ConfigSource::Topic))
    }

    /// Changes a config behind the operator's back.
    pub(crate) async fn meddle(&self, object: &str, key: &str, value: &str) -> Result<()> {
        let name = self.kafka_name(object);
        let change = ConfigChange::Set { key: key.into(), value: value.into() };
        let changes = [(name.clone(), vec![change])].into();
        self.admin.alter_configs(&changes, false).await.remove(&name).context("no answer")??;
        Ok(())
    }

    /// Deletes a topic behind the operator's back.
    pub(crate) async fn delete_in_kafka(&self, object: &str) -> Result<()> {
        let id = self.in_kafka(object).await?.context("no such topic")?.id;
        self.admin.delete_topics([id]).await.remove(&id).context("no answer")??;
        wait_until("the topic is gone from Kafka", PATIENCE, async || {
            let left = self.in_kafka(object).await?;
            ensure!(left.is_none_or(|topic| topic.id != id), "it is still there");
            Ok(())
        })
        .await
    }
}

/// The `Ready` condition.
pub(crate) fn ready(topic: &MqTopic) -> Result<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let conditions = topic.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().find(|condition| condition.type_ == "Ready").context("no status yet")
}

/// Its message, for asserting what a user reads.
pub(crate) fn message(topic: &MqTopic) -> &str {
    ready(topic).map(|condition| condition.message.as_str()).unwrap_or_default()
}

/// Whether there is a condition of this type that is true.
pub(crate) fn has(topic: &MqTopic, kind: &str) -> bool {
    let mut conditions = topic.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// A running operator; ends with the value.
pub(crate) struct Operator {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    metrics: SocketAddr,
}

impl Operator {
    /// As SIGTERM does.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        Ok((&mut self.task).await??)
    }

    /// As SIGKILL does: the lease stays held.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// Waits until it ends by itself, and says why.
    pub(crate) async fn ended(mut self) -> Result<RunError> {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await.context("the operator goes on")??;
        ended.err().context("the operator ended as if it had been asked to")
    }

    /// The sum of a metric over all its labels that contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let page = self.get("/metrics").await?;
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>().context("not a number")).sum()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let mut socket = TcpStream::connect(self.metrics).await?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        ensure!(head.contains(" 200 "), "{head}: {body}");
        Ok(body.to_owned())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}
