//! Configuration in code: what a client runs with when nothing else says otherwise, and all there is without Kubernetes.

use std::collections::BTreeMap;

pub use mq_core::presets::Preset as Env;
pub use mq_core::settings::{Acks, AutoOffsetReset, Compression, ConsumerSettings, ProducerSettings};
pub use mq_protocol::body::{SaslMechanism, SecurityProtocol};

use mq_core::presets::PRESET_VERSION;
use mq_core::resolve::{ResolvedConsumer, ResolvedProducer};
use mq_protocol::body::{self, Connection, ConsumerBody, DeadLetter, ProducerBody};
use mq_protocol::message::{ClientRef, Kind};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::credentials::Password;
use crate::error::Error;
use crate::security;
use crate::source::{ConfigBody, Source, Value};

/// The environment variable with the comma-separated addresses of the brokers.
const BROKERS: &str = "MQ_BROKERS";
/// The environment variable with the name of the preset.
const ENV: &str = "MQ_ENV";
/// The environment variable with Kafka's `security.protocol`.
const SECURITY_PROTOCOL: &str = "MQ_SECURITY_PROTOCOL";
/// The environment variable with Kafka's `sasl.mechanism`.
const SASL_MECHANISM: &str = "MQ_SASL_MECHANISM";

/// Clients configured in code: the weakest source, replaced as a whole by a file or by the operator. The credentials stay: they are
/// used wherever the pod mounts none ([`Options::credentials_folder`](crate::Options::credentials_folder)).
///
/// As text the fields are called `brokers`, `securityProtocol`, `caBundle`, `saslMechanism`, `saslUsername`, `saslPassword`, `producer`
/// and `consumer`; other names are an error. The password is read from text and never written to one. Groups are named in code alone.
///
/// ```
/// use mq_agent::{Config, Env};
///
/// let mut config = Config::for_env(Env::Production).brokers(["kafka:9092"]).group("notifications", "notifications", ["orders"]);
/// config.producer.linger_ms = Some(5);
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// `host:port` of the brokers; without any, this configuration configures nothing.
    pub brokers: Vec<String>,
    /// How connections are protected: `PLAINTEXT` (the default), `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub security_protocol: SecurityProtocol,
    /// Authorities that a broker's certificate must come from, as PEM. `None`: `ca.crt` of the credentials folder, else the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// How clients log in: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Needed with SASL and with nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_mechanism: Option<SaslMechanism>,
    /// The user, unless the credentials folder has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_username: Option<String>,
    /// The user's password, unless the credentials folder has one.
    #[serde(skip_serializing)]
    pub sasl_password: Option<Password>,
    /// Settings of every producer. What is `None` comes from the preset.
    #[serde(deserialize_with = "strict")]
    pub producer: ProducerSettings,
    /// Settings of every consumer. What is `None` comes from the preset.
    #[serde(deserialize_with = "strict")]
    pub consumer: ConsumerSettings,
    #[serde(skip)]
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Clone)]
struct Group {
    id: String,
    topics: Vec<String>,
}

impl Config {
    /// The defaults of an environment: the same presets as in the custom resources.
    ///
    /// ```
    /// use mq_agent::{Config, Env};
    ///
    /// let config = Config::for_env(Env::Staging);
    /// assert_eq!(config.producer.preset, Some(Env::Staging));
    /// ```
    pub fn for_env(env: Env) -> Self {
        let mut config = Self::default();
        config.producer.preset = Some(env);
        config.consumer.preset = Some(env);
        config
    }

    /// From the environment variables `MQ_BROKERS` (comma-separated addresses), `MQ_ENV` (`development`, `staging` or `production`;
    /// absent: production), `MQ_SECURITY_PROTOCOL` (absent: `PLAINTEXT`) and `MQ_SASL_MECHANISM`. Credentials are never taken from the
    /// environment: mount them.
    ///
    /// ```
    /// let config = mq_agent::Config::from_env()?; // MQ_BROKERS=kafka-0:9092,kafka-1:9092 MQ_ENV=staging
    /// # Ok::<(), mq_agent::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when one of them is another word than those that are possible.
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
        let invalid =
            |variable: &str, error: body::UnknownWord| Error::InvalidConfig { detail: format!("{variable}: {error}") };
        let mut config = Self::for_env(env);
        if let Some(protocol) = read(SECURITY_PROTOCOL) {
            config.security_protocol = protocol.parse().map_err(|error| invalid(SECURITY_PROTOCOL, error))?;
        }
        if let Some(mechanism) = read(SASL_MECHANISM) {
            config.sasl_mechanism = Some(mechanism.parse().map_err(|error| invalid(SASL_MECHANISM, error))?);
        }
        let brokers = read(BROKERS).unwrap_or_default();
        Ok(config.brokers(brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty())))
    }

    /// Sets the addresses of the brokers.
    ///
    /// ```
    /// let config = mq_agent::Config::default().brokers(["kafka-0:9092", "kafka-1:9092"]);
    /// assert_eq!(config.brokers.len(), 2);
    /// ```
    #[must_use]
    pub fn brokers<B: Into<String>>(mut self, brokers: impl IntoIterator<Item = B>) -> Self {
        self.brokers = brokers.into_iter().map(Into::into).collect();
        self
    }

    /// Configures the consumer `name`: Kafka's group id and the topics it reads, by name or, as in
    /// [`Consumer::new`](crate::Consumer::new), by pattern. Its dead letters go to `<group id>.dlq`.
    ///
    /// ```
    /// let config = mq_agent::Config::default()
    ///     .brokers(["kafka:9092"])
    ///     .group("notifications", "shop-notifications", ["orders", "^returns-"]);
    /// ```
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

    /// What this configuration says about one client, whole and without credentials; `None` without brokers, and for a consumer that
    /// [`Config::group`] does not name. For a [`ConfigSource`](crate::ConfigSource).
    ///
    /// ```
    /// use mq_agent::{ClientKind, ClientRef, Config, Env};
    ///
    /// # fn main() -> Result<(), mq_agent::Error> {
    /// let config = Config::for_env(Env::Production).brokers(["kafka:9092"]);
    /// let value = config.for_client(&ClientRef::new(ClientKind::Producer, "orders"))?;
    /// assert!(value.is_some_and(|value| value.as_json().contains(r#""lingerMs":10"#)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting that is out of its range, or the parts that do not fit together.
    pub fn for_client(&self, client: &ClientRef) -> Result<Option<ConfigBody>, Error> {
        match client.kind {
            _ if self.brokers.is_empty() => Ok(None),
            Kind::Producer => self.producer_body().map(Some),
            Kind::Consumer => {
                self.groups.get(&client.name).map(|group| self.consumer_body(&group.id, &group.topics)).transpose()
            }
        }
    }

    pub(crate) fn producer_value(&self) -> Result<Value, Error> {
        self.producer_body().map(|value| Value::of(Source::Code, value))
    }

    pub(crate) fn consumer_value(&self, group_id: &str, topics: &[String]) -> Result<Value, Error> {
        self.consumer_body(group_id, topics).map(|value| Value::of(Source::Code, value))
    }

    fn producer_body(&self) -> Result<ConfigBody, Error> {
        ConfigBody::encode(&ProducerBody { connection: self.connection()?, settings: self.resolved_producer()? })
    }

    fn consumer_body(&self, group_id: &str, topics: &[String]) -> Result<ConfigBody, Error> {
        ConfigBody::encode(&ConsumerBody {
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
        let connection = Connection {
            brokers: self.brokers.clone(),
            security_protocol: self.security_protocol,
            ca_bundle: self.ca_bundle.clone(),
            sasl_mechanism: self.sasl_mechanism,
        };
        security::check(&connection).map_err(|detail| Error::InvalidConfig { detail })?;
        if !self.security_protocol.has_sasl() && (self.sasl_username.is_some() || self.sasl_password.is_some()) {
            let detail = format!(
                "there is a saslUsername or saslPassword and securityProtocol is {}, which has no SASL; use SASL_PLAINTEXT or SASL_SSL",
                self.security_protocol
            );
            return Err(Error::InvalidConfig { detail });
        }
        Ok(connection)
    }
}

/// Settings with a name that is none are refused, as the rest of the configuration is.
fn strict<'de, D: Deserializer<'de>, S: Serialize + DeserializeOwned>(deserializer: D) -> Result<S, D::Error> {
    let given = serde_json::Value::deserialize(deserializer)?;
    let read = body::decode_unhashed::<S>(given.to_string().as_bytes()).map_err(D::Error::custom)?;
    match &read.unknown_keys[..] {
        [] => Ok(read.body),
        unknown => Err(D::Error::custom(format!("there is no setting {}", unknown.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(env: Option<&str>, brokers: Option<&str>) -> Result<Config, Error> {
        Config::from_variables(|name| match name {
            ENV => env.map(str::to_owned),
            BROKERS => brokers.map(str::to_owned),
            _ => None,
        })
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
    fn it_is_read_by_the_names_of_the_kinds_and_the_password_is_never_written() {
        let text = r#"{"brokers":["a:1"],"securityProtocol":"SASL_SSL","saslMechanism":"SCRAM-SHA-512","saslUsername":"u",
            "saslPassword":"hidden","producer":{"lingerMs":5},"consumer":{}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!((config.security_protocol, config.producer.linger_ms), (SecurityProtocol::SaslSsl, Some(5)));
        let written = serde_json::to_string(&config).unwrap();
        assert!(!written.contains("hidden") && written.contains(r#""saslUsername":"u""#), "{written}");
        let again: Config = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), written);
        for (good, bad, words) in [
            ("SASL_SSL", "sasl_ssl", "use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
            ("SCRAM-SHA-512", "SCRAM", "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
            ("saslUsername", "saslUser", "unknown field `saslUser`"),
            ("lingerMs", "lingerMS", "there is no setting lingerMS"),
        ] {
            let error = serde_json::from_str::<Config>(&text.replace(good, bad)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_environment_protects_the_connection_and_parts_that_do_not_fit_are_refused() {
        let variables = |protocol: &'static str, mechanism: Option<&'static str>| {
            Config::from_variables(|name| match name {
                BROKERS => Some("a:1".to_owned()),
                SECURITY_PROTOCOL => Some(protocol.to_owned()),
                SASL_MECHANISM => mechanism.map(str::to_owned),
                _ => None,
            })
        };
        let config = variables("SASL_SSL", Some("PLAIN")).unwrap();
        assert_eq!(config.connection().unwrap().sasl_mechanism, Some(SaslMechanism::Plain));
        let error = variables("TLS", None).unwrap_err().to_string();
        assert!(error.contains("MQ_SECURITY_PROTOCOL") && error.contains("SASL_SSL"), "{error}");
        let error = variables("SASL_SSL", None).unwrap().producer_value().unwrap_err().to_string();
        assert!(error.contains("there is no saslMechanism"), "{error}");
        let mut config = variables("SSL", None).unwrap();
        config.sasl_username = Some("u".to_owned());
        let error = config.producer_value().unwrap_err().to_string();
        assert!(error.contains("saslUsername") && error.contains("SSL, which has no SASL"), "{error}");
    }

    #[test]
    fn without_brokers_or_group_it_says_nothing() {
        let producer = ClientRef::new(Kind::Producer, "orders");
        let consumer = ClientRef::new(Kind::Consumer, "notifications");
        assert!(Config::for_env(Env::Production).for_client(&producer).unwrap().is_none());
        let config = Config::for_env(Env::Production).brokers(["a:1"]);
        assert!(config.for_client(&producer).unwrap().is_some());
        assert!(config.for_client(&consumer).unwrap().is_none());
        assert!(config.group("notifications", "n", ["orders"]).for_client(&consumer).unwrap().is_some());
    }
}
