//! `/metrics`, `/healthz`, `/readyz`, and `/groups`: what the last cycle found of each group, as JSON.
//!
//! Ready = the caches are filled; it does not depend on Kafka, because restarting the operator would not bring Kafka back. Alive =
//! the loop around the Lease still turns.

use crate::{
    groups::{Groups, live::Filter},
    lease::Lease,
    metrics::Metrics,
    reconcile::Shared,
};
use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use std::sync::Arc;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
struct Served {
    metrics: Metrics,
    lease: Arc<Lease>,
    groups: Arc<Groups>,
    synced: watch::Receiver<bool>,
}

/// Binds at once, so that a taken port is an error at the start; the future serves until `shutdown`.
pub(crate) async fn serve(
    shared: &Shared,
    groups: Arc<Groups>,
    synced: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> std::io::Result<impl Future<Output = std::io::Result<()>> + Send + use<>> {
    let served = Served { metrics: shared.metrics.clone(), lease: Arc::clone(&shared.lease), groups, synced };
    let listener = TcpListener::bind(shared.options.metrics_addr).await?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/groups", get(live))
        .with_state(served);
    Ok(async move { axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await })
}

async fn metrics(State(served): State<Served>) -> Result<String, (StatusCode, String)> {
    served.metrics.render().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn healthz(State(served): State<Served>) -> (StatusCode, &'static str) {
    if served.lease.turns() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the loop around the Lease does not turn\n")
    }
}

async fn readyz(State(served): State<Served>) -> (StatusCode, &'static str) {
    if *served.synced.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet\n")
    }
}

async fn live(
    State(served): State<Served>,
    RawQuery(query): RawQuery,
) -> Result<([(HeaderName, &'static str); 1], String), (StatusCode, String)> {
    let found = served.groups.live(&Filter::of(&query.unwrap_or_default()));
    let json = serde_json::to_string(&found).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/json")], json))
}
