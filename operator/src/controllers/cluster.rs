//! `MqCluster`: opens the session, and says how the cluster is.

use crate::{
    object::{Guarded, key_of},
    reconcile::{Error, Kind, Refusal, Report},
    session::{Connection, Sessions},
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

/// How to reach which Kafka cluster.
#[derive(Debug)]
pub(crate) struct ValidCluster {
    generation: i64,
    connection: Connection,
    bound_to: Option<String>,
}

impl Kind for ClusterKind {
    type Object = MqCluster;
    type Inputs = ();
    type Valid = ValidCluster;
    type Decision = ();

    // Never put on: a cluster may go at any time, its objects say that it is gone.
    const FINALIZER: &'static str = "mq.infra-kit.io/cluster";

    fn cluster(object: &Guarded<MqCluster>) -> String {
        object.name_any()
    }

    async fn dereference(&self, _: &MqCluster) -> Result<(), Error> {
        Ok(())
    }

    fn validate(&self, object: &MqCluster, (): ()) -> Result<ValidCluster, Refusal> {
        for broker in &object.spec.brokers {
            check_broker(broker).map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?;
        }
        Ok(ValidCluster {
            generation: object.meta().generation.unwrap_or_default(),
            connection: Connection { brokers: object.spec.brokers.clone() },
            bound_to: object.status.as_ref().and_then(|status| status.cluster_id.clone()),
        })
    }

    fn decide(&self, _: &ValidCluster) {}

    async fn apply(&self, object: &MqCluster, valid: ValidCluster, (): ()) -> Result<Report, Error> {
        let session = self.sessions.ensure(&key_of(object), valid.generation, valid.connection, valid.bound_to);
        let Some(health) = session.health() else { return Ok(Report::default()) };
        let mut status = Map::new();
        status.insert("clusterId".into(), health.cluster_id.into());
        status.insert("brokers".into(), health.brokers.into());
        Ok(Report { verdict: Some(health.verdict), status, ..Report::default() })
    }

    fn pause(&self, _: &MqCluster) {}

    fn forget(&self, key: &ObjectKey) {
        self.sessions.remove(key);
    }
}
