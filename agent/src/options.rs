//! How an agent is set up. Everything has a default that fits a pod; tests and other places inject their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mq_core::knobs::{self, KNOBS, Side};
use mq_core::resolve::{ResolvedConsumer, ResolvedProducer};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::config::Config;
use crate::consumer::{DeadLetterBreaker, Ordering, StaticMember};
use crate::error::Error;
use crate::hook::{Hook, Hooks};
use crate::metrics::{ClientStats, Metrics};
use crate::report::{Report, Watch};
use crate::source::ConfigSource;

/// Where the projected volume of a pod is mounted.
const RUN: &str = "/var/run/mq";
/// Where the operator's ConfigMap, or the service's own files, are mounted.
const CONFIG: &str = "/config/mq";
/// Names the folder for last good values.
const STATE_DIR: &str = "MQ_STATE_DIR";

/// How an agent is set up.
///
/// ```
/// use mq_agent::{Config, Env, Options};
///
/// let options = Options::in_pod().config(Config::for_env(Env::Staging).brokers(["kafka:9092"])).concurrency(16);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) endpoint: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) token: PathBuf,
    pub(crate) config_folder: PathBuf,
    pub(crate) credentials_folder: PathBuf,
    pub(crate) state_folder: Option<PathBuf>,
    pub(crate) config: Config,
    pub(crate) source: Option<OwnSource>,
    pub(crate) patience: Duration,
    pub(crate) concurrency: usize,
    pub(crate) ordering: Ordering,
    pub(crate) dead_letter_breaker: DeadLetterBreaker,
    pub(crate) member: Option<StaticMember>,
    pub(crate) memory_mib: usize,
    pub(crate) keep: BTreeSet<String>,
    pub(crate) hooks: Hooks,
    pub(crate) metrics: Metrics,
    pub(crate) report: Option<Report>,
}

#[derive(Clone)]
pub(crate) struct OwnSource(pub(crate) Arc<dyn ConfigSource>);

impl std::fmt::Debug for OwnSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OwnSource")
    }
}

/// [`Options::in_pod`].
impl Default for Options {
    fn default() -> Self {
        Self::in_pod()
    }
}

impl Options {
    /// The contract of a pod: `/var/run/mq/{endpoint, ca.crt, token}`, `/var/run/mq/credentials/`, `/config/mq/`, and the variables
    /// `MQ_STATE_DIR` and those of [`Config::from_env`]. Every part may be absent.
    ///
    /// Variables that cannot be used are reported in the log, and none of them counts.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod(); // the same as Options::default()
    /// ```
    pub fn in_pod() -> Self {
        let config = Config::from_env().unwrap_or_else(|error| {
            tracing::error!(%error, "the environment variables are not used");
            Config::for_env(crate::Env::Production)
        });
        let state = std::env::var_os(STATE_DIR).map(PathBuf::from);
        Self::in_folders(Path::new(RUN), Path::new(CONFIG)).config(config).state_folder(state)
    }

    /// The same files in other folders, and nothing from the environment.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// let options = mq_agent::Options::in_folders(Path::new("run"), Path::new("config"));
    /// ```
    pub fn in_folders(run: &Path, config: &Path) -> Self {
        Self {
            endpoint: run.join("endpoint"),
            ca: run.join("ca.crt"),
            token: run.join("token"),
            config_folder: config.to_owned(),
            credentials_folder: run.join("credentials"),
            state_folder: None,
            config: Config::default(),
            source: None,
            patience: Duration::from_secs(3),
            concurrency: 8,
            ordering: Ordering::default(),
            dead_letter_breaker: DeadLetterBreaker::default(),
            member: None,
            memory_mib: 80,
            keep: BTreeSet::new(),
            hooks: Hooks::default(),
            metrics: Metrics::default(),
            report: None,
        }
    }

    /// What clients run with when nothing else configures them.
    ///
    /// ```
    /// use mq_agent::{Config, Env, Options};
    ///
    /// let options = Options::in_pod().config(Config::for_env(Env::Production).brokers(["kafka:9092"]));
    /// ```
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where clients of an [`Agent`](crate::Agent) get their configuration from when the operator says nothing: before the files, after
    /// the operator's last good value. A later call replaces the source of an earlier one.
    ///
    /// ```
    /// let configurations = mq_agent::testing::Configurations::default(); // or one of the service's own
    /// let options = mq_agent::Options::in_pod().source(configurations);
    /// ```
    #[must_use]
    pub fn source(mut self, source: impl ConfigSource + 'static) -> Self {
        self.source = Some(OwnSource(Arc::new(source)));
        self
    }

    /// Where the credentials of the clients lie (`/var/run/mq/credentials`): `username` and `password` for SASL, `tls.crt` and
    /// `tls.key` for a client certificate, `ca.crt` for the authorities of the brokers; every one may be absent. The pair of files is
    /// used before the one in [`Options::config`]. Changes are noticed and taken over by the clients of an [`Agent`](crate::Agent).
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().credentials_folder("/etc/kafka-user");
    /// ```
    #[must_use]
    pub fn credentials_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.credentials_folder = folder.into();
        self
    }

    /// Keeps the last configuration that worked there, for a start without the operator. `None`: not kept.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().state_folder(Some("/var/lib/mq".into()));
    /// ```
    #[must_use]
    pub fn state_folder(mut self, folder: Option<PathBuf>) -> Self {
        self.state_folder = folder;
        self
    }

    /// How long a new client waits for the operator's first word before it starts with a weaker source (3 s).
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().patience(std::time::Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Handlers of one consumer that may run at the same time (8). [`Consumer::set_concurrency`](crate::Consumer::set_concurrency)
    /// changes it later.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().concurrency(100);
    /// ```
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Which records of a consumer wait for each other ([`Ordering::Key`]).
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().ordering(mq_agent::Ordering::Partition);
    /// ```
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.ordering = ordering;
        self
    }

    /// When a consumer stops sending dead letters and waits for what seems broken (20 in a row, or 50 of the last 100 records).
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().dead_letter_breaker(mq_agent::DeadLetterBreaker::new(200, 90));
    /// ```
    #[must_use]
    pub fn dead_letter_breaker(mut self, breaker: DeadLetterBreaker) -> Self {
        self.dead_letter_breaker = breaker;
        self
    }

    /// Makes consumers static members of their groups; without it they are dynamic ones. The id is for this process alone, and its
    /// consumers have to be in different groups.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().static_membership(mq_agent::StaticMember::new("orders-0"));
    /// ```
    #[must_use]
    pub fn static_membership(mut self, member: StaticMember) -> Self {
        self.member = Some(member);
        self
    }

    /// Memory for the records of each consumer, in MiB (80; from 8 to 65 536). Four fifths are for those in the agent's hand, with
    /// what it costs to hold them; the rest is for librdkafka's own queue, which takes up to four times the bytes in it
    /// (`queued.max.messages.kbytes`). As much is fetched at once from *each* broker (`fetch.max.bytes`), but no less than
    /// `message.max.bytes` (1 MB) and no more than 50 MiB: what is on its way may exceed the queue. One record that is larger is taken
    /// nevertheless. What handlers keep counts no more once they have ended.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().memory_mib(256);
    /// ```
    #[must_use]
    pub fn memory_mib(mut self, mebibytes: usize) -> Self {
        self.memory_mib = mebibytes;
        self
    }

    /// Keeps these settings (`lingerMs`, …) as [`Options::config`] has them, whatever is pushed. The operator sees them as not
    /// applied. A name that is no setting makes [`Agent::producer`](crate::Agent::producer) and
    /// [`Agent::consumer`](crate::Agent::consumer) fail.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().keep(["maxPollRecords"]);
    /// ```
    #[must_use]
    pub fn keep<N: Into<String>>(mut self, settings: impl IntoIterator<Item = N>) -> Self {
        self.keep = settings.into_iter().map(Into::into).collect();
        self
    }

    /// Calls the hook around everything that the clients send and handle, after the hooks that are there already.
    ///
    /// ```
    /// use mq_agent::{Hook, Message, Options};
    ///
    /// struct Tenant;
    ///
    /// impl Hook for Tenant {
    ///     fn before_send(&self, _producer: &str, message: Message) -> Message {
    ///         message.header("tenant", "7")
    ///     }
    /// }
    ///
    /// let options = Options::in_pod().hook(Tenant);
    /// ```
    #[must_use]
    pub fn hook(mut self, hook: impl Hook + 'static) -> Self {
        self.hooks.add(hook);
        self
    }

    /// Shows the counters of the clients there, beside what it shows already.
    ///
    /// ```
    /// let metrics = mq_agent::Metrics::default();
    /// let options = mq_agent::Options::in_pod().metrics(metrics.clone());
    /// assert!(metrics.read().is_empty()); // of the clients that are made with these options
    /// ```
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self.report = self.report.map(Report::anew);
        self
    }

    /// Tells `report` the counters of all clients that are made with these options and their clones again and again, as long as there is
    /// one of them, for those who have no registry. Every 30 s is usual; less than 10 ms counts as 10 ms. It runs on the runtime: it must
    /// be quick and never block. A panic in it is logged.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = mq_agent::Options::in_pod().report_stats(Duration::from_secs(30), |clients| {
    ///     for client in clients {
    ///         println!("{client:?}");
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn report_stats(mut self, every: Duration, report: impl Fn(&[ClientStats]) + Send + Sync + 'static) -> Self {
        self.report = Some(Report::new(every, report));
        self
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch { metrics: self.metrics.clone(), report: self.report.clone() }
    }

    pub(crate) fn kept(&self) -> Result<Keep, Error> {
        if let Some(unknown) = self.keep.iter().find(|name| KNOBS.iter().all(|knob| knob.name != name.as_str())) {
            return Err(Error::InvalidConfig { detail: format!("there is no setting {unknown:?} to keep") });
        }
        Ok(Keep {
            names: self.keep.clone(),
            producer: self.config.resolved_producer()?,
            consumer: self.config.resolved_consumer()?,
        })
    }
}

/// The settings that this process keeps.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    names: BTreeSet<String>,
    producer: ResolvedProducer,
    consumer: ResolvedConsumer,
}

impl Keep {
    pub(crate) fn producer(&self, settings: &mut ResolvedProducer) {
        keep(Side::Producer, &self.names, &self.producer, settings);
    }

    pub(crate) fn consumer(&self, settings: &mut ResolvedConsumer) {
        keep(Side::Consumer, &self.names, &self.consumer, settings);
    }
}

fn keep<S: Serialize + DeserializeOwned>(side: Side, names: &BTreeSet<String>, own: &S, settings: &mut S) {
    // Never another form: settings are a struct.
    let (Ok(Json::Object(own)), Ok(Json::Object(mut kept))) =
        (serde_json::to_value(own), serde_json::to_value(&*settings))
    else {
        return;
    };
    for knob in knobs::of(side).filter(|knob| names.contains(knob.name)) {
        if let Some(value) = own.get(knob.name) {
            kept.insert(knob.name.to_owned(), value.clone());
        }
    }
    if let Ok(kept) = serde_json::from_value(Json::Object(kept)) {
        *settings = kept;
    }
}

#[cfg(test)]
mod tests {
    use mq_core::presets::PRESET_VERSION;
    use mq_core::settings::{ConsumerSettings, ProducerSettings};

    use super::*;

    #[test]
    fn every_setting_can_be_kept_and_no_other_changes() {
        let options = Options::in_folders(Path::new("/"), Path::new("/")).keep(KNOBS.iter().map(|knob| knob.name));
        let keep = options.kept().unwrap();
        let told = r#"{"acks": 1, "retryMax": 77, "batchSize": 77, "lingerMs": 77, "compression": "gzip", "overrides": {"client.rack": "a"}}"#;
        let told: ProducerSettings = serde_json::from_str(told).unwrap();
        let mut producer = told.resolve(PRESET_VERSION).unwrap();
        keep.producer(&mut producer);
        assert_eq!(producer.overrides.len(), 1);
        producer.overrides.clear();
        assert_eq!(producer, keep.producer);
        let told = r#"{"autoOffsetReset": "latest", "enableAutoCommit": false, "autoCommitIntervalMs": 777, "sessionTimeoutMs": 7777,
            "maxPollRecords": 77, "maxPollIntervalMs": 77777}"#;
        let told: ConsumerSettings = serde_json::from_str(told).unwrap();
        let mut consumer = told.resolve(PRESET_VERSION).unwrap();
        keep.consumer(&mut consumer);
        assert_eq!(consumer, keep.consumer);
    }

    #[test]
    fn a_setting_that_does_not_exist_cannot_be_kept() {
        let error = Options::in_folders(Path::new("/"), Path::new("/")).keep(["linger.ms"]).kept().unwrap_err();
        assert!(error.to_string().contains("linger.ms"), "{error}");
    }
}
