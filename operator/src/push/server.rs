//! The gRPC server: TLS, who may come in, and how many.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt};
use mq_protocol::{
    limits::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_MESSAGE_BYTES},
    wire::{
        AgentMessage, ServerMessage,
        config_push_server::{ConfigPush, ConfigPushServer},
    },
};
use tokio::{net::TcpListener, sync::Semaphore, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity as TlsIdentity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    identity::Reviewer,
    index::Index,
    metrics::Metrics,
    stream::{Session, not_granted},
    tls::Material,
};

/// Messages that wait for a slow reader; configurations themselves wait in the index, where the newest replaces others.
const OUTBOUND: usize = 4;
/// Sessions have this long to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the server ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Wanted address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or transport.
    #[error("the push server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What every connection shares.
#[derive(Clone, Debug)]
pub(super) struct Push {
    /// What to tell.
    pub(super) index: Index,
    /// Who may ask.
    pub(super) reviewer: Reviewer,
    /// Streams that are open or may still be opened.
    pub(super) capacity: Arc<Semaphore>,
    /// Measurements.
    pub(super) metrics: Metrics,
}

/// Serves agents until `shutdown`, then asks every pod to come back and ends.
///
/// # Errors
/// See [`ServeError`].
pub(super) async fn serve(
    push: Push,
    addr: SocketAddr,
    material: &Material,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let listen = |source| ServeError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    tracing::info!(addr = %listener.local_addr().map_err(listen)?, "push server listens");
    let sessions = TaskTracker::new();
    let service = Service { push, sessions: sessions.clone(), shutdown: shutdown.clone() };
    let service = ConfigPushServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let tls = ServerTlsConfig::new()
        .identity(TlsIdentity::from_pem(&material.certificate, &material.key))
        .timeout(CONNECT_TIMEOUT);
    let server = Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // One is needed; a second may begin before the first is known to have ended.
        .max_concurrent_streams(4)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.cancelled());
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = shutdown.cancelled() => {}
    }
    sessions.close();
    // Sessions end by themselves at `shutdown`; connections that stay open after that are cut.
    let farewell = async {
        sessions.wait().await;
        server.await
    };
    match tokio::time::timeout(GOODBYE, farewell).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Ok(()),
    }
}

struct Service {
    push: Push,
    sessions: TaskTracker,
    shutdown: CancellationToken,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

#[tonic::async_trait]
impl ConfigPush for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn stream(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::StreamStream>, Status> {
        let push = self.push.clone();
        // Before anything that costs: a full server sheds load instead of growing.
        let Ok(permit) = Arc::clone(&push.capacity).try_acquire_owned() else {
            push.metrics.turned_away();
            return Err(Status::resource_exhausted("this replica serves as many streams as it may; try again"));
        };
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let identity = match push.reviewer.identify(authorization).await {
            Ok(identity) => identity,
            Err(refusal) => {
                push.metrics.turned_away();
                tracing::info!(peer = ?request.remote_addr(), %refusal, "peer refused");
                return Err(refusal.into());
            }
        };
        if !push.index.is_granted(&identity.namespace) {
            push.metrics.turned_away();
            return Err(not_granted(&identity.namespace));
        }
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let peer = request.remote_addr().map(|address| address.ip());
        let session = Session::new(push.index, push.metrics.clone(), identity, number, outbound).from(peer);
        let (inbound, shutdown) = (request.into_inner(), self.shutdown.clone());
        self.sessions.spawn(async move {
            let _open = (permit, push.metrics.opened());
            session.run(inbound, shutdown).await;
        });
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }
}
