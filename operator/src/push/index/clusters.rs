//! The clusters, and the namespaces that they grant something.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use mq_crds::MqClusterSpec;
use tokio::sync::watch;

use super::{Index, Inner};

impl Index {
    /// A cluster as it is declared. When that changes, a decision is due for each of its configurations.
    pub fn apply_cluster(&self, name: &str, spec: MqClusterSpec) {
        let mut inner = self.lock();
        let readable_again = inner.unreadable.remove(name);
        if !readable_again && inner.clusters.get(name).is_some_and(|present| **present == spec) {
            return;
        }
        inner.clusters.insert(name.to_owned(), Arc::new(spec));
        self.cluster_changed(&inner, name);
    }

    /// The cluster exists, but what it declares cannot be read: what was last known holds on. A decision is due for each of its
    /// configurations, which say so.
    pub fn unreadable_cluster(&self, name: &str) {
        let mut inner = self.lock();
        if inner.unreadable.insert(name.to_owned()) {
            self.cluster_changed(&inner, name);
        }
    }

    /// Whether the cluster exists but cannot be read.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.lock().unreadable.contains(name)
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

    /// The cluster, if there is one.
    pub fn cluster(&self, name: &str) -> Option<Arc<MqClusterSpec>> {
        self.lock().clusters.get(name).cloned()
    }

    /// Whether any cluster grants this namespace.
    pub fn is_granted(&self, namespace: &str) -> bool {
        self.lock().clusters.values().any(|cluster| cluster.namespaces.iter().any(|grant| grant.name == namespace))
    }

    /// Whether it is certain that no cluster grants this namespace anything.
    pub fn is_revoked(&self, namespace: &str) -> bool {
        self.knows_all_grants() && !self.is_granted(namespace)
    }

    /// Changes whenever a grant may have.
    pub fn grants(&self) -> watch::Receiver<u64> {
        self.grants.subscribe()
    }

    /// Every granted namespace.
    pub fn granted(&self) -> BTreeSet<String> {
        let inner = self.lock();
        inner.clusters.values().flat_map(|cluster| &cluster.namespaces).map(|grant| grant.name.clone()).collect()
    }

    fn cluster_changed(&self, inner: &Inner, cluster: &str) {
        self.grants_changed();
        for (key, _) in inner.objects.iter().filter(|(_, object)| object.cluster == cluster) {
            self.changed(inner, Some(key), true);
        }
    }

    fn grants_changed(&self) {
        self.touched.notify_one();
        self.grants.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}
