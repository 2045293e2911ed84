use std::collections::BTreeMap;

use kafka_protocol::{
    messages::{
        DescribeConfigsRequest, IncrementalAlterConfigsRequest,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
    protocol::StrBytes,
};

use super::{
    TopicError,
    batch::{Item, Results},
};
use crate::Client;

/// Kafka's number for "this resource is a topic".
const TOPIC: i8 = 2;

/// The effective value of one topic config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The value; `None` if it is sensitive or has none.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Cannot be changed.
    pub read_only: bool,
    /// Not shown by the brokers.
    pub sensitive: bool,
}

/// Where a config value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set on the topic itself. Deleting such a config brings the default back.
    Topic,
    /// Set at run time on one broker.
    Broker,
    /// Set at run time for all brokers.
    AllBrokers,
    /// The properties file of the broker.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// A code of a newer Kafka.
    Other(i8),
}

impl ConfigSource {
    fn from_code(code: i8) -> Self {
        match code {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::AllBrokers,
            4 => Self::StaticBroker,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// One change of one topic config. Configs that are not named keep their value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Sets the value on the topic.
    Set {
        /// Name of the config.
        key: String,
        /// Value in Kafka's notation.
        value: String,
    },
    /// Takes the value off the topic, so that the default holds again.
    Delete {
        /// Name of the config.
        key: String,
    },
}

impl Client {
    /// Reads all configs of these topics; each name asked for is in the map. One request per 1,000 topics.
    pub async fn describe_configs(
        &self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> BTreeMap<String, Result<BTreeMap<String, ConfigEntry>, TopicError>> {
        let items = names.into_iter().map(Into::into).map(|key: String| {
            let name = StrBytes::from_string(key.clone());
            let body = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(name);
            Item { key, records: 1, body: body.with_configuration_keys(None) }
        });
        let request = |resources| DescribeConfigsRequest::default().with_resources(resources);
        self.ask(items.collect(), request, |response| {
            let results = response.results.into_iter().map(|topic| {
                let result = TopicError::check(topic.error_code, topic.error_message.as_deref(), "DescribeConfigs");
                (topic.resource_name.to_string(), result.map(|()| topic.configs.into_iter().map(entry).collect()))
            });
            results.collect()
        })
        .await
    }

    /// Changes configs of topics one by one (`IncrementalAlterConfigs`), or only checks whether they could be changed. All
    /// changes of one topic hold or none does.
    pub async fn alter_configs(
        &self,
        changes: &BTreeMap<String, Vec<ConfigChange>>,
        validate_only: bool,
    ) -> Results<String, ()> {
        let items = changes.iter().map(|(name, changes)| Item {
            key: name.clone(),
            records: changes.len(),
            body: AlterConfigsResource::default()
                .with_resource_type(TOPIC)
                .with_resource_name(StrBytes::from_string(name.clone()))
                .with_configs(changes.iter().map(alterable).collect()),
        });
        let request = |resources| {
            IncrementalAlterConfigsRequest::default().with_resources(resources).with_validate_only(validate_only)
        };
        self.change(items.collect(), request, |response| {
            let results = response.responses.into_iter();
            results
                .map(|t| {
                    (
                        t.resource_name.to_string(),
                        TopicError::check(t.error_code, t.error_message.as_deref(), "AlterConfigs"),
                    )
                })
                .collect()
        })
        .await
    }
}

fn entry(config: DescribeConfigsResourceResult) -> (String, ConfigEntry) {
    let entry = ConfigEntry {
        value: config.value.map(|value| value.to_string()),
        source: ConfigSource::from_code(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
    };
    (config.name.to_string(), entry)
}

fn alterable(change: &ConfigChange) -> AlterableConfig {
    let (key, operation, value) = match change {
        ConfigChange::Set { key, value } => (key, 0, Some(StrBytes::from_string(value.clone()))),
        ConfigChange::Delete { key } => (key, 1, None),
    };
    AlterableConfig::default()
        .with_name(StrBytes::from_string(key.clone()))
        .with_config_operation(operation)
        .with_value(value)
}
