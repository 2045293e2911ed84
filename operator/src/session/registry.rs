//! Which cluster has which session.

use super::{ClusterSession, Declared, Environment};
use mq_core::effect::ObjectKey;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Told the name of a cluster whose session, grants or existence changed; wakes the objects that belong to it.
pub type Dependents = Arc<dyn Fn(&str) + Send + Sync>;

/// All sessions of this process.
pub struct Sessions {
    environment: Environment,
    dependents: Vec<Dependents>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    session: Arc<ClusterSession>,
    generation: i64,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("open", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(crate) fn new(environment: Environment, dependents: Vec<Dependents>, shutdown: CancellationToken) -> Self {
        Self { environment, dependents, tasks: TaskTracker::new(), shutdown, open: Mutex::default() }
    }

    /// The session of a cluster, if its `MqCluster` is valid and known here.
    pub fn get(&self, cluster: &str) -> Option<Arc<ClusterSession>> {
        self.lock().get(cluster).map(|open| Arc::clone(&open.session))
    }

    /// The clusters that have a session.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The session for this `MqCluster`, which does as it says.
    pub(crate) fn ensure(&self, object: &ObjectKey, declared: Declared) -> Arc<ClusterSession> {
        let generation = declared.generation;
        let mut open = self.lock();
        if let Some(known) = open.get_mut(&object.name).filter(|known| known.session.object == *object) {
            known.session.redeclare(&declared);
            let session = Arc::clone(&known.session);
            let edited = std::mem::replace(&mut known.generation, generation) != generation;
            drop(open);
            if edited {
                self.tell(&object.name);
            }
            return session;
        }
        let stop = self.shutdown.child_token();
        let session = ClusterSession::new(object.clone(), declared, self.environment.clone(), stop);
        let session = Arc::new(session);
        let predecessor = open.insert(object.name.clone(), Open { session: Arc::clone(&session), generation });
        drop(open);
        if let Some(predecessor) = predecessor {
            predecessor.session.stop.cancel();
        }
        self.tasks.spawn(Arc::clone(&session).run());
        self.tell(&object.name);
        session
    }

    /// Ends the session of this `MqCluster`.
    pub(crate) fn remove(&self, object: &ObjectKey) {
        let mut open = self.lock();
        if open.get(&object.name).is_none_or(|known| known.session.object != *object) {
            return;
        }
        let removed = open.remove(&object.name);
        drop(open);
        if let Some(removed) = removed {
            removed.session.stop.cancel();
        }
        // It fails only if the cluster was never looked at.
        let _ = self.environment.metrics.cluster_reachable.remove_label_values(&[&object.name]);
        self.tell(&object.name);
    }

    /// The object declares nothing any more, on whichever cluster it did.
    pub fn withdraw(&self, object: &ObjectKey) {
        for open in self.lock().values() {
            open.session.withdraw(object);
        }
    }

    /// Waits until all sessions have finished what they had begun. Call after the shutdown.
    pub(crate) async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn tell(&self, cluster: &str) {
        for dependents in &self.dependents {
            dependents(cluster);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
