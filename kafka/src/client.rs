//! The client for administrators: requests over one connection per broker, answered for all names at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use crate::{BrokerError, Error, ErrorKind, Options, api::Api, connection::Connection, view::View};

/// How often a request is tried again because of the cluster's own movements (new controller, leader or coordinator).
pub(crate) const ATTEMPTS: u32 = 4;

/// A client for one Kafka cluster.
///
/// Holds at most one connection per broker, opened when first needed and opened again after it broke. All methods take
/// `&self` and may run at the same time; their requests share the connections. Nothing is sent while no method runs.
///
/// **Cancellation.** Every method may be dropped at any await; the connections stay usable. A change that was sent may still
/// be carried out.
///
/// **Waiting.** One attempt takes at most [`Options::connect_timeout`] per broker tried plus [`Options::request_timeout`].
/// Reads are sent again when a connection breaks under them. Changes are sent again only if the first attempt never left, or
/// was refused because of a moved controller.
#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<String>,
    options: Arc<Options>,
    gate: Gate,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    view: Mutex<View>,
}

/// Whether a change may be sent now.
struct Gate(Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// The place of one broker's connection.
#[derive(Debug, Default)]
struct Slot(AsyncMutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    connection: Option<Arc<Connection>>,
    failures: u32,
    last_failure: Option<(Instant, Error)>,
}

impl Client {
    /// Makes a client; connects only when the first method is called.
    ///
    /// `bootstrap` are `host:port` addresses of some of the brokers. The others are learnt from them.
    pub fn new(bootstrap: impl IntoIterator<Item = impl Into<String>>, options: Options) -> Self {
        Self {
            bootstrap: bootstrap.into_iter().map(Into::into).collect(),
            options: Arc::new(options),
            gate: Gate(Box::new(|| true)),
            slots: Mutex::default(),
            view: Mutex::default(),
        }
    }

    /// Asks `may_change` before each request that changes something, at the moment it would be sent: one method may take
    /// many requests, with pauses between them. What is refused fails as [`ErrorKind::NotPermitted`]; reads are not asked about.
    #[must_use]
    pub fn with_gate(self, may_change: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { gate: Gate(Box::new(may_change)), ..self }
    }

    /// The options given to [`Client::new`].
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        // Every change of the view is one assignment, so a panic elsewhere cannot leave it half done.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bootstrap list as one word, for errors that no single broker is to blame for.
    pub(crate) fn cluster_name(&self) -> String {
        self.bootstrap.join(",")
    }

    pub(crate) fn unrouted(&self, attempted: &'static str, reason: String) -> Error {
        Error::new(attempted, self.cluster_name(), ErrorKind::Unrouted(reason))
    }

    /// Asks any broker: the one that answered last, the other known ones, then the bootstrap list.
    pub(crate) async fn any<A: Api>(&self, request: &A) -> Result<A::Response, Error> {
        let mut tried = Vec::new();
        for address in self.candidates() {
            match self.at_address(&address, request).await {
                Ok(response) => {
                    self.view().preferred = Some(address);
                    return Ok(response);
                }
                Err(error) if matches!(error.kind, ErrorKind::UnsupportedApi { .. } | ErrorKind::Encode(_)) => {
                    return Err(error);
                }
                Err(error) => tried.push(error),
            }
        }
        match tried.pop() {
            Some(only) if tried.is_empty() => Err(only),
            last => {
                tried.extend(last);
                Err(Error::new(A::NAME, self.cluster_name(), ErrorKind::NoBroker(tried)))
            }
        }
    }

    /// Asks the broker with this id; its address is looked up first if need be.
    pub(crate) async fn at_node<A: Api>(&self, node: i32, request: &A) -> Result<A::Response, Error> {
        let known = self.view().brokers.get(&node).cloned();
        let address = if known.is_some() {
            known
        } else {
            self.refresh().await?;
            self.view().brokers.get(&node).cloned()
        };
        let address = address.ok_or_else(|| self.unrouted(A::NAME, format!("broker {node} is not in the cluster")))?;
        let answer = self.at_address(&address, request).await;
        if answer.as_ref().is_err_and(Error::is_retryable) {
            // It may have moved to another address; the next attempt looks it up.
            self.view().brokers.remove(&node);
        }
        answer
    }

    /// Asks the controller (with `KRaft`: the broker that the cluster names in its place, which forwards).
    pub(crate) async fn at_controller<A: Api>(&self, request: &A) -> Result<A::Response, Error> {
        let known = self.view().controller;
        let controller = if known.is_some() {
            known
        } else {
            self.refresh().await?;
            self.view().controller
        };
        let controller =
            controller.ok_or_else(|| self.unrouted(A::NAME, "the cluster has no controller".to_owned()))?;
        let answer = self.at_node(controller, request).await;
        if answer.as_ref().is_err_and(Error::is_retryable) {
            self.view().controller = None;
        }
        answer
    }

    /// Learns brokers and controller anew.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        self.metadata(Some(&BTreeSet::new())).await.map(drop)
    }

    /// Metadata of the given topics, or of all. What it tells about brokers and leaders is remembered.
    pub(crate) async fn metadata(&self, topics: Option<&BTreeSet<String>>) -> Result<MetadataResponse, Error> {
        let request = View::metadata_request(topics);
        let response = self.any(&request).await?;
        if let Some(error) = BrokerError::from_code(response.error_code, None) {
            return Err(Error::new(MetadataRequest::NAME, self.cluster_name(), error.into()));
        }
        let in_use: BTreeSet<String> = {
            let mut view = self.view();
            view.learn(&response);
            view.brokers.values().chain(&self.bootstrap).cloned().collect()
        };
        // Brokers that left the cluster lose their connection.
        self.slots().retain(|address, _| in_use.contains(address));
        Ok(response)
    }

    async fn at_address<A: Api>(&self, address: &str, request: &A) -> Result<A::Response, Error> {
        let first = self.send(address, request).await;
        match first {
            // Brokers close idle connections, and a restart closes all: once more on a new one.
            Err(Error { kind: ErrorKind::NotSent(_), .. }) => self.send(address, request).await,
            Err(Error { kind: ErrorKind::Closed(_), .. }) if A::READ => self.send(address, request).await,
            answer => answer,
        }
    }

    async fn send<A: Api>(&self, address: &str, request: &A) -> Result<A::Response, Error> {
        let connection = self.connection(address).await?;
        // Not earlier: to connect may have taken long.
        if !A::READ && !(self.gate.0)() {
            return Err(Error::new(A::NAME, address, ErrorKind::NotPermitted));
        }
        connection.request(request).await
    }

    async fn connection(&self, address: &str) -> Result<Arc<Connection>, Error> {
        let slot = self.slots().entry(address.to_owned()).or_default().clone();
        let asked = Instant::now();
        let mut state = slot.0.lock().await;
        if let Some(open) = state.connection.as_ref().filter(|c| c.is_open()) {
            return Ok(Arc::clone(open));
        }
        if let Some((at, error)) = &state.last_failure {
            // Whoever waited while another caller failed to connect shares that failure instead of queueing for its own.
            if *at >= asked {
                return Err(error.clone());
            }
            tokio::time::sleep_until(*at + self.options.backoff(state.failures)).await;
        }
        // Boxed: logging in takes a lot of state, and every request could begin with it.
        match Box::pin(Connection::open(address, Arc::clone(&self.options))).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *state = SlotState { connection: Some(Arc::clone(&connection)), ..SlotState::default() };
                Ok(connection)
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                state.last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn candidates(&self) -> Vec<String> {
        let view = self.view();
        let mut candidates: Vec<String> = Vec::new();
        for address in view.preferred.iter().chain(view.brokers.values()).chain(&self.bootstrap) {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        candidates
    }
}

#[cfg(test)]
mod tests;
