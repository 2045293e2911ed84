//! What producers and consumer groups have in common: from a resolved configuration to a revision, and from what clients
//! say to a status.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::apps::v1::ControllerRevision,
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mq_core::{
    cluster::check_broker,
    condition::Verdict,
    effect::ObjectKey,
    reason::Reason,
    revision::{self, Step, Stored},
    rollout::{self, State},
    value::ConfigValue,
};
use mq_crds::{
    MqClusterSpec,
    clients::{Clients, Deviation},
};
use mq_protocol::{
    body::{self, Connection, Encoded},
    message::{ClientRef, Kind, NackReason},
};
use serde_json::{Map, Value, json};

use crate::{
    events::Event,
    push::index::{ConfigKey, Index, Report},
    reconcile::Error,
    revisions::{self, Revision},
    session::Sessions,
    writer::{FIELD_MANAGER, Writer},
};

/// The refusal whose cause may be over later.
const HEALING: NackReason = NackReason::ProbeFailed;
/// Pods named in a status.
const MAX_DEVIATING: usize = 5;
/// Differences named in an event.
const MAX_DIFFERENCES: usize = 5;

/// What the decision is made from, besides the object.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) cluster: Option<Arc<MqClusterSpec>>,
    /// The cluster exists but cannot be read: `cluster` is what it was before, if that is known.
    pub(crate) unreadable: bool,
    pub(crate) revisions: Vec<Stored>,
    pub(crate) report: Report,
    /// How the cluster is by way of the brokers that `cluster` names; `None` until somebody looked.
    pub(crate) health: Option<Verdict>,
    /// Whether agents had the time to connect since this replica serves them.
    pub(crate) settled: bool,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

/// What the stored status says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    pub(crate) state: State,
    pub(crate) clients: Option<Clients>,
    pub(crate) effective: BTreeMap<String, ConfigValue>,
    /// Message of a `RejectedByClient`: the words of a client that an earlier leader heard.
    pub(crate) rejection: Option<String>,
}

/// A configuration that can be carried out.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) encoded: Encoded,
    pub(crate) preset_version: u32,
    pub(crate) generation: i64,
    pub(crate) before: Before,
    pub(crate) facts: Facts,
}

/// What to do about revisions, and what to say.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) step: Step,
    pub(crate) prune: Vec<i64>,
    /// When to decide again although nothing changed.
    pub(crate) again: Option<Duration>,
    pub(crate) verdict: Verdict,
    pub(crate) status: Map<String, Value>,
}

/// Message of a stored `RejectedByClient`.
pub(crate) fn rejection(conditions: &[Condition]) -> Option<String> {
    let rejected = |condition: &&Condition| condition.reason == Reason::RejectedByClient.as_str();
    conditions.iter().find(rejected).map(|condition| condition.message.clone())
}

/// How clients reach the cluster, if the namespace may use it and it is the right one.
pub(crate) fn connection(name: &str, namespace: &str, facts: &Facts) -> Result<Connection, Verdict> {
    if facts.unreadable {
        let message = format!("MqCluster {name} does not fit the schema, see its status");
        return Err(Verdict::unknown(Reason::ClusterUnreachable, message));
    }
    let Some(cluster) = facts.cluster.as_deref() else {
        return Err(Verdict::stalled(Reason::ClusterNotFound, format!("there is no MqCluster {name}; create it")));
    };
    if !cluster.namespaces.iter().any(|grant| grant.name == namespace) {
        let message = format!(
            "MqCluster {name} grants nothing to namespace {namespace}; a platform admin can add it to spec.namespaces"
        );
        return Err(Verdict::stalled(Reason::NotGranted, message));
    }
    if cluster.brokers.iter().any(|broker| check_broker(broker).is_err()) {
        let message = format!("MqCluster {name} is not usable, see its status");
        return Err(Verdict::unknown(Reason::ClusterUnreachable, message));
    }
    if let Some(wrong) = facts.health.as_ref().filter(|verdict| verdict.reason == Reason::WrongCluster) {
        return Err(wrong.clone());
    }
    Ok(super::cluster::connection(cluster))
}

/// The body as bytes.
pub(crate) fn encode(body: &impl serde::Serialize) -> Result<Encoded, Verdict> {
    body::encode(body).map_err(|error| Verdict::stalled(Reason::InvalidSpec, error.to_string()))
}

/// Decides. Pure.
pub(crate) fn decide(resolved: &Resolved) -> Decision {
    let Resolved { encoded, generation, before, facts, .. } = resolved;
    let refused = facts.report.rejections.iter().map(|rejection| rejection.revision);
    let rejected = before.state.rejected.iter().copied().chain(refused).collect();
    let mut step = revision::step(&facts.revisions, &rejected, *generation, &encoded.hash);
    let newest =
        revision::newest(&facts.revisions).map(|stored| stored.number).filter(|number| rejected.contains(number));
    let heals = newest.is_some_and(|newest| {
        let heard = facts.report.rejections.iter().find(|rejection| rejection.revision == newest);
        let words = heard.map(|rejection| &rejection.words).or(before.rejection.as_ref());
        words.is_some_and(|words| words.contains(HEALING.as_str()))
    });
    let mut again = None;
    if let (Some(newest), Step::Keep, true, Some(at)) = (newest, step, heals, revision::retry_at(&facts.revisions)) {
        match u64::try_from(at.saturating_sub(facts.now)) {
            Ok(wait @ 1..) => again = Some(Duration::from_secs(wait)),
            Ok(0) | Err(_) => step = Step::Create { number: newest.saturating_add(1) },
        }
    }
    let mut numbers: BTreeSet<i64> = facts.revisions.iter().map(|stored| stored.number).collect();
    if let Step::Create { number } = step {
        numbers.insert(number);
    }
    let state = rollout::decide(&numbers, &before.state, &facts.report.rejections);
    let stored = before.clients.clone().unwrap_or_default();
    let mut counts = facts.report.clients;
    // Until agents had the time to come back, that one is missing means nothing; nor that one is back and has not answered yet.
    let fewer = |stored: i32, now: usize| i64::from(stored) > i64::try_from(now).unwrap_or(i64::MAX);
    let answers_out = state.update == before.state.update && fewer(stored.applied, counts.applied);
    let unknown = !facts.settled && (fewer(stored.connected, counts.connected) || answers_out);
    if unknown {
        let count = |number: i32| usize::try_from(number).unwrap_or_default();
        counts = rollout::Clients {
            connected: count(stored.connected),
            applied: count(stored.applied),
            rejected: count(stored.rejected),
        };
    }
    let heard = facts.report.rejections.iter().find(|rejection| Some(rejection.revision) == state.update);
    let mut verdict = rollout::verdict(&state, counts, heard.map(|rejection| rejection.words.as_str()), heals);
    if let (Reason::RejectedByClient, None, Some(earlier)) = (verdict.reason, heard, &before.rejection)
        && state == before.state
    {
        verdict.message.clone_from(earlier);
    }
    let (clients, effective) =
        if unknown { (stored, before.effective.clone()) } else { (clients(&facts.report), effective(&facts.report)) };
    let mut stored = facts.revisions.clone();
    if let Step::Create { number } = step {
        let (hash, preset_version) = (encoded.hash.clone(), resolved.preset_version);
        stored.push(Stored { number, hash, preset_version, generation: *generation, created_at: facts.now });
    }
    let prune = revision::prunable(&stored, state.current);
    Decision { step, prune, again, verdict, status: status(&state, &clients, &effective) }
}

fn status(state: &State, clients: &Clients, effective: &BTreeMap<String, ConfigValue>) -> Map<String, Value> {
    let mut status = Map::new();
    let mut put = |key: &str, value: Value| status.insert(key.to_owned(), value);
    put("currentRevision", json!(state.current));
    put("updateRevision", json!(state.update));
    put("rejectedRevisions", if state.rejected.is_empty() { Value::Null } else { json!(state.rejected) });
    put("clients", json!(clients));
    put("effective", if effective.is_empty() { Value::Null } else { json!(effective) });
    status
}

fn clients(report: &Report) -> Clients {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let mut deviating: Vec<_> = report
        .deviating
        .iter()
        .map(|client| Deviation { pod: client.pod.clone(), revision: client.revision, message: client.message.clone() })
        .collect();
    deviating.sort_by(|a, b| a.pod.cmp(&b.pod));
    deviating.truncate(MAX_DEVIATING);
    Clients {
        connected: count(report.clients.connected),
        applied: count(report.clients.applied),
        rejected: count(report.clients.rejected),
        deviating,
    }
}

fn effective(report: &Report) -> BTreeMap<String, ConfigValue> {
    let value = |text: &String| match (text.parse::<i64>(), text.parse::<bool>()) {
        (Ok(number), _) => ConfigValue::Integer(number),
        (_, Ok(switch)) => ConfigValue::Switch(switch),
        _ => ConfigValue::Text(text.clone()),
    };
    report.effective.iter().map(|(name, text)| (name.clone(), value(text))).collect()
}

/// Reads facts and carries decisions out.
pub(crate) struct Configs {
    pub(crate) index: Index,
    pub(crate) client: Client,
    pub(crate) writer: Writer,
    pub(crate) sessions: Arc<Sessions>,
}

impl Configs {
    /// What is known about an object, from memory.
    pub(crate) fn facts(&self, kind: Kind, object: &ObjectKey, cluster: &str) -> Facts {
        let client = ClientRef::new(kind, &object.name);
        let key = ConfigKey { namespace: object.namespace.clone(), client };
        let spec = self.index.cluster(cluster);
        let health = spec.as_ref().and_then(|spec| {
            let connection = super::cluster::connection(spec);
            Some(self.sessions.get(cluster)?.health_by(&connection)?.verdict)
        });
        Facts {
            cluster: spec,
            unreadable: self.index.is_unreadable(cluster),
            health,
            revisions: self.index.revisions(&object.uid),
            report: self.index.report(&key),
            settled: self.index.is_settled(),
            now: Timestamp::now().as_second(),
        }
    }

    /// Stores, confirms and deletes revisions as decided. Says what is worth an event.
    pub(crate) async fn carry_out(
        &self,
        kind: Kind,
        object: &ObjectKey,
        owner: Option<OwnerReference>,
        resolved: &Resolved,
        decision: &Decision,
    ) -> Result<Vec<Event>, Error> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &object.namespace);
        let Resolved { encoded, generation, preset_version, .. } = resolved;
        let mut events = Vec::new();
        match (decision.step, owner) {
            (Step::Create { number }, Some(owner)) => {
                let (hash, preset_version, generation) = (encoded.hash.clone(), *preset_version, *generation);
                let created_at = resolved.facts.now;
                let stored = Stored { number, hash, preset_version, generation, created_at };
                let revision = Revision { stored, body: encoded.json.clone().into() };
                // Before the watch can bring the new one.
                let description = self.describe(object, &revision);
                let created = revisions::to_object(kind, object, owner, &revision);
                self.writer.write("revision", object, api.create(&PostParams::default(), &created)).await?;
                events.push(Event::normal(Reason::RevisionCreated, description));
                // At once: the watch may bring the object's new status before the revision.
                self.index.apply_revision(&object.uid, revision);
            }
            (Step::Confirm { number }, _) => {
                let annotations = revisions::annotations(*generation, *preset_version);
                let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                let name = revisions::name(kind, object, number);
                self.writer.write("revision", object, api.patch(&name, &params, &patch)).await?;
                self.index.confirm_revision(&object.uid, number, *generation, *preset_version);
            }
            (Step::Keep, _) | (Step::Create { .. }, None) => {}
        }
        for number in &decision.prune {
            let name = revisions::name(kind, object, *number);
            match self.writer.write("revision", object, api.delete(&name, &DeleteParams::default())).await {
                Ok(_) => self.index.delete_revision(&object.uid, *number),
                Err(error) if error.is_superseded() => self.index.delete_revision(&object.uid, *number),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(events)
    }

    /// What a new revision changes.
    fn describe(&self, object: &ObjectKey, new: &Revision) -> String {
        let number = new.stored.number;
        let Some(old) = self.index.newest_revision(&object.uid) else { return format!("revision {number}") };
        let value = |revision: &Revision| serde_json::from_slice(&revision.body).unwrap_or_default();
        let mut differences = revision::differences(&value(&old), &value(new));
        if differences.is_empty() {
            return format!("revision {number}: revision {} again, which was rejected", old.stored.number);
        }
        let more = differences.len().saturating_sub(MAX_DIFFERENCES);
        differences.truncate(MAX_DIFFERENCES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("revision {number}: {}{more}", differences.join(", "))
    }
}

#[cfg(test)]
mod tests;
