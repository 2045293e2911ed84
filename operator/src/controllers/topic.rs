//! `MqTopic`: declares the topic to its cluster's session, and says what came of it.

use crate::{
    object::{Guarded, created_at, key_of},
    reconcile::{Error, Kind, RECONCILE_AT, Refusal, Report},
    session::{Claim, Claims, ClusterSession, Sessions, TopicView},
    watch::{Cache, Filled},
};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use mq_core::{
    cluster::check_broker,
    condition::Verdict,
    effect::ObjectKey,
    plan::LET_GO,
    reason::Reason,
    tenancy::{Grant, topic_granted},
    topic::{Adoption, DesiredTopic, Owned, Reclaim, Record, check_name},
};
use mq_crds::{MqCluster, MqTopic, MqTopicSpec, MqTopicStatus, ReclaimPolicy};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug)]
pub(crate) struct TopicKind {
    pub(crate) clusters: Cache<MqCluster>,
    pub(crate) sessions: Arc<Sessions>,
}

/// The cluster that the topic points at.
#[derive(Debug)]
pub(crate) struct Inputs {
    cluster: Option<Arc<Guarded<MqCluster>>>,
    session: Option<Arc<ClusterSession>>,
}

/// A declaration, and whom to tell. The session is missing for the moment in which the cluster is new.
#[derive(Debug)]
pub(crate) struct ValidTopic {
    desired: DesiredTopic,
    session: Option<Arc<ClusterSession>>,
}

/// Whether the object must stay until its topic is gone.
#[derive(Debug)]
pub(crate) struct Hold(bool);

impl Kind for TopicKind {
    type Object = MqTopic;
    type Inputs = Inputs;
    type Valid = ValidTopic;
    type Decision = Hold;

    const FINALIZER: &'static str = "mq.infra-kit.io/topic";

    async fn dereference(&self, object: &MqTopic) -> Result<Inputs, Error> {
        Ok(self.inputs(object))
    }

    fn validate(&self, object: &MqTopic, inputs: Inputs) -> Result<ValidTopic, Refusal> {
        validate(object, inputs)
    }

    fn decide(&self, valid: &ValidTopic) -> Hold {
        Hold(valid.desired.reclaim != Reclaim::Retain)
    }

    fn needs_finalizer(&self, Hold(hold): &Hold) -> bool {
        *hold
    }

    async fn apply(&self, object: &MqTopic, valid: ValidTopic, _: Hold) -> Result<Report, Error> {
        let Some(session) = valid.session else { return Ok(Report::default()) };
        session.declare(valid.desired.clone(), object.annotations().get(RECONCILE_AT).map(String::as_str));
        let mut report = session.topic(&valid.desired).map_or_else(Report::default, |view| {
            let status = status(object.status.as_ref(), &view);
            Report { verdict: Some(view.outcome.verdict), status, released: view.outcome.released, ..Report::default() }
        });
        report.events = session.take_events(&valid.desired.object);
        Ok(report)
    }

    fn pause(&self, object: &MqTopic) {
        match validate(object, self.inputs(object)) {
            Ok(ValidTopic { desired, session: Some(session) }) => {
                session.declare(DesiredTopic { paused: true, ..desired }, None);
            }
            Ok(ValidTopic { session: None, .. }) => {}
            Err(_) => self.forget(&key_of(object)),
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.sessions.withdraw(key);
    }

    fn unreadable(&self, object: &Guarded<MqTopic>) {
        let cluster = self.clusters.get(&ObjectRef::new(&object.cluster));
        let claim = cluster.and_then(|cluster| claim(object, &granted(&cluster)));
        match (claim, self.sessions.get(&object.cluster)) {
            (Some((_, topic)), Some(session)) => session.declare(placeholder(object, topic), None),
            _ => self.forget(&key_of(object)),
        }
    }
}

/// What objects of a cluster claim, from the caches.
pub(crate) fn claims(topics: Cache<MqTopic>, filled: Filled, clusters: Cache<MqCluster>) -> Claims {
    Arc::new(move |name| {
        let cluster = filled.borrow().then(|| clusters.get(&ObjectRef::new(name)))?;
        let Some(cluster) = cluster else { return Some(vec![]) };
        let (topics, granted) = (topics.state(), granted(&cluster));
        Some(topics.iter().filter(|topic| topic.cluster == name).filter_map(|topic| claim(topic, &granted)).collect())
    })
}

/// What a cluster grants; nothing while it cannot be read.
fn granted(cluster: &Guarded<MqCluster>) -> Vec<Grant> {
    cluster.parsed.as_ref().map(|cluster| super::grants(&cluster.spec)).unwrap_or_default()
}

/// The topic that an object claims: as one that is valid does, whether it is or not. None if it may not, or is about to let go.
fn claim(object: &Guarded<MqTopic>, granted: &[Grant]) -> Option<Claim> {
    let deleting = object.meta().deletion_timestamp.is_some();
    if deleting && !object.finalizers().iter().any(|name| name == TopicKind::FINALIZER) {
        return None;
    }
    let topic = match &object.parsed {
        Ok(topic) if deleting && topic.spec.reclaim_policy == ReclaimPolicy::Retain => return None,
        Ok(topic) => topic.spec.topic_name.clone(),
        Err(invalid) => invalid.spec.get("topicName").and_then(Value::as_str).map(str::to_owned),
    };
    let (key, topic) = (key_of(object), topic.unwrap_or_else(|| object.name_any()));
    check_name(&topic).ok()?;
    topic_granted(granted, &object.cluster, &key.namespace, &topic).ok()?;
    Some((key, topic))
}

/// Declares nothing, but keeps the name.
fn placeholder(object: &Guarded<MqTopic>, topic: String) -> DesiredTopic {
    DesiredTopic {
        object: key_of(object),
        created_at: created_at(object.meta()),
        topic,
        partitions: 1,
        replication_factor: None,
        config: BTreeMap::new(),
        adoption: Adoption::Never,
        reclaim: Reclaim::Retain,
        deleting: object.meta().deletion_timestamp.is_some(),
        paused: true,
        owned: None,
    }
}

impl TopicKind {
    fn inputs(&self, object: &MqTopic) -> Inputs {
        let cluster = &object.spec.cluster;
        Inputs { cluster: self.clusters.get(&ObjectRef::new(cluster)), session: self.sessions.get(cluster) }
    }
}

fn validate(object: &MqTopic, inputs: Inputs) -> Result<ValidTopic, Refusal> {
    let desired = desired(object);
    let keep = |why: &str| Some((Reason::TopicKept, format!("topic {} stays in Kafka: {why}", desired.topic)));
    if desired.deleting && desired.reclaim == Reclaim::Retain {
        // Here as well as in the plan, because it must also work when there is no cluster to plan for.
        let why = "spec.reclaimPolicy is Retain";
        return Err(Refusal { verdict: Verdict::reconciling(Reason::TopicKept, why), release: keep(why) });
    }
    check_name(&desired.topic).map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?;
    let name = &object.spec.cluster;
    let escape = if desired.deleting { format!("; {LET_GO}") } else { String::new() };
    let Some(cluster) = inputs.cluster else {
        let message = format!("there is no MqCluster {name}; create it{escape}");
        return Err(Verdict::stalled(Reason::ClusterNotFound, message).into());
    };
    let cluster = cluster.parsed.as_ref().map_err(|_| {
        let message = format!("MqCluster {name} does not fit the schema, see its status{escape}");
        Verdict::unknown(Reason::ClusterUnreachable, message)
    })?;
    let usable = cluster.spec.brokers.iter().all(|broker| check_broker(broker).is_ok());
    if inputs.session.is_none() && !usable {
        let message = format!("MqCluster {name} is not usable, see its status{escape}");
        return Err(Verdict::unknown(Reason::ClusterUnreachable, message).into());
    }
    if let Err(message) = topic_granted(&super::grants(&cluster.spec), name, &desired.object.namespace, &desired.topic)
    {
        let release = keep(&message);
        return Err(Refusal { verdict: Verdict::stalled(Reason::NotGranted, message), release });
    }
    Ok(ValidTopic { desired, session: inputs.session })
}

fn desired(object: &MqTopic) -> DesiredTopic {
    let spec = &object.spec;
    let topic = spec.topic_name.clone().unwrap_or_else(|| object.name_any());
    DesiredTopic {
        object: key_of(object),
        created_at: created_at(object.meta()),
        partitions: spec.partitions,
        // CEL keeps it within Kafka's range; what does not fit is refused by Kafka.
        replication_factor: spec.replication_factor.map(|n| i16::try_from(n).unwrap_or(i16::MAX)),
        config: texts(&spec.config),
        adoption: match spec.adoption {
            mq_crds::Adoption::IfMatches => Adoption::IfMatches,
            mq_crds::Adoption::Always => Adoption::Always,
            mq_crds::Adoption::Never => Adoption::Never,
        },
        reclaim: reclaim(spec, &topic),
        deleting: object.meta().deletion_timestamp.is_some(),
        paused: false,
        owned: object.status.as_ref().and_then(owned),
        topic,
    }
}

fn reclaim(spec: &MqTopicSpec, topic: &str) -> Reclaim {
    match spec.reclaim_policy {
        ReclaimPolicy::Retain => Reclaim::Retain,
        ReclaimPolicy::Delete if spec.force_delete.as_deref() == Some(topic) => Reclaim::ForceDelete,
        ReclaimPolicy::Delete => Reclaim::Delete,
    }
}

fn owned(status: &MqTopicStatus) -> Option<Owned> {
    Some(Owned { id: status.topic_id.clone()?, config: texts(&status.config) })
}

fn texts(config: &BTreeMap<String, mq_core::value::ConfigValue>) -> BTreeMap<String, String> {
    config.iter().map(|(key, value)| (key.clone(), value.to_string())).collect()
}

/// The whole status but conditions: what is owned, as the outcome says, and the last drift.
fn status(stored: Option<&MqTopicStatus>, view: &TopicView) -> Map<String, Value> {
    let mut status = Map::new();
    let mut put = |key: &str, value: Value| status.insert(key.to_owned(), value);
    match (&view.outcome.record, stored) {
        (Record::Own(actual), _) => {
            let stored_config = || stored.map(|stored| texts(&stored.config)).unwrap_or_default();
            put("topicId", json!(actual.id));
            put("partitions", json!(actual.partitions));
            put("replicationFactor", json!(actual.replication_factor));
            put("config", json!(actual.config.clone().unwrap_or_else(stored_config)));
        }
        (Record::Keep, Some(stored)) => {
            put("topicId", json!(stored.topic_id));
            put("partitions", json!(stored.partitions));
            put("replicationFactor", json!(stored.replication_factor));
            put("config", json!(stored.config));
        }
        (Record::Keep, None) | (Record::Forget, _) => {}
    }
    match (&view.drift, stored.and_then(|stored| stored.last_drift.as_ref())) {
        (Some((drift, at)), _) => {
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            put("lastDrift", json!({"key": drift.key, "was": drift.was, "at": at}));
        }
        (None, Some(stored)) => {
            put("lastDrift", json!(stored));
        }
        (None, None) => {}
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(broker: &str) -> Guarded<MqCluster> {
        let cluster = json!({
            "metadata": {"name": "main"},
            "spec": {"brokers": [broker], "namespaces": [{"name": "shop", "topics": ["*"]}]},
        });
        serde_json::from_value(cluster).unwrap()
    }

    /// In `shop`; `more` replaces parts of it.
    fn topic(more: Value) -> Value {
        let mut topic = json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "1"},
            "spec": {"cluster": "main", "partitions": 3, "reclaimPolicy": "Delete"},
        });
        json_patch(&mut topic, more);
        topic
    }

    fn json_patch(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                more.into_iter().for_each(|(key, value)| json_patch(into.entry(key).or_insert(Value::Null), value));
            }
            (into, more) => *into = more,
        }
    }

    fn deleting() -> Value {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    }

    fn refusal(broker: &str, more: Value) -> Option<(Reason, String)> {
        let topic: MqTopic = serde_json::from_value(topic(more)).unwrap();
        let inputs = Inputs { cluster: Some(Arc::new(cluster(broker))), session: None };
        let refusal = validate(&topic, inputs).err()?;
        Some((refusal.verdict.reason, refusal.verdict.message))
    }

    #[test]
    fn a_cluster_that_is_refused_leaves_no_topic_ready() {
        assert_eq!(refusal("kafka:9092", json!({})), None, "its session opens in a moment");
        for (more, escape) in [(json!({}), false), (deleting(), true)] {
            let (reason, message) = refusal("kafka:70000", more).unwrap();
            assert_eq!(reason, Reason::ClusterUnreachable);
            assert!(message.starts_with("MqCluster main is not usable, see its status"), "{message}");
            assert_eq!(message.contains("spec.reclaimPolicy: Retain"), escape, "{message}");
        }
    }

    #[test]
    fn a_name_is_claimed_also_by_what_cannot_be_read() {
        let held = json!({"metadata": {"finalizers": [TopicKind::FINALIZER]}});
        let both = |mut a: Value, b: Value| {
            json_patch(&mut a, b);
            a
        };
        let table = [
            ("valid", json!({}), Some("orders")),
            ("by its own name", json!({"spec": {"topicName": "o"}}), Some("o")),
            ("unreadable", json!({"spec": {"topicName": "o", "partitions": "three"}}), Some("o")),
            ("unreadable, by the object's name", json!({"spec": {"partitions": []}}), Some("orders")),
            ("not granted", json!({"metadata": {"namespace": "bank"}}), None),
            ("not a name", json!({"spec": {"topicName": "__o"}}), None),
            ("about to be gone", deleting(), None),
            ("waits for its topic", both(deleting(), held.clone()), Some("orders")),
            ("lets go", both(both(deleting(), held), json!({"spec": {"reclaimPolicy": "Retain"}})), None),
        ];
        for (what, more, expected) in table {
            let topic: Guarded<MqTopic> = serde_json::from_value(topic(more)).unwrap();
            let claim = claim(&topic, &granted(&cluster("kafka:9092"))).map(|(_, topic)| topic);
            assert_eq!(claim.as_deref(), expected, "{what}");
        }
    }
}
