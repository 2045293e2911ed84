//! What each client is to run, and what the connected clients say that they run.
//!
//! A synchronous state machine: objects, revisions and messages of clients go in, one [`Answer`] per client comes out of a
//! `watch` channel, so that a slow stream finds the newest answer and never a queue of old ones. It reads revisions and
//! status, never a spec: what is in force was decided by the controller and is written down.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mq_core::{
    effect::ObjectKey,
    revision::Stored,
    rollout::{self, Clients, Rejection, State},
};
use mq_crds::MqClusterSpec;
use mq_protocol::message::{ClientRef, Kind, NackReason, Version};
use tokio::sync::{Notify, mpsc, watch};

use crate::revisions::Revision;

/// A client configuration: which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigKey {
    /// Namespace of the object and of its pods.
    pub namespace: String,
    /// Kind and name.
    pub client: ClientRef,
}

/// What a client is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Run {
        /// Number and hash.
        version: Version,
        /// Canonical JSON.
        body: Bytes,
    },
    /// What it has: the object exists, but none of its revisions may be sent.
    Keep {
        /// Why.
        detail: String,
    },
    /// What it would run without the operator: there is no such object.
    Nothing,
}

/// A pod with an open stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.name`.
    pub name: String,
}

/// What the clients of one configuration say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts.
    pub clients: Clients,
    /// Refusals of revisions that exist, oldest revision first.
    pub rejections: Vec<Rejection>,
    /// Effective values of a client that runs the revision in force.
    pub effective: BTreeMap<String, String>,
    /// Clients that do not run with everything that they should, by the name of the pod.
    pub deviating: Vec<Deviating>,
}

/// A client that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviating {
    /// Name of the pod.
    pub pod: String,
    /// What it runs, if it said so.
    pub revision: Option<i64>,
    /// How it differs.
    pub message: String,
}

/// The controller of this object has something to decide, or its status something to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectKey,
    /// A decision is due. Otherwise it is about counts, which can wait to be told together.
    pub urgent: bool,
}

/// Handle to the index; clones share it.
#[derive(Clone, Debug)]
pub struct Index {
    inner: Arc<Mutex<Inner>>,
    changes: mpsc::UnboundedSender<Change>,
    touched: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<ConfigKey, Object>,
    /// The object with this uid.
    owners: HashMap<String, ConfigKey>,
    /// By uid of the owner. Revisions may arrive before their object, and outlive it.
    revisions: HashMap<String, BTreeMap<i64, Revision>>,
    clients: HashMap<ConfigKey, Subscribers>,
    clusters: HashMap<String, Arc<MqClusterSpec>>,
    /// Clusters that exist but cannot be read. What was last known of one stays among `clusters`.
    unreadable: HashSet<String>,
    settled: bool,
}

#[derive(Debug)]
struct Object {
    uid: String,
    cluster: String,
    state: State,
    refusals: BTreeMap<i64, Rejection>,
}

#[derive(Debug)]
struct Subscribers {
    answer: watch::Sender<Answer>,
    /// By number of the stream, which ascends.
    streams: BTreeMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    pod: Pod,
    running: Option<Version>,
    refused: Option<(i64, String)>,
    effective: BTreeMap<String, String>,
    not_applied: Vec<String>,
}

/// One client of one stream. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    index: Index,
    key: ConfigKey,
    pod: Pod,
    stream: u64,
}

impl Index {
    /// An empty index, and the changes that the clients cause. The receiver must be read: it is not bounded, since
    /// a change is a name and its reader only collects names.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        (Self { inner: Arc::default(), changes, touched: Arc::default() }, receiver)
    }

    /// An object and what its status says. Another uid is another object: what clients said of the old one is forgotten.
    pub fn apply_object(&self, key: &ConfigKey, uid: String, cluster: String, state: State) {
        let mut inner = self.lock();
        let refusals = match inner.remove(key) {
            Some(old) if old.uid == uid => old.refusals,
            _ => BTreeMap::new(),
        };
        inner.owners.insert(uid.clone(), key.clone());
        inner.objects.insert(key.clone(), Object { uid, cluster, state, refusals });
        self.answer(&mut inner, key);
    }

    /// The object is gone.
    pub fn delete_object(&self, key: &ConfigKey) {
        let mut inner = self.lock();
        inner.remove(key);
        self.answer(&mut inner, key);
    }

    /// Deletes every object of a kind that is not in `present`: after a watch began anew.
    pub fn retain_objects(&self, kind: Kind, present: &HashSet<ConfigKey>) {
        let mut inner = self.lock();
        let gone = inner.objects.keys().filter(|key| key.client.kind == kind && !present.contains(key));
        for key in gone.cloned().collect::<Vec<_>>() {
            inner.remove(&key);
            self.answer(&mut inner, &key);
        }
    }

    /// A revision of the object with uid `owner`.
    pub fn apply_revision(&self, owner: &str, revision: Revision) {
        let mut inner = self.lock();
        inner.revisions.entry(owner.to_owned()).or_default().insert(revision.stored.number, revision);
        self.answer_owner(&mut inner, owner);
    }

    /// The revision is gone.
    pub fn delete_revision(&self, owner: &str, number: i64) {
        let mut inner = self.lock();
        if let Some(revisions) = inner.revisions.get_mut(owner) {
            revisions.remove(&number);
            if revisions.is_empty() {
                inner.revisions.remove(owner);
            }
        }
        self.answer_owner(&mut inner, owner);
    }

    /// Deletes every revision that is not in `present` (owner, number): after a watch began anew.
    pub fn retain_revisions(&self, present: &HashSet<(String, i64)>) {
        let inner = self.lock();
        let all =
            inner.revisions.iter().flat_map(|(owner, all)| all.keys().map(move |number| (owner.clone(), *number)));
        let gone: Vec<_> = all.filter(|revision| !present.contains(revision)).collect();
        drop(inner);
        for (owner, number) in gone {
            self.delete_revision(&owner, number);
        }
    }

    /// A cluster as it is declared. When that changes, a decision is due for each of its configurations.
    pub fn apply_cluster(&self, name: &str, spec: MqClusterSpec) {
        let mut inner = self.lock();
        if inner.unreadable.remove(name) {
            self.touched.notify_one();
        }
        if inner.clusters.get(name).is_some_and(|present| **present == spec) {
            return;
        }
        inner.clusters.insert(name.to_owned(), Arc::new(spec));
        self.cluster_changed(&inner, name);
    }

    /// The cluster exists, but what it declares cannot be read: what was last known holds on.
    pub fn unreadable_cluster(&self, name: &str) {
        self.lock().unreadable.insert(name.to_owned());
    }

    /// Whether every cluster could be read. If not, a namespace that seems not to be granted may be.
    pub fn knows_all_grants(&self) -> bool {
        self.lock().unreadable.is_empty()
    }

    /// The cluster is gone, and its grants with it.
    pub fn delete_cluster(&self, name: &str) {
        let mut inner = self.lock();
        inner.clusters.remove(name);
        inner.unreadable.remove(name);
        self.cluster_changed(&inner, name);
    }

    /// Deletes every cluster that is not in `present`: after a watch began anew.
    pub fn retain_clusters(&self, present: &HashSet<String>) {
        let inner = self.lock();
        let known = inner.clusters.keys().chain(&inner.unreadable);
        let gone: BTreeSet<_> = known.filter(|name| !present.contains(*name)).cloned().collect();
        drop(inner);
        for name in gone {
            self.delete_cluster(&name);
        }
    }

    /// Waits until an answer or a grant may have changed. For one waiter.
    pub async fn touched(&self) {
        self.touched.notified().await;
    }

    /// The cluster, if there is one.
    pub fn cluster(&self, name: &str) -> Option<Arc<MqClusterSpec>> {
        self.lock().clusters.get(name).cloned()
    }

    /// Whether any cluster grants this namespace.
    pub fn is_granted(&self, namespace: &str) -> bool {
        self.lock().clusters.values().any(|cluster| cluster.namespaces.iter().any(|grant| grant.name == namespace))
    }

    /// Every granted namespace.
    pub fn granted(&self) -> BTreeSet<String> {
        let inner = self.lock();
        inner.clusters.values().flat_map(|cluster| &cluster.namespaces).map(|grant| grant.name.clone()).collect()
    }

    /// The revisions of the object with this uid, without their bodies.
    pub fn revisions(&self, uid: &str) -> Vec<Stored> {
        let inner = self.lock();
        inner
            .revisions
            .get(uid)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|revision| revision.stored.clone())
            .collect()
    }

    /// The newest revision of the object with this uid.
    pub fn newest_revision(&self, uid: &str) -> Option<Revision> {
        self.lock().revisions.get(uid)?.values().next_back().cloned()
    }

    /// A later generation of the object resolves to the same revision.
    pub fn confirm_revision(&self, uid: &str, number: i64, generation: i64, preset_version: u32) {
        if let Some(revision) = self.lock().revisions.get_mut(uid).and_then(|all| all.get_mut(&number)) {
            revision.stored.generation = generation;
            revision.stored.preset_version = preset_version;
        }
    }

    /// Agents had the time to connect: from now on a client that is missing is not there. Each object's status is due.
    pub fn settle(&self) {
        let mut inner = self.lock();
        inner.settled = true;
        for key in inner.objects.keys() {
            self.changed(&inner, Some(key), false);
        }
    }

    /// See [`Index::settle`].
    pub fn is_settled(&self) -> bool {
        self.lock().settled
    }

    /// What a client in each of the configurations of a namespace is to run.
    pub fn answers(&self, namespace: &str) -> BTreeMap<ClientRef, Answer> {
        let inner = self.lock();
        let keys = inner.objects.keys().filter(|key| key.namespace == namespace);
        keys.map(|key| (key.client.clone(), inner.compute(key))).collect()
    }

    /// Begins a subscription. The receiver has the present answer as its first value. `stream` is a number that no
    /// other stream of this process has.
    pub fn subscribe(&self, key: ConfigKey, pod: Pod, stream: u64) -> (Subscription, watch::Receiver<Answer>) {
        let mut inner = self.lock();
        let answer = inner.compute(&key);
        let subscribers = inner
            .clients
            .entry(key.clone())
            .or_insert_with(|| Subscribers { answer: watch::Sender::new(answer), streams: BTreeMap::new() });
        subscribers.streams.insert(stream, Client::new(pod.clone()));
        let receiver = subscribers.answer.subscribe();
        self.changed(&inner, Some(&key), false);
        drop(inner);
        (Subscription { index: self.clone(), key, pod, stream }, receiver)
    }

    /// What the clients of a configuration say.
    pub fn report(&self, key: &ConfigKey) -> Report {
        let inner = self.lock();
        let Some(object) = inner.objects.get(key) else { return Report::default() };
        let exists = |number: &i64| inner.revisions.get(&object.uid).is_some_and(|all| all.contains_key(number));
        let mut report = Report {
            rejections: object.refusals.values().filter(|refusal| exists(&refusal.revision)).cloned().collect(),
            ..Report::default()
        };
        let in_force = match inner.compute(key) {
            Answer::Run { version, .. } => Some(version),
            Answer::Keep { .. } | Answer::Nothing => None,
        };
        let newest = inner.revisions.get(&object.uid).and_then(|all| all.keys().next_back()).copied();
        // A pod counts once: the stream that it lost may not be known to be dead when it opens the next.
        let streams = inner.clients.get(key).into_iter().flat_map(|subscribers| subscribers.streams.values());
        let pods: BTreeMap<&Pod, &Client> = streams.map(|client| (&client.pod, client)).collect();
        for client in pods.into_values() {
            client.add_to(&mut report, in_force.as_ref(), newest);
        }
        report
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code runs under the lock that could leave it half changed, so a poisoned one is as good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, inner: &Inner, key: Option<&ConfigKey>, urgent: bool) {
        let Some((key, object)) = key.and_then(|key| Some((key, inner.objects.get(key)?))) else { return };
        let (namespace, name, uid) = (key.namespace.clone(), key.client.name.clone(), object.uid.clone());
        let change = Change { kind: key.client.kind, object: ObjectKey { namespace, name, uid }, urgent };
        // Without a reader the operator is ending.
        let _ = self.changes.send(change);
    }

    fn answer(&self, inner: &mut Inner, key: &ConfigKey) {
        inner.answer(key);
        self.touched.notify_one();
    }

    fn answer_owner(&self, inner: &mut Inner, uid: &str) {
        let key = inner.owners.get(uid).cloned();
        if let Some(key) = &key {
            self.answer(inner, key);
        }
        self.changed(inner, key.as_ref(), true);
    }

    fn cluster_changed(&self, inner: &Inner, cluster: &str) {
        self.touched.notify_one();
        for (key, _) in inner.objects.iter().filter(|(_, object)| object.cluster == cluster) {
            self.changed(inner, Some(key), true);
        }
    }
}

impl Inner {
    fn remove(&mut self, key: &ConfigKey) -> Option<Object> {
        let object = self.objects.remove(key)?;
        self.owners.remove(&object.uid);
        Some(object)
    }

    fn compute(&self, key: &ConfigKey) -> Answer {
        let Some(object) = self.objects.get(key) else { return Answer::Nothing };
        let revisions = self.revisions.get(&object.uid);
        let numbers = revisions.into_iter().flat_map(BTreeMap::keys).copied().collect();
        let refused = object.refusals.keys().copied().collect();
        let number = rollout::to_send(&numbers, &object.state, &refused);
        match number.and_then(|number| Some((number, revisions?.get(&number)?))) {
            Some((revision, stored)) => Answer::Run {
                version: Version { revision, hash: stored.stored.hash.clone() },
                body: stored.body.clone(),
            },
            None if object.state.current.is_none() && object.state.rejected.is_empty() => {
                Answer::Keep { detail: "no revision was made yet; see the conditions of the object".to_owned() }
            }
            None => Answer::Keep {
                detail: "every revision was rejected by a client; any edit of spec tries again".to_owned(),
            },
        }
    }

    fn answer(&mut self, key: &ConfigKey) {
        let answer = self.compute(key);
        if let Some(subscribers) = self.clients.get(key) {
            subscribers.answer.send_if_modified(|present| {
                let modified = *present != answer;
                *present = answer;
                modified
            });
        }
    }

    fn client(&mut self, subscription: &Subscription) -> Option<&mut Client> {
        self.clients.get_mut(&subscription.key)?.streams.get_mut(&subscription.stream)
    }
}

impl Client {
    fn new(pod: Pod) -> Self {
        Self { pod, running: None, refused: None, effective: BTreeMap::new(), not_applied: Vec::new() }
    }

    fn add_to(&self, report: &mut Report, in_force: Option<&Version>, newest: Option<i64>) {
        report.clients.connected += 1;
        // By hash: a client that was told of a newer number for the same configuration runs it already.
        let applied = matches!((&self.running, in_force), (Some(running), Some(wanted)) if running.hash == wanted.hash);
        let refused_newest = self.refused.as_ref().filter(|(revision, _)| Some(*revision) == newest);
        report.clients.applied += usize::from(applied);
        report.clients.rejected += usize::from(refused_newest.is_some());
        if applied && self.not_applied.is_empty() && report.effective.is_empty() {
            report.effective.clone_from(&self.effective);
        }
        let message = match (&self.refused, applied) {
            (Some((revision, words)), _) => format!("refused revision {revision}: {words}"),
            (None, false) => "has not said that it runs the revision in force".to_owned(),
            (None, true) if !self.not_applied.is_empty() => format!("does not apply {}", self.not_applied.join(", ")),
            (None, true) => return,
        };
        let revision = self.running.as_ref().map(|version| version.revision);
        report.deviating.push(Deviating { pod: self.pod.name.clone(), revision, message });
    }
}

impl Subscription {
    /// The client runs `version`.
    pub fn ack(&self, version: Version, effective: BTreeMap<String, String>, not_applied: Vec<String>) {
        let mut inner = self.index.lock();
        let Some(client) = inner.client(self) else { return };
        client.refused.take_if(|(revision, _)| *revision <= version.revision);
        client.running = Some(version);
        client.effective = effective;
        client.not_applied = not_applied;
        self.index.changed(&inner, Some(&self.key), false);
    }

    /// The client refuses `version`, which is not sent to anybody from now on, unless this process alone cannot change to
    /// it. A refusal of something that was never sent (a number that does not exist, or another hash) changes nothing.
    pub fn nack(&self, version: &Version, reason: NackReason, detail: &str) {
        let mut inner = self.index.lock();
        let words = format!("{}: {detail}", reason.as_str());
        if let Some(client) = inner.client(self) {
            client.refused = Some((version.revision, words.clone()));
        }
        if reason == NackReason::NeedsRestart {
            // It says nothing about the revision: the pod that is started again must get it.
            self.index.changed(&inner, Some(&self.key), false);
            return;
        }
        let Inner { objects, revisions, .. } = &mut *inner;
        let Some(object) = objects.get_mut(&self.key) else { return };
        let stored = revisions.get(&object.uid).and_then(|all| all.get(&version.revision));
        if stored.is_none_or(|revision| revision.stored.hash != version.hash) {
            return;
        }
        let first = !object.refusals.contains_key(&version.revision);
        object.refusals.entry(version.revision).or_insert_with(|| Rejection {
            revision: version.revision,
            pod: self.pod.name.clone(),
            words: format!("pod {}: {words}", self.pod.name),
        });
        self.index.answer(&mut inner, &self.key);
        self.index.changed(&inner, Some(&self.key), first);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.index.lock();
        if let Some(subscribers) = inner.clients.get_mut(&self.key) {
            subscribers.streams.remove(&self.stream);
            if subscribers.streams.is_empty() {
                inner.clients.remove(&self.key);
            }
        }
        self.index.changed(&inner, Some(&self.key), false);
    }
}

#[cfg(test)]
pub(super) mod tests;
