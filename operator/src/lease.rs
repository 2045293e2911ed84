//! Who may write: the holder of one `Lease`, for as long as it renewed it in time by its own monotonic clock.
//!
//! Every write to Kubernetes or Kafka starts with [`Lease::permit`]. The permit is refused from two thirds of the lease's duration
//! after the *start* of the last successful renewal; other replicas wait the whole duration after they *saw* that renewal. So a
//! holder that was stopped (SIGSTOP, a paused machine) starts no write after another one took over. A write that started before
//! may still arrive late: Kubernetes refuses it by uid and resourceVersion where it matters, Kafka has no such fence.
//!
//! A replica that loses the lease ends ([`Lost`]); its pod starts again as a follower with clean memory.

mod label;

use crate::metrics::Metrics;
use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// The right to start a write; obtained from [`Lease::permit`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Permit(());

/// A write was not started because this replica is not the leader (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the leader; nothing was written")]
pub struct NotLeader;

/// The lease was lost while it was needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lost the Lease {name}: {why}")]
pub struct Lost {
    name: String,
    why: String,
}

/// Where the lease is and who asks for it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace of the Lease, and of the pods that carry the leader label.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Distinct per process.
    pub identity: String,
    /// Own pod, if this runs in one.
    pub pod: Option<String>,
    /// Validity without renewal.
    pub duration: Duration,
}

/// One replica's view of the lease.
#[derive(Debug)]
pub struct Lease {
    settings: Settings,
    valid_until: Mutex<Option<Instant>>,
    turned: Mutex<Option<Instant>>,
    leading: watch::Sender<bool>,
}

/// Another holder's record and when it was first seen; its own clock is not trusted.
#[derive(Debug)]
struct Seen {
    record: LeaseSpec,
    at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Holding,
    HeldByOther(String),
}

impl Lease {
    /// Not held yet; [`Lease::hold`] acquires it.
    pub fn new(settings: Settings) -> Self {
        Self { settings, valid_until: Mutex::new(None), turned: Mutex::new(None), leading: watch::Sender::new(false) }
    }

    /// The right to start a write now.
    ///
    /// # Errors
    /// This replica does not hold the lease, or did not renew it in time.
    pub fn permit(&self) -> Result<Permit, NotLeader> {
        match *lock(&self.valid_until) {
            Some(until) if Instant::now() < until => Ok(Permit(())),
            _ => Err(NotLeader),
        }
    }

    /// Turns true once, when the lease was acquired. It never turns false again: a replica that loses it ends.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Whether [`Lease::hold`], once begun, made a turn lately.
    pub fn turns(&self) -> bool {
        lock(&self.turned).is_none_or(|at| at.elapsed() < self.settings.duration * 3)
    }

    /// Acquires the lease and renews it until `shutdown`; then, after `drained`, gives it back so that another replica need not
    /// wait.
    ///
    /// # Errors
    /// The lease was held and lost.
    pub async fn hold(
        &self,
        client: Client,
        metrics: &Metrics,
        shutdown: CancellationToken,
        drained: impl Future<Output = ()>,
    ) -> Result<(), Lost> {
        let api: Api<LeaseObject> = Api::namespaced(client.clone(), &self.settings.namespace);
        let mut seen = None;
        let mut labelled = false;
        let stop = async {
            shutdown.cancelled().await;
            drained.await;
        };
        tokio::pin!(stop);
        loop {
            let outcome = tokio::time::timeout(self.period(), self.turn(&api, &mut seen)).await;
            *lock(&self.turned) = Some(Instant::now());
            match outcome {
                Ok(Ok(Turn::Holding)) => {
                    metrics.leader.set(1);
                    if !self.leading.send_replace(true) {
                        tracing::info!(lease = self.settings.name, "leading");
                    }
                    labelled = labelled || self.label(&client).await;
                }
                Ok(Ok(Turn::HeldByOther(holder))) if *self.leading.borrow() => {
                    return Err(self.lost(metrics, format!("{holder} holds it")));
                }
                Ok(Ok(Turn::HeldByOther(holder))) => tracing::debug!(holder, "waiting for the Lease"),
                Ok(Err(error)) => tracing::warn!(%error, "cannot read or write the Lease"),
                Err(_) => tracing::warn!("the Kubernetes API does not answer in time about the Lease"),
            }
            if *self.leading.borrow() && self.permit().is_err() {
                return Err(self.lost(metrics, "it could not be renewed in time".into()));
            }
            tokio::select! {
                () = tokio::time::sleep(self.period()) => {}
                () = &mut stop => break,
            }
        }
        metrics.leader.set(0);
        if *self.leading.borrow() {
            *lock(&self.valid_until) = None;
            let give_back = async {
                label::drop_own(&client, &self.settings).await;
                self.release(&api).await
            };
            match tokio::time::timeout(self.settings.duration, give_back).await {
                Ok(Ok(())) => tracing::info!(lease = self.settings.name, "released"),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot release the Lease; another replica waits until it expires");
                }
                Err(_) => tracing::warn!("no answer about the Lease; another replica waits until it expires"),
            }
        }
        Ok(())
    }

    async fn label(&self, client: &Client) -> bool {
        // Bounded, because the renewal waits for it.
        tokio::time::timeout(self.period(), label::take(client, &self.settings)).await.unwrap_or(false)
    }

    fn period(&self) -> Duration {
        self.settings.duration / 6
    }

    fn lost(&self, metrics: &Metrics, why: String) -> Lost {
        *lock(&self.valid_until) = None;
        metrics.leader.set(0);
        Lost { name: self.settings.name.clone(), why }
    }

    /// Acquires or renews once.
    async fn turn(&self, api: &Api<LeaseObject>, seen: &mut Option<Seen>) -> kube::Result<Turn> {
        let started = Instant::now();
        let Some(mut lease) = api.get_opt(&self.settings.name).await? else {
            let metadata = ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
            let lease = LeaseObject { metadata, spec: Some(self.record(None)) };
            return match api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(self.holding(started)),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    Ok(Turn::HeldByOther("another replica".into()))
                }
                Err(error) => Err(error),
            };
        };
        let record = lease.spec.take().unwrap_or_default();
        if let Some(holder) = self.other_holder(&record, seen, started) {
            return Ok(Turn::HeldByOther(holder));
        }
        lease.spec = Some(self.record(Some(&record)));
        match api.replace(&self.settings.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(self.holding(started)),
            // Someone else wrote between the two requests; the next turn sees who.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Turn::HeldByOther("another replica".into())),
            Err(error) => Err(error),
        }
    }

    fn holding(&self, started: Instant) -> Turn {
        *lock(&self.valid_until) = Some(started + self.settings.duration * 2 / 3);
        Turn::Holding
    }

    /// The other replica whose lease is still valid, if any.
    fn other_holder(&self, record: &LeaseSpec, seen: &mut Option<Seen>, now: Instant) -> Option<String> {
        let holder = record.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
        if holder == self.settings.identity {
            return None;
        }
        let first_seen = match seen {
            Some(seen) if seen.record == *record => seen.at,
            _ => {
                *seen = Some(Seen { record: record.clone(), at: now });
                now
            }
        };
        let seconds = record.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
        (now < first_seen + Duration::from_secs(seconds)).then(|| holder.to_owned())
    }

    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let mine = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.settings.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            // Whole seconds, rounded up: others must not take over early.
            lease_duration_seconds: i32::try_from(self.settings.duration.as_millis().div_ceil(1000)).ok(),
            acquire_time: old.filter(|_| mine).map_or_else(|| now.clone(), |old| old.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(if mine || old.is_none() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self, api: &Api<LeaseObject>) -> kube::Result<()> {
        let Some(mut lease) = api.get_opt(&self.settings.name).await? else { return Ok(()) };
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        api.replace(&self.settings.name, &PostParams::default(), &lease).await.map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
