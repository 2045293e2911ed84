//! The `ConfigMap`s that pods mount, in each granted namespace: `mq-agent` says where the operator is and whom to trust,
//! `mq-config` holds every configuration in force, for pods that start while there is no operator.
//!
//! Neither holds a secret. They are compared with what is stored and written only when they differ. A `ConfigMap` of the name that somebody
//! else made is left alone, and an event says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use mq_core::{effect::ObjectKey, reason::Reason};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::index::{Answer, Index};
use crate::{
    events::{Event, Events},
    revisions::MANAGED_BY,
    writer::{FIELD_MANAGER, WriteError, Writer},
};

/// Where the operator is, and whom to trust.
pub(super) const AGENT: &str = "mq-agent";
/// The configurations in force.
pub(super) const CONFIG: &str = "mq-config";
/// Label: which installation of the operator keeps it.
const KEPT_BY: &str = "mq.infra-kit.io/operator";

/// Changes are collected for this long.
const QUIET: Duration = Duration::from_millis(300);
/// What failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

type Data = BTreeMap<String, String>;

/// Keeps the `ConfigMap`s of one installation.
pub(super) struct ConfigMaps {
    client: Client,
    writer: Writer,
    events: Events,
    index: Index,
    /// Value of the label [`KEPT_BY`].
    installation: String,
    stored: Mutex<HashMap<(String, String), Stored>>,
    /// Those of somebody else that an event was said about.
    foreign: Mutex<HashSet<(String, String)>>,
}

#[derive(Debug)]
struct Stored {
    uid: String,
    data: Data,
}

impl ConfigMaps {
    /// `installation` is unlike that of any other operator on the same API server.
    pub(super) fn new(client: Client, writer: Writer, events: Events, index: Index, installation: String) -> Self {
        Self { client, writer, events, index, installation, stored: Mutex::default(), foreign: Mutex::default() }
    }

    /// Keeps them as leader until `shutdown`; `agent` is the data of `mq-agent`.
    pub(super) async fn run(&self, agent: Data, shutdown: CancellationToken) {
        let selector = format!("{KEPT_BY}={}", self.installation);
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let mut events = watcher(api, watcher::Config::default().labels(&selector)).default_backoff().boxed();
        let mut listed = false;
        let mut due = None;
        loop {
            let until_due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => match event {
                    None => return,
                    Some(Ok(event)) => {
                        listed = listed || matches!(event, watcher::Event::InitDone);
                        self.see(event);
                        // Somebody else's change is set right; an own one finds nothing to do.
                        due = Some(soon(due, Instant::now()));
                    }
                    Some(Err(error)) => tracing::warn!(%error, "watch of ConfigMaps failed; it is taken up again"),
                },
                () = self.index.touched() => due = Some(soon(due, Instant::now())),
                () = until_due, if listed => due = (!self.sync(&agent).await).then(|| Instant::now() + RETRY),
            }
        }
    }

    fn see(&self, event: watcher::Event<ConfigMap>) {
        let key = |map: &ConfigMap| (map.namespace().unwrap_or_default(), map.name_any());
        let mut stored = self.lock();
        match event {
            watcher::Event::Init => stored.clear(),
            watcher::Event::Apply(map) | watcher::Event::InitApply(map) => {
                let uid = map.uid().unwrap_or_default();
                stored.insert(key(&map), Stored { uid, data: map.data.unwrap_or_default() });
            }
            watcher::Event::Delete(map) => {
                stored.remove(&key(&map));
            }
            watcher::Event::InitDone => {}
        }
    }

    /// Whether all is as it should be.
    async fn sync(&self, agent: &Data) -> bool {
        let granted = self.index.granted();
        let mut wanted = HashMap::new();
        for namespace in &granted {
            wanted.insert((namespace.clone(), AGENT.to_owned()), agent.clone());
            wanted.insert((namespace.clone(), CONFIG.to_owned()), files(&self.index, namespace));
        }
        let mut complete = true;
        for ((namespace, name), data) in wanted {
            if self.lock().get(&(namespace.clone(), name.clone())).is_some_and(|stored| stored.data == data) {
                continue;
            }
            complete &= log(&namespace, &name, self.apply(&namespace, &name, &data).await);
        }
        let leftover = leftover(&self.lock(), &self.index);
        for (namespace, name, uid) in leftover {
            complete &= log(&namespace, &name, self.delete(&namespace, &name, uid).await);
        }
        complete
    }

    /// False: the name is somebody else's.
    async fn apply(&self, namespace: &str, name: &str, data: &Data) -> Result<bool, WriteError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let (key, place) = (key(namespace, name), (namespace.to_owned(), name.to_owned()));
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {MANAGED_BY.0: MANAGED_BY.1, KEPT_BY: self.installation}},
        });
        let known = self.lock().get(&place).map(|stored| stored.uid.clone());
        let uid = match known {
            Some(uid) => uid,
            None => match self.find(&api, &key).await? {
                // Empty, so that all of its data is owned by the apply, which also takes away.
                None => {
                    let bare = serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError);
                    let create = async { api.create(&PostParams::default(), &bare?).await };
                    self.writer.write("configmap", &key, create).await?.uid().unwrap_or_default()
                }
                Some(found) if !is_ours(&found, &self.installation) => {
                    self.leave(&key, &found, place).await;
                    return Ok(false);
                }
                // The watch has not brought it yet, or it has lost its label.
                Some(found) => found.uid().unwrap_or_default(),
            },
        };
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
        // Not one that took the name meanwhile.
        body["metadata"]["uid"] = uid.into();
        body["data"] = json!(data);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.writer.write("configmap", &key, api.patch(name, &params, &Patch::Apply(&body))).await.map(|_| true)
    }

    async fn find(&self, api: &Api<ConfigMap>, key: &ObjectKey) -> Result<Option<ConfigMap>, WriteError> {
        let unread = |source| WriteError::Refused { what: "configmap", object: key.clone(), source: Box::new(source) };
        api.get_opt(&key.name).await.map_err(unread)
    }

    async fn leave(&self, key: &ObjectKey, found: &ConfigMap, place: (String, String)) {
        if !self.foreign.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
            return;
        }
        let why = if let Some(other) = found.labels().get(KEPT_BY) {
            format!("is kept by another installation of mq-operator (label {KEPT_BY}: {other})")
        } else {
            let (label, value) = MANAGED_BY;
            format!("was not made by mq-operator (it has no label {label}: {value})")
        };
        let message = format!(
            "ConfigMap {} {why}, so it is left alone and pods that mount it get what it holds; delete or rename it",
            key.name
        );
        let regarding = found.object_ref(&());
        self.events.publish_about(&regarding, key, "Push", Event::warning(Reason::ResourceConflict, message)).await;
    }

    async fn delete(&self, namespace: &str, name: &str, uid: String) -> Result<bool, WriteError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let preconditions = Some(Preconditions { uid: Some(uid), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        self.writer.write("configmap", &key(namespace, name), api.delete(name, &params)).await.map(|_| true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Stored>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to write after something changed at `now`; a retry of something else that is due later does not hold it up.
fn soon(due: Option<Instant>, now: Instant) -> Instant {
    let soon = now + QUIET;
    due.map_or(soon, |due| due.min(soon))
}

/// Namespace, name and uid of those that no grant asks for. None while grants may be unknown.
fn leftover(stored: &HashMap<(String, String), Stored>, index: &Index) -> Vec<(String, String, String)> {
    if !index.knows_all_grants() {
        return Vec::new();
    }
    let granted = index.granted();
    let gone = stored.iter().filter(|((namespace, _), _)| !granted.contains(namespace));
    gone.map(|((namespace, name), stored)| (namespace.clone(), name.clone(), stored.uid.clone())).collect()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }
}

/// Made by an operator, and not kept by another installation.
fn is_ours(map: &ConfigMap, installation: &str) -> bool {
    let label = |key| map.labels().get(key).map(String::as_str);
    label(MANAGED_BY.0) == Some(MANAGED_BY.1) && label(KEPT_BY).is_none_or(|by| by == installation)
}

fn log(namespace: &str, name: &str, result: Result<bool, WriteError>) -> bool {
    match result {
        Ok(done) => done,
        Err(error) => {
            tracing::warn!(%error, namespace, name, "ConfigMap not written; it is tried again");
            false
        }
    }
}

/// One file per configuration that is in force.
fn files(index: &Index, namespace: &str) -> Data {
    let in_force = index.answers(namespace).into_iter().filter_map(|(client, answer)| match answer {
        Answer::Run { body, .. } => Some((client.file_name(), String::from_utf8_lossy(&body).into_owned())),
        Answer::Keep { .. } | Answer::Nothing => None,
    });
    in_force.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn what_another_installation_keeps_is_not_ours() {
        let map = |labels: serde_json::Value| serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
        assert!(is_ours(&map(json!({MANAGED_BY.0: MANAGED_BY.1, KEPT_BY: "one"})), "one"));
        assert!(is_ours(&map(json!({MANAGED_BY.0: MANAGED_BY.1})), "one"));
        assert!(!is_ours(&map(json!({MANAGED_BY.0: MANAGED_BY.1, KEPT_BY: "two"})), "one"));
        assert!(!is_ours(&map(json!({})), "one"));
    }

    #[test]
    fn one_that_is_tried_again_later_does_not_hold_up_the_others() {
        let now = Instant::now();
        assert_eq!(soon(None, now), now + QUIET);
        assert_eq!(soon(Some(now + RETRY), now), now + QUIET);
        assert_eq!(soon(Some(now), now + QUIET / 2), now, "changes that go on do not put it off");
    }

    #[test]
    fn nothing_is_deleted_while_a_cluster_cannot_be_read() {
        let spec = serde_json::from_value(json!({
            "brokers": ["a:1"],
            "namespaces": [{"name": "shop", "topics": ["*"]}],
        }));
        let stored = ["shop", "bank"]
            .map(|namespace| {
                let uid = format!("uid-{namespace}");
                ((namespace.to_owned(), AGENT.to_owned()), Stored { uid, data: Data::new() })
            })
            .into();
        let (index, _changes) = Index::new();
        index.apply_cluster("main", spec.unwrap());
        let gone = vec![("bank".to_owned(), AGENT.to_owned(), "uid-bank".to_owned())];
        assert_eq!(leftover(&stored, &index), gone);

        // It may be the one that grants `bank`.
        index.unreadable_cluster("other");
        assert_eq!(leftover(&stored, &index), []);
        // What was known of one that was readable before stays, also when the watch begins anew.
        index.unreadable_cluster("main");
        index.retain_clusters(&HashSet::from(["main".to_owned()]));
        assert!(index.is_granted("shop") && !index.knows_all_grants());
        index.delete_cluster("main");
        assert_eq!(leftover(&stored, &index).len(), 2);
    }
}
