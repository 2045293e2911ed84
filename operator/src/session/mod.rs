//! One session per `MqCluster`: the only place that talks to Kafka about topics.
//!
//! ```text
//! reconcilers ─ declare / withdraw ─→ index ─┐ every interval, and soon after a change
//!                                            ├→ observe (batched) → core::plan → execute (batched by kind)
//! runner ←─ wake ─ outcome per object ←──────┴─────────────────────────┘
//! ```
//! 2,000 topics cost a handful of requests per cycle, not 2,000 conversations. A cycle that cannot see something plans nothing
//! for it. **To add something that a cluster's cycle serves**, give it an index here, an observation in `observe`, a plan in `mq-core`,
//! and its changes an arm in `execute`; what only needs to read Kafka can use [`ClusterSession::client`].

mod dead_letters;
mod execute;
mod index;
mod observe;
mod registry;

pub use index::TopicView;
pub use registry::{Dependents, Sessions};

use crate::{credentials::Credentials, events::Event, lease::Lease, metrics::Metrics, reconcile::Waker};
use index::{Moment, Topics};
use mq_core::{
    cluster::check_identity,
    condition::{Observed, Unknown, Verdict},
    effect::{Effect, ObjectKey},
    plan::{TopicPlan, Writes, dead_letters::DeadLetters, plan},
    reason::Reason,
    topic::{DesiredTopic, TopicOutcome},
};
use mq_protocol::body::Connection;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// Changes that come within this time are planned together.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Pause before looking whether effects had their effect; doubled with each cycle in a row that needs another look.
const VERIFY: Duration = Duration::from_millis(250);

/// What an `MqCluster` says.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Of the object.
    pub generation: i64,
    /// How to reach it.
    pub connection: Connection,
    /// What the operator proves itself with.
    pub(crate) credentials: Credentials,
    /// Both, checked.
    pub(crate) security: mq_kafka::Security,
    /// The Kafka cluster that the object is bound to, once one was seen.
    pub bound_to: Option<String>,
    /// Whether the cluster is only read.
    pub paused: bool,
}

/// How a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// For the status of the `MqCluster`.
    pub verdict: Verdict,
    /// The Kafka cluster that the `MqCluster` is bound to: the first one seen.
    pub cluster_id: Option<String>,
    /// Live brokers; `None` = unknown.
    pub brokers: Option<i32>,
}

/// Which objects claim which topics of a cluster, as far as the API server knows; `None` before that was listed.
pub(crate) type Claims = Arc<dyn Fn(&str) -> Option<Vec<Claim>> + Send + Sync>;

/// An object and the Kafka name of the topic that it claims.
pub(crate) type Claim = (ObjectKey, String);

/// What sessions need from the rest of the operator.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) lease: Arc<Lease>,
    pub(crate) metrics: Metrics,
    pub(crate) interval: Duration,
    pub(crate) clusters: Waker,
    pub(crate) topics: Waker,
    pub(crate) groups: Waker,
    /// Told the name of a cluster whose health turned; wakes the objects whose clients belong to it.
    pub(crate) clients: Dependents,
    pub(crate) claims: Claims,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// The session of one cluster.
#[derive(Debug)]
pub struct ClusterSession {
    object: ObjectKey,
    environment: Environment,
    changed: Notify,
    stop: CancellationToken,
    started: Instant,
    state: Mutex<State>,
}

/// What a cycle found, as far as it decides when the next one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing is open.
    Settled,
    /// Kafka was changed.
    Changed,
    /// Something was not seen that should be there.
    Unsure,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    credentials: Credentials,
    client: Arc<mq_kafka::Client>,
    paused: bool,
    cluster_id: Option<String>,
    health: Option<Health>,
    topics: Topics,
    dead_letters: dead_letters::Wanted,
}

impl ClusterSession {
    fn new(object: ObjectKey, declared: Declared, environment: Environment, stop: CancellationToken) -> Self {
        let client = connect(&declared, &environment.lease);
        let Declared { connection, credentials, bound_to: cluster_id, paused, .. } = declared;
        let state = State {
            connection,
            credentials,
            client,
            paused,
            cluster_id,
            health: None,
            topics: Topics::default(),
            dead_letters: dead_letters::Wanted::default(),
        };
        Self { object, environment, changed: Notify::new(), stop, started: Instant::now(), state: Mutex::new(state) }
    }

    /// The client for the cluster as it is configured now. Ask again for each use: an edit of the `MqCluster` replaces it.
    pub fn client(&self) -> Arc<mq_kafka::Client> {
        Arc::clone(&self.lock().client)
    }

    /// The cluster's health; `None` before the first look.
    pub fn health(&self) -> Option<Health> {
        self.lock().health.clone()
    }

    /// The cluster's health as seen by way of `connection`; `None` before the first look.
    pub fn health_by(&self, connection: &Connection) -> Option<Health> {
        let state = self.lock();
        state.health.clone().filter(|_| state.connection == *connection)
    }

    /// Whether the `MqCluster` is paused: the cluster may be read, nothing may be changed in it.
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Declares a topic, or declares it anew. A change, or a new `nudge`, starts a cycle.
    pub fn declare(&self, topic: DesiredTopic, nudge: Option<&str>) {
        if self.lock().topics.declare(topic, nudge) {
            self.changed.notify_one();
        }
    }

    /// The object no longer declares anything. Changes nothing in Kafka.
    pub fn withdraw(&self, object: &ObjectKey) {
        let mut state = self.lock();
        state.dead_letters.withdraw(object);
        if state.topics.withdraw(object) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// A group needs its dead-letter topic, which is made in one of the next cycles if it is missing. Answers how the topic is, as far as
    /// that is known, and what happened to it since this was asked last.
    pub fn need_dead_letters(&self, wanted: DeadLetters) -> (Option<Verdict>, Vec<Event>) {
        let mut state = self.lock();
        let object = wanted.object.clone();
        state.dead_letters.declare(wanted, self.started.elapsed());
        state.dead_letters.take(&object)
    }

    /// What is known about the topic of an object, if it was declared as `topic` says.
    pub fn topic(&self, topic: &DesiredTopic) -> Option<TopicView> {
        self.lock().topics.view(topic)
    }

    /// What happened to the topic of an object since this was asked last.
    pub fn take_events(&self, object: &ObjectKey) -> Vec<Event> {
        self.lock().topics.take_events(object)
    }

    /// From the next cycle on does as the `MqCluster` says now. Nothing is known about a cluster that is reached in another way.
    fn redeclare(&self, declared: &Declared) {
        let mut state = self.lock();
        let paused = std::mem::replace(&mut state.paused, declared.paused) != declared.paused;
        let elsewhere = state.connection != declared.connection;
        let reconnected = elsewhere || state.credentials != declared.credentials;
        if reconnected {
            state.client = connect(declared, &self.environment.lease);
            state.connection = declared.connection.clone();
            state.credentials = declared.credentials.clone();
        }
        if elsewhere {
            state.health = None;
        }
        drop(state);
        if paused || reconnected {
            self.changed.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut open = 0;
        let mut next = Instant::now();
        loop {
            if !self.turn_comes(next).await {
                return;
            }
            let turn = if self.environment.lease.permit().is_ok() { self.cycle().await } else { Turn::Settled };
            open = if turn == Turn::Settled { 0 } else { open + 1 };
            next = Instant::now() + pause(turn, open, self.environment.interval);
        }
    }

    /// Waits for the time or for a change, and lets more changes gather; false when the session ends.
    async fn turn_comes(&self, next: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return false,
            () = self.changed.notified() => {}
            () = tokio::time::sleep_until(next) => return true,
        }
        tokio::time::sleep(DEBOUNCE).await;
        true
    }

    /// One look and what follows from it.
    async fn cycle(&self) -> Turn {
        let (client, desired, wanted) = {
            let state = self.lock();
            (Arc::clone(&state.client), state.topics.desired(), state.dead_letters.due(self.moment()))
        };
        let started = Instant::now();
        let observed = match self.look(&client).await {
            Ok(()) => observe::topics(&client, &desired, &dead_letters::topics(&wanted)).await,
            Err(why) => mq_core::topic::Topics::unknown(why),
        };
        self.took("observe", started);
        let (desired, observed, mut plan) = self.plan(&desired, observed);
        let (destructive, others): (Vec<_>, Vec<_>) =
            plan.effects.into_iter().partition(|effect| effect.change.is_destructive());
        let started = Instant::now();
        // Before the rest, which takes long when there is much.
        let mut done = Vec::new();
        if !destructive.is_empty() {
            let (deleted, outcomes) = self.delete(&client, &desired, destructive).await;
            done.extend(deleted);
            plan.outcomes.extend(outcomes);
        }
        let others = self.standing(&desired, others);
        done.extend(execute::execute(&client, others).await);
        if !done.is_empty() {
            self.took("execute", started);
        }
        self.count(&done);
        let made = self.make_dead_letters(&client, wanted, &observed).await;
        let changed = made || done.iter().any(|done| done.result.is_ok());
        let (touched, unsure) = {
            let mut state = self.lock();
            (state.topics.settle(&desired, plan.outcomes, done, self.moment()), state.topics.is_unsure())
        };
        for object in touched {
            self.environment.topics.wake(object);
        }
        match (changed, unsure) {
            (true, _) => Turn::Changed,
            (false, true) => Turn::Unsure,
            (false, false) => Turn::Settled,
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.started.elapsed(), interval: self.environment.interval }
    }

    /// Plans what is still declared as it was when it was looked at; looking may have taken long.
    fn plan(
        &self,
        looked_at: &[DesiredTopic],
        observed: mq_core::topic::Topics,
    ) -> (Vec<DesiredTopic>, mq_core::topic::Topics, TopicPlan) {
        let claims = (self.environment.claims)(&self.object.name);
        let at = self.moment();
        let (desired, observed, contests) = {
            let State { topics, dead_letters, .. } = &mut *self.lock();
            let desired = topics.complete(topics.still(looked_at), claims.as_deref());
            let desired = topics.with_own_changes(desired);
            let observed = topics.judge(&desired, dead_letters.known(), observed, at);
            (desired, observed, topics.contests())
        };
        let plan = plan(&desired, &observed, self.writes()).hold_back(&contests, at.now, at.interval);
        (desired, observed, plan)
    }

    fn writes(&self) -> Writes {
        if self.is_paused() { Writes::Paused } else { Writes::Allowed }
    }

    /// Looks once more at what shall be deleted, and deletes what both looks agree on.
    async fn delete(
        &self,
        client: &mq_kafka::Client,
        desired: &[DesiredTopic],
        deletes: Vec<Effect>,
    ) -> (Vec<execute::Done>, BTreeMap<ObjectKey, TopicOutcome>) {
        let names: HashSet<&str> = deletes.iter().map(|effect| effect.change.topic()).collect();
        let claims = desired.iter().filter(|topic| names.contains(topic.topic.as_str()));
        let claims: Vec<DesiredTopic> = claims.cloned().collect();
        let observed = observe::topics(client, &claims, &BTreeSet::new()).await;
        let (claims, _, again) = self.plan(&claims, observed);
        let agreed = deletes.into_iter().filter(|effect| again.effects.contains(effect)).collect();
        let standing = self.standing(&claims, agreed);
        (execute::execute(client, standing).await, again.outcomes)
    }

    /// The effects that may still be carried out: the session goes on unpaused, and their topics are declared as planned.
    fn standing(&self, planned: &[DesiredTopic], mut effects: Vec<Effect>) -> Vec<Effect> {
        if effects.is_empty() || self.stop.is_cancelled() || self.is_paused() {
            return vec![];
        }
        let still: HashSet<ObjectKey> =
            self.lock().topics.still(planned).into_iter().map(|topic| topic.object).collect();
        effects.retain(|effect| still.contains(&effect.object));
        effects
    }

    /// Looks at the cluster itself; topics are looked at only if it is the right one.
    async fn look(&self, client: &Arc<mq_kafka::Client>) -> Observed<()> {
        let described = observe::cluster(client).await;
        let mut state = self.lock();
        if !Arc::ptr_eq(&state.client, client) {
            return Err(Unknown::new(Reason::ClusterUnreachable, "the brokers were edited, they are asked anew"));
        }
        let (health, result) = match described {
            Err(why) => {
                let before = state.health.as_ref().map(|health| &health.verdict);
                // Who must act is known as soon as a broker has spoken; the look is repeated all the same.
                let verdict = match why.reason {
                    Reason::TlsFailed | Reason::AuthenticationFailed => Verdict::stalled(why.reason, &why.message),
                    reason => Verdict::unknown(reason, &why.message),
                };
                let same = |before: &&Verdict| (before.health, before.reason) == (verdict.health, verdict.reason);
                let verdict = before.filter(same).cloned().unwrap_or(verdict);
                (Health { verdict, cluster_id: state.cluster_id.clone(), brokers: None }, Err(why))
            }
            Ok(cluster) => {
                let expected = state.cluster_id.get_or_insert_with(|| cluster.id.clone()).clone();
                let (verdict, result) = match check_identity(&self.object.name, &expected, &cluster.id) {
                    Ok(()) => (Verdict::ready(Reason::Connected, format!("Kafka cluster {expected} answers")), Ok(())),
                    Err(message) => (
                        Verdict::stalled(Reason::WrongCluster, &message),
                        Err(Unknown::new(Reason::WrongCluster, message)),
                    ),
                };
                (Health { verdict, cluster_id: Some(expected), brokers: i32::try_from(cluster.brokers).ok() }, result)
            }
        };
        let turned = state.health.as_ref() != Some(&health);
        state.health = Some(health);
        drop(state);
        let reachable = i64::from(result.is_ok());
        self.environment.metrics.cluster_reachable.with_label_values(&[&self.object.name]).set(reachable);
        if turned {
            self.environment.clusters.wake(self.object.clone());
            (self.environment.clients)(&self.object.name);
        }
        result
    }

    fn took(&self, step: &str, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        self.environment.metrics.cycle_seconds.with_label_values(&[self.object.name.as_str(), step]).observe(seconds);
    }

    fn count(&self, done: &[execute::Done]) {
        let (metrics, cluster) = (&self.environment.metrics, self.object.name.as_str());
        for done in done {
            let result = if done.result.is_ok() { "ok" } else { "error" };
            metrics.effects.with_label_values(&[cluster, done.effect.change.kind(), result]).inc();
            if done.result.is_ok() && done.effect.reason == Reason::DriftRepaired {
                metrics.drift.with_label_values(&[cluster]).inc();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Soon if something is open, and later each time: should Kafka answer a change with something else than was asked for, the operator
/// goes back to its interval instead of fighting. A doubt is settled by looks half an interval apart.
fn pause(turn: Turn, open: u32, interval: Duration) -> Duration {
    let soon = VERIFY.saturating_mul(1 << open.saturating_sub(1).min(10));
    // Clusters do not tick in step.
    let jittered = interval.mul_f64(0.9 + fastrand::f64() / 10.0);
    match turn {
        Turn::Settled => jittered,
        Turn::Changed => soon.min(jittered),
        Turn::Unsure => soon.min(interval / 2),
    }
}

/// Each change asks for a permit of its own when it is sent: a batch of many requests takes long, and a replica that was stopped between
/// two of them is no longer the leader when it wakes.
fn connect(declared: &Declared, lease: &Arc<Lease>) -> Arc<mq_kafka::Client> {
    let security = declared.security.clone();
    let options = mq_kafka::Options { client_id: "mq-operator".into(), security, ..mq_kafka::Options::default() };
    let lease = Arc::clone(lease);
    Arc::new(
        mq_kafka::Client::new(declared.connection.brokers.clone(), options).with_gate(move || lease.permit().is_ok()),
    )
}
