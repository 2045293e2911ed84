//! The operator: watches the four kinds, makes Kafka as they declare, and answers in their status.
//!
//! ```text
//! API server ─ watch ─→ reconcile (one runner, one trait) ─→ session (one per MqCluster) ─→ Kafka
//!      ↑                   │ controllers/: what differs         │ observe → mq_core::plan → execute
//!      └─ writer ←─ status, events, finalizers ←── outcome ─────┘
//! ```
//! Every replica keeps warm caches; only the holder of the [`lease`] reads Kafka and writes anything. Decisions are in `mq-core`;
//! here is what they touch.
#![forbid(unsafe_code)]

mod controllers;
mod credentials;
pub mod events;
pub mod groups;
mod http;
pub mod lease;
pub mod metrics;
pub mod object;
mod options;
pub mod push;
pub mod reconcile;
pub mod revisions;
pub mod session;
mod status;
pub mod watch;
pub mod writer;

pub use options::Options;

use controllers::{
    Configs, cluster::ClusterKind, consumer_group::ConsumerGroupKind, producer_config::ProducerConfigKind,
    topic::TopicKind,
};
use credentials::Secrets;
use events::Events;
use groups::Groups;
use kube::{Api, Client};
use lease::Lease;
use metrics::Metrics;
use mq_crds::{MqCluster, MqConsumerGroup, MqProducerConfig, MqTopic};
use object::{Object, key_of};
use push::ConfigPush;
use reconcile::{Kind, Runner, Shared, Source};
use session::{Dependents, Environment, Sessions};
use std::sync::Arc;
use tokio::{sync::watch as channel, task::JoinSet};
use tokio_util::sync::CancellationToken;
use writer::Writer;

/// Why the operator ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// See [`lease::Lost`]. Start again.
    #[error(transparent)]
    Lost(#[from] lease::Lost),
    /// The address for metrics cannot be used.
    #[error("cannot serve metrics at {address}: {source}")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Two metrics collide; a mistake in this program.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part of the operator ended that should run for ever; a mistake in this program.
    #[error("a runner ended unexpectedly")]
    RunnerEnded,
}

/// Runs the operator until `shutdown`; then takes nothing new in, finishes what it has begun, and releases the lease.
///
/// Cancellation: dropping the future stops everything at once, and leaves the lease to expire.
///
/// # Errors
/// The lease was lost, or the operator cannot run at all.
pub async fn run(options: Options, client: Client, shutdown: CancellationToken) -> Result<(), RunError> {
    let metrics = Metrics::new()?;
    let identity = identity(&options);
    let lease = Arc::new(Lease::new(lease::Settings {
        namespace: options.lease_namespace.clone(),
        name: options.lease_name.clone(),
        identity: identity.clone(),
        pod: options.pod_name.clone(),
        duration: options.lease_duration,
    }));
    let writer = Writer::new(client.clone(), Arc::clone(&lease), metrics.clone());
    let events = Events::new(client.clone(), writer.clone(), identity);
    let clusters = Source::<MqCluster>::new(Api::all(client.clone()), &metrics);
    let topics = Source::<MqTopic>::namespaced(client.clone(), &options, &metrics);
    let producers = Source::<MqProducerConfig>::namespaced(client.clone(), &options, &metrics);
    let groups = Source::<MqConsumerGroup>::namespaced(client.clone(), &options, &metrics);
    let push = ConfigPush::default();

    // Ends with `shutdown`, with this function, and with the first part that ends unasked.
    let stop = shutdown.child_token();
    let _stop = stop.clone().drop_guard();
    let clients = both(dependents(&producers), dependents(&groups));
    let environment = Environment {
        lease: Arc::clone(&lease),
        metrics: metrics.clone(),
        interval: options.topic_interval,
        clusters: clusters.waker.clone(),
        topics: topics.waker.clone(),
        groups: groups.waker.clone(),
        clients: Arc::clone(&clients),
        claims: controllers::topic::claims(topics.cache.clone(), topics.filled.clone(), clusters.cache.clone()),
    };
    let sessions = Arc::new(Sessions::new(environment, vec![dependents(&topics), clients], stop.clone()));
    let (synced, is_synced) = channel::channel(false);
    let shared =
        Shared { options: Arc::new(options), lease: Arc::clone(&lease), writer, events, metrics: metrics.clone() };
    let watched = Groups::start(
        groups::Environment {
            client: client.clone(),
            options: Arc::clone(&shared.options),
            lease: Arc::clone(&lease),
            metrics: metrics.clone(),
            writer: shared.writer.clone(),
            sessions: Arc::clone(&sessions),
            objects: groups.cache.clone(),
            waker: groups.waker.clone(),
            agents: push.index(),
        },
        stop.clone(),
    )?;
    let address = shared.options.metrics_addr;
    let bind = |source| RunError::Bind { address, source };
    let serving = http::serve(&shared, Arc::clone(&watched), is_synced, stop.clone()).await.map_err(bind)?;
    let caches = [clusters.filled.clone(), topics.filled.clone(), producers.filled.clone(), groups.filled.clone()];
    let secrets = Secrets::new(client.clone(), shared.options.lease_namespace.clone(), clusters.waker.clone());
    let cluster_kind = ClusterKind { sessions: Arc::clone(&sessions), secrets };
    let topic_kind = TopicKind { clusters: clusters.cache.clone(), sessions: Arc::clone(&sessions) };
    let mut runners = JoinSet::new();
    spawn(&mut runners, cluster_kind, clusters, std::future::ready(()), &shared, &stop);
    spawn(&mut runners, topic_kind, topics, std::future::ready(()), &shared, &stop);
    let configs = || Configs {
        index: push.index(),
        client: client.clone(),
        writer: shared.writer.clone(),
        sessions: Arc::clone(&sessions),
    };
    let producer_kind = ProducerConfigKind { configs: configs() };
    let group_kind = ConsumerGroupKind { configs: configs(), groups: Arc::clone(&watched) };
    let wakers = (producers.waker.clone(), groups.waker.clone());
    spawn(&mut runners, producer_kind, producers, complete(push.pending()), &shared, &stop);
    spawn(&mut runners, group_kind, groups, complete(push.pending()), &shared, &stop);
    let ends_all = stop.clone().drop_guard();
    let pushing = push.run(client.clone(), shared.clone(), wakers.0, wakers.1, stop.clone());
    runners.spawn(async move {
        let _ends_all = ends_all;
        if let Err(error) = Box::pin(pushing).await {
            tracing::error!(%error, "config push ended");
        }
    });
    let http = tokio::spawn(serving);

    let ready = tokio::select! {
        true = all_filled(caches) => true,
        () = stop.cancelled() => false,
    };
    let drained = async {
        while runners.join_next().await.is_some() {}
        sessions.finished().await;
        watched.finished().await;
    };
    let held = if ready {
        synced.send_replace(true);
        lease.hold(client, &metrics, stop.clone(), drained).await
    } else {
        drained.await;
        Ok(())
    };
    let unasked = stop.is_cancelled() && !shutdown.is_cancelled();
    stop.cancel();
    http.abort();
    held?;
    if unasked { Err(RunError::RunnerEnded) } else { Ok(()) }
}

/// Runs a kind once `ready` is.
fn spawn<K: Kind>(
    runners: &mut JoinSet<()>,
    kind: K,
    source: Source<K::Object>,
    ready: impl Future<Output = ()> + Send + 'static,
    shared: &Shared,
    stop: &CancellationToken,
) {
    // Whichever way the runner ends, also by a panic, everything ends with it rather than going on without it.
    let ends_all = stop.clone().drop_guard();
    let run = Runner::run(kind, source, shared.clone(), stop.clone());
    runners.spawn(async move {
        let _ends_all = ends_all;
        ready.await;
        run.await;
    });
}

/// The push index is complete; what decides by it waits for that.
async fn complete(mut pending: push::feed::Pending) {
    // Fails only at the end, which the runner sees for itself.
    let _ = pending.wait_for(|pending| *pending == 0).await;
}

/// True once each cache is filled; false at the end.
async fn all_filled(caches: impl IntoIterator<Item = watch::Filled>) -> bool {
    for mut filled in caches {
        if filled.wait_for(|filled| *filled).await.is_err() {
            return false;
        }
    }
    true
}

/// Wakes all objects of a kind that belong to a cluster.
fn dependents<K: Object>(source: &Source<K>) -> Dependents {
    let (cache, waker) = (source.cache.clone(), source.waker.clone());
    Arc::new(move |cluster| {
        for object in cache.state().iter().filter(|object| object.cluster == cluster) {
            waker.wake(key_of(&**object));
        }
    })
}

fn both(one: Dependents, other: Dependents) -> Dependents {
    Arc::new(move |cluster| {
        one(cluster);
        other(cluster);
    })
}

/// Distinct per process: a container that starts again in the same pod is another holder.
fn identity(options: &Options) -> String {
    let name = options.pod_name.clone().unwrap_or_else(|| "mq-operator".into());
    format!("{name}_{}", uuid::Uuid::new_v4())
}
