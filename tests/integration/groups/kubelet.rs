//! Stands in for a kubelet: makes the pods of a namespace ready, and runs a consumer for each of them.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, PodStatus, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use mq_agent::{Agent, Options};
use mq_protocol::TOKEN_AUDIENCE;
use rdkafka::{
    ClientConfig,
    consumer::{Consumer, StreamConsumer},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Records that an agent's consumer handles at the same time.
const SLOTS: u32 = 2;

/// What each pod does: consumes `topic` as a member of `group`, so many messages per second.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) config: ClientConfig,
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) per_second: u32,
    /// With the agent, as the object with the name of the group tells it.
    pub(super) agent: bool,
}

/// Creates the Deployment, whose pods nobody but this kubelet runs.
pub(super) async fn deploy(client: &Client, namespace: &str, name: &str, replicas: i32) -> Result<()> {
    let object: Deployment = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "worker", "image": "none"}], "terminationGracePeriodSeconds": 0},
            },
        },
    }))?;
    Api::<Deployment>::namespaced(client.clone(), namespace).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Runs until the handle is dropped.
pub(super) fn run(client: Client, namespace: &str, work: Option<Work>) -> AbortOnDropHandle<()> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut running = HashMap::new();
        loop {
            if let Err(error) = turn(&pods, work.as_ref(), &mut running).await {
                eprintln!("kubelet: {error:#}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }))
}

/// What failed in the background makes a test wait in vain; this says why.
async fn told(work: impl Future<Output = Result<()>>) {
    if let Err(error) = work.await {
        eprintln!("kubelet: {error:#}");
    }
}

type Running = HashMap<String, (CancellationToken, tokio::task::JoinHandle<()>)>;

async fn turn(pods: &Api<Pod>, work: Option<&Work>, running: &mut Running) -> Result<()> {
    let found = pods.list(&ListParams::default()).await?.items;
    let alive: Vec<&Pod> = found.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    running.retain(|uid, (stop, _)| {
        let keep = alive.iter().any(|pod| pod.uid().as_deref() == Some(uid));
        if !keep {
            stop.cancel();
        }
        keep
    });
    for pod in alive {
        if let Some(work) = work {
            running.entry(pod.uid().unwrap_or_default()).or_insert_with(|| {
                let stop = CancellationToken::new();
                let task = if work.agent {
                    tokio::spawn(told(serve(pods.clone().into_client(), pod.clone(), work.clone(), stop.clone())))
                } else {
                    tokio::spawn(told(consume(work.clone(), stop.clone())))
                };
                (stop, task)
            });
        }
        let is_ready = |status: &PodStatus| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        if !pod.status.as_ref().is_some_and(is_ready) {
            let status = json!({"status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
            }});
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
        }
    }
    Ok(())
}

/// Handles one message after the other at a steady pace, and leaves the group properly.
async fn consume(work: Work, stop: CancellationToken) -> Result<()> {
    let mut config = work.config.clone();
    config
        .set("group.id", &work.group)
        .set("auto.offset.reset", "earliest")
        .set("auto.commit.interval.ms", "500")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "500");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[&work.topic])?;
    let pace = Duration::from_secs(1) / work.per_second;
    let mut next = Instant::now();
    let handling = async {
        loop {
            if consumer.recv().await.is_ok() {
                // Idle time is not saved up.
                next = next.max(Instant::now() - Duration::from_millis(200)) + pace;
                sleep_until(next).await;
            }
        }
    };
    stop.run_until_cancelled(handling).await;
    tokio::task::spawn_blocking(move || drop(consumer)).await?;
    Ok(())
}

/// What a kubelet projects into a pod with the agent.
pub(super) async fn projected(client: Client, pod: &Pod) -> Result<TempDir> {
    let namespace = pod.namespace().unwrap_or_default();
    let projected = tempfile::tempdir()?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    // As a kubelet does with a volume that is not there yet.
    let data = loop {
        let data = maps.get_opt("mq-agent").await?.and_then(|map| map.data).unwrap_or_default();
        if data.contains_key("ca.crt") && data.contains_key("endpoint") {
            break data;
        }
        sleep(Duration::from_millis(200)).await;
    };
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    };
    let spec = TokenRequestSpec {
        audiences: vec![TOKEN_AUDIENCE.to_owned()],
        bound_object_ref: Some(bound),
        expiration_seconds: Some(3600),
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace);
    let issued = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    std::fs::write(projected.path().join("token"), issued.status.context("no token was issued")?.token)?;
    for name in ["ca.crt", "endpoint"] {
        std::fs::write(projected.path().join(name), data.get(name).context(name)?)?;
    }
    Ok(projected)
}

/// A service with the agent, and handlers that wait.
async fn serve(client: Client, pod: Pod, work: Work, stop: CancellationToken) -> Result<()> {
    let projected = projected(client, &pod).await?;
    let options = Options::in_folders(projected.path(), &projected.path().join("none")).concurrency(SLOTS as usize);
    let agent = Agent::connect_with(options).await;
    let consumer = agent.consumer(&work.group).await?;
    let each = Duration::from_secs(1) * SLOTS / work.per_second;
    let handling = consumer.subscribe(move |_| async move {
        sleep(each).await;
        Ok(())
    });
    let drained = agent.drain_on(stop.cancelled_owned(), Duration::from_secs(5));
    handling.await?;
    drained.await?;
    Ok(())
}

/// Writes `per_second` messages per second to the partitions in turn as they are listed, until the handle is dropped.
pub(super) fn load_on(
    config: &ClientConfig,
    topic: String,
    per_second: u32,
    partitions: &'static [i32],
) -> Result<AbortOnDropHandle<()>> {
    write(config, per_second, move |n| {
        let turn = usize::try_from(n).unwrap_or_default() % partitions.len();
        (topic.clone(), Some(partitions[turn]))
    })
}

/// Writes `per_second` messages per second to random partitions, until the handle is dropped.
pub(super) fn load(config: &ClientConfig, topic: String, per_second: u32) -> Result<AbortOnDropHandle<()>> {
    write(config, per_second, move |_| (topic.clone(), None))
}

fn write(
    config: &ClientConfig,
    per_second: u32,
    place: impl Fn(u64) -> (String, Option<i32>) + Send + 'static,
) -> Result<AbortOnDropHandle<()>> {
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    Ok(AbortOnDropHandle::new(tokio::spawn(told(async move {
        let mut ticks = interval(Duration::from_secs(1) / per_second);
        for n in 0_u64.. {
            ticks.tick().await;
            let (topic, partition) = place(n);
            let key = n.to_be_bytes();
            let mut record = BaseRecord::to(&topic).key(&key).payload("x");
            record.partition = partition;
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(())
    }))))
}
