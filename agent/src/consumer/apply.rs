//! Configuring a consumer: what the agent owns changes at once, what librdkafka owns by leaving and joining again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_core::knobs::{self, Side};
use mq_core::resolve::ResolvedConsumer;
use mq_core::topic;
use mq_protocol::message::{Health, NackReason};
use rdkafka::config::ClientConfig;

use super::{Consumer, Fixed, Limits, Prepared, Shared, Target, pattern};
use crate::connect::{self, Change, PROBE_TIMEOUT};
use crate::credentials::Credentials;
use crate::drive::{Applied, Apply, NotApplied, rejected};
use crate::effective::effective;
use crate::error::Error;
use crate::hook::Hooks;
use crate::options::{Keep, Options};
use crate::report::Watch;
use crate::source::Value;

/// How long handlers may take to end before the consumer leaves its group to join with another configuration.
const DRAIN_BUDGET: Duration = Duration::from_secs(20);
/// The most that a revocation waits for handlers.
const REVOKE_BUDGET: Duration = Duration::from_secs(10);

pub(crate) struct ApplyConsumer {
    name: String,
    keep: Keep,
    concurrency: usize,
    hooks: Hooks,
    fixed: Fixed,
    watch: Watch,
    running: Option<Running>,
}

struct Running {
    consumer: Consumer,
    body: connect::Consumer,
    config: ClientConfig,
    dead_letters: Target,
    /// Read back from the client that runs.
    properties: BTreeMap<String, String>,
}

impl ApplyConsumer {
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let (keep, hooks, watch) = (options.kept()?, options.hooks.clone(), options.watch());
        let (concurrency, fixed) = (options.concurrency, Fixed::of(options)?);
        Ok(Self { name: name.to_owned(), keep, concurrency, fixed, hooks, watch, running: None })
    }

    async fn run_with(&mut self, body: connect::Consumer, credentials: &Credentials) -> Result<(), NotApplied> {
        let refused = |error: Error| rejected(NackReason::ClientRefused, error.to_string());
        let failed = |error: String| rejected(NackReason::ClientRefused, error);
        let mut config = connect::consumer(&self.name, &body, credentials)?;
        self.fixed.configure(&mut config);
        let dead_letters = connect::dead_letters(&self.name, &body, credentials)?;
        let Some(running) = &mut self.running else {
            let shared =
                Arc::new(Shared::new(&self.name, self.fixed.clone(), limits(&body.settings, self.concurrency)));
            // No probe: a service must start while its brokers are down, and there is nothing to fall back to.
            let prepared = Prepared::new(&shared, &config).map_err(refused)?;
            let properties = read_back(&prepared, &body.settings);
            let (topics, target, hooks) = (body.topics.clone(), dead_letters.clone(), self.hooks.clone());
            let consumer = Consumer::with_client(shared, prepared, topics, target, hooks);
            self.watch.consumer(&consumer);
            self.running = Some(Running { consumer, body, config, dead_letters, properties });
            return Ok(());
        };
        if running.consumer.is_closed() {
            return Err(NotApplied::Closed);
        }
        if running.body.group_id != body.group_id {
            let detail = format!(
                "the group id cannot change from {} to {} while the process runs; restart it",
                running.body.group_id, body.group_id
            );
            return Err(rejected(NackReason::NeedsRestart, detail));
        }
        let change = connect::change(&running.config, &config);
        if change != Change::Nothing {
            let prepared = Prepared::new(running.consumer.shared(), &config).map_err(refused)?;
            let prepared = match prepared.probe(PROBE_TIMEOUT).await {
                Ok(prepared) => prepared,
                Err(error) => return Err(unreachable(running, &error).await),
            };
            if let Change::Login(login) = &change {
                prepared.discard();
                running.consumer.log_in(login.clone()).await.map_err(failed)?;
            } else {
                let properties = read_back(&prepared, &body.settings);
                // Whatever comes of it, the old client is gone: the next value exchanges again, also the one from before.
                running.config = ClientConfig::new();
                running.consumer.exchange(prepared, &body.topics, DRAIN_BUDGET).await.map_err(failed)?;
                running.properties = properties;
            }
            running.config = config;
        }
        if change != Change::Recreate && running.body.topics != body.topics {
            running.consumer.resubscribe(&body.topics).await.map_err(failed)?;
        }
        if running.dead_letters != dead_letters {
            running.consumer.set_dead_letter_target(dead_letters.clone());
            running.dead_letters = dead_letters;
        }
        let concurrency = running.consumer.shared().limits().concurrency;
        running.consumer.set_limits(limits(&body.settings, concurrency));
        running.body = body;
        Ok(())
    }
}

impl Apply for ApplyConsumer {
    type Client = Consumer;

    async fn apply(&mut self, value: &Value, credentials: &Credentials) -> Result<Applied, NotApplied> {
        let decoded = connect::read::<connect::Consumer>(value)?;
        decoded.body.settings.validate().map_err(|error| rejected(NackReason::Invalid, error.to_string()))?;
        check_group(&decoded.body).map_err(|detail| rejected(NackReason::Invalid, detail))?;
        let told = connect::consumer(&self.name, &decoded.body, credentials)?;
        let mut body = decoded.body.clone();
        self.keep.consumer(&mut body.settings);
        self.run_with(body, credentials).await?;
        let Some(running) = &self.running else { return Ok(Applied::default()) };
        let limits = running.consumer.shared().limits();
        let interval = running.body.settings.auto_commit_interval_ms;
        let agent = |name: &str| match name {
            _ if name == knobs::ENABLE_AUTO_COMMIT.name => Some(limits.auto_commit.is_some().to_string()),
            // Off: the interval is kept for when it is switched on again.
            _ if name == knobs::AUTO_COMMIT_INTERVAL_MS.name => {
                Some(limits.auto_commit.map_or_else(|| u128::from(interval), |every| every.as_millis()).to_string())
            }
            _ if name == knobs::MAX_POLL_RECORDS.name => Some(limits.max_poll_records.to_string()),
            _ => None,
        };
        let property = |name: &str| running.properties.get(name).cloned();
        Ok(effective(Side::Consumer, &decoded.body.settings, &told, property, agent, decoded.unknown_keys))
    }

    fn client(&self) -> Option<Consumer> {
        self.running.as_ref().map(|running| running.consumer.clone())
    }

    async fn closed(&self) {
        match &self.running {
            Some(running) => running.consumer.wait_closed().await,
            None => std::future::pending().await,
        }
    }

    fn health(&self) -> Option<Health> {
        self.running.as_ref()?.consumer.health()
    }
}

/// What the API server says of an `MqConsumerGroup`, for those that come from code or files.
fn check_group(body: &connect::Consumer) -> Result<(), String> {
    let (group, dead_letters) = (&body.group_id, &body.dead_letter.topic);
    topic::check_name(group).map_err(|wrong| format!("groupId: as a {wrong}"))?;
    topic::check_name(dead_letters)
        .map_err(|wrong| format!("the dead-letter topic (deadLetter.topic, else <groupId>.dlq): {wrong}"))?;
    if body.topics.contains(dead_letters) {
        return Err(format!(
            "the dead-letter topic {dead_letters} (deadLetter.topic, else <groupId>.dlq) must not be one of topics: its records would \
             be consumed again"
        ));
    }
    check_topics(&body.topics)
}

/// What librdkafka would refuse only after the old client has left its group.
fn check_topics(topics: &[String]) -> Result<(), String> {
    if topics.is_empty() {
        return Err("topics is empty; name at least one".to_owned());
    }
    for (at, name) in topics.iter().enumerate() {
        if topics[..at].contains(name) {
            return Err(format!("topics[{at}], {name}, is there twice; leave one out"));
        }
        if pattern::is_pattern(name) {
            let unreadable = |error| format!("topics[{at}], {name}, is no pattern that librdkafka can read: {error}");
            pattern::check(name).map_err(unreadable)?;
        } else {
            topic::check_name(name).map_err(|wrong| format!("topics[{at}]: {wrong}"))?;
        }
    }
    Ok(())
}

/// The new client reaches nothing: its own fault, or an outage that the old brokers have too?
async fn unreachable(running: &Running, error: &str) -> NotApplied {
    let Ok(old) = Prepared::new(running.consumer.shared(), &running.config) else {
        return NotApplied::Later { detail: error.to_owned() };
    };
    match old.probe(PROBE_TIMEOUT).await {
        Ok(old) => {
            old.discard();
            let detail = format!("a client with this configuration does not reach the cluster: {error}");
            rejected(NackReason::ProbeFailed, detail)
        }
        Err(_) => NotApplied::Later {
            detail: format!("neither the running configuration nor the new one reaches the cluster: {error}"),
        },
    }
}

fn limits(settings: &ResolvedConsumer, concurrency: usize) -> Limits {
    let interval = Duration::from_millis(settings.auto_commit_interval_ms.into());
    Limits {
        auto_commit: settings.enable_auto_commit.then_some(interval),
        max_poll_records: usize::try_from(settings.max_poll_records).unwrap_or(usize::MAX),
        concurrency,
        max_poll_interval: Duration::from_millis(settings.max_poll_interval_ms.into()),
        // Below the time after which the group would expel a member that does not poll.
        revoke_budget: REVOKE_BUDGET.min(Duration::from_millis(u64::from(settings.max_poll_interval_ms) / 2)),
    }
}

fn read_back(prepared: &Prepared, settings: &ResolvedConsumer) -> BTreeMap<String, String> {
    let names = knobs::of(Side::Consumer)
        .filter_map(|knob| knob.librdkafka)
        .chain(settings.overrides.keys().map(String::as_str));
    names.filter_map(|name| Some((name.to_owned(), prepared.property(name)?))).collect()
}
