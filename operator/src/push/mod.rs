//! Config push: revisions and status in, one stream per pod out.
//!
//! ```text
//! API server ── feed ──→ index ──→ stream (one per pod) ──→ agents
//!                        │   ↑ acks, nacks     server: TLS (tls, certificates), who may come in (identity)
//!                        │   └── changes ──→ controllers ──→ revisions, status
//!                        └──→ config_maps, for pods that mount them
//! ```
//!
//! Every replica feeds its index; only the lease holder serves, so that the answers of all pods meet in one place.

mod certificates;
mod config_maps;
pub mod feed;
pub mod identity;
pub mod index;
pub mod metrics;
mod server;
mod stream;
pub mod tls;

use std::{collections::HashSet, sync::Arc, time::Duration};

use kube::{Api, Client};
use mq_core::effect::ObjectKey;
use mq_protocol::{
    limits::{BACKOFF_CAP, CONNECT_TIMEOUT},
    message::Kind,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::index::Index;
use self::{
    certificates::Certificates, config_maps::ConfigMaps, feed::Pending, identity::Reviewer, index::Change,
    metrics::Metrics, tls::Material,
};
use crate::reconcile::{Shared, Waker};

/// Counts of clients are told to the controllers this often at most.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// The certificates are looked at this often.
const RENEW_EVERY: Duration = Duration::from_hours(1);
/// Agents of a former leader are back after this time: their longest back-off, and a connection.
const SETTLE: Duration = BACKOFF_CAP.saturating_add(CONNECT_TIMEOUT);
/// Pause after something failed that heals by itself.
const PAUSE: Duration = Duration::from_secs(2);

/// The parts that controllers need, and what [`ConfigPush::run`] needs of itself.
#[derive(Debug)]
pub struct ConfigPush {
    index: Index,
    changes: mpsc::UnboundedReceiver<Change>,
    pending: (watch::Sender<usize>, Pending),
}

impl Default for ConfigPush {
    fn default() -> Self {
        let (index, changes) = Index::new();
        Self { index, changes, pending: feed::pending() }
    }
}

impl ConfigPush {
    /// What clients are to run, and what they say.
    pub fn index(&self) -> Index {
        self.index.clone()
    }

    /// 0 once the index is complete.
    pub fn pending(&self) -> Pending {
        self.pending.1.clone()
    }

    /// Feeds the index, wakes the controllers, and serves agents while this replica leads, until `shutdown`.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub async fn run(
        self,
        client: Client,
        shared: Shared,
        producers: Waker,
        consumers: Waker,
        shutdown: CancellationToken,
    ) -> Result<(), prometheus::Error> {
        let metrics = Metrics::register(shared.metrics.registry())?;
        let Self { index, changes, pending: (count_down, pending) } = self;
        let feed = feed::run(client.clone(), shared.options.clone(), index.clone(), count_down, shutdown.clone());
        let relay = relay(changes, producers, consumers, shutdown.clone());
        let lead = lead(client, shared, index, pending, metrics, shutdown);
        tokio::join!(feed, relay, lead);
        Ok(())
    }
}

/// Decisions at once, counts together.
async fn relay(
    mut changes: mpsc::UnboundedReceiver<Change>,
    producers: Waker,
    consumers: Waker,
    shutdown: CancellationToken,
) {
    let wake = |kind, object| match kind {
        Kind::Producer => producers.wake(object),
        Kind::Consumer => consumers.wake(object),
    };
    let mut tick = interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: HashSet<(Kind, ObjectKey)> = HashSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = changes.recv() => match change {
                None => return,
                Some(Change { kind, object, urgent: true }) => wake(kind, object),
                Some(Change { kind, object, urgent: false }) => {
                    waiting.insert((kind, object));
                }
            },
            _ = tick.tick(), if !waiting.is_empty() => {
                for (kind, object) in waiting.drain() {
                    wake(kind, object);
                }
            }
        }
    }
}

/// Waits for the lease and a complete index, then serves.
async fn lead(
    client: Client,
    shared: Shared,
    index: Index,
    mut pending: Pending,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let mut leading = shared.lease.leading();
    let ready =
        async { leading.wait_for(|leading| *leading).await.is_ok() && pending.wait_for(|n| *n == 0).await.is_ok() };
    tokio::select! {
        ready = ready => if !ready { return },
        () = shutdown.cancelled() => return,
    }
    let options = &shared.options;
    let certificates = certificates(&client, &shared);
    let push = server::Push {
        index: index.clone(),
        reviewer: Reviewer::new(client.clone()),
        capacity: Arc::new(Semaphore::new(options.push_max_streams)),
        metrics,
    };
    let installation = format!("{}.{}", options.lease_namespace, options.lease_name);
    let config_maps =
        ConfigMaps::new(client, shared.writer.clone(), shared.events.clone(), index.clone(), installation);
    let settle = async {
        sleep(SETTLE).await;
        index.settle();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serve_terms(&shared, &certificates, push, config_maps, &shutdown) => {}
        () = settle => {}
    }
}

/// Serves; each time that other certificates are due, anew.
async fn serve_terms(
    shared: &Shared,
    certificates: &Certificates,
    push: server::Push,
    config_maps: ConfigMaps,
    shutdown: &CancellationToken,
) {
    let options = &shared.options;
    while !shutdown.is_cancelled() {
        let material = tokio::select! {
            material = certificates.current() => material,
            () = shutdown.cancelled() => return,
        };
        let material = match material {
            Ok(material) => material,
            Err(error) => {
                tracing::error!(%error, "no certificates, so agents are not served; trying again");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Ends when other certificates are to be served.
        let term = shutdown.child_token();
        let agent = [("ca.crt".to_owned(), material.bundle()), ("endpoint".to_owned(), options.push_endpoint())].into();
        let serve = async {
            if let Err(error) = server::serve(push.clone(), options.push_addr, &material, term.clone()).await {
                tracing::error!(%error, "agents are not served; trying again");
                sleep(PAUSE).await;
            }
            term.cancel();
        };
        let renew = async {
            renewal(certificates, &material, &term).await;
            term.cancel();
        };
        tokio::join!(serve, renew, config_maps.run(agent, term.clone()));
    }
}

/// Returns when other certificates are to be served than `served`, or at the end of the term.
async fn renewal(certificates: &Certificates, served: &Material, term: &CancellationToken) {
    while timeout(RENEW_EVERY, term.cancelled()).await.is_err() {
        match certificates.current().await {
            Ok(material) if material == *served => {}
            Ok(_) => return,
            Err(error) => tracing::warn!(%error, "cannot look at the certificates; trying again later"),
        }
    }
}

fn certificates(client: &Client, shared: &Shared) -> Certificates {
    let options = &shared.options;
    let endpoint = options.push_endpoint();
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    // Without the brackets that an IPv6 address has in a URI.
    let host = host.trim_matches(['[', ']']).to_owned();
    let (namespace, name) = (options.lease_namespace.clone(), format!("{}-push-tls", options.lease_name));
    Certificates {
        secrets: Api::namespaced(client.clone(), &namespace),
        key: ObjectKey { namespace, name, uid: String::new() },
        hosts: vec![host],
        writer: shared.writer.clone(),
    }
}
