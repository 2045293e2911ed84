//! The workloads that can be scaled: a watch of Deployments, reduced to what the scaler looks at, and writes to `/scale`.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use mq_core::{effect::ObjectKey, scaling::Target};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    options::Options,
    writer::{FIELD_MANAGER, WriteError, Writer},
};

/// A Deployment as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployed {
    /// Identity: a Deployment that was created again is another one.
    pub(super) uid: String,
    version: String,
    /// What the decision looks at.
    pub(super) target: Target,
}

#[cfg(test)]
impl Deployed {
    pub(super) fn for_test(uid: &str, target: Target) -> Self {
        Self { uid: uid.to_owned(), version: String::new(), target }
    }
}

type Known = HashMap<(String, String), Deployed>;

/// All Deployments that the operator may see.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets(Arc<RwLock<Option<Known>>>);

impl Targets {
    /// The Deployment, if there is one that is not being deleted.
    ///
    /// # Errors
    /// The Deployments were not listed yet, so nothing can be said.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<Option<Deployed>, NotListed> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().ok_or(NotListed)?;
        Ok(known.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// Watches until `stop`.
    pub(super) async fn watch(self, client: Client, options: Arc<Options>, stop: CancellationToken) {
        let api: Api<Deployment> = match &options.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let mut listing = Known::new();
        let mut events = watcher::watcher(api, watcher::Config::default())
            .default_backoff()
            .take_until(stop.cancelled_owned())
            .boxed();
        while let Some(event) = events.next().await {
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(deployment)) => note(&mut listing, &deployment),
                Ok(Event::InitDone) => *known = Some(std::mem::take(&mut listing)),
                Ok(Event::Apply(deployment)) => note(known.get_or_insert_default(), &deployment),
                Ok(Event::Delete(deployment)) => {
                    known.get_or_insert_default().remove(&place(&deployment));
                }
                Err(error) => tracing::warn!(%error, kind = "Deployment", "watch failed; it is taken up again"),
            }
        }
    }
}

/// The Deployments were not listed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotListed;

/// Sets the replicas, if the Deployment is still the one that was looked at. Waits for the API server's answer.
///
/// # Errors
/// Not the leader, refused (also when the Deployment was changed meanwhile), or no answer.
pub(super) async fn scale(
    client: Client,
    writer: &Writer,
    group: &ObjectKey,
    name: &str,
    seen: &Deployed,
    replicas: u32,
) -> Result<(), WriteError> {
    let body = json!({
        "metadata": {"uid": seen.uid, "resourceVersion": seen.version},
        "spec": {"replicas": replicas},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(&body);
    let api: Api<Deployment> = Api::namespaced(client, &group.namespace);
    writer.write("scale", group, api.patch_scale(name, &params, &patch)).await.map(drop)
}

fn place(deployment: &Deployment) -> (String, String) {
    (deployment.namespace().unwrap_or_default(), deployment.name_any())
}

fn note(known: &mut Known, deployment: &Deployment) {
    if deployment.metadata.deletion_timestamp.is_some() {
        known.remove(&place(deployment));
    } else {
        known.insert(place(deployment), deployed(deployment));
    }
}

fn deployed(deployment: &Deployment) -> Deployed {
    let count = |n: Option<i32>| u32::try_from(n.unwrap_or_default()).unwrap_or_default();
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    let template = spec.map(|spec| &spec.template);
    // The scheduler's and the user's annotations aside, the same pods have the same template.
    let template = serde_json::to_string(&template).unwrap_or_default();
    Deployed {
        uid: deployment.uid().unwrap_or_default(),
        version: deployment.resource_version().unwrap_or_default(),
        target: Target {
            replicas: count(spec.map_or(Some(1), |spec| spec.replicas.or(Some(1)))),
            ready: count(status.ready_replicas),
            rolling: status.observed_generation != deployment.metadata.generation
                || status.updated_replicas.unwrap_or_default() != status.replicas.unwrap_or_default(),
            template: mq_core::canonical::hash(&template),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: &serde_json::Value, image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "worker", "namespace": "shop", "uid": "1", "resourceVersion": "7", "generation": 2},
            "spec": {"replicas": 3, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_seen_until_all_pods_are_of_the_new_template() {
        let settled = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3});
        let target = deployed(&deployment(&settled, "a")).target;
        assert_eq!((target.replicas, target.ready, target.rolling), (3, 3, false));
        let unseen = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3});
        assert!(deployed(&deployment(&unseen, "a")).target.rolling, "the spec was not looked at yet");
        let half = json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 2, "readyReplicas": 3});
        assert!(deployed(&deployment(&half, "a")).target.rolling, "old pods are there");
        let starting = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 1});
        assert!(!deployed(&deployment(&starting, "a")).target.rolling, "scaling is no rollout");
    }

    #[test]
    fn another_template_is_another_identity() {
        let status = json!({});
        let (one, same, other) =
            (deployment(&status, "a"), deployment(&json!({"readyReplicas": 1}), "a"), deployment(&status, "b"));
        assert_eq!(deployed(&one).target.template, deployed(&same).target.template);
        assert_ne!(deployed(&one).target.template, deployed(&other).target.template);
    }

    #[test]
    fn a_deployment_that_is_being_deleted_is_gone() {
        let mut known = Known::new();
        let mut worker = deployment(&json!({}), "a");
        note(&mut known, &worker);
        assert_eq!(known.len(), 1);
        worker.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        note(&mut known, &worker);
        assert!(known.is_empty());
    }
}
