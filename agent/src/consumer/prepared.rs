//! The Kafka client of a consumer before it joins its group.

use std::sync::Arc;
use std::time::Duration;

use mq_kafka::ffi::Event;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use super::context::{Context, KafkaConsumer};
use super::poll;
use super::state::Shared;
use crate::credentials::Login;
use crate::error::Error;
use crate::librdkafka::Trouble;

/// A Kafka consumer that has not joined its group.
pub(crate) struct Prepared(pub(super) KafkaConsumer);

impl std::fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Prepared")
    }
}

impl Prepared {
    pub(crate) fn new(shared: &Arc<Shared>, config: &ClientConfig) -> Result<Self, Error> {
        let made = config.create_with_context(Context::new(Arc::clone(shared)));
        made.map(Self).map_err(|source| Error::Refused { what: format!("the consumer {}", shared.name), source })
    }

    /// Asks the cluster for its metadata: proof that the brokers answer a client of this configuration.
    ///
    /// Gives itself back if they do; if not, it ends where ending may block, and the error is what its connections suffered from.
    pub(crate) async fn probe(self, timeout: Duration) -> Result<Self, String> {
        crate::librdkafka::blocking(move || {
            let asked = self.0.fetch_metadata(Some(crate::librdkafka::PROBE_TOPIC), timeout).map(drop);
            asked.map_err(|error| {
                let health = &self.0.client().context().health;
                for event in mq_kafka::ffi::events(&self.0) {
                    match event {
                        Event::Error(code, reason) => health.told(code, &reason),
                        Event::Log { facility, message } => health.logged(&facility, &message),
                    }
                }
                Trouble::explain(health.trouble().as_ref(), &error)
            })?;
            Ok(self)
        })
        .await
    }

    pub(super) fn log_in(&self, login: &Login) -> Result<(), KafkaError> {
        poll::log_in(&self.0, login)
    }

    /// Ends where ending may block.
    pub(crate) fn discard(self) {
        tokio::task::spawn_blocking(move || drop(self));
    }

    /// The value that the client uses.
    pub(crate) fn property(&self, name: &str) -> Option<String> {
        mq_kafka::ffi::property(self.0.client(), name)
    }
}
