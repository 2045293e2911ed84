//! One stream: what its pod asks for, what it is told, and when it ends.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use futures::{Stream, StreamExt};
use mq_protocol::{
    limits::{
        FIRST_MESSAGE_TIMEOUT, HEARTBEAT_INTERVAL, MAX_SUBSCRIPTIONS, SILENCE_TIMEOUT, STREAM_LIFE, STREAM_LIFE_JITTER,
    },
    message::{ClientRef, FromAgent, FromServer, Version},
    wire::{AgentMessage, ServerMessage},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_stream::{StreamMap, wrappers::WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use super::{
    identity::Identity,
    index::{Answer, ConfigKey, Index, Subscription},
    metrics::Metrics,
};

/// Pods return within this time after a planned end, not all at once.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// What the session needs to serve one pod.
pub(super) struct Session {
    index: Index,
    metrics: Metrics,
    identity: Identity,
    /// Where the stream comes from.
    peer: Option<IpAddr>,
    /// Number of the stream in this process.
    number: u64,
    outbound: mpsc::Sender<Result<ServerMessage, Status>>,
    clients: BTreeMap<ClientRef, Entry>,
    answers: StreamMap<ClientRef, WatchStream<Answer>>,
}

/// One client of the pod.
struct Entry {
    subscription: Subscription,
    /// Hash of what the client runs, as it said last.
    running: Option<String>,
    /// Hash of what the client was told to run, which it may be working on.
    told: Option<String>,
    /// Number of the revision that it should run.
    revision: Option<i64>,
    /// When it was told.
    since: Option<Instant>,
}

/// How a stream ended.
#[derive(Debug)]
enum End {
    /// The pod closed it, or vanished.
    Closed,
    /// It is asked to come back.
    Return,
    /// It broke the rules of the stream, or does not read.
    Refused(Status),
}

/// What a pod is told whose namespace no cluster grants anything.
pub(super) fn not_granted(namespace: &str) -> Status {
    Status::permission_denied(format!(
        "no MqCluster grants anything to the namespace {namespace}; a platform admin can, in MqCluster.spec.namespaces"
    ))
}

impl Session {
    pub(super) fn new(
        index: Index,
        metrics: Metrics,
        identity: Identity,
        number: u64,
        outbound: mpsc::Sender<Result<ServerMessage, Status>>,
    ) -> Self {
        let (clients, answers) = (BTreeMap::new(), StreamMap::new());
        Self { index, metrics, identity, peer: None, number, outbound, clients, answers }
    }

    /// The same with the address that the stream comes from.
    pub(super) fn from(self, peer: Option<IpAddr>) -> Self {
        Self { peer, ..self }
    }

    /// Serves until the pod leaves, the stream has lived long enough, or `shutdown`.
    pub(super) async fn run(
        mut self,
        mut inbound: impl Stream<Item = Result<AgentMessage, Status>> + Unpin,
        shutdown: CancellationToken,
    ) {
        let end = match self.greet(&mut inbound).await {
            Ok(()) => self.serve(&mut inbound, &shutdown).await.unwrap_or_else(|end| end),
            Err(end) => end,
        };
        debug!(pod = %self.identity.pod.name, namespace = %self.identity.namespace, ?end, "stream ended");
        match end {
            End::Closed => {}
            End::Return => {
                let after = RETURN_WITHIN.mul_f64(fastrand::f64());
                // A pod that is gone by now needs no request to return.
                let _ = self.send(FromServer::Reconnect { after }).await;
            }
            End::Refused(status) => {
                // The same: nobody may be left to read it.
                let _ = timeout(SILENCE_TIMEOUT, self.outbound.send(Err(status))).await;
            }
        }
    }

    /// Waits for `Hello`.
    async fn greet(&self, inbound: &mut (impl Stream<Item = Result<AgentMessage, Status>> + Unpin)) -> Result<(), End> {
        let first = timeout(FIRST_MESSAGE_TIMEOUT, inbound.next()).await;
        let message = match first {
            Err(_) => return Err(End::Refused(Status::deadline_exceeded("no Hello within the time for it"))),
            Ok(None | Some(Err(_))) => return Err(End::Closed),
            Ok(Some(Ok(message))) => FromAgent::try_from(message),
        };
        match message {
            Ok(FromAgent::Hello { library, version }) => {
                let Identity { namespace, pod } = &self.identity;
                info!(%namespace, pod = %pod.name, uid = %pod.uid, %library, %version, "agent connected");
                Ok(())
            }
            _ => Err(End::Refused(Status::failed_precondition("the first message of a stream must be Hello"))),
        }
    }

    async fn serve(
        &mut self,
        inbound: &mut (impl Stream<Item = Result<AgentMessage, Status>> + Unpin),
        shutdown: &CancellationToken,
    ) -> Result<End, End> {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let life = sleep(STREAM_LIFE + STREAM_LIFE_JITTER.mul_f64(fastrand::f64()));
        tokio::pin!(life);
        let mut grants = self.index.grants();
        // The grant may have gone since it was looked at.
        grants.mark_changed();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(End::Return),
                () = &mut life => return Ok(End::Return),
                Ok(()) = grants.changed() => if self.index.is_revoked(&self.identity.namespace) {
                    return Err(End::Refused(not_granted(&self.identity.namespace)));
                },
                message = inbound.next() => match message {
                    None | Some(Err(_)) => return Ok(End::Closed),
                    Some(Ok(message)) => self.hear(message).await?,
                },
                Some((client, answer)) = self.answers.next() => self.tell(client, answer).await?,
                _ = heartbeat.tick() => self.send(self.heartbeat()).await?,
            }
        }
    }

    async fn hear(&mut self, message: AgentMessage) -> Result<(), End> {
        match FromAgent::try_from(message) {
            // One bad message must not cost the pod its other clients.
            Err(error) => warn!(pod = %self.identity.pod.name, %error, "message of an agent ignored"),
            Ok(FromAgent::Hello { .. }) => {
                return Err(End::Refused(Status::failed_precondition("Hello is the first message only")));
            }
            Ok(FromAgent::Subscribe { client, held }) => return self.subscribe(client, held).await,
            Ok(FromAgent::Unsubscribe(client)) => {
                self.answers.remove(&client);
                self.clients.remove(&client);
            }
            Ok(FromAgent::Ack { client, version, effective, not_applied }) => {
                if let Some(entry) = self.clients.get_mut(&client) {
                    if entry.told.as_ref() == Some(&version.hash)
                        && let Some(since) = entry.since.take()
                    {
                        self.metrics.acked(since.elapsed());
                    }
                    entry.running = Some(version.hash.clone());
                    entry.subscription.ack(version, effective, not_applied);
                }
            }
            Ok(FromAgent::Health { client, health }) => {
                if let Some(entry) = self.clients.get(&client) {
                    entry.subscription.health(Instant::now(), health);
                }
            }
            Ok(FromAgent::Nack { client, version, reason, detail }) => {
                let Identity { namespace, pod } = &self.identity;
                warn!(%namespace, pod = %pod.name, %client, revision = version.revision, ?reason, detail, "refused");
                self.metrics.refused(reason);
                if let Some(entry) = self.clients.get_mut(&client) {
                    if entry.told.as_ref() == Some(&version.hash) {
                        entry.told.clone_from(&entry.running);
                        entry.since = None;
                    }
                    entry.subscription.nack(&version, reason, &detail);
                }
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, client: ClientRef, held: Option<Version>) -> Result<(), End> {
        if self.clients.len() >= MAX_SUBSCRIPTIONS && !self.clients.contains_key(&client) {
            let detail = format!("a pod can have {MAX_SUBSCRIPTIONS} clients");
            return self.send(FromServer::NotReady { client, detail }).await;
        }
        let key = ConfigKey { namespace: self.identity.namespace.clone(), client: client.clone() };
        // The old subscription ends first: both have the number of this stream.
        self.clients.remove(&client);
        let (subscription, receiver) = self.index.subscribe(key, self.identity.pod.clone(), self.number);
        if let Some(peer) = self.peer {
            subscription.comes_from(peer);
        }
        let held = held.map(|version| version.hash);
        let entry = Entry { subscription, running: held.clone(), told: held, revision: None, since: None };
        self.clients.insert(client.clone(), entry);
        // Its first item is the present answer.
        self.answers.insert(client, WatchStream::new(receiver));
        Ok(())
    }

    async fn tell(&mut self, client: ClientRef, answer: Answer) -> Result<(), End> {
        let Some(entry) = self.clients.get_mut(&client) else { return Ok(()) };
        let message = match answer {
            Answer::Run { version, body } => {
                entry.revision = Some(version.revision);
                // Compared with what it was told, not with what it says that it runs: it may be on its way to something
                // that was taken back meanwhile.
                if entry.told.as_ref() == Some(&version.hash) {
                    FromServer::UpToDate { client, revision: version.revision }
                } else {
                    entry.told = Some(version.hash.clone());
                    entry.since = Some(Instant::now());
                    FromServer::Config { client, version, body }
                }
            }
            Answer::Keep { detail } => {
                entry.revision = None;
                FromServer::NotReady { client, detail }
            }
            Answer::Nothing => {
                (entry.revision, entry.told, entry.running) = (None, None, None);
                FromServer::Tombstone(client)
            }
        };
        self.send(message).await
    }

    fn heartbeat(&self) -> FromServer {
        let revisions = self.clients.iter().filter_map(|(client, entry)| Some((client.clone(), entry.revision?)));
        FromServer::Heartbeat(revisions.collect())
    }

    async fn send(&self, message: FromServer) -> Result<(), End> {
        self.metrics.sent(&message);
        match timeout(SILENCE_TIMEOUT, self.outbound.send(Ok(message.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Refused(Status::deadline_exceeded("the agent does not read"))),
        }
    }
}

#[cfg(test)]
mod tests;
