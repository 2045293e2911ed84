//! `MqConsumerGroup`: resolves the settings of a group's consumers, and says what its clients make of them; declares the group to
//! those who watch its lag and scale it, and says what they found.

use std::sync::Arc;

use kube::{Resource, ResourceExt};
use mq_core::{
    condition::{Health, Verdict},
    effect::ObjectKey,
    plan::dead_letters::DeadLetters,
    presets::PRESET_VERSION,
    reason::Reason,
    revision, rollout,
    tenancy::{self, Grant},
};
use mq_crds::{MqConsumerGroup, MqConsumerGroupSpec, is_pattern};
use mq_protocol::{
    body::{ConsumerBody, DeadLetter},
    message,
};

use super::client_config::{self, Before, Configs, Decision, Facts, Resolved};
use crate::{
    events::Event,
    groups::{self, DesiredGroup, Groups, topics::beginnings},
    object::{Guarded, key_of},
    push::feed,
    reconcile::{Error, Kind, Refusal, Report},
};

pub(crate) struct ConsumerGroupKind {
    pub(crate) configs: Configs,
    pub(crate) groups: Arc<Groups>,
}

/// A configuration that can be carried out, and a group that can be watched.
#[derive(Debug)]
pub(crate) struct ValidGroup {
    config: Resolved,
    group: DesiredGroup,
    dead_letters: DeadLetters,
}

impl Kind for ConsumerGroupKind {
    type Object = MqConsumerGroup;
    type Inputs = Facts;
    type Valid = ValidGroup;
    type Decision = Decision;

    // Never put on: the API server collects the revisions of an object that is gone.
    const FINALIZER: &'static str = "mq.infra-kit.io/consumer-group";

    async fn dereference(&self, object: &MqConsumerGroup) -> Result<Facts, Error> {
        Ok(self.configs.facts(message::Kind::Consumer, &key_of(object), &object.spec.cluster))
    }

    fn validate(&self, object: &MqConsumerGroup, facts: Facts) -> Result<ValidGroup, Refusal> {
        Ok(resolve(object, facts)?)
    }

    fn decide(&self, valid: &ValidGroup) -> Decision {
        client_config::decide(&valid.config)
    }

    async fn apply(&self, object: &MqConsumerGroup, valid: ValidGroup, decision: Decision) -> Result<Report, Error> {
        self.groups.reserve(object);
        let ValidGroup { config: resolved, group, mut dead_letters } = valid;
        if resolved.facts.health.is_none() {
            return Ok(Report::default());
        }
        let owner = object.controller_owner_ref(&());
        let kind = message::Kind::Consumer;
        let events = self.configs.carry_out(kind, &key_of(object), owner, &resolved, &decision).await?;
        let conditions = vec![rollout::config_applied(&decision.verdict)];
        let Decision { verdict, status, again, .. } = decision;
        let mut report = Report { verdict: Some(verdict), conditions, status, events, again, ..Report::default() };
        dead_letters.sources.extend(self.groups.matched(&object.spec.cluster, &key_of(object)));
        if let Some(session) = self.configs.sessions.get(&object.spec.cluster) {
            add_dead_letters(&mut report, session.need_dead_letters(dead_letters));
        }
        self.groups.report(object, group, &mut report);
        Ok(report)
    }

    // Clients keep what is in force: that is in the status, which stays. The lag is watched on, the replicas stay.
    fn pause(&self, object: &MqConsumerGroup) {
        self.groups.reserve(object);
        self.configs.sessions.withdraw(&key_of(object));
        let settings = object.spec.consumer.resolve(PRESET_VERSION).ok();
        if let Some(group) = settings.and_then(|settings| groups::object::desired(object, &settings, true).ok()) {
            self.groups.declare(group);
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.groups.withdraw(key);
        self.configs.sessions.withdraw(key);
    }

    // Replicas that it may still need are not taken away by other groups of the target.
    fn refused(&self, object: &MqConsumerGroup) {
        self.groups.reserve(object);
        self.groups.suspend(&key_of(object));
        self.configs.sessions.withdraw(&key_of(object));
    }

    fn unreadable(&self, object: &Guarded<MqConsumerGroup>) {
        self.groups.suspend(&key_of(object));
        self.configs.sessions.withdraw(&key_of(object));
    }
}

fn resolve(object: &MqConsumerGroup, facts: Facts) -> Result<ValidGroup, Verdict> {
    let spec = &object.spec;
    let namespace = object.namespace().unwrap_or_default();
    let connection = client_config::connection(&spec.cluster, &namespace, &facts)?;
    let group_id = spec.group_id.clone().unwrap_or_else(|| object.name_any());
    let dead_letter = groups::dead_letters(object);
    let grants = facts.cluster.as_deref().map(super::grants).unwrap_or_default();
    let granted = |topic: &String| tenancy::topic_granted(&grants, &spec.cluster, &namespace, topic);
    let refuse = |message| Verdict::stalled(Reason::NotGranted, message);
    topics_granted(spec, &grants, &namespace)?;
    granted(&dead_letter).map_err(|message| {
        refuse(format!("the dead-letter topic of the group: {message}, or spec.deadLetter.topic can name another one"))
    })?;
    let generation = object.meta().generation.unwrap_or_default();
    let preset_version = revision::preset_version(&facts.revisions, generation);
    let settings = spec
        .consumer
        .resolve(preset_version)
        .map_err(|violations| Verdict::stalled(Reason::InvalidSpec, violations.to_string()))?;
    let group = groups::object::desired(object, &settings, false)?;
    let body = ConsumerBody {
        connection,
        group_id,
        topics: spec.topics.clone(),
        dead_letter: DeadLetter { topic: dead_letter.clone() },
        settings,
    };
    let encoded = client_config::encode(&body)?;
    let config = Resolved { encoded, preset_version, generation, before: before(object), facts };
    let sources = spec.topics.iter().filter(|topic| !is_pattern(topic)).cloned().collect();
    Ok(ValidGroup { config, group, dead_letters: DeadLetters { object: key_of(object), topic: dead_letter, sources } })
}

/// A pattern that cannot be read lacks no grant: that is said first.
fn topics_granted(spec: &MqConsumerGroupSpec, grants: &[Grant], namespace: &str) -> Result<(), Verdict> {
    let refuse = |message| Verdict::stalled(Reason::NotGranted, message);
    for topic in &spec.topics {
        if is_pattern(topic) {
            let beginnings = beginnings(topic).map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?;
            tenancy::pattern_granted(grants, &spec.cluster, namespace, topic, &beginnings).map_err(refuse)?;
        } else {
            tenancy::topic_granted(grants, &spec.cluster, namespace, topic).map_err(refuse)?;
        }
    }
    Ok(())
}

/// A dead-letter topic that is not there, or cannot be made, keeps a group from being ready; one that is not seen at the moment does not.
fn add_dead_letters(report: &mut Report, (found, events): (Option<Verdict>, Vec<Event>)) {
    report.events.extend(events);
    let ready = |verdict: &Verdict| verdict.health == Health::Ready;
    if let Some(found) = found.filter(|found| !ready(found) && found.health != Health::Unknown)
        && report.verdict.as_ref().is_some_and(ready)
    {
        report.verdict = Some(found);
    }
}

fn before(object: &MqConsumerGroup) -> Before {
    let Some(status) = &object.status else { return Before::default() };
    Before {
        state: feed::state(&serde_json::to_value(status).unwrap_or_default()),
        clients: status.clients.clone(),
        effective: status.effective.clone(),
        rejection: client_config::rejection(&status.conditions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pattern_is_not_a_missing_grant() {
        let grants = [Grant { namespace: "shop".into(), topics: vec!["orders*".into()] }];
        let refused = |topic: &str| {
            let spec = serde_json::from_value(serde_json::json!({"cluster": "main", "topics": [topic]})).unwrap();
            topics_granted(&spec, &grants, "shop").err().map(|verdict| (verdict.reason, verdict.message))
        };
        assert_eq!(refused(r"^orders\."), None);
        assert_eq!(refused("^refunds").unwrap().0, Reason::NotGranted);
        assert_eq!(refused("refunds").unwrap().0, Reason::NotGranted);
        for bad in ["^orders(", "^orders[z-a]", "^refunds)"] {
            let (reason, message) = refused(bad).unwrap();
            assert_eq!(reason, Reason::InvalidSpec, "{message}");
            assert!(message.contains(&format!("{bad} is no pattern")), "{message}");
        }
    }
}
