//! The task of one client: it takes the strongest configuration there is, applies it, answers the operator, and waits for the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::limits::HEALTH_INTERVAL;
use mq_protocol::message::{ClientRef, FromAgent, Health, NackReason, Version};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::credentials::Credentials;
use crate::error::Error;
use crate::hub::Hub;
use crate::source::{ConfigOutcome, Given, LastGood, Pushed, Source, Sources, Value};

/// How soon a change is tried again that could not be judged because the cluster does not answer.
const AGAIN: Duration = Duration::from_secs(5);

/// A client that can be configured and configured anew.
pub(crate) trait Apply: Send + 'static {
    type Client: Clone + Send + Sync + 'static;

    /// Makes the client run with this configuration, or leaves it as it was. Applying what it runs with already changes nothing.
    fn apply(
        &mut self,
        value: &Value,
        credentials: &Credentials,
    ) -> impl Future<Output = Result<Applied, NotApplied>> + Send;

    /// The client, once a configuration was applied.
    fn client(&self) -> Option<Self::Client>;

    /// The client of a configuration that never changes.
    fn only(
        mut self,
        value: &Value,
        credentials: &Credentials,
    ) -> impl Future<Output = Result<Self::Client, Error>> + Send
    where
        Self: Sized,
    {
        async move {
            self.apply(value, credentials).await.map_err(NotApplied::into_error)?;
            self.client().ok_or(Error::Closed)
        }
    }

    /// Completes when the service closed the client.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    /// How the client was since this was asked last, if it is of a kind and in a phase that can tell.
    fn health(&self) -> Option<Health> {
        None
    }
}

/// What the client runs with, read back from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) effective: BTreeMap<String, String>,
    pub(crate) not_applied: Vec<String>,
}

/// Why the client does not run with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotApplied {
    /// It never will.
    Rejected { reason: NackReason, detail: String },
    /// Nothing can be said about it now.
    Later { detail: String },
    /// The service closed the client.
    Closed,
}

impl NotApplied {
    /// The words for a caller that made the configuration itself.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Rejected { detail, .. } | Self::Later { detail } => Error::InvalidConfig { detail },
            Self::Closed => Error::Closed,
        }
    }
}

pub(crate) fn rejected(reason: NackReason, detail: impl Into<String>) -> NotApplied {
    NotApplied::Rejected { reason, detail: detail.into() }
}

pub(crate) struct Driver<A: Apply> {
    pub(crate) client: ClientRef,
    pub(crate) apply: A,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sources: watch::Receiver<Sources>,
    pub(crate) ready: watch::Sender<Option<A::Client>>,
    pub(crate) given: Given,
    pub(crate) last_good: LastGood,
    /// How long the operator's first word is waited for before a weaker source is taken.
    pub(crate) patience: Duration,
}

/// What became of the value that was looked at last.
struct Settled {
    hash: String,
    credentials: Credentials,
    outcome: Result<Applied, NotApplied>,
}

impl<A: Apply> Driver<A> {
    /// Runs until the client is closed or removed from the hub.
    pub(crate) async fn run(mut self) {
        // Nothing heard in time: the client starts with what there is, and changes when the operator speaks.
        let _ = tokio::time::timeout(self.patience, self.sources.wait_for(|sources| !sources.is_silent())).await;
        let mut settled: Option<Settled> = None;
        let mut running: Option<Value> = None;
        let mut answered = 0;
        let mut health = interval(HEALTH_INTERVAL);
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sources = self.sources.borrow_and_update().clone();
            let asked = sources.asked != answered;
            answered = sources.asked;
            if sources.pushed == Pushed::Gone {
                self.last_good.forget(&self.client);
            }
            let mut again = false;
            for value in choose(&sources, running.as_ref().map(|running| running.source)) {
                let known = settled
                    .as_ref()
                    .filter(|settled| settled.hash == value.version.hash && settled.credentials == sources.credentials)
                    .map(|settled| settled.outcome.clone());
                let fresh = known.is_none();
                let outcome = match known {
                    Some(outcome) => outcome,
                    None => self.apply.apply(value, &sources.credentials).await,
                };
                let outcome = match outcome {
                    // What runs is not refused for credentials that changed under it: the rest of them may be on its way.
                    Err(NotApplied::Rejected { detail, .. })
                        if running.as_ref().is_some_and(|running| running.version.hash == value.version.hash) =>
                    {
                        Err(NotApplied::Later { detail })
                    }
                    outcome => outcome,
                };
                if outcome == Err(NotApplied::Closed) {
                    self.hub.leave(&self.client, &self.sources);
                    return;
                }
                again = matches!(outcome, Err(NotApplied::Later { .. }));
                self.conclude(value, &outcome, fresh, asked);
                let applied = outcome.is_ok();
                settled = (!again).then(|| Settled {
                    hash: value.version.hash.clone(),
                    credentials: sources.credentials.clone(),
                    outcome,
                });
                if applied {
                    running = Some(value.clone());
                }
                if applied || again {
                    break;
                }
            }
            if !self.wait(again, &mut health).await {
                return;
            }
        }
    }

    /// Waits until there may be something to apply, and meanwhile says how the client is. False: it was removed from the hub.
    async fn wait(&mut self, again: bool, health: &mut Interval) -> bool {
        let until = Instant::now() + AGAIN;
        loop {
            tokio::select! {
                // What does not run must not count as configured.
                () = self.apply.closed() => {
                    self.hub.leave(&self.client, &self.sources);
                    return false;
                }
                changed = self.sources.changed() => return changed.is_ok(),
                () = sleep_until(until), if again => return true,
                _ = health.tick() => if let Some(health) = self.apply.health() {
                    self.hub.report(FromAgent::Health { client: self.client.clone(), health });
                },
            }
        }
    }

    fn conclude(&self, value: &Value, outcome: &Result<Applied, NotApplied>, fresh: bool, asked: bool) {
        let Version { revision, hash } = value.version.clone();
        let (client, source) = (&self.client, value.source);
        match outcome {
            Ok(applied) if fresh => {
                tracing::info!(%client, ?source, revision, hash, not_applied = ?applied.not_applied, "configuration applied");
            }
            Err(NotApplied::Rejected { reason, detail }) if fresh => {
                tracing::error!(%client, ?source, revision, hash, reason = reason.as_str(), detail, "configuration rejected; the client goes on as before");
            }
            Err(NotApplied::Later { detail }) => {
                tracing::warn!(%client, ?source, revision, detail, "configuration not applied yet");
            }
            _ => {}
        }
        if outcome.is_ok() {
            self.hub.holds(client, (source > Source::Code).then(|| value.clone()));
            self.ready.send_if_modified(|ready| {
                let first = ready.is_none();
                if first {
                    *ready = self.apply.client();
                }
                first
            });
        }
        if fresh && let Some(outcome) = words(outcome) {
            self.given.outcome(client, value, &outcome);
        }
        if source != Source::Stream {
            return;
        }
        if outcome.is_ok() && (fresh || asked) {
            self.last_good.save(client, value);
        }
        if !fresh && !asked {
            return;
        }
        match outcome.clone() {
            Ok(Applied { effective, not_applied }) => {
                self.hub.report(FromAgent::Ack {
                    client: client.clone(),
                    version: value.version.clone(),
                    effective,
                    not_applied,
                });
            }
            Err(NotApplied::Rejected { reason, detail }) => {
                self.hub.report(FromAgent::Nack {
                    client: client.clone(),
                    version: value.version.clone(),
                    reason,
                    detail,
                });
            }
            Err(NotApplied::Later { .. } | NotApplied::Closed) => {}
        }
    }
}

/// The outcome for a source; nothing if the service closed the client.
fn words(outcome: &Result<Applied, NotApplied>) -> Option<ConfigOutcome> {
    match outcome.clone() {
        Ok(Applied { effective, not_applied }) => Some(ConfigOutcome::Applied { effective, not_applied }),
        Err(NotApplied::Rejected { detail, .. }) => Some(ConfigOutcome::Rejected { detail }),
        Err(NotApplied::Later { detail }) => Some(ConfigOutcome::Postponed { detail }),
        Err(NotApplied::Closed) => None,
    }
}

/// The values to try. A client that does not run yet takes the strongest one that works. A running one follows its own source and
/// stronger ones, and goes back to a weaker one only if the operator says that the object is gone.
fn choose(sources: &Sources, running: Option<Source>) -> Vec<&Value> {
    match running {
        None => sources.candidates().collect(),
        Some(running) => {
            let gone = sources.pushed == Pushed::Gone;
            sources.candidates().next().filter(|value| gone || value.source >= running).into_iter().collect()
        }
    }
}
