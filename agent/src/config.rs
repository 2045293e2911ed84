//! Configuration in code: what a client runs with when nothing else says otherwise, and all there is without Kubernetes.

use std::collections::BTreeMap;

pub use mq_core::presets::Preset as Env;
pub use mq_core::settings::{Acks, AutoOffsetReset, Compression, ConsumerSettings, ProducerSettings};

use mq_core::presets::PRESET_VERSION;
use mq_core::resolve::{ResolvedConsumer, ResolvedProducer};
use mq_protocol::body::{self, Connection, ConsumerBody, DeadLetter, ProducerBody, SecurityProtocol};
use mq_protocol::message::{ClientRef, Kind};
use serde::Serialize;

use crate::error::Error;
use crate::source::{Source, Value};

/// The environment variable with the comma-separated addresses of the brokers.
const BROKERS: &str = "MQ_BROKERS";
/// The environment variable with the name of the preset.
const ENV: &str = "MQ_ENV";

/// Clients configured in code: the weakest source, replaced as a whole by a file or by the operator.
///
/// ```
/// use mq_agent::{Config, Env};
///
/// let mut config = Config::for_env(Env::Production).brokers(["kafka:9092"]).group("notifications", "notifications", ["orders"]);
/// config.producer.linger_ms = Some(5);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// `host:port` of the brokers; without any, this configuration configures nothing.
    pub brokers: Vec<String>,
    /// Settings of every producer. What is `None` comes from the preset.
    pub producer: ProducerSettings,
    /// Settings of every consumer. What is `None` comes from the preset.
    pub consumer: ConsumerSettings,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Clone)]
struct Group {
    id: String,
    topics: Vec<String>,
}

impl Config {
    /// The defaults of an environment: the same presets as in the custom resources.
    pub fn for_env(env: Env) -> Self {
        let mut config = Self::default();
        config.producer.preset = Some(env);
        config.consumer.preset = Some(env);
        config
    }

    /// From the environment variables `MQ_BROKERS` (comma-separated addresses) and `MQ_ENV` (`development`, `staging` or
    /// `production`; absent: production).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when `MQ_ENV` is another word.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let env = match read(ENV) {
            None => Env::default(),
            Some(name) => Env::from_name(&name).ok_or_else(|| Error::InvalidConfig {
                detail: format!("{ENV} is {name:?}; use development, staging or production"),
            })?,
        };
        let brokers = read(BROKERS).unwrap_or_default();
        Ok(Self::for_env(env).brokers(brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty())))
    }

    /// Sets the addresses of the brokers.
    #[must_use]
    pub fn brokers<B: Into<String>>(mut self, brokers: impl IntoIterator<Item = B>) -> Self {
        self.brokers = brokers.into_iter().map(Into::into).collect();
        self
    }

    /// Configures the consumer `name`: Kafka's group id and the topics it reads. Its dead letters go to `<group id>.dlq`.
    #[must_use]
    pub fn group<T: Into<String>>(
        mut self,
        name: impl Into<String>,
        id: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> Self {
        self.groups.insert(name.into(), Group { id: id.into(), topics: topics.into_iter().map(Into::into).collect() });
        self
    }

    /// What this configuration says about one client, if anything.
    pub(crate) fn value(&self, client: &ClientRef) -> Result<Option<Value>, Error> {
        match client.kind {
            _ if self.brokers.is_empty() => Ok(None),
            Kind::Producer => self.producer_value().map(Some),
            Kind::Consumer => {
                self.groups.get(&client.name).map(|group| self.consumer_value(&group.id, &group.topics)).transpose()
            }
        }
    }

    pub(crate) fn producer_value(&self) -> Result<Value, Error> {
        value(&ProducerBody { connection: self.connection()?, settings: self.resolved_producer()? })
    }

    pub(crate) fn consumer_value(&self, group_id: &str, topics: &[String]) -> Result<Value, Error> {
        value(&ConsumerBody {
            connection: self.connection()?,
            group_id: group_id.to_owned(),
            topics: topics.to_owned(),
            dead_letter: DeadLetter { topic: format!("{group_id}.dlq") },
            settings: self.resolved_consumer()?,
        })
    }

    pub(crate) fn resolved_producer(&self) -> Result<ResolvedProducer, Error> {
        self.producer.resolve(PRESET_VERSION).map_err(|error| Error::InvalidConfig { detail: error.to_string() })
    }

    pub(crate) fn resolved_consumer(&self) -> Result<ResolvedConsumer, Error> {
        self.consumer.resolve(PRESET_VERSION).map_err(|error| Error::InvalidConfig { detail: error.to_string() })
    }

    fn connection(&self) -> Result<Connection, Error> {
        if self.brokers.is_empty() {
            let detail = format!("it names no brokers: use Config::brokers or the variable {BROKERS}");
            return Err(Error::InvalidConfig { detail });
        }
        Ok(Connection { brokers: self.brokers.clone(), security_protocol: SecurityProtocol::Plaintext })
    }
}

fn value<B: Serialize>(body: &B) -> Result<Value, Error> {
    let encoded = body::encode(body).map_err(|error| Error::InvalidConfig { detail: error.to_string() })?;
    Ok(Value::new(Source::Code, 0, encoded.hash, encoded.json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(env: Option<&str>, brokers: Option<&str>) -> Result<Config, Error> {
        Config::from_variables(|name| if name == ENV { env.map(str::to_owned) } else { brokers.map(str::to_owned) })
    }

    #[test]
    fn the_environment_chooses_preset_and_brokers() {
        let config = variables(Some("development"), Some("a:1, b:2,")).unwrap();
        assert_eq!(config.brokers, ["a:1", "b:2"]);
        let resolved = config.resolved_producer().unwrap();
        assert_eq!((resolved.acks, resolved.retry_max, resolved.linger_ms), (Acks::Leader, 3, 0));
        assert_eq!(variables(None, None).unwrap().resolved_producer().unwrap().acks, Acks::All);
    }

    #[test]
    fn an_unknown_environment_is_an_error_that_lists_the_known_ones() {
        let error = variables(Some("prod"), None).unwrap_err().to_string();
        assert!(error.contains("development, staging or production"), "{error}");
    }

    #[test]
    fn without_brokers_or_group_it_says_nothing() {
        let producer = ClientRef::new(Kind::Producer, "orders");
        let consumer = ClientRef::new(Kind::Consumer, "notifications");
        assert!(Config::for_env(Env::Production).value(&producer).unwrap().is_none());
        let config = Config::for_env(Env::Production).brokers(["a:1"]);
        assert!(config.value(&producer).unwrap().is_some());
        assert!(config.value(&consumer).unwrap().is_none());
        assert!(config.group("notifications", "n", ["orders"]).value(&consumer).unwrap().is_some());
    }
}
