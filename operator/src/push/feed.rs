//! From the API server into the index: objects with their status, revisions, clusters.

use std::{collections::HashSet, fmt::Debug, hash::Hash, sync::Arc};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use mq_core::rollout::State;
use mq_crds::{MqCluster, MqConsumerGroup, MqProducerConfig};
use mq_protocol::message::{ClientRef, Kind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::index::{ConfigKey, Index};
use crate::{
    object::{Guarded, Object},
    options::Options,
    revisions::{self, MANAGED_BY},
};

/// Number of watches below; the index is complete when each has listed once.
const WATCHES: usize = 4;

/// How many watches have not listed yet. 0: the index knows everything, and absence means absence.
pub type Pending = watch::Receiver<usize>;

/// Feeds the index until `shutdown`. `pending` counts down to 0.
pub async fn run(
    client: Client,
    options: Arc<Options>,
    index: Index,
    pending: watch::Sender<usize>,
    shutdown: CancellationToken,
) {
    let feed = Feed { client, options, index, pending };
    let watches = async {
        tokio::join!(
            feed.objects::<MqProducerConfig>(Kind::Producer),
            feed.objects::<MqConsumerGroup>(Kind::Consumer),
            feed.revisions(),
            feed.clusters(),
        )
    };
    tokio::select! {
        _ = watches => {}
        () = shutdown.cancelled() => {}
    }
}

/// The start value of `pending`.
pub fn pending() -> (watch::Sender<usize>, Pending) {
    watch::channel(WATCHES)
}

struct Feed {
    client: Client,
    options: Arc<Options>,
    index: Index,
    pending: watch::Sender<usize>,
}

impl Feed {
    async fn objects<K>(&self, kind: Kind)
    where
        K: Object + Resource<Scope = NamespaceResourceScope>,
    {
        let index = &self.index;
        let key = |object: &Guarded<K>| {
            let namespace = object.namespace().unwrap_or_default();
            ConfigKey { namespace, client: ClientRef::new(kind, object.name_any()) }
        };
        let apply = |object: Guarded<K>| {
            let uid = object.uid().filter(|_| self.options.serves(&object.cluster))?;
            let key = key(&object);
            index.apply_object(&key, uid, object.cluster, state(&object.status));
            Some(key)
        };
        let delete = |object: Guarded<K>| index.delete_object(&key(&object));
        let retain = |present: &HashSet<ConfigKey>| index.retain_objects(kind, present);
        self.follow(self.namespaced(), watcher::Config::default(), apply, delete, retain).await;
    }

    async fn revisions(&self) {
        let index = &self.index;
        let config = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let apply = |object: ControllerRevision| match revisions::from_object(&object) {
            Ok((owner, revision)) => {
                let number = revision.stored.number;
                index.apply_revision(&owner, revision);
                Some((owner, number))
            }
            Err(damage) => {
                tracing::warn!(name = object.name_any(), namespace = ?object.namespace(), %damage, "revision not used");
                None
            }
        };
        let delete = |object: ControllerRevision| {
            if let Some(owner) = object.labels().get(revisions::OWNER) {
                index.delete_revision(owner, object.revision);
            }
        };
        self.follow(self.namespaced(), config, apply, delete, |present| index.retain_revisions(present)).await;
    }

    async fn clusters(&self) {
        let index = &self.index;
        let apply = |cluster: Guarded<MqCluster>| {
            let name = cluster.name_any();
            if !self.options.serves(&name) {
                return None;
            }
            match cluster.parsed {
                Ok(cluster) => index.apply_cluster(&name, cluster.spec),
                Err(_) => index.unreadable_cluster(&name),
            }
            Some(name)
        };
        let delete = |cluster: Guarded<MqCluster>| index.delete_cluster(&cluster.name_any());
        let api = Api::all(self.client.clone());
        self.follow(api, watcher::Config::default(), apply, delete, |present| index.retain_clusters(present)).await;
    }

    /// `apply` returns what identifies the object, or nothing if it is not for the index.
    async fn follow<K, I: Hash + Eq>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        apply: impl Fn(K) -> Option<I>,
        delete: impl Fn(K),
        retain: impl Fn(&HashSet<I>),
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let kind = K::kind(&());
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut present = HashSet::new();
        let mut listed = false;
        loop {
            match events.try_next().await {
                Ok(None) => break,
                Ok(Some(Event::Init)) => present.clear(),
                Ok(Some(Event::InitApply(object))) => present.extend(apply(object)),
                Ok(Some(Event::InitDone)) => {
                    retain(&present);
                    present.clear();
                    if !std::mem::replace(&mut listed, true) {
                        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
                    }
                }
                Ok(Some(Event::Apply(object))) => {
                    apply(object);
                }
                Ok(Some(Event::Delete(object))) => delete(object),
                Err(error) => tracing::warn!(%error, %kind, "watch failed; it is taken up again"),
            }
        }
    }

    fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        match &self.options.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

/// What a stored status says about revisions.
pub fn state(status: &Value) -> State {
    let number = |name: &str| status.get(name).and_then(Value::as_i64);
    let rejected = status.get("rejectedRevisions").and_then(Value::as_array);
    State {
        current: number("currentRevision"),
        update: number("updateRevision"),
        rejected: rejected.into_iter().flatten().filter_map(Value::as_i64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_is_read_as_far_as_it_is_there() {
        assert_eq!(state(&Value::Null), State::default());
        let status = json!({"currentRevision": 1, "updateRevision": 2, "rejectedRevisions": [2], "other": true});
        assert_eq!(state(&status), State { current: Some(1), update: Some(2), rejected: [2].into() });
    }
}
