//! `MqProducerConfig`: resolves the settings of a producer, and says what its clients make of them.

use kube::{Resource, ResourceExt};
use mq_core::{condition::Verdict, effect::ObjectKey, reason::Reason, revision};
use mq_crds::MqProducerConfig;
use mq_protocol::{body::ProducerBody, message};

use super::client_config::{self, Before, Configs, Decision, Facts, Resolved};
use crate::{
    object::key_of,
    push::feed,
    reconcile::{Error, Kind, Refusal, Report},
};

pub(crate) struct ProducerConfigKind {
    pub(crate) configs: Configs,
}

impl Kind for ProducerConfigKind {
    type Object = MqProducerConfig;
    type Inputs = Facts;
    type Valid = Resolved;
    type Decision = Decision;

    // Never put on: the API server collects the revisions of an object that is gone.
    const FINALIZER: &'static str = "mq.infra-kit.io/producer-config";

    async fn dereference(&self, object: &MqProducerConfig) -> Result<Facts, Error> {
        Ok(self.configs.facts(message::Kind::Producer, &key_of(object), &object.spec.cluster))
    }

    fn validate(&self, object: &MqProducerConfig, facts: Facts) -> Result<Resolved, Refusal> {
        Ok(resolve(object, facts)?)
    }

    fn decide(&self, resolved: &Resolved) -> Decision {
        client_config::decide(resolved)
    }

    async fn apply(&self, object: &MqProducerConfig, resolved: Resolved, decision: Decision) -> Result<Report, Error> {
        if resolved.facts.health.is_none() {
            return Ok(Report::default());
        }
        let owner = object.controller_owner_ref(&());
        let kind = message::Kind::Producer;
        let events = self.configs.carry_out(kind, &key_of(object), owner, &resolved, &decision).await?;
        let Decision { verdict, status, again, .. } = decision;
        Ok(Report { verdict: Some(verdict), status, events, again, ..Report::default() })
    }

    // Clients keep what is in force: that is in the status, which stays.
    fn pause(&self, _: &MqProducerConfig) {}

    fn forget(&self, _: &ObjectKey) {}
}

fn resolve(object: &MqProducerConfig, facts: Facts) -> Result<Resolved, Verdict> {
    let spec = &object.spec;
    let namespace = object.namespace().unwrap_or_default();
    let connection = client_config::connection(&spec.cluster, &namespace, &facts)?;
    let generation = object.meta().generation.unwrap_or_default();
    let preset_version = revision::preset_version(&facts.revisions, generation);
    let settings = spec
        .settings
        .resolve(preset_version)
        .map_err(|violations| Verdict::stalled(Reason::InvalidSpec, violations.to_string()))?;
    let encoded = client_config::encode(&ProducerBody { connection, settings })?;
    Ok(Resolved { encoded, preset_version, generation, before: before(object), facts })
}

fn before(object: &MqProducerConfig) -> Before {
    let Some(status) = &object.status else { return Before::default() };
    Before {
        state: feed::state(&serde_json::to_value(status).unwrap_or_default()),
        clients: status.clients.clone(),
        effective: status.effective.clone(),
        rejection: client_config::rejection(&status.conditions),
    }
}
