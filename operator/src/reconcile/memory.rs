//! What the runner remembers of objects between passes; all of it may be lost.

use mq_core::effect::ObjectKey;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<(String, String), Entry>>);

#[derive(Debug)]
struct Entry {
    key: ObjectKey,
    failures: u32,
    written: Option<u64>,
}

impl Memory {
    /// Notes that the object is there; returns the one that had its name before, if that was another.
    pub(super) fn meet(&self, key: &ObjectKey) -> Option<ObjectKey> {
        let fresh = || Entry { key: key.clone(), failures: 0, written: None };
        let mut entries = self.lock();
        let entry = entries.entry(place(key)).or_insert_with(fresh);
        (entry.key != *key).then(|| std::mem::replace(entry, fresh()).key)
    }

    /// The object that had this name, forgotten.
    pub(super) fn part(&self, namespace: &str, name: &str) -> Option<ObjectKey> {
        self.lock().remove(&(namespace.to_owned(), name.to_owned())).map(|entry| entry.key)
    }

    /// Notes the resourceVersion of an own write.
    pub(super) fn wrote(&self, key: &ObjectKey, resource_version: Option<&str>) {
        if let Some(entry) = self.lock().get_mut(&place(key)) {
            entry.written = resource_version.and_then(|version| version.parse().ok());
        }
    }

    /// Whether the cache has not caught up with an own write yet; its event is on the way.
    pub(super) fn is_behind(&self, key: &ObjectKey, resource_version: Option<&str>) -> bool {
        let cached = resource_version.and_then(|version| version.parse::<u64>().ok());
        let written = self.lock().get(&place(key)).and_then(|entry| entry.written);
        matches!((cached, written), (Some(cached), Some(written)) if cached < written)
    }

    pub(super) fn succeeded(&self, key: &ObjectKey) {
        if let Some(entry) = self.lock().get_mut(&place(key)) {
            entry.failures = 0;
        }
    }

    /// How long to wait before the next attempt: doubled with each failure, cut at random by up to half.
    pub(super) fn failed(&self, key: &ObjectKey) -> Duration {
        let failures = self.lock().get_mut(&place(key)).map_or(0, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures - 1
        });
        let full = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(key: &ObjectKey) -> (String, String) {
    (key.namespace.clone(), key.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uid: &str) -> ObjectKey {
        ObjectKey { namespace: "n".into(), name: "a".into(), uid: uid.into() }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_over_after_a_success() {
        let memory = Memory::default();
        memory.meet(&key("1"));
        let pauses: Vec<_> = (0..20).map(|_| memory.failed(&key("1"))).collect();
        assert!(pauses[0] <= FIRST_PAUSE);
        assert!(pauses[5] > pauses[0] * 4);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[19] >= LONGEST_PAUSE / 2);
        memory.succeeded(&key("1"));
        assert!(memory.failed(&key("1")) <= FIRST_PAUSE);
    }

    #[test]
    fn a_cache_older_than_an_own_write_is_behind() {
        let memory = Memory::default();
        memory.meet(&key("1"));
        assert!(!memory.is_behind(&key("1"), Some("7")));
        memory.wrote(&key("1"), Some("9"));
        assert!(memory.is_behind(&key("1"), Some("7")));
        assert!(!memory.is_behind(&key("1"), Some("9")));
        assert!(!memory.is_behind(&key("1"), Some("10")));
    }

    #[test]
    fn an_object_created_again_is_another() {
        let memory = Memory::default();
        assert_eq!(memory.meet(&key("1")), None);
        assert_eq!(memory.meet(&key("1")), None);
        memory.wrote(&key("1"), Some("9"));
        assert_eq!(memory.meet(&key("2")), Some(key("1")));
        assert!(!memory.is_behind(&key("2"), Some("1")));
        assert_eq!(memory.part("n", "a"), Some(key("2")));
        assert_eq!(memory.part("n", "a"), None);
    }
}
