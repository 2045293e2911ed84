//! `MqCluster`: opens the session, and says how the cluster is.

use crate::{
    credentials::{Credentials, Secrets},
    object::{Guarded, key_of},
    reconcile::{Error, Kind, Refusal, Report},
    session::{Declared, Sessions},
    status,
};
use kube::{Resource, ResourceExt};
use mq_core::{cluster::check_broker, condition::Verdict, effect::ObjectKey, reason::Reason};
use mq_crds::{MqCluster, MqClusterSpec};
use mq_kafka::{ClientCertificate, Security, SecurityError};
use mq_protocol::body::Connection;
use serde_json::Map;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct ClusterKind {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) secrets: Secrets,
}

/// A cluster that can be asked; or why not at the moment, which leaves what is connected as it is; or nothing yet.
type Reachable = Result<Option<Declared>, Verdict>;

impl Kind for ClusterKind {
    type Object = MqCluster;
    type Inputs = Result<Option<Credentials>, Verdict>;
    type Valid = Reachable;
    type Decision = ();

    // Never put on: a cluster may go at any time, its objects say that it is gone.
    const FINALIZER: &'static str = "mq.infra-kit.io/cluster";

    fn cluster(object: &Guarded<MqCluster>) -> String {
        object.name_any()
    }

    async fn dereference(&self, object: &MqCluster) -> Result<Self::Inputs, Error> {
        Ok(self.credentials(object))
    }

    fn validate(&self, object: &MqCluster, credentials: Self::Inputs) -> Result<Reachable, Refusal> {
        Ok(reachable(object, credentials)?)
    }

    fn decide(&self, _: &Reachable) {}

    async fn apply(&self, object: &MqCluster, valid: Reachable, (): ()) -> Result<Report, Error> {
        let declared = match valid {
            Ok(Some(declared)) => declared,
            Ok(None) => return Ok(Report::default()),
            Err(verdict) => {
                let stored = object.status.as_ref().and_then(|status| serde_json::to_value(status).ok());
                let status = stored.map(|stored| status::fields(&stored)).unwrap_or_default();
                return Ok(Report { verdict: Some(verdict), status, ..Report::default() });
            }
        };
        let session = self.sessions.ensure(&key_of(object), declared);
        let Some(health) = session.health() else { return Ok(Report::default()) };
        let mut status = Map::new();
        status.insert("clusterId".into(), health.cluster_id.into());
        status.insert("brokers".into(), health.brokers.into());
        Ok(Report { verdict: Some(health.verdict), status, ..Report::default() })
    }

    // The cluster is read on; nothing is changed in it.
    fn pause(&self, object: &MqCluster) {
        match reachable(object, self.credentials(object)) {
            Ok(Ok(Some(valid))) => drop(self.sessions.ensure(&key_of(object), Declared { paused: true, ..valid })),
            Ok(_) => {}
            Err(_) => self.forget(&key_of(object)),
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.secrets.forget(key);
        self.sessions.remove(key);
    }
}

impl ClusterKind {
    fn credentials(&self, object: &MqCluster) -> Result<Option<Credentials>, Verdict> {
        let secret = object.spec.admin.as_ref().map(|admin| admin.credentials_secret_ref.name.as_str());
        self.secrets.get(&key_of(object), secret)
    }
}

fn reachable(object: &MqCluster, credentials: Result<Option<Credentials>, Verdict>) -> Result<Reachable, Verdict> {
    let spec = &object.spec;
    for broker in &spec.brokers {
        check_broker(broker).map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?;
    }
    let credentials = match credentials {
        Ok(Some(credentials)) => credentials,
        Ok(None) => return Ok(Ok(None)),
        Err(verdict) => return Ok(Err(verdict)),
    };
    let security = match security(spec, &credentials) {
        Ok(security) => security,
        Err(verdict) if verdict.reason == Reason::CredentialsInvalid => return Ok(Err(verdict)),
        Err(verdict) => return Err(verdict),
    };
    Ok(Ok(Some(Declared {
        generation: object.meta().generation.unwrap_or_default(),
        connection: connection(spec),
        credentials,
        security,
        bound_to: object.status.as_ref().and_then(|status| status.cluster_id.clone()),
        paused: false,
    })))
}

/// How everybody reaches the cluster.
pub(super) fn connection(spec: &MqClusterSpec) -> Connection {
    Connection {
        brokers: spec.brokers.clone(),
        security_protocol: spec.security_protocol,
        ca_bundle: spec.ca_bundle.clone(),
        sasl_mechanism: spec.sasl.as_ref().map(|sasl| sasl.mechanism),
    }
}

fn security(spec: &MqClusterSpec, credentials: &Credentials) -> Result<Security, Verdict> {
    let mut security = Security::default();
    if spec.security_protocol.has_tls() {
        let certificate = credentials.certificate.as_ref();
        let client = certificate.map(|(certificates, key)| ClientCertificate { certificates, key });
        security = security.with_tls(spec.ca_bundle.as_deref(), client).map_err(|error| match error {
            SecurityError::ClientCertificate(_) => Verdict::stalled(Reason::CredentialsInvalid, error.to_string()),
            SecurityError::Authorities(_) | SecurityError::NoAuthorities => {
                Verdict::stalled(Reason::InvalidSpec, error.to_string())
            }
        })?;
    }
    if spec.security_protocol.has_sasl() {
        let mechanism = spec.sasl.as_ref().map(|sasl| sasl.mechanism);
        let mechanism = mechanism.ok_or_else(|| {
            Verdict::stalled(Reason::InvalidSpec, "spec.sasl.mechanism is required with this securityProtocol")
        })?;
        let (username, password) = credentials.user.clone().ok_or_else(|| {
            let message = "the Secret of spec.admin has no username and password, which this securityProtocol needs";
            Verdict::stalled(Reason::CredentialsInvalid, message)
        })?;
        security = security.with_sasl(mechanism, username, password);
    }
    Ok(security)
}
