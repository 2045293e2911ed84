//! One operator with a cluster, a namespace and topics of its own.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use futures::future::try_join_all;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use mq_crds::{MqCluster, MqConsumerGroup, MqConsumerGroupStatus};
use mq_operator::Options;
use mq_testkit::{Broker, Namespace, TestEnv, unique, wait_until};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    consumer::{BaseConsumer, CommitMode, Consumer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for anything that happens within a few cycles.
pub(super) const SOON: Duration = Duration::from_mins(1);

/// Waits until so many replicas of the workload `worker` are asked for, by what `/scale` says.
pub(super) async fn until_scaled<K: Clone + DeserializeOwned>(api: &Api<K>, replicas: i32) -> Result<()> {
    wait_until(&format!("{replicas} replicas are asked for"), SOON, async || {
        let found = api.get_scale("worker").await?.spec.and_then(|spec| spec.replicas);
        ensure!(found == Some(replicas), "{found:?}");
        Ok(())
    })
    .await
}

pub(super) struct World {
    pub(super) client: Client,
    pub(super) kafka: Broker,
    pub(super) namespace: Namespace,
    pub(super) cluster: String,
    operators: Client,
    lease: &'static str,
    operator: Option<Operator>,
}

/// What an operator is told that serves this cluster and this namespace alone, and where it serves its metrics. Its cycles last one second.
fn arguments(cluster: &str, namespace: &str, lease: &str) -> Result<(u16, Vec<String>)> {
    let free_port = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let (metrics, push) = (free_port()?, free_port()?);
    let arguments = vec![
        "mq-operator".to_owned(),
        format!("--clusters={cluster}"),
        format!("--namespace={namespace}"),
        format!("--lease-name={cluster}"),
        format!("--lease-namespace={namespace}"),
        format!("--lease-duration={lease}"),
        format!("--push-addr=127.0.0.1:{push}"),
        format!("--push-endpoint=https://127.0.0.1:{push}"),
        format!("--metrics-addr=127.0.0.1:{metrics}"),
        "--lag-interval=1s".to_owned(),
    ];
    Ok((metrics, arguments))
}

struct Operator {
    metrics: u16,
    task: JoinHandle<()>,
    _stop: DropGuard,
}

impl Operator {
    fn start(client: Client, cluster: &str, namespace: &str, lease: &str) -> Result<Self> {
        let (metrics, arguments) = arguments(cluster, namespace, lease)?;
        let options = Options::try_parse_from(arguments)?;
        let stop = CancellationToken::new();
        let run = mq_operator::run(options, client, stop.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = run.await {
                eprintln!("the operator ended: {error}");
            }
        });
        Ok(Self { metrics, task, _stop: stop.drop_guard() })
    }
}

impl World {
    /// Starts an operator.
    pub(super) async fn new(base: &str) -> Result<Self> {
        Self::with_client(base, crate::crds::installed().await?.client()?).await
    }

    /// The same by another client for the operator than the administrator's.
    pub(super) async fn with_client(base: &str, operators: Client) -> Result<Self> {
        Self::start(base, operators, TestEnv::kafka().await?, "15s").await
    }

    /// The same with a broker, and a Lease of this duration.
    pub(super) async fn start(base: &str, operators: Client, kafka: Broker, lease: &'static str) -> Result<Self> {
        let mut world = Self::without_operator(base, operators, kafka, lease).await?;
        world.start_again()?;
        Ok(world)
    }

    /// The same before there is an operator.
    pub(super) async fn without_operator(
        base: &str,
        operators: Client,
        kafka: Broker,
        lease: &'static str,
    ) -> Result<Self> {
        let control_plane = crate::crds::installed().await?;
        let namespace = control_plane.namespace(base).await?;
        let client = control_plane.client()?;
        let cluster = unique(base);
        let object = serde_json::from_value(json!({
            "apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqCluster", "metadata": {"name": cluster},
            "spec": {"brokers": [kafka.bootstrap()], "namespaces": [{"name": namespace.name(), "topics": ["*"]}]},
        }))?;
        Api::<MqCluster>::all(client.clone()).create(&PostParams::default(), &object).await?;
        Ok(Self { client, kafka, namespace, cluster, operators, lease, operator: None })
    }

    fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("no operator was started")
    }

    /// What an operator is told that runs as a process of its own.
    pub(super) fn arguments(&self) -> Result<Vec<String>> {
        Ok(arguments(&self.cluster, self.namespace.name(), self.lease)?.1)
    }

    /// Ends the operator as SIGKILL does: its Lease stays held.
    pub(super) fn kill(&self) {
        if let Some(operator) = &self.operator {
            operator.task.abort();
        }
    }

    /// Waits until the operator has ended by itself.
    pub(super) async fn until_ended(&self) -> Result<()> {
        wait_until("the operator has ended", SOON, async || {
            ensure!(self.operator()?.task.is_finished(), "it runs");
            Ok(())
        })
        .await
    }

    /// Starts an operator, in place of one that ended or as the first.
    pub(super) fn start_again(&mut self) -> Result<()> {
        let operator = Operator::start(self.operators.clone(), &self.cluster, self.namespace.name(), self.lease)?;
        self.operator = Some(operator);
        Ok(())
    }

    pub(super) async fn topic(&self, partitions: i32) -> Result<String> {
        let topic = self.kafka.unique(self.namespace.name());
        self.kafka.create_topic(&topic, partitions).await?;
        Ok(topic)
    }

    pub(super) fn groups(&self) -> Api<MqConsumerGroup> {
        Api::namespaced(self.client.clone(), self.namespace.name())
    }

    /// Declares a group of one topic, with the same id as its object.
    pub(super) async fn declare(&self, name: &str, topic: &str, scaling: Option<Value>) -> Result<()> {
        let mut spec = json!({"cluster": self.cluster, "topics": [topic]});
        if let Some(scaling) = scaling {
            spec["scaling"] = scaling;
        }
        let object = serde_json::from_value(json!({
            "apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqConsumerGroup", "metadata": {"name": name},
            "spec": spec,
        }))?;
        self.groups().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    pub(super) async fn edit(&self, name: &str, patch: &Value) -> Result<()> {
        self.groups().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    pub(super) async fn status(&self, name: &str) -> Result<MqConsumerGroupStatus> {
        self.groups().get(name).await?.status.with_context(|| format!("{name} has no status yet"))
    }

    /// Waits until the status satisfies `check`, and returns it.
    pub(super) async fn wait_for(
        &self,
        name: &str,
        what: &str,
        check: impl Fn(&MqConsumerGroupStatus) -> bool,
    ) -> Result<MqConsumerGroupStatus> {
        wait_until(&format!("{name}: {what}"), SOON, async || {
            ensure!(self.operator.as_ref().is_none_or(|operator| !operator.task.is_finished()), "the operator ended");
            let status = self.status(name).await?;
            ensure!(check(&status), "{}", serde_json::to_string(&status)?);
            Ok(status)
        })
        .await
    }

    /// Commits an offset for each partition of the topic, as a member of the group would.
    pub(super) async fn commit(&self, group: &str, topic: &str, offsets: &[i64]) -> Result<()> {
        let mut config = self.kafka.client_config();
        config.set("group.id", group);
        let consumer: BaseConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(offsets) {
            list.add_partition_offset(topic, partition, Offset::Offset(*offset))?;
        }
        let consumer = Arc::new(consumer);
        // The coordinator hears of a new topic a moment after its creator.
        wait_until("the offsets are committed", SOON, async || {
            let (consumer, list) = (Arc::clone(&consumer), list.clone());
            Ok(tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync)).await??)
        })
        .await
    }

    /// One value of the operator's metrics for a group; an error while there is none.
    pub(super) async fn metric(&self, metric: &str, name: &str) -> Result<f64> {
        self.series(metric, "name", name).await
    }

    /// One value of the operator's metrics by one of its labels; an error while there is none.
    pub(super) async fn series(&self, metric: &str, label: &str, value: &str) -> Result<f64> {
        let page = self.get("/metrics").await?;
        let label = format!("{label}=\"{value}\"");
        let line = page.lines().find(|line| line.starts_with(&format!("{metric}{{")) && line.contains(&label));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).ok_or_else(|| anyhow!("no {metric} with {label} yet"))?;
        Ok(value.parse()?)
    }

    /// What the operator's own server answers.
    pub(super) async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.operator()?.metrics)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: operator\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        Ok(body.to_owned())
    }

    pub(super) async fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin: AdminClient<_> = self.kafka.client_config().create()?;
        for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
            deleted.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
        }
        Ok(())
    }

    pub(super) async fn wait_for_metric(&self, metric: &str, name: &str, expected: f64) -> Result<()> {
        wait_until(&format!("{metric} of {name} is {expected}"), SOON, async || {
            let value = self.metric(metric, name).await?;
            ensure!((value - expected).abs() < 0.5, "it is {value}");
            Ok(())
        })
        .await
    }

    /// Writes so many records to each partition of the topic.
    pub(super) async fn fill(&self, topic: &str, partitions: i32, each: usize) -> Result<()> {
        use rdkafka::producer::{FutureProducer, FutureRecord};
        let producer: FutureProducer = self.kafka.client_config().create()?;
        let mut deliveries = Vec::new();
        for _ in 0..each {
            for partition in 0..partitions {
                let record = FutureRecord::<(), _>::to(topic).partition(partition).payload("x");
                deliveries.push(producer.send_result(record).map_err(|(error, _)| error)?);
            }
        }
        for delivery in try_join_all(deliveries).await? {
            delivery.map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}
