//! One watch per kind: fills the cache and says which objects to reconcile.
//!
//! A deletion that happened while the watch was down is found by comparing each new list with what was known, so nothing stays
//! indexed for ever.

use crate::{
    metrics::Metrics,
    object::{Guarded, Object},
};
use futures::{Stream, StreamExt, stream};
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use std::collections::HashSet;
use tokio::sync::watch as channel;

type Ref<K> = ObjectRef<Guarded<K>>;

/// The cache of one kind. Read from it freely; it may lag behind the API server.
pub type Cache<K> = Store<Guarded<K>>;

/// True once the whole of a kind was listed.
pub(crate) type Filled = channel::Receiver<bool>;

/// The cache, whether it was filled once, and the stream that fills it while it is polled and yields the objects that appeared,
/// changed or vanished.
///
/// The flag is our own because the cache's `wait_until_ready` wakes one waiter only, and the applier is that one.
pub(crate) fn watch<K: Object>(
    api: Api<Guarded<K>>,
    metrics: &Metrics,
) -> (Cache<K>, Filled, impl Stream<Item = Ref<K>> + Send + use<K>) {
    let (cache, writer) = reflector::store();
    let (fill, filled) = channel::channel(false);
    let kind = K::kind(&()).into_owned();
    let mut seen = Seen::default();
    let metrics = metrics.clone();
    let events = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    let touched = events.flat_map(move |event| {
        let touched = match event {
            Ok(event) => {
                if matches!(event, Event::InitDone) {
                    fill.send_replace(true);
                }
                seen.touched(event)
            }
            Err(error) => {
                tracing::warn!(%error, kind, "watch failed; it is taken up again");
                metrics.watch_errors.with_label_values(&[&kind]).inc();
                vec![]
            }
        };
        metrics.objects.with_label_values(&[&kind]).set(as_i64(seen.known.len()));
        metrics.undeserializable.with_label_values(&[&kind]).set(as_i64(seen.invalid.len()));
        stream::iter(touched)
    });
    (cache, filled, touched)
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[derive(Debug)]
struct Seen<K: Object> {
    known: HashSet<Ref<K>>,
    invalid: HashSet<Ref<K>>,
    listing: HashSet<Ref<K>>,
}

impl<K: Object> Default for Seen<K> {
    fn default() -> Self {
        Self { known: HashSet::new(), invalid: HashSet::new(), listing: HashSet::new() }
    }
}

impl<K: Object> Seen<K> {
    fn touched(&mut self, event: Event<Guarded<K>>) -> Vec<Ref<K>> {
        match event {
            Event::Init => {
                self.listing.clear();
                vec![]
            }
            Event::InitApply(object) => {
                let object = self.note(&object);
                self.listing.insert(object);
                vec![]
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listing));
                self.invalid.retain(|object| self.known.contains(object));
                before.union(&self.known).cloned().collect()
            }
            Event::Apply(object) => {
                let object = self.note(&object);
                self.known.insert(object.clone());
                vec![object]
            }
            Event::Delete(object) => {
                let object = ObjectRef::from_obj(&object);
                self.known.remove(&object);
                self.invalid.remove(&object);
                vec![object]
            }
        }
    }

    fn note(&mut self, object: &Guarded<K>) -> Ref<K> {
        let reference = ObjectRef::from_obj(object);
        if object.parsed.is_err() {
            self.invalid.insert(reference.clone());
        } else {
            self.invalid.remove(&reference);
        }
        reference
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str) -> Guarded<ConfigMap> {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "n"}})).unwrap()
    }

    fn broken(name: &str) -> Guarded<ConfigMap> {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "n"}, "data": 1})).unwrap()
    }

    fn names(touched: Vec<Ref<ConfigMap>>) -> Vec<String> {
        let mut names: Vec<_> = touched.into_iter().map(|object| object.name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_vanished_while_the_watch_was_down_is_touched_once() {
        let mut seen = Seen::default();
        seen.touched(Event::Init);
        seen.touched(Event::InitApply(object("a")));
        seen.touched(Event::InitApply(object("b")));
        assert_eq!(names(seen.touched(Event::InitDone)), ["a", "b"]);
        seen.touched(Event::Init);
        seen.touched(Event::InitApply(object("b")));
        assert_eq!(names(seen.touched(Event::InitDone)), ["a", "b"]);
        seen.touched(Event::Init);
        seen.touched(Event::InitApply(object("b")));
        assert_eq!(names(seen.touched(Event::InitDone)), ["b"]);
    }

    #[test]
    fn objects_that_do_not_deserialize_are_counted_and_passed_on() {
        let mut seen = Seen::default();
        assert_eq!(names(seen.touched(Event::Apply(broken("a")))), ["a"]);
        assert_eq!(seen.invalid.len(), 1);
        seen.touched(Event::Apply(object("a")));
        assert_eq!(seen.invalid.len(), 0);
    }
}
