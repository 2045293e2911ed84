//! What connected clients say: what they run, what they refuse, how they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use mq_core::rollout::{Clients, Rejection};
use mq_protocol::{
    limits::HEALTH_TIMEOUT,
    message::{Health, NackReason, Version},
};
use tokio::{sync::watch, time::Instant};

use super::{Answer, ConfigKey, Index, Inner, Pod, Subscribers};

/// What the clients of one configuration say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts.
    pub clients: Clients,
    /// Refusals of revisions that exist, oldest revision first.
    pub rejections: Vec<Rejection>,
    /// Effective values of a client that runs the revision in force.
    pub effective: BTreeMap<String, String>,
    /// Clients that do not run with everything that they should, by the name of the pod.
    pub deviating: Vec<Deviating>,
}

/// A client that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviating {
    /// Name of the pod.
    pub pod: String,
    /// What it runs, if it said so.
    pub revision: Option<i64>,
    /// How it differs.
    pub message: String,
}

/// How the consumer of a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Name of the pod.
    pub pod: String,
    /// What it said last.
    pub health: Health,
    /// Nobody had asked for it before.
    pub is_news: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pod: Pod,
    /// Where the stream comes from.
    host: Option<IpAddr>,
    running: Option<Version>,
    refused: Option<(i64, String)>,
    effective: BTreeMap<String, String>,
    not_applied: Vec<String>,
    health: Option<Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    health: Health,
    asked: bool,
}

/// One client of one stream. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    index: Index,
    key: ConfigKey,
    pod: Pod,
    stream: u64,
}

impl Index {
    /// Begins a subscription. The receiver has the present answer as its first value. `stream` is a number that no
    /// other stream of this process has.
    pub fn subscribe(&self, key: ConfigKey, pod: Pod, stream: u64) -> (Subscription, watch::Receiver<Answer>) {
        let mut inner = self.lock();
        let answer = inner.compute(&key);
        let subscribers = inner
            .clients
            .entry(key.clone())
            .or_insert_with(|| Subscribers { answer: watch::Sender::new(answer), streams: BTreeMap::new() });
        subscribers.streams.insert(stream, Client::new(pod.clone()));
        let receiver = subscribers.answer.subscribe();
        self.changed(&inner, Some(&key), false);
        drop(inner);
        (Subscription { index: self.clone(), key, pod, stream }, receiver)
    }

    /// What the clients of a configuration say.
    pub fn report(&self, key: &ConfigKey) -> Report {
        let inner = self.lock();
        let Some(object) = inner.objects.get(key) else { return Report::default() };
        let exists = |number: &i64| inner.revisions.get(&object.uid).is_some_and(|all| all.contains_key(number));
        let mut report = Report {
            rejections: object.refusals.values().filter(|refusal| exists(&refusal.revision)).cloned().collect(),
            ..Report::default()
        };
        let in_force = match inner.compute(key) {
            Answer::Run { version, .. } => Some(version),
            Answer::Keep { .. } | Answer::Nothing => None,
        };
        let newest = inner.revisions.get(&object.uid).and_then(|all| all.keys().next_back()).copied();
        // A pod counts once: the stream that it lost may not be known to be dead when it opens the next.
        let streams = inner.clients.get(key).into_iter().flat_map(|subscribers| subscribers.streams.values());
        let pods: BTreeMap<&Pod, &Client> = streams.map(|client| (&client.pod, client)).collect();
        for client in pods.into_values() {
            client.add_to(&mut report, in_force.as_ref(), newest);
        }
        report
    }
}

impl Index {
    /// How the clients of a configuration are at `now`, one of each pod; one that was silent for too long is not known to be any way, so
    /// it is not among them. For one asker: what it heard is no news the next time.
    pub fn health(&self, key: &ConfigKey, now: Instant) -> Vec<Said> {
        let mut inner = self.lock();
        let streams = inner.clients.get_mut(key).into_iter().flat_map(|clients| clients.streams.values_mut());
        let heard = streams.filter_map(|client| Some((&client.pod, client.health.as_mut()?)));
        let fresh = heard.filter(|(_, heard)| now.saturating_duration_since(heard.at) < HEALTH_TIMEOUT);
        let pods: BTreeMap<&Pod, &mut Heard> = fresh.collect();
        let said = pods.into_iter().map(|(pod, heard)| Said {
            pod: pod.name.clone(),
            health: heard.health.clone(),
            is_news: !std::mem::replace(&mut heard.asked, true),
        });
        said.collect()
    }
}

impl Index {
    /// The names of the pods of a configuration's clients by the address that they come from; none where several come from one.
    pub fn hosts(&self, key: &ConfigKey) -> HashMap<String, Option<String>> {
        let inner = self.lock();
        let mut hosts: HashMap<String, Option<String>> = HashMap::new();
        for client in inner.clients.get(key).into_iter().flat_map(|clients| clients.streams.values()) {
            let Some(host) = client.host else { continue };
            let pod = hosts.entry(host.to_canonical().to_string()).or_insert_with(|| Some(client.pod.name.clone()));
            if pod.as_ref() != Some(&client.pod.name) {
                *pod = None;
            }
        }
        hosts
    }
}

impl Client {
    fn new(pod: Pod) -> Self {
        Self {
            pod,
            host: None,
            running: None,
            refused: None,
            effective: BTreeMap::new(),
            not_applied: Vec::new(),
            health: None,
        }
    }

    fn add_to(&self, report: &mut Report, in_force: Option<&Version>, newest: Option<i64>) {
        report.clients.connected += 1;
        // By hash: a client that was told of a newer number for the same configuration runs it already.
        let applied = matches!((&self.running, in_force), (Some(running), Some(wanted)) if running.hash == wanted.hash);
        let refused_newest = self.refused.as_ref().filter(|(revision, _)| Some(*revision) == newest);
        report.clients.applied += usize::from(applied);
        report.clients.rejected += usize::from(refused_newest.is_some());
        if applied && self.not_applied.is_empty() && report.effective.is_empty() {
            report.effective.clone_from(&self.effective);
        }
        let message = match (&self.refused, applied) {
            (Some((revision, words)), _) => format!("refused revision {revision}: {words}"),
            (None, false) => "has not said that it runs the revision in force".to_owned(),
            (None, true) if !self.not_applied.is_empty() => format!("does not apply {}", self.not_applied.join(", ")),
            (None, true) => return,
        };
        let revision = self.running.as_ref().map(|version| version.revision);
        report.deviating.push(Deviating { pod: self.pod.name.clone(), revision, message });
    }
}

impl Inner {
    fn client(&mut self, subscription: &Subscription) -> Option<&mut Client> {
        self.clients.get_mut(&subscription.key)?.streams.get_mut(&subscription.stream)
    }
}

impl Subscription {
    /// The stream comes from there.
    pub fn comes_from(&self, host: IpAddr) {
        if let Some(client) = self.index.lock().client(self) {
            client.host = Some(host);
        }
    }

    /// The client runs `version`.
    pub fn ack(&self, version: Version, effective: BTreeMap<String, String>, not_applied: Vec<String>) {
        let mut inner = self.index.lock();
        let Some(client) = inner.client(self) else { return };
        client.refused.take_if(|(revision, _)| *revision <= version.revision);
        client.running = Some(version);
        client.effective = effective;
        client.not_applied = not_applied;
        self.index.changed(&inner, Some(&self.key), false);
    }

    /// The client was so until `at`.
    pub fn health(&self, at: Instant, health: Health) {
        if let Some(client) = self.index.lock().client(self) {
            client.health = Some(Heard { at, health, asked: false });
        }
    }

    /// The client refuses `version`, which is not sent to anybody from now on, unless this process alone cannot change to
    /// it. A refusal of something that was never sent (a number that does not exist, or another hash) changes nothing.
    pub fn nack(&self, version: &Version, reason: NackReason, detail: &str) {
        let mut inner = self.index.lock();
        let words = format!("{}: {detail}", reason.as_str());
        if let Some(client) = inner.client(self) {
            client.refused = Some((version.revision, words.clone()));
        }
        if reason == NackReason::NeedsRestart {
            // It says nothing about the revision: the pod that is started again must get it.
            self.index.changed(&inner, Some(&self.key), false);
            return;
        }
        let Inner { objects, revisions, .. } = &mut *inner;
        let Some(object) = objects.get_mut(&self.key) else { return };
        let stored = revisions.get(&object.uid).and_then(|all| all.get(&version.revision));
        if stored.is_none_or(|revision| revision.stored.hash != version.hash) {
            return;
        }
        let first = !object.refusals.contains_key(&version.revision);
        object.refusals.entry(version.revision).or_insert_with(|| Rejection {
            revision: version.revision,
            pod: self.pod.name.clone(),
            words: format!("pod {}: {words}", self.pod.name),
        });
        self.index.answer(&mut inner, &self.key);
        self.index.changed(&inner, Some(&self.key), first);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.index.lock();
        if let Some(subscribers) = inner.clients.get_mut(&self.key) {
            subscribers.streams.remove(&self.stream);
            if subscribers.streams.is_empty() {
                inner.clients.remove(&self.key);
            }
        }
        self.index.changed(&inner, Some(&self.key), false);
    }
}
