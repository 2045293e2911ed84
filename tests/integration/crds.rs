//! The kinds on a real API server: what it refuses, in which words, and what it makes of what it accepts.

mod agreement;
mod refused;
mod shown;

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kube::{
    Api, Resource, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
    core::ApiResource,
};
use mq_crds::{MqCluster, MqConsumerGroup, MqProducerConfig, MqTopic};
use mq_testkit::{ControlPlane, TestEnv, wait_until};
use serde_json::{Value, json};
use tokio::{process::Command, sync::OnceCell};

/// The API server of this run with the kinds installed, from the files that users install.
pub(crate) async fn installed() -> Result<ControlPlane> {
    static DONE: OnceCell<()> = OnceCell::const_new();
    let control_plane = TestEnv::control_plane().await?;
    DONE.get_or_try_init(async || install(&control_plane).await).await?;
    Ok(control_plane)
}

async fn install(control_plane: &ControlPlane) -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
    kubectl(control_plane, &["apply", "--server-side", "--force-conflicts", "-f", folder]).await?;
    // The API server takes new kinds into service a moment after it has accepted them.
    wait_until("the API server serves the kinds", Duration::from_secs(30), async || {
        let client = control_plane.client()?;
        Api::<MqCluster>::all(client.clone()).list(&ListParams::default()).await?;
        Api::<MqTopic>::all(client.clone()).list(&ListParams::default()).await?;
        Api::<MqProducerConfig>::all(client.clone()).list(&ListParams::default()).await?;
        Api::<MqConsumerGroup>::all(client).list(&ListParams::default()).await?;
        // This also makes kubectl forget what it remembers of the time before; else it would not know the short names.
        let listed = kubectl(control_plane, &["api-resources", "--api-group=mq.infra-kit.io", "-o", "name"]).await?;
        ensure!(listed.lines().count() == 4, "kubectl knows {listed:?}");
        Ok(())
    })
    .await
}

/// Runs `kubectl` as the administrator and returns what it printed.
async fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String> {
    let mut command = Command::from(control_plane.kubectl());
    let output = command.args(arguments).stderr(Stdio::piped()).output().await.context("starting kubectl")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {}: {errors}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One kind in one namespace, by untyped objects: what users write need not fit the types.
struct Kind {
    api: Api<DynamicObject>,
    resource: ApiResource,
}

impl Kind {
    fn namespaced<K: Resource<DynamicType = ()>>(control_plane: &ControlPlane, namespace: &str) -> Result<Self> {
        let resource = ApiResource::erase::<K>(&());
        Ok(Self { api: Api::namespaced_with(control_plane.client()?, namespace, &resource), resource })
    }

    fn cluster(control_plane: &ControlPlane) -> Result<Self> {
        let resource = ApiResource::erase::<MqCluster>(&());
        Ok(Self { api: Api::all_with(control_plane.client()?, &resource), resource })
    }

    fn object(&self, name: &str, spec: &Value) -> DynamicObject {
        DynamicObject::new(name, &self.resource).data(json!({"spec": spec}))
    }

    async fn create(&self, name: &str, spec: &Value, parameters: &PostParams) -> Answer {
        answer(self.api.create(parameters, &self.object(name, spec)).await)
    }

    /// What the API server would say to a new object.
    async fn would_create(&self, name: &str, spec: &Value) -> Answer {
        self.create(name, spec, &dry_run()).await
    }

    /// What the API server would say to a change of an object that exists.
    async fn would_change(&self, existing: &DynamicObject, spec: &Value) -> Answer {
        let mut object = self.object(&existing.name_any(), spec);
        object.metadata.resource_version = existing.resource_version();
        answer(self.api.replace(&existing.name_any(), &dry_run(), &object).await)
    }
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// An accepted object, or the words of the refusal. Anything else is a failure of the test itself.
type Answer = Result<Result<DynamicObject, String>>;

fn answer(result: kube::Result<DynamicObject>) -> Answer {
    match result {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) if status.is_invalid() || status.code == 400 => Ok(Err(status.message.clone())),
        Err(error) => Err(error).context("asking the API server"),
    }
}

fn accepted(answer: Result<DynamicObject, String>, what: &Value) -> Result<DynamicObject> {
    answer.map_err(|message| anyhow!("{what} was refused: {message}"))
}

fn refused(answer: Result<DynamicObject, String>, words: &str, what: &Value) -> Result<()> {
    match answer {
        Ok(_) => bail!("{what} was accepted, expected a refusal with {words:?}"),
        Err(message) => ensure!(message.contains(words), "{what}: {words:?} is not in {message:?}"),
    }
    Ok(())
}
