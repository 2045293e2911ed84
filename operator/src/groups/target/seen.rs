//! What the scaler looks at in a workload.

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::core::{DynamicObject, GroupVersionKind};
use mq_core::scaling::Target;
use serde_json::Value;

/// Where the workloads of a kind say how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `Deployment` and `StatefulSet`: fields that are absent are zero, and pods of an old template are counted.
    Rolling,
    /// `ReplicaSet` and `ReplicationController`: the same without rollouts.
    Plain,
    /// All others: `/scale` says it, and fields by the same names as above where there are any.
    Other,
}

/// What `/scale` says, of which version of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scaled {
    pub(super) version: String,
    wanted: u32,
    there: u32,
}

/// A workload, reduced.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) uid: String,
    version: String,
    scaled: Option<Scaled>,
    ready: Option<u32>,
    rolling: bool,
    template: String,
}

impl Layout {
    pub(super) fn of(kind: &GroupVersionKind) -> Self {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("apps", "Deployment" | "StatefulSet") => Self::Rolling,
            ("apps", "ReplicaSet") | ("", "ReplicationController") => Self::Plain,
            _ => Self::Other,
        }
    }

    pub(super) fn read(self, object: &DynamicObject) -> Seen {
        let metadata = &object.metadata;
        let (spec, status) = (&object.data["spec"], &object.data["status"]);
        let or_zero = |found: Option<u32>| if self == Self::Other { found } else { Some(found.unwrap_or(0)) };
        let ready = or_zero(count(&status["readyReplicas"]));
        let unseen = match status["observedGeneration"].as_i64() {
            None => self != Self::Other,
            Some(observed) => metadata.generation.is_some_and(|newest| observed < newest),
        };
        let updated = count(&status["updatedReplicas"]).or_else(|| (self == Self::Rolling).then_some(0));
        let old = count(&status["replicas"]).unwrap_or(0).saturating_sub(updated.unwrap_or(u32::MAX));
        let version = metadata.resource_version.clone().unwrap_or_default();
        Seen {
            uid: metadata.uid.clone().unwrap_or_default(),
            scaled: (self != Self::Other).then(|| Scaled {
                version: version.clone(),
                wanted: count(&spec["replicas"]).unwrap_or(1),
                there: count(&status["replicas"]).unwrap_or(0),
            }),
            version,
            ready,
            rolling: unseen || old > kept(spec),
            // The scheduler's and the user's annotations aside, the same pods have the same template.
            template: mq_core::canonical::hash(spec["template"].to_string()),
        }
    }
}

impl Scaled {
    pub(super) fn of(scale: &Scale) -> Self {
        let count = |n: Option<i32>| u32::try_from(n.unwrap_or_default()).unwrap_or_default();
        Self {
            version: scale.metadata.resource_version.clone().unwrap_or_default(),
            wanted: count(scale.spec.as_ref().and_then(|spec| spec.replicas)),
            there: count(scale.status.as_ref().map(|status| status.replicas)),
        }
    }
}

impl Seen {
    /// How many replicas are wanted and there; none: `/scale` has to be asked.
    pub(super) fn scaled(&self) -> Option<Scaled> {
        self.scaled.clone()
    }

    /// Takes what `/scale` said. Of another version than this one, it is asked again.
    pub(super) fn remember(&mut self, scaled: Scaled) {
        self.scaled = Some(scaled).filter(|scaled| scaled.version == self.version);
    }

    /// What the decision looks at. Of a workload that does not count those that are ready, each that is there is.
    pub(super) fn target(&self, scaled: &Scaled) -> Target {
        Target {
            replicas: scaled.wanted,
            ready: self.ready.unwrap_or(scaled.there),
            rolling: self.rolling,
            template: self.template.clone(),
        }
    }
}

/// Pods that a `StatefulSet` leaves on the old template on purpose.
fn kept(spec: &Value) -> u32 {
    let strategy = &spec["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return u32::MAX;
    }
    count(&strategy["rollingUpdate"]["partition"]).unwrap_or(0)
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(layout: Layout, spec: &Value, status: &Value) -> Seen {
        let object = json!({
            "metadata": {"name": "worker", "namespace": "shop", "uid": "1", "resourceVersion": "7", "generation": 2},
            "spec": spec,
            "status": status,
        });
        layout.read(&serde_json::from_value(object).unwrap())
    }

    fn target(layout: Layout, spec: &Value, status: &Value) -> Target {
        let seen = seen(layout, spec, status);
        seen.target(&seen.scaled().unwrap())
    }

    #[test]
    fn a_rollout_is_seen_until_all_pods_are_of_the_new_template() {
        let spec = json!({"replicas": 3});
        let looks = |status: Value| {
            let target = target(Layout::Rolling, &spec, &status);
            (target.replicas, target.ready, target.rolling)
        };
        let settled = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3});
        assert_eq!(looks(settled), (3, 3, false));
        let unseen = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3});
        assert_eq!(looks(unseen), (3, 3, true), "the spec was not looked at yet");
        let half = json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 2, "readyReplicas": 3});
        assert_eq!(looks(half), (3, 3, true), "old pods are there");
        let begins = json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 3});
        assert_eq!(looks(begins), (3, 3, true), "what is zero is not written");
        let starting = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 1});
        assert_eq!(looks(starting), (3, 1, false), "scaling is no rollout");
        assert_eq!(looks(json!({})), (3, 0, true), "just created");
        assert_eq!(target(Layout::Rolling, &json!({}), &json!({})).replicas, 1, "the default of Kubernetes");
    }

    #[test]
    fn a_stateful_set_may_keep_pods_on_the_old_template() {
        let status = json!({"observedGeneration": 2, "replicas": 5, "updatedReplicas": 2, "readyReplicas": 5});
        let rolling = |strategy: Value| {
            let spec = json!({"replicas": 5, "updateStrategy": strategy});
            target(Layout::Rolling, &spec, &status).rolling
        };
        let by_partition = |n: u32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": n}});
        assert!(rolling(json!({"type": "RollingUpdate"})) && rolling(by_partition(2)));
        assert!(!rolling(by_partition(3)) && !rolling(json!({"type": "OnDelete"})));
    }

    #[test]
    fn a_replica_set_has_no_rollouts() {
        let spec = json!({"replicas": 2});
        let status = json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 1});
        let Target { replicas, ready, rolling, .. } = target(Layout::Plain, &spec, &status);
        assert_eq!((replicas, ready, rolling), (2, 1, false));
    }

    #[test]
    fn of_any_other_kind_scale_tells_what_the_object_does_not() {
        let scale = |version: &str| Scaled { version: version.into(), wanted: 4, there: 3 };
        // Its own number of replicas may lie anywhere and mean anything.
        let spec = json!({"replicas": {"any": 9}, "size": 4});
        let mut silent = seen(Layout::Other, &spec, &json!({}));
        assert_eq!(silent.scaled(), None);
        let Target { replicas, ready, rolling, .. } = silent.target(&scale("7"));
        assert_eq!((replicas, ready, rolling), (4, 3, false));
        silent.remember(scale("8"));
        assert_eq!(silent.scaled(), None, "a newer one, which the watch will tell");
        silent.remember(scale("7"));
        assert_eq!(silent.scaled(), Some(scale("7")), "not asked again before it changes");

        let telling = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2});
        let Target { ready, rolling, .. } = seen(Layout::Other, &spec, &telling).target(&scale("7"));
        assert_eq!((ready, rolling), (2, true));
    }

    #[test]
    fn another_template_is_another_identity() {
        let spec = |image: &str| json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}});
        let template = |image: &str, status: Value| target(Layout::Rolling, &spec(image), &status).template;
        assert_eq!(template("a", json!({})), template("a", json!({"readyReplicas": 1})));
        assert_ne!(template("a", json!({})), template("b", json!({})));
    }
}
