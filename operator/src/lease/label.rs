//! The label that makes Services select the leader's pod alone.

use super::Settings;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

/// The label; its value is `true`.
pub(crate) const LEADER: &str = "mq.infra-kit.io/leader";

/// Puts the label on the own pod and takes it off all others: after a kill -9 two would carry it. False if it must be tried again.
pub(super) async fn take(client: &Client, settings: &Settings) -> bool {
    let Some(own) = &settings.pod else { return true };
    match try_take(client, &settings.namespace, own).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, pod = own, "cannot label the leader's pod; Services do not select it");
            false
        }
    }
}

async fn try_take(client: &Client, namespace: &str, own: &str) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labelled = pods.list_metadata(&ListParams::default().labels(&format!("{LEADER}=true"))).await?;
    for pod in labelled.items.iter().map(ResourceExt::name_any).filter(|name| name != own) {
        match set(&pods, &pod, None).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => other?,
        }
    }
    set(&pods, own, Some("true")).await
}

/// Takes the label off the own pod, as far as that works.
pub(super) async fn drop_own(client: &Client, settings: &Settings) {
    let Some(own) = &settings.pod else { return };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    if let Err(error) = set(&pods, own, None).await {
        tracing::warn!(%error, pod = own, "cannot take the leader label off the own pod");
    }
}

async fn set(pods: &Api<Pod>, name: &str, value: Option<&str>) -> kube::Result<()> {
    let patch = json!({"metadata": {"labels": {LEADER: value}}});
    pods.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}
