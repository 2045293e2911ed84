//! Watches the objects of one namespace at the API server and writes down what it sees, with this machine's clock.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::task::JoinSet;

use super::timeline::{Applied, Decision, Timeline, What};

/// The ConfigMap that sets the load.
pub const LOAD: &str = "demo-load";
/// The Deployment that is scaled.
pub const CONSUMERS: &str = "notification-service";
/// The producer settings that the story edits.
pub const SETTINGS: &str = "orders";
/// The consumer group that is scaled.
pub const GROUP: &str = "notifications";

/// The resource of one of our kinds.
pub fn mq(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("mq.infra-kit.io", "v1alpha1", kind), plural)
}

/// Watches until dropped.
#[derive(Debug)]
pub struct Observer {
    timeline: Arc<Mutex<Timeline>>,
    watches: JoinSet<()>,
}

impl Observer {
    /// Starts one watch per kind of object.
    pub fn start(client: &kube::Client, namespace: &str) -> Self {
        let core = |kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", kind), plural)
        };
        let apps = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", "Deployment"), "deployments");
        let events =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("events.k8s.io", "v1", "Event"), "events");
        let kinds: [(ApiResource, Option<&str>, Read); 6] = [
            (core("ConfigMap", "configmaps"), Some(LOAD), load),
            (core("Pod", "pods"), None, pod),
            (apps, Some(CONSUMERS), replicas),
            (events, None, event),
            (mq("MqProducerConfig", "mqproducerconfigs"), Some(SETTINGS), settings),
            (mq("MqConsumerGroup", "mqconsumergroups"), Some(GROUP), group),
        ];
        let timeline = Arc::new(Mutex::new(Timeline::default()));
        let mut watches = JoinSet::new();
        for (resource, name, read) in kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let config = name.map_or_else(watcher::Config::default, |name| {
                watcher::Config::default().fields(&format!("metadata.name={name}"))
            });
            let timeline = Arc::clone(&timeline);
            watches.spawn(async move {
                let mut seen = watcher::watcher(api, config).boxed();
                loop {
                    let (object, gone) = match seen.try_next().await {
                        Ok(Some(Event::Apply(object) | Event::InitApply(object))) => (object, false),
                        Ok(Some(Event::Delete(object))) => (object, true),
                        Ok(Some(Event::Init | Event::InitDone)) => continue,
                        Ok(None) => return,
                        Err(error) => {
                            tracing::warn!(%error, "a watch failed and starts again");
                            continue;
                        }
                    };
                    let now = jiff::Timestamp::now().as_millisecond();
                    let mut timeline = timeline.lock().unwrap_or_else(PoisonError::into_inner);
                    for what in read(&object, gone) {
                        timeline.push(now, what);
                    }
                }
            });
        }
        Self { timeline, watches }
    }

    /// What was seen so far.
    pub fn timeline(&self) -> Timeline {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all watches.
    pub fn stop(mut self) -> Timeline {
        self.watches.abort_all();
        self.timeline()
    }
}

type Read = fn(&DynamicObject, bool) -> Vec<What>;

fn integer(object: &DynamicObject, path: &str) -> Option<i64> {
    object.data.pointer(path).and_then(Value::as_i64)
}

fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A setting as status shows it: a number, or its text.
fn whole(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn text(object: &DynamicObject, path: &str) -> String {
    object.data.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn count(value: Option<i64>) -> i32 {
    value.and_then(|n| i32::try_from(n).ok()).unwrap_or_default()
}

fn load(object: &DynamicObject, _: bool) -> Vec<What> {
    number(object.data.pointer("/data/ordersPerSecond"))
        .map(|orders_per_second| What::Load { orders_per_second })
        .into_iter()
        .collect()
}

fn pod(object: &DynamicObject, gone: bool) -> Vec<What> {
    let list = |path: &str| object.data.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let ready = list("/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let restarts = list("/status/containerStatuses").iter().filter_map(|c| c["restartCount"].as_i64()).sum();
    let meta = &object.metadata;
    vec![What::Pod {
        uid: meta.uid.clone().unwrap_or_default(),
        app: meta.labels.as_ref().and_then(|labels| labels.get("app")).cloned().unwrap_or_default(),
        ready,
        gone,
        restarts: count(Some(restarts)),
    }]
}

fn replicas(object: &DynamicObject, _: bool) -> Vec<What> {
    let wanted = integer(object, "/spec/replicas").map(|n| count(Some(n)));
    wanted
        .map(|wanted| What::Replicas { wanted, ready: count(integer(object, "/status/readyReplicas")) })
        .into_iter()
        .collect()
}

fn event(object: &DynamicObject, _: bool) -> Vec<What> {
    vec![What::Event { reason: text(object, "/reason"), note: text(object, "/note") }]
}

fn settings(object: &DynamicObject, _: bool) -> Vec<What> {
    let generation = object.metadata.generation.unwrap_or_default();
    let mut seen = vec![What::Settings { generation, linger_ms: integer(object, "/spec/lingerMs") }];
    if object.data.pointer("/status").is_some() {
        let field = |path: &str| integer(object, path).unwrap_or_default();
        seen.push(What::Applied(Applied {
            observed_generation: observed_generation(object),
            current_revision: field("/status/currentRevision"),
            update_revision: field("/status/updateRevision"),
            connected: field("/status/clients/connected"),
            applied: field("/status/clients/applied"),
            rejected: field("/status/clients/rejected"),
            deviating: object.data["status"]["clients"]["deviating"].as_array().map_or(0, Vec::len),
            linger_ms: whole(object.data.pointer("/status/effective/lingerMs")),
        }));
    }
    seen
}

/// The generation that the conditions speak of.
fn observed_generation(object: &DynamicObject) -> i64 {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let seen = conditions.into_iter().flatten().filter_map(|c| c["observedGeneration"].as_i64()).max();
    integer(object, "/status/observedGeneration").max(seen).unwrap_or_default()
}

fn group(object: &DynamicObject, _: bool) -> Vec<What> {
    let known = matches!(text(object, "/status/lag/state").as_str(), "Known" | "Estimated");
    let lag = |path: &str| if known { integer(object, path) } else { None };
    let decision = object.data.pointer("/status/scaling").and_then(|scaling| {
        let whole = |key: &str| scaling[key].as_i64().map(|n| count(Some(n)));
        Some(Decision {
            current: whole("current")?,
            desired: whole("desired")?,
            reason: scaling["reason"].as_str().unwrap_or_default().to_owned(),
            message: scaling["message"].as_str().unwrap_or_default().to_owned(),
            arrival: number(scaling["terms"].get("arrival")),
            capacity: number(scaling["terms"].get("capacity")),
            backlog: number(scaling["terms"].get("backlog")),
        })
    });
    vec![What::Group { messages: lag("/status/lag/messages"), late: lag("/status/lag/late"), decision }]
}
