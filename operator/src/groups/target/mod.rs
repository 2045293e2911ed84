//! The workloads that can be scaled: anything that has the subresource `scale`.
//!
//! Each kind that a group names is looked up once and then watched, reduced to what the scaler looks at; writes go to `/scale`. Where
//! a kind keeps its number of replicas is known of those of Kubernetes itself; of any other one, `/scale` is asked after each change.

mod rivals;
mod seen;
mod watched;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, gvk::GroupVersion},
};
use mq_core::{effect::ObjectKey, reason::Reason, scaling::Target};
use mq_crds::TargetRef;
use rivals::Rivals;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use watched::Watched;

use super::lock;
use crate::{
    options::Options,
    writer::{FIELD_MANAGER, WriteError, Writer},
};

/// A workload as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployed {
    /// Identity: a workload that was created again is another one.
    pub(super) uid: String,
    version: String,
    resource: Arc<ApiResource>,
    /// What the decision looks at.
    pub(super) target: Target,
}

impl Deployed {
    /// The workloads of its kind in this namespace.
    pub(super) fn api(&self, client: Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client, namespace, &*self.resource)
    }
}

#[cfg(test)]
impl Deployed {
    pub(super) fn for_test(uid: &str, target: Target) -> Self {
        let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
        let resource = Arc::new(ApiResource::from_gvk_with_plural(&kind, "deployments"));
        Self { uid: uid.to_owned(), version: String::new(), resource, target }
    }
}

/// Why nothing can be said of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoTarget {
    /// Its kind was not listed yet.
    NotListed,
    /// There is something to do for a person, or to wait for.
    Refused(Refused),
}

/// What is wrong with a target, for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Refused {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The operator may not do `verbs` to the resource, or to its subresource: says what its role lacks.
    fn forbidden(resource: &ApiResource, subresource: &str, verbs: &[&str]) -> Self {
        let ApiResource { group, plural, .. } = resource;
        let rule = json!({"apiGroups": [group], "resources": [format!("{plural}{subresource}")], "verbs": verbs});
        Self::new(
            Reason::TargetForbidden,
            format!(
                "the operator may not scale {plural}: its role lacks the rule {rule}; with the chart, add \
                 {{apiGroup: \"{group}\", resource: {plural}}} to rbac.targets"
            ),
        )
    }
}

/// All workloads of the kinds that groups name.
#[derive(Clone)]
pub(super) struct Targets {
    client: Client,
    options: Arc<Options>,
    tasks: TaskTracker,
    stop: CancellationToken,
    kinds: Arc<Mutex<HashMap<GroupVersionKind, Arc<Watched>>>>,
    rivals: Arc<OnceLock<Arc<Rivals>>>,
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Targets").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

impl Targets {
    /// Watches in `tasks`, until `stop`. A kind is watched from the first question about it on, as long as it is asked for.
    pub(super) fn new(client: Client, options: Arc<Options>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, options, tasks, stop, kinds: Arc::default(), rivals: Arc::default() }
    }

    /// The workload as it is now. Asks the API server only about kinds that are not Kubernetes' own, and once for each change.
    ///
    /// # Errors
    /// It is not there or cannot be scaled, with what a person can do; or it is not known yet.
    pub(super) async fn look(&self, namespace: &str, target: &TargetRef) -> Result<Deployed, NoTarget> {
        self.kind(target).look(&self.client, namespace, target).await
    }

    /// Whether nothing else scales the workload, as far as that can be seen. Autoscalers are watched from the first question on.
    ///
    /// # Errors
    /// Something does, which is named; or that is not known yet.
    pub(super) fn uncontested(&self, namespace: &str, target: &TargetRef) -> Result<(), NoTarget> {
        let rivals = self.rivals.get_or_init(|| {
            let rivals = Arc::new(Rivals::new());
            let (watched, client, options) = (Arc::clone(&rivals), self.client.clone(), Arc::clone(&self.options));
            let stop = self.stop.clone();
            self.tasks.spawn(async move {
                stop.run_until_cancelled(watched.run(client, options.namespace.as_deref())).await;
            });
            rivals
        });
        rivals.none_for(namespace, target)
    }

    fn kind(&self, target: &TargetRef) -> Arc<Watched> {
        let (group, version) = target.api_version.split_once('/').unwrap_or(("", &target.api_version));
        let kind = GroupVersion::gv(group, version).with_kind(&target.kind);
        let mut kinds = lock(&self.kinds);
        let watched = kinds.entry(kind.clone()).or_insert_with(|| {
            let watched = Arc::new(Watched::new(kind.clone()));
            let namespace = self.options.namespace.clone();
            let watch = Arc::clone(&watched).run(self.client.clone(), namespace);
            let (stop, kinds) = (self.stop.clone(), Arc::clone(&self.kinds));
            self.tasks.spawn(async move {
                stop.run_until_cancelled_owned(watch).await;
                lock(&kinds).remove(&kind);
            });
            watched
        });
        Arc::clone(watched)
    }
}

/// Sets the replicas, if the workload is still the one that was looked at. Waits for the API server's answer.
///
/// # Errors
/// Not the leader, refused (also when the workload was changed meanwhile), or no answer.
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
    let api = seen.api(client, &group.namespace);
    writer.write("scale", group, api.patch_scale(name, &params, &patch)).await.map(drop)
}

/// What to say of a step that could not be written.
pub(super) fn not_scaled(target: &TargetRef, seen: &Deployed, error: &WriteError) -> Refused {
    if error.is_forbidden() {
        return Refused::forbidden(&seen.resource, "/scale", &["get", "patch"]);
    }
    let TargetRef { kind, name, .. } = target;
    Refused::new(Reason::KubernetesUnavailable, format!("cannot scale {kind} {name}: {error}"))
}
