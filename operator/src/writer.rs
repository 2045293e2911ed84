//! The only way to write to the Kubernetes API: after a permit of the lease, within a time limit, counted.

use crate::{
    lease::{Lease, NotLeader},
    metrics::Metrics,
    object::Object,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, ObjectMeta},
};
use mq_core::effect::ObjectKey;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Owner of all fields that this operator applies.
pub const FIELD_MANAGER: &str = "mq-operator";

/// Longest wait for one request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// A write that was not done, or is not known to be done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// See [`NotLeader`].
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The API server refused it.
    #[error("cannot write {what} of {object}: {source}")]
    Refused {
        /// Which part.
        what: &'static str,
        /// Of which object.
        object: ObjectKey,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// No answer; it may have been done.
    #[error("no answer within {REQUEST_TIMEOUT:?} to writing {what} of {object}")]
    Timeout {
        /// Which part.
        what: &'static str,
        /// Of which object.
        object: ObjectKey,
    },
}

impl WriteError {
    /// The object was changed, replaced or deleted meanwhile: the write is void, and the watch tells what to do.
    pub fn is_superseded(&self) -> bool {
        match self {
            Self::Refused { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
            }
            Self::NotLeader(_) | Self::Timeout { .. } => false,
        }
    }

    /// The operator has no right to do it.
    pub fn is_forbidden(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(status) if status.is_forbidden())
    }
}

/// Writes to the Kubernetes API as the leader.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    lease: Arc<Lease>,
    metrics: Metrics,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer whose writes need permits of `lease`.
    pub fn new(client: Client, lease: Arc<Lease>, metrics: Metrics) -> Self {
        Self { client, lease, metrics }
    }

    /// Applies the whole status. Carries the uid: it never touches an object that was created again under the name, and an apply
    /// to `status` never creates one. Returns the new resourceVersion.
    ///
    /// # Errors
    /// Not the leader, refused, or no answer.
    pub async fn status<K: Object>(&self, key: &ObjectKey, status: &Value) -> Result<Option<String>, WriteError> {
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": key.name, "uid": key.uid},
            "status": status,
        });
        let api = self.api::<K>(key);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = self.write("status", key, api.patch_status(&key.name, &params, &patch)).await?;
        Ok(written.metadata.resource_version)
    }

    /// Replaces the list of finalizers, if the object is still the one that `meta` was read from. Returns the new resourceVersion.
    ///
    /// # Errors
    /// Not the leader, refused (also when the object has changed meanwhile), or no answer.
    pub async fn finalizers<K: Object>(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        finalizers: &[String],
    ) -> Result<Option<String>, WriteError> {
        let body = json!({"metadata": {
            "uid": key.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": finalizers,
        }});
        let api = self.api::<K>(key);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(&body);
        let written = self.write("finalizers", key, api.patch(&key.name, &params, &patch)).await?;
        Ok(written.metadata.resource_version)
    }

    /// Does any other write, for example an event: asks for the permit first, limits the time, counts.
    ///
    /// # Errors
    /// Not the leader, refused, or no answer.
    pub async fn write<T>(
        &self,
        what: &'static str,
        object: &ObjectKey,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let _permit = self.lease.permit()?;
        let result = match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(source)) => Err(WriteError::Refused { what, object: object.clone(), source: Box::new(source) }),
            Err(_) => Err(WriteError::Timeout { what, object: object.clone() }),
        };
        let label = if result.is_ok() { "ok" } else { "error" };
        self.metrics.writes.with_label_values(&[what, label]).inc();
        result
    }

    fn api<K: Object>(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        }
    }
}
