//! What each client is to run, and what the connected clients say that they run.
//!
//! A synchronous state machine: objects, revisions and messages of clients go in, one [`Answer`] per client comes out of a
//! `watch` channel, so that a slow stream finds the newest answer and never a queue of old ones. It reads revisions and
//! status, never a spec: what is in force was decided by the controller and is written down.

mod clients;
mod clusters;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mq_core::{
    effect::ObjectKey,
    revision::Stored,
    rollout::{self, Rejection, State},
};
use mq_crds::MqClusterSpec;
use mq_protocol::message::{ClientRef, Kind, Version};
use tokio::sync::{Notify, mpsc, watch};

use self::clients::Client;
pub use self::clients::{Deviating, Report, Said, Subscription};
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
    /// Counts changes of clusters.
    grants: watch::Sender<u64>,
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

impl Index {
    /// An empty index, and the changes that the clients cause. The receiver must be read: it is not bounded, since
    /// a change is a name and its reader only collects names.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        (Self { inner: Arc::default(), changes, touched: Arc::default(), grants: watch::Sender::new(0) }, receiver)
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

    /// Waits until an answer or a grant may have changed. For one waiter.
    pub async fn touched(&self) {
        self.touched.notified().await;
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
}

#[cfg(test)]
pub(super) mod tests;
