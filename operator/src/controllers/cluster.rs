//! `MqCluster`: opens the session, and says how the cluster is.

use crate::{
    object::{Guarded, key_of},
    reconcile::{Error, Kind, Refusal, Report},
    session::{Connection, Declared, Sessions},
};
use kube::{Resource, ResourceExt};
use mq_core::{cluster::check_broker, condition::Verdict, effect::ObjectKey, reason::Reason};
use mq_crds::MqCluster;
use serde_json::Map;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct ClusterKind {
    pub(crate) sessions: Arc<Sessions>,
}

impl Kind for ClusterKind {
    type Object = MqCluster;
    type Inputs = ();
    type Valid = Declared;
    type Decision = ();

    // Never put on: a cluster may go at any time, its objects say that it is gone.
    const FINALIZER: &'static str = "mq.infra-kit.io/cluster";

    fn cluster(object: &Guarded<MqCluster>) -> String {
        object.name_any()
    }

    async fn dereference(&self, _: &MqCluster) -> Result<(), Error> {
        Ok(())
    }

    fn validate(&self, object: &MqCluster, (): ()) -> Result<Declared, Refusal> {
        Ok(declared(object)?)
    }

    fn decide(&self, _: &Declared) {}

    async fn apply(&self, object: &MqCluster, valid: Declared, (): ()) -> Result<Report, Error> {
        let session = self.sessions.ensure(&key_of(object), valid);
        let Some(health) = session.health() else { return Ok(Report::default()) };
        let mut status = Map::new();
        status.insert("clusterId".into(), health.cluster_id.into());
        status.insert("brokers".into(), health.brokers.into());
        Ok(Report { verdict: Some(health.verdict), status, ..Report::default() })
    }

    // The cluster is read on; nothing is changed in it.
    fn pause(&self, object: &MqCluster) {
        match declared(object) {
            Ok(valid) => drop(self.sessions.ensure(&key_of(object), Declared { paused: true, ..valid })),
            Err(_) => self.forget(&key_of(object)),
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.sessions.remove(key);
    }
}

fn declared(object: &MqCluster) -> Result<Declared, Verdict> {
    for broker in &object.spec.brokers {
        check_broker(broker).map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?;
    }
    Ok(Declared {
        generation: object.meta().generation.unwrap_or_default(),
        connection: Connection { brokers: object.spec.brokers.clone() },
        bound_to: object.status.as_ref().and_then(|status| status.cluster_id.clone()),
        paused: false,
    })
}
