//! What else scales workloads: `HorizontalPodAutoscaler`s, and whatever makes them, such as KEDA.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use mq_core::reason::Reason;
use mq_crds::TargetRef;
use tokio::time::sleep;

use super::super::asks::{Place, place};
use super::{NoTarget, Refused, watched::refusal};

/// Pause before autoscalers that may not be seen are listed again.
const AGAIN: Duration = Duration::from_secs(30);

/// The autoscalers that the operator may see.
#[derive(Debug)]
pub(super) struct Rivals {
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    NotListed,
    /// They cannot be looked at. That is no reason not to scale.
    Hidden,
    Listed(Known),
}

/// By namespace and name.
type Known = HashMap<String, BTreeMap<String, Rival>>;

#[derive(Debug)]
struct Rival {
    place: Place,
    /// What made it, if that is an object.
    owner: Option<String>,
}

impl Rivals {
    pub(super) fn new() -> Self {
        Self { state: RwLock::new(State::NotListed) }
    }

    /// Whether nothing else scales the workload, as far as that can be seen.
    ///
    /// # Errors
    /// Something does, which is named; or nothing was answered yet.
    pub(super) fn none_for(&self, namespace: &str, target: &TargetRef) -> Result<(), NoTarget> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::NotListed => Err(NoTarget::NotListed),
            State::Hidden => Ok(()),
            State::Listed(known) => {
                let place = place(namespace, target);
                let rival = known.get(namespace).into_iter().flatten().find(|(_, rival)| rival.place == place);
                rival.map_or(Ok(()), |(name, rival)| Err(NoTarget::Refused(rival.refuses(name, target))))
            }
        }
    }

    /// Watches for ever.
    pub(super) async fn run(&self, client: Client, namespace: Option<&str>) {
        loop {
            let api = match namespace {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            self.watch(api).await;
            sleep(AGAIN).await;
        }
    }

    /// Ends when they are not served, or may not be seen: a watch that starts again would not list them anew.
    async fn watch(&self, api: Api<HorizontalPodAutoscaler>) {
        let mut listing = Known::new();
        let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => note(&mut listing, &object),
                Ok(Event::InitDone) => *self.write() = State::Listed(std::mem::take(&mut listing)),
                Ok(Event::Apply(object)) => {
                    if let State::Listed(known) = &mut *self.write() {
                        note(known, &object);
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let State::Listed(known) = &mut *self.write() {
                        forget(known, &object);
                    }
                }
                Err(error) => {
                    let gone = matches!(refusal(&error), Some(403 | 404));
                    self.not_seen(gone, &error);
                    if gone {
                        return;
                    }
                }
            }
        }
    }

    /// What was seen before still counts, unless it will not be seen again.
    fn not_seen(&self, gone: bool, error: &watcher::Error) {
        let mut state = self.write();
        if matches!(*state, State::NotListed) || (gone && matches!(*state, State::Listed(_))) {
            tracing::warn!(
                %error,
                "HorizontalPodAutoscalers cannot be looked at: whether one scales the target of a group is not noticed; \
                 the operator's role needs list and watch on horizontalpodautoscalers of autoscaling"
            );
            *state = State::Hidden;
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rival {
    fn of(object: &HorizontalPodAutoscaler) -> Option<Self> {
        let target = &object.spec.as_ref()?.scale_target_ref;
        let target = TargetRef {
            api_version: target.api_version.clone().unwrap_or_default(),
            kind: target.kind.clone(),
            name: target.name.clone(),
        };
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true));
        Some(Self {
            place: place(&object.namespace().unwrap_or_default(), &target),
            owner: owner.map(|owner| format!("{} {}", owner.kind, owner.name)),
        })
    }

    fn refuses(&self, name: &str, target: &TargetRef) -> Refused {
        let by = match &self.owner {
            Some(owner) => format!("{owner}, by its HorizontalPodAutoscaler {name},"),
            None => format!("HorizontalPodAutoscaler {name}"),
        };
        let TargetRef { kind, name, .. } = target;
        let message = format!(
            "{by} scales {kind} {name} too; delete one of them: that, or spec.scaling (or set its mode to Observe)"
        );
        Refused::new(Reason::ReplicasContested, message)
    }
}

fn note(known: &mut Known, object: &HorizontalPodAutoscaler) {
    match Rival::of(object) {
        Some(rival) => {
            known.entry(object.namespace().unwrap_or_default()).or_default().insert(object.name_any(), rival);
        }
        None => forget(known, object),
    }
}

fn forget(known: &mut Known, object: &HorizontalPodAutoscaler) {
    let namespace = object.namespace().unwrap_or_default();
    if let Some(named) = known.get_mut(&namespace) {
        named.remove(&object.name_any());
        if named.is_empty() {
            known.remove(&namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn autoscaler(name: &str, target: &Value, owners: &Value) -> HorizontalPodAutoscaler {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": owners},
            "spec": {"maxReplicas": 3, "scaleTargetRef": target},
        }))
        .unwrap()
    }

    fn target(api_version: &str, kind: &str, name: &str) -> TargetRef {
        TargetRef { api_version: api_version.into(), kind: kind.into(), name: name.into() }
    }

    #[test]
    fn what_scales_the_same_workload_is_named_until_it_is_gone() {
        let worker = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"});
        let keda = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "1"},
            {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "orders", "uid": "2", "controller": true},
        ]);
        let (plain, made) = (autoscaler("web", &worker, &json!([])), autoscaler("keda-hpa-orders", &worker, &keda));
        let said = |object: Option<&HorizontalPodAutoscaler>, namespace: &str, target: &TargetRef| {
            let mut known = Known::new();
            if let Some(object) = object {
                note(&mut known, object);
            }
            let rivals = Rivals { state: RwLock::new(State::Listed(known)) };
            match rivals.none_for(namespace, target) {
                Ok(()) => None,
                Err(NoTarget::Refused(refused)) => {
                    assert_eq!(refused.reason, Reason::ReplicasContested);
                    Some(refused.message.split_once(" too; delete one of them").unwrap().0.to_owned())
                }
                Err(NoTarget::NotListed) => panic!("it was listed"),
            }
        };
        let own = target("apps/v1", "Deployment", "worker");
        assert_eq!(said(None, "shop", &own), None);
        let by = said(Some(&plain), "shop", &own);
        assert_eq!(by.as_deref(), Some("HorizontalPodAutoscaler web scales Deployment worker"));
        assert_eq!(said(Some(&plain), "shop", &target("apps/v2", "Deployment", "worker")), by, "another version of it");
        let by = said(Some(&made), "shop", &own);
        let words = "ScaledObject orders, by its HorizontalPodAutoscaler keda-hpa-orders, scales Deployment worker";
        assert_eq!(by.as_deref(), Some(words));
        for other in [
            target("apps/v1", "Deployment", "other"),
            target("apps/v1", "StatefulSet", "worker"),
            target("example.test/v1", "Deployment", "worker"),
        ] {
            assert_eq!(said(Some(&plain), "shop", &other), None, "{other:?}");
        }
        assert_eq!(said(Some(&plain), "bank", &own), None);

        let mut known = Known::new();
        note(&mut known, &plain);
        note(&mut known, &made);
        forget(&mut known, &plain);
        forget(&mut known, &made);
        assert!(known.is_empty(), "{known:?}");
    }

    #[test]
    fn what_cannot_be_looked_at_is_no_reason_not_to_scale() {
        let (rivals, own) = (Rivals::new(), target("apps/v1", "Deployment", "worker"));
        assert_eq!(rivals.none_for("shop", &own), Err(NoTarget::NotListed), "the answer is on its way");
        rivals.not_seen(false, &watcher::Error::NoResourceVersion);
        assert_eq!(rivals.none_for("shop", &own), Ok(()));
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"});
        let mut known = Known::new();
        note(&mut known, &autoscaler("web", &object, &json!([])));
        *rivals.write() = State::Listed(known);
        rivals.not_seen(false, &watcher::Error::NoResourceVersion);
        assert!(rivals.none_for("shop", &own).is_err(), "a watch that breaks does not delete it");
        rivals.not_seen(true, &watcher::Error::NoResourceVersion);
        assert_eq!(rivals.none_for("shop", &own), Ok(()));
    }
}
