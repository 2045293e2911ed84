//! A stream server in the test's hands: TLS as in a cluster, and it says what the test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use futures::{Stream, StreamExt};
use mq_protocol::body;
use mq_protocol::message::{ClientRef, FromAgent, FromServer, Kind, NackReason, Version};
use mq_protocol::wire::config_push_server::{ConfigPush, ConfigPushServer};
use mq_protocol::wire::{AgentMessage, ServerMessage};
use mq_testkit::wait_until;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::PATIENCE;

pub(super) const TOKEN: &str = "token-of-the-test";

pub(super) struct FakeOperator {
    shared: Arc<Shared>,
    run: TempDir,
    config: TempDir,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bodies: BTreeMap<ClientRef, (Version, String)>,
    heard: Vec<FromAgent>,
    streams: Vec<mpsc::UnboundedSender<Result<ServerMessage, Status>>>,
    opened: usize,
}

impl Drop for FakeOperator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeOperator {
    pub(super) async fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let run = tempfile::tempdir()?;
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let identity = Identity::from_pem(certificate.cert.pem(), certificate.signing_key.serialize_pem());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        write_run(run.path(), address, &certificate.cert.pem())?;
        let service = ConfigPushServer::new(Service(Arc::clone(&shared)));
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?.add_service(service);
        let server = tokio::spawn(async move {
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self { shared, run, config: tempfile::tempdir()?, server })
    }

    /// Options of an agent that finds this server.
    pub(super) fn options(&self) -> mq_agent::Options {
        mq_agent::Options::in_folders(self.run.path(), self.config.path())
    }

    /// The folder that a pod mounts at `/var/run/mq`.
    pub(super) fn run_folder(&self) -> &Path {
        self.run.path()
    }

    /// Makes this the configuration of a client and pushes it on every open stream.
    pub(super) fn push(&self, kind: Kind, name: &str, revision: i64, json: &str) -> Version {
        let client = ClientRef::new(kind, name);
        let version = Version { revision, hash: body::hash(json.as_bytes()) };
        let message =
            FromServer::Config { client: client.clone(), version: version.clone(), body: json.to_owned().into() };
        let mut state = self.shared.lock();
        state.bodies.insert(client, (version.clone(), json.to_owned()));
        state.say(&message);
        version
    }

    pub(super) fn say(&self, message: &FromServer) {
        self.shared.lock().say(message);
    }

    /// Ends every stream.
    pub(super) fn hang_up(&self) {
        self.shared.lock().streams.clear();
    }

    pub(super) fn forget_heard(&self) {
        self.shared.lock().heard.clear();
    }

    pub(super) fn heard(&self) -> Vec<FromAgent> {
        self.shared.lock().heard.clone()
    }

    pub(super) fn streams_opened(&self) -> usize {
        self.shared.lock().opened
    }

    /// The effective values and the keys not applied of the Ack for this version.
    pub(super) async fn acknowledged(&self, of: &Version) -> Result<(BTreeMap<String, String>, Vec<String>)> {
        wait_until(&format!("revision {} is acknowledged", of.revision), PATIENCE, async || {
            for message in self.heard() {
                match message {
                    FromAgent::Ack { version, effective, not_applied, .. } if version == *of => {
                        return Ok((effective, not_applied));
                    }
                    FromAgent::Nack { version, reason, detail, .. } if version == *of => {
                        bail!("it was rejected: {reason:?}: {detail}")
                    }
                    _ => {}
                }
            }
            bail!("heard {:?}", self.heard().last())
        })
        .await
    }

    pub(super) async fn rejected(&self, of: &Version) -> Result<(NackReason, String)> {
        wait_until(&format!("revision {} is rejected", of.revision), PATIENCE, async || {
            let nack = self.heard().into_iter().find_map(|message| match message {
                FromAgent::Nack { version, reason, detail, .. } if version == *of => Some((reason, detail)),
                _ => None,
            });
            nack.with_context(|| format!("heard {:?}", self.heard().last()))
        })
        .await
    }
}

fn write_run(run: &Path, address: SocketAddr, ca: &str) -> Result<()> {
    std::fs::write(run.join("endpoint"), format!("https://localhost:{}\n", address.port()))?;
    std::fs::write(run.join("ca.crt"), ca)?;
    std::fs::write(run.join("token"), TOKEN)?;
    ensure!(address.ip().is_loopback());
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn say(&mut self, message: &FromServer) {
        self.streams.retain(|stream| stream.send(Ok(message.clone().into())).is_ok());
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl ConfigPush for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn stream(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::StreamStream>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if authorization != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("not the token of this test"));
        }
        let (stream, messages) = mpsc::unbounded_channel();
        {
            let mut state = self.0.lock();
            state.streams.push(stream.clone());
            state.opened += 1;
        }
        let shared = Arc::clone(&self.0);
        // Weak, so that hanging up ends the stream.
        let answers = stream.downgrade();
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                let Ok(message) = FromAgent::try_from(message) else { return };
                let answer = {
                    let mut state = shared.lock();
                    state.heard.push(message.clone());
                    answer(&state, &message)
                };
                if let (Some(answer), Some(answers)) = (answer, answers.upgrade()) {
                    let _ = answers.send(Ok(answer.into()));
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(messages).boxed()))
    }
}

fn answer(state: &State, message: &FromAgent) -> Option<FromServer> {
    let FromAgent::Subscribe { client, held } = message else { return None };
    let client = client.clone();
    Some(match state.bodies.get(&client) {
        None => FromServer::NotReady { client, detail: "the test has none yet".to_owned() },
        Some((version, _)) if held.as_ref().is_some_and(|held| held.hash == version.hash) => {
            FromServer::UpToDate { client, revision: version.revision }
        }
        Some((version, json)) => FromServer::Config { client, version: version.clone(), body: json.clone().into() },
    })
}
