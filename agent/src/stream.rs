//! The one stream of the process to the operator. Clients never wait for it and never notice its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use mq_protocol::limits::{
    BACKOFF_CAP, CONNECT_TIMEOUT, FIRST_MESSAGE_TIMEOUT, HEARTBEAT_INTERVAL, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    MAX_MESSAGE_BYTES, SILENCE_TIMEOUT, backoff,
};
use mq_protocol::message::{FromAgent, FromServer};
use mq_protocol::wire;
use mq_protocol::wire::config_push_client::ConfigPushClient;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use crate::hub::Hub;
use crate::options::Options;

/// Largest file of the projected volume that is read: a bundle of certificates.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why there is no stream at the moment.
#[derive(Debug, Error)]
enum Broken {
    #[error("cannot read {path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{path} does not hold {what}")]
    Content { path: String, what: &'static str },
    #[error("cannot connect to {endpoint}: {source}")]
    Connect { endpoint: String, source: tonic::transport::Error },
    #[error("the operator ended the stream: {}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    #[error("the operator was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the operator's heartbeat names a revision that it never sent")]
    Stale,
    #[error("the operator closed the stream")]
    Closed,
}

/// How a stream ended that ended well.
struct Moved {
    after: Duration,
}

/// Keeps a stream open. Never returns.
pub(crate) async fn run(hub: Arc<Hub>, options: Options) {
    let mut attempt = 0;
    loop {
        let mut opened = None;
        let outcome = one(&hub, &options, &mut opened).await;
        hub.disconnected();
        if outcome.is_ok() || opened.is_some_and(is_healthy) {
            attempt = 0;
        }
        let pause = match outcome {
            // Full jitter here too: all pods were told at the same moment.
            Ok(Moved { after }) => after + backoff(0, fastrand::f64()),
            Err(broken @ Broken::File { .. }) if attempt > 0 => {
                tracing::debug!(%broken, "no stream to the operator");
                backoff(attempt, fastrand::f64())
            }
            Err(broken) => {
                tracing::warn!(error = %words(&broken), attempt, "no stream to the operator; clients go on with what they have");
                backoff(attempt, fastrand::f64())
            }
        };
        attempt = attempt.saturating_add(1);
        tokio::time::sleep(pause).await;
    }
}

/// Whether the stream lasted. One that ends after its first words is opened again as late as one that never opened: a server that
/// breaks after accepting must not have all pods at it twice a second.
fn is_healthy(opened: Instant) -> bool {
    opened.elapsed() >= BACKOFF_CAP
}

/// One stream from its connection to its end. `opened`: when it first spoke.
async fn one(hub: &Hub, options: &Options, opened: &mut Option<Instant>) -> Result<Moved, Broken> {
    let channel = connect(options).await?;
    let mut client = ConfigPushClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (outgoing, sent) = mpsc::unbounded_channel();
    let hello =
        FromAgent::Hello { library: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    // Cannot fail: the receiver is in this function.
    let _ = outgoing.send(hello);
    hub.connected(outgoing);
    let mut request = Request::new(UnboundedReceiverStream::new(sent).map(wire::AgentMessage::from));
    request.metadata_mut().insert("authorization", authorization(&options.token)?);
    let mut inbound = within(FIRST_MESSAGE_TIMEOUT, client.stream(request)).await?.into_inner();
    // The first heartbeat at the latest.
    let mut silence = HEARTBEAT_INTERVAL + FIRST_MESSAGE_TIMEOUT;
    loop {
        let message = next(&mut inbound, silence).await?;
        if opened.is_none() {
            *opened = Some(Instant::now());
            tracing::info!("stream to the operator open");
        }
        silence = SILENCE_TIMEOUT;
        match FromServer::try_from(message) {
            Ok(FromServer::Config { client, version, body }) => hub.config(&client, version, body),
            Ok(FromServer::UpToDate { client, revision }) => hub.up_to_date(&client, revision),
            Ok(FromServer::Tombstone(client)) => {
                tracing::warn!(%client, "the object of this client is gone; it returns to what it would run without the operator");
                hub.gone(&client);
            }
            Ok(FromServer::NotReady { client, detail }) => {
                tracing::warn!(%client, detail, "the operator has no configuration for this client");
                hub.not_ready(&client);
            }
            Ok(FromServer::Heartbeat(current)) if hub.is_stale(&current) => return Err(Broken::Stale),
            Ok(FromServer::Heartbeat(_)) => {}
            Ok(FromServer::Reconnect { after }) => return Ok(Moved { after }),
            // From a newer operator. One message that is not understood must not cost the others.
            Err(error) => tracing::warn!(%error, "a message of the operator was not understood"),
        }
    }
}

async fn connect(options: &Options) -> Result<Channel, Broken> {
    let uri = text(&options.endpoint)?;
    let uri = if uri.contains("://") { uri } else { format!("https://{uri}") };
    // The token must never travel in the clear.
    let invalid = || Broken::Content {
        path: options.endpoint.display().to_string(),
        what: "an address of the form https://host:port",
    };
    let host = uri.strip_prefix("https://").filter(|host| !host.is_empty()).map(str::to_owned);
    let host = host.ok_or_else(invalid)?;
    let endpoint = Endpoint::from_shared(uri).map_err(|_| invalid())?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text(&options.ca)?));
    let failed = |source| Broken::Connect { endpoint: host.clone(), source };
    let endpoint = endpoint
        .tls_config(tls)
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    // tonic's own limit covers TCP alone; a peer that accepts and never speaks TLS must not hold us.
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(channel) => channel.map_err(failed),
        Err(_) => Err(Broken::Silent(CONNECT_TIMEOUT)),
    }
}

/// Read anew for each stream: the kubelet replaces the token long before it expires.
fn authorization(path: &Path) -> Result<MetadataValue<Ascii>, Broken> {
    let token = text(path)?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Broken::Content { path: path.display().to_string(), what: "a token" })?;
    value.set_sensitive(true);
    Ok(value)
}

fn text(path: &Path) -> Result<String, Broken> {
    let failed = |source| Broken::File { path: path.display().to_string(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length == 0 || length > MAX_FILE_BYTES {
        return Err(Broken::Content { path: path.display().to_string(), what: "a text of sensible length" });
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Broken> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome.map_err(|status| Broken::Status(Box::new(status))),
        Err(_) => Err(Broken::Silent(limit)),
    }
}

async fn next(inbound: &mut Streaming<wire::ServerMessage>, silence: Duration) -> Result<wire::ServerMessage, Broken> {
    within(silence, inbound.message()).await?.ok_or(Broken::Closed)
}

/// The error with its causes: the outer layers of a transport error say nothing.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_stream_that_lasted_resets_the_back_off() {
        let opened = Instant::now();
        assert!(!is_healthy(opened));
        tokio::time::advance(BACKOFF_CAP).await;
        assert!(is_healthy(opened));
    }
}
