//! The meeting point of the process's clients and its one stream: who is configured, what the operator said, what is owed to it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mq_protocol::message::{ClientRef, FromAgent, Version};
use tokio::sync::{mpsc, watch};

use crate::credentials::Credentials;
use crate::source::{Pushed, Source, Sources, Value};

#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: BTreeMap<ClientRef, Entry>,
    /// The open stream, if there is one.
    outgoing: Option<mpsc::UnboundedSender<FromAgent>>,
}

#[derive(Debug)]
struct Entry {
    /// A watch and not a queue: a newer configuration replaces one that was not looked at yet.
    sources: watch::Sender<Sources>,
    /// What the client runs with, unless that is its own code.
    held: Option<Value>,
    /// The revision that the open stream gave last.
    given: Option<i64>,
}

impl Hub {
    /// Adds a client and asks the operator for it.
    pub(crate) fn open(&self, client: &ClientRef, sources: Sources) -> watch::Receiver<Sources> {
        let mut state = self.lock();
        let (sender, receiver) = watch::channel(sources);
        state.clients.insert(client.clone(), Entry { sources: sender, held: None, given: None });
        state.send(FromAgent::Subscribe { client: client.clone(), held: None });
        receiver
    }

    /// Removes a client.
    pub(crate) fn close(&self, client: &ClientRef) {
        self.lock().remove(client);
    }

    /// Removes the client that listens on `sources`, unless another one took its name meanwhile.
    pub(crate) fn leave(&self, client: &ClientRef, sources: &watch::Receiver<Sources>) {
        let listens = |entry: &Entry| entry.sources.subscribe().same_channel(sources);
        let mut state = self.lock();
        if state.clients.get(client).is_some_and(listens) {
            state.remove(client);
        }
    }

    pub(crate) fn clients(&self) -> Vec<ClientRef> {
        self.lock().clients.keys().cloned().collect()
    }

    /// A stream is open: everything is asked for again, with what is held.
    pub(crate) fn connected(&self, outgoing: mpsc::UnboundedSender<FromAgent>) {
        let mut state = self.lock();
        state.outgoing = Some(outgoing);
        let subscriptions: Vec<FromAgent> = state
            .clients
            .iter_mut()
            .map(|(client, entry)| {
                entry.given = None;
                FromAgent::Subscribe {
                    client: client.clone(),
                    held: entry.held.as_ref().map(|held| held.version.clone()),
                }
            })
            .collect();
        for subscription in subscriptions {
            state.send(subscription);
        }
    }

    pub(crate) fn disconnected(&self) {
        self.lock().outgoing = None;
    }

    /// The operator sent a configuration.
    pub(crate) fn config(&self, client: &ClientRef, version: Version, body: Bytes) {
        self.pushed(client, Some(version.revision), |_| {
            Some(Pushed::Value(Value { source: Source::Stream, version, body }))
        });
    }

    /// The operator says that what the client holds is right, and under which number.
    pub(crate) fn up_to_date(&self, client: &ClientRef, revision: i64) {
        self.pushed(client, Some(revision), |held| {
            let held = held?.clone();
            let version = Version { revision, hash: held.version.hash };
            Some(Pushed::Value(Value { source: Source::Stream, version, body: held.body }))
        });
    }

    pub(crate) fn gone(&self, client: &ClientRef) {
        self.pushed(client, None, |_| Some(Pushed::Gone));
    }

    pub(crate) fn not_ready(&self, client: &ClientRef) {
        // What was pushed before stays: the client goes on with it.
        self.pushed(client, None, |_| Some(Pushed::NotReady));
    }

    fn pushed(&self, client: &ClientRef, revision: Option<i64>, what: impl FnOnce(Option<&Value>) -> Option<Pushed>) {
        let mut state = self.lock();
        // Closed meanwhile.
        let Some(entry) = state.clients.get_mut(client) else { return };
        entry.given = revision;
        if let Some(pushed) = what(entry.held.as_ref()) {
            entry.sources.send_modify(|sources| {
                sources.pushed = pushed;
                sources.asked += 1;
            });
        }
    }

    /// A source that is asked per client has spoken.
    pub(crate) fn give(&self, client: &ClientRef, source: Source, value: Option<Value>) {
        if let Some(entry) = self.lock().clients.get(client) {
            entry.sources.send_if_modified(|sources| sources.give(source, value));
        }
    }

    /// The credentials of the process may have changed.
    pub(crate) fn credentials(&self, credentials: &Credentials) {
        for entry in self.lock().clients.values() {
            entry.sources.send_if_modified(|sources| {
                let changed = sources.credentials != *credentials;
                sources.credentials.clone_from(credentials);
                changed
            });
        }
    }

    /// Whether the stream failed to give what its own heartbeat says is current: it is silently broken.
    pub(crate) fn is_stale(&self, current: &[(ClientRef, i64)]) -> bool {
        let state = self.lock();
        current.iter().any(|(client, revision)| {
            state.clients.get(client).is_some_and(|entry| entry.given.is_some_and(|given| given < *revision))
        })
    }

    /// The client runs with this value; `None`: with its code.
    pub(crate) fn holds(&self, client: &ClientRef, value: Option<Value>) {
        if let Some(entry) = self.lock().clients.get_mut(client) {
            entry.held = value;
        }
    }

    /// Answers the operator, if a stream is open. If not, the next one asks again.
    pub(crate) fn report(&self, answer: FromAgent) {
        self.lock().send(answer);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, client: &ClientRef) {
        if self.clients.remove(client).is_some() {
            self.send(FromAgent::Unsubscribe(client.clone()));
        }
    }

    fn send(&mut self, message: FromAgent) {
        if self.outgoing.as_ref().is_some_and(|outgoing| outgoing.send(message).is_err()) {
            self.outgoing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use mq_protocol::message::Kind;

    use super::*;

    fn client() -> ClientRef {
        ClientRef::new(Kind::Producer, "orders")
    }

    fn version(revision: i64) -> Version {
        Version { revision, hash: format!("{revision:064x}") }
    }

    #[test]
    fn a_newer_configuration_replaces_one_that_waits() {
        let hub = Hub::default();
        let mut sources = hub.open(&client(), Sources::default());
        hub.config(&client(), version(1), Bytes::from_static(b"{}"));
        hub.config(&client(), version(2), Bytes::from_static(b"{}"));
        let seen = sources.borrow_and_update().clone();
        assert!(matches!(seen.pushed, Pushed::Value(value) if value.version == version(2)));
        assert!(!sources.has_changed().unwrap());
    }

    #[test]
    fn a_new_stream_hears_what_is_held_and_an_answer_makes_it_the_operators() {
        let hub = Hub::default();
        let mut sources = hub.open(&client(), Sources::default());
        let held = Value { source: Source::LastGood, version: version(3), body: Bytes::from_static(b"{}") };
        hub.holds(&client(), Some(held.clone()));
        let (outgoing, mut sent) = mpsc::unbounded_channel();
        hub.connected(outgoing);
        assert_eq!(sent.try_recv().unwrap(), FromAgent::Subscribe { client: client(), held: Some(version(3)) });
        hub.up_to_date(&client(), 9);
        let seen = sources.borrow_and_update().clone();
        let Pushed::Value(value) = seen.pushed else { panic!("not the operator's") };
        assert_eq!((value.source, value.version.revision, value.body), (Source::Stream, 9, held.body));
    }

    #[test]
    fn a_heartbeat_ahead_of_what_was_given_is_a_broken_stream() {
        let hub = Hub::default();
        let _sources = hub.open(&client(), Sources::default());
        assert!(!hub.is_stale(&[(client(), 4)]), "its first answer is still under way");
        hub.config(&client(), version(3), Bytes::new());
        assert!(!hub.is_stale(&[(client(), 3)]));
        assert!(hub.is_stale(&[(client(), 4)]));
    }
}
