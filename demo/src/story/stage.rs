//! Puts the objects of the story into the cluster and changes them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::fault::Fault;
use crate::summary::observe::{self, mq};

const CLUSTER: &str = include_str!("../../manifests/cluster.yaml");
const SHOP: &str = include_str!("../../manifests/shop.yaml");
const SERVICES: &str = include_str!("../../manifests/services.yaml");

/// What the manifests leave open.
#[derive(Debug, Clone)]
pub struct Setting {
    /// For the reader; `None` = where a Kubernetes client looks by itself.
    pub kubeconfig: Option<PathBuf>,
    pub namespace: String,
    /// Name of the `MqCluster`.
    pub cluster: String,
    pub brokers: String,
    /// In front of every topic and group in Kafka; empty for the plain names.
    pub prefix: String,
    pub order_image: String,
    pub notification_image: String,
    pub pull_policy: String,
    pub fault: Option<Fault>,
}

/// The cluster, as seen by the story.
#[derive(Clone)]
pub struct Stage {
    client: kube::Client,
    setting: Setting,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("setting", &self.setting).finish_non_exhaustive()
    }
}

impl Stage {
    pub fn new(client: kube::Client, setting: Setting) -> Self {
        Self { client, setting }
    }

    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Namespace, `MqCluster` and the shop's objects.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn declare(&self) -> anyhow::Result<()> {
        self.apply(CLUSTER).await?;
        self.apply(SHOP).await
    }

    /// Waits until everything that was declared is ready.
    ///
    /// # Errors
    /// Something is not ready after two minutes: its own words.
    pub async fn declared(&self) -> anyhow::Result<()> {
        self.ready("MqCluster", &self.setting.cluster).await?;
        for (kind, name) in [
            ("MqTopic", observe::SETTINGS),
            ("MqTopic", observe::GROUP),
            ("MqTopic", "notifications-dlq"),
            ("MqProducerConfig", observe::SETTINGS),
        ] {
            self.ready(kind, name).await?;
        }
        let agent =
            async || Ok(self.get("ConfigMap", "mq-agent").await?.map(drop).ok_or_else(|| "it is not there".to_owned()));
        within("ConfigMap mq-agent", Duration::from_secs(30), agent).await
    }

    async fn ready(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let ready = async || {
            let Some(object) = self.get(kind, name).await? else { return Ok(Err("it is not there".to_owned())) };
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            Ok(match conditions.iter().find(|condition| condition["type"] == "Ready") {
                None => Err("it has no status".to_owned()),
                Some(ready) if ready["status"] == "True" => Ok(()),
                Some(ready) => Err(format!("{}: {}", ready["reason"], ready["message"])),
            })
        };
        within(&format!("{kind} {name}"), Duration::from_mins(2), ready).await
    }

    /// The two services.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn start_services(&self) -> anyhow::Result<()> {
        self.apply(SERVICES).await
    }

    /// Sets the orders a second of each pod of the order service.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn load(&self, orders_per_second: u32) -> anyhow::Result<()> {
        let patch = json!({"data": {"ordersPerSecond": orders_per_second.to_string()}});
        self.patch(&resource("v1", "ConfigMap")?, observe::LOAD, &patch).await
    }

    /// Edits `lingerMs` of the order service's producer.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn linger(&self, ms: i64) -> anyhow::Result<()> {
        self.patch(&mq("MqProducerConfig", "mqproducerconfigs"), observe::SETTINGS, &json!({"spec": {"lingerMs": ms}}))
            .await
    }

    /// One object of ours as it is now, if it is there.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn get(&self, kind: &str, name: &str) -> anyhow::Result<Option<DynamicObject>> {
        let resource = resource(if kind == "ConfigMap" { "v1" } else { "mq.infra-kit.io/v1alpha1" }, kind)?;
        self.api(&resource).get_opt(name).await.with_context(|| format!("cannot read {kind} {name}"))
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        if matches!(resource.kind.as_str(), "Namespace" | "MqCluster") {
            return Api::all_with(self.client.clone(), resource);
        }
        Api::namespaced_with(self.client.clone(), &self.setting.namespace, resource)
    }

    async fn patch(&self, resource: &ApiResource, name: &str, patch: &Value) -> anyhow::Result<()> {
        let done = self.api(resource).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.map(drop).with_context(|| format!("cannot change {} {name}", resource.kind))
    }

    /// Server-side apply of every document of a manifest.
    async fn apply(&self, manifest: &str) -> anyhow::Result<()> {
        for document in self.fill(manifest)?.split("\n---\n") {
            let object: DynamicObject =
                serde_saphyr::from_str(document).context("a manifest of the demo is no object")?;
            let types = object.types.clone().unwrap_or_default();
            let name = object.metadata.name.clone().unwrap_or_default();
            let applied = self
                .api(&resource(&types.api_version, &types.kind)?)
                .patch(&name, &PatchParams::apply("mq-demo").force(), &Patch::Apply(&object))
                .await;
            applied.with_context(|| format!("the API server refuses {} {name}", types.kind))?;
        }
        Ok(())
    }

    fn fill(&self, manifest: &str) -> anyhow::Result<String> {
        let Setting {
            namespace, cluster, brokers, prefix, order_image, notification_image, pull_policy, fault, ..
        } = &self.setting;
        let filled = manifest
            .replace("${NAMESPACE}", namespace)
            .replace("${CLUSTER}", cluster)
            .replace("${BROKERS}", brokers)
            .replace("${PREFIX}", prefix)
            .replace("${ORDER_IMAGE}", order_image)
            .replace("${NOTIFICATION_IMAGE}", notification_image)
            .replace("${PULL_POLICY}", pull_policy)
            .replace("${FAULT}", fault.map_or("", Fault::name));
        anyhow::ensure!(!filled.contains("${"), "a manifest of the demo has a place that nothing fills");
        Ok(filled)
    }
}

fn resource(api_version: &str, kind: &str) -> anyhow::Result<ApiResource> {
    let plural = match kind {
        "Namespace" => "namespaces",
        "ConfigMap" => "configmaps",
        "Deployment" => "deployments",
        "MqCluster" => "mqclusters",
        "MqTopic" => "mqtopics",
        "MqProducerConfig" => "mqproducerconfigs",
        "MqConsumerGroup" => "mqconsumergroups",
        other => anyhow::bail!("the demo does not know the kind {other}"),
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Ok(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
}

/// Asks until the answer is `Ok`; an inner `Err` says why not yet.
async fn within(
    what: &str,
    limit: Duration,
    ask: impl AsyncFn() -> anyhow::Result<Result<(), String>>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match ask().await? {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > deadline => anyhow::bail!("{what} is not ready after {limit:?}: {why}"),
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    }
}
