//! Configuring a producer: make-before-break behind the gate.

use std::sync::Arc;
use std::time::Duration;

use mq_core::knobs::Side;
use mq_protocol::message::NackReason;
use rdkafka::config::ClientConfig;

use super::{Client, NotRecreated, Producer};
use crate::connect::{self, Change, PROBE_TIMEOUT};
use crate::credentials::Credentials;
use crate::drive::{Applied, Apply, NotApplied, rejected};
use crate::effective::effective;
use crate::error::Error;
use crate::hook::Hooks;
use crate::options::{Keep, Options};
use crate::report::Watch;
use crate::source::Value;

/// How long sends may wait at the closed gate while the old client is emptied.
const FLUSH_BUDGET: Duration = Duration::from_secs(10);

/// What follows from `acks` and `retryMax`, and decides whether a message can be written twice or overtake another.
const FOLLOWS: [&str; 2] = ["enable.idempotence", "max.in.flight.requests.per.connection"];

pub(crate) struct ApplyProducer {
    name: String,
    keep: Keep,
    hooks: Hooks,
    watch: Watch,
    running: Option<Running>,
}

struct Running {
    producer: Producer,
    config: ClientConfig,
}

impl ApplyProducer {
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let (keep, hooks, watch) = (options.kept()?, options.hooks.clone(), options.watch());
        Ok(Self { name: name.to_owned(), keep, hooks, watch, running: None })
    }

    async fn run_with(&mut self, config: ClientConfig) -> Result<Arc<Client>, NotApplied> {
        let refused = |error: Error| rejected(NackReason::ClientRefused, error.to_string());
        let Some(running) = &mut self.running else {
            // No probe: a service must start while its brokers are down, and there is nothing to fall back to.
            let producer = Producer::with_client(&self.name, &config, &self.hooks).map_err(refused)?;
            let client = producer.client().await.ok_or(NotApplied::Closed)?;
            self.watch.producer(&producer);
            self.running = Some(Running { producer, config });
            return Ok(client);
        };
        let old = running.producer.client().await.ok_or(NotApplied::Closed)?;
        let change = connect::change(&running.config, &config);
        if change == Change::Nothing {
            return Ok(old);
        }
        let new = running.producer.prepare(&config).map_err(refused)?;
        if let Err(error) = new.probe(PROBE_TIMEOUT).await {
            // An outage is not the fault of the change.
            return Err(match old.probe(PROBE_TIMEOUT).await {
                Ok(()) => rejected(
                    NackReason::ProbeFailed,
                    format!("a client with this configuration does not reach the cluster: {error}"),
                ),
                Err(_) => NotApplied::Later {
                    detail: format!("neither the running client nor a new one reaches the cluster: {error}"),
                },
            });
        }
        if let Change::Login(login) = change {
            old.log_in(&login).map_err(|error| rejected(NackReason::ClientRefused, error.to_string()))?;
            running.config = config;
            return Ok(old);
        }
        // Nor is a queue that does not empty: its messages are sent in the end, or fail. Until then sends must not wait at the gate.
        if old.waiting() > 0
            && let Err(error) = old.probe(PROBE_TIMEOUT).await
        {
            return Err(not_drained(old.waiting(), &format!("its brokers do not answer ({error})")));
        }
        match running.producer.exchange(Arc::clone(&new), FLUSH_BUDGET).await {
            Ok(()) => {
                running.config = config;
                Ok(new)
            }
            Err(NotRecreated::Closed) => Err(NotApplied::Closed),
            Err(NotRecreated::NotDrained(waiting)) => {
                Err(not_drained(waiting, &format!("not acknowledged within {} s", FLUSH_BUDGET.as_secs())))
            }
        }
    }
}

fn not_drained(waiting: usize, why: &str) -> NotApplied {
    NotApplied::Later { detail: format!("{waiting} messages wait in the running client: {why}; it goes on") }
}

impl Apply for ApplyProducer {
    type Client = Producer;

    async fn apply(&mut self, value: &Value, credentials: &Credentials) -> Result<Applied, NotApplied> {
        let decoded = connect::read::<connect::Producer>(value)?;
        decoded.body.settings.validate().map_err(|error| rejected(NackReason::Invalid, error.to_string()))?;
        let told = connect::producer(&self.name, &decoded.body, credentials)?;
        let mut body = decoded.body.clone();
        self.keep.producer(&mut body.settings);
        let client = self.run_with(connect::producer(&self.name, &body, credentials)?).await?;
        let property = |name: &str| client.property(name);
        let mut applied =
            effective(Side::Producer, &decoded.body.settings, &told, property, |_| None, decoded.unknown_keys);
        let follows = |name: &&str| property(name).map(|value| ((*name).to_owned(), value));
        applied.effective.extend(FOLLOWS.iter().filter_map(follows));
        Ok(applied)
    }

    fn client(&self) -> Option<Producer> {
        self.running.as_ref().map(|running| running.producer.clone())
    }

    async fn closed(&self) {
        match &self.running {
            Some(running) => running.producer.wait_closed().await,
            None => std::future::pending().await,
        }
    }
}
