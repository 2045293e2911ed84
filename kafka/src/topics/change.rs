use std::collections::BTreeMap;

use kafka_protocol::{
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, TopicName,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_topics_request::DeleteTopicState,
    },
    protocol::StrBytes,
};

use super::{
    TopicError, TopicId,
    batch::{Item, Results},
};
use crate::Client;

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name, 1 to 249 characters of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// Number of partitions; -1 leaves it to the brokers' `num.partitions`.
    pub partitions: i32,
    /// Replicas of each partition; -1 leaves it to the brokers' `default.replication.factor`.
    pub replication_factor: i16,
    /// Topic configs that differ from the brokers' defaults.
    pub configs: BTreeMap<String, String>,
}

/// A topic that was created, or would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id; `None` if the request only validated (the brokers then answer with an id that no topic will have).
    pub id: Option<TopicId>,
    /// Number of partitions it got; `None` if this user may not see it.
    pub partitions: Option<i32>,
    /// Replicas it got per partition; `None` if this user may not see it.
    pub replication_factor: Option<i16>,
}

impl Client {
    /// Creates topics, or only checks whether they could be created. Topics with equal names are one bad topic.
    ///
    /// Sent in as few requests as the controller's limit of 10,000 records each allows (a topic is one record, and so is each
    /// partition and config), one after the other.
    ///
    /// A result is the controller's. Brokers follow: while one makes the logs of many new partitions (seen: 40 s for 2,000 on a
    /// slow disk), its [`Client::describe_topics`] may still say [`TopicError::Absent`]. Creating again then says
    /// [`TopicError::AlreadyExists`], and that is the truth.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> BTreeMap<String, Result<CreatedTopic, TopicError>> {
        let items = topics.iter().map(|topic| Item {
            key: topic.name.clone(),
            records: 1 + usize::try_from(topic.partitions).unwrap_or_default() + topic.configs.len(),
            body: creatable(topic),
        });
        let timeout = self.options().broker_timeout_ms();
        let request = |topics| {
            CreateTopicsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(timeout)
                .with_validate_only(validate_only)
        };
        self.change(items.collect(), request, |response| {
            let results = response.topics.into_iter().map(|topic| {
                let result = TopicError::check(topic.error_code, topic.error_message.as_deref(), "Create").map(|()| {
                    CreatedTopic {
                        id: TopicId::known(topic.topic_id).filter(|_| !validate_only),
                        partitions: Some(topic.num_partitions).filter(|n| *n >= 0),
                        replication_factor: Some(topic.replication_factor).filter(|n| *n >= 0),
                    }
                });
                (topic.name.to_string(), result)
            });
            results.collect()
        })
        .await
    }

    /// Grows topics to the given total number of partitions, or only checks whether they could grow. Not growing is
    /// [`TopicError::Invalid`].
    pub async fn create_partitions(&self, totals: &BTreeMap<String, i32>, validate_only: bool) -> Results<String, ()> {
        let items = totals.iter().map(|(name, total)| Item {
            key: name.clone(),
            records: usize::try_from(*total).unwrap_or_default(),
            body: CreatePartitionsTopic::default()
                .with_name(topic_name(name))
                .with_count(*total)
                .with_assignments(None),
        });
        let timeout = self.options().broker_timeout_ms();
        let request = |topics| {
            CreatePartitionsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(timeout)
                .with_validate_only(validate_only)
        };
        self.change(items.collect(), request, |response| {
            let results = response.results.into_iter();
            results
                .map(|t| (t.name.to_string(), TopicError::check(t.error_code, t.error_message.as_deref(), "Alter")))
                .collect()
        })
        .await
    }

    /// Deletes the topics with these ids, and never one that was created later under the same name. An id that no longer
    /// exists is [`TopicError::Absent`].
    pub async fn delete_topics(
        &self,
        ids: impl IntoIterator<Item = TopicId>,
    ) -> BTreeMap<TopicId, Result<(), TopicError>> {
        let items = ids.into_iter().map(|id| Item {
            key: id,
            records: 1,
            body: DeleteTopicState::default().with_name(None).with_topic_id(id.uuid()),
        });
        let timeout = self.options().broker_timeout_ms();
        let request = |topics| DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(timeout);
        self.change(items.collect(), request, |response| {
            let results = response.responses.into_iter().filter_map(|topic| {
                let result = TopicError::check(topic.error_code, topic.error_message.as_deref(), "Delete");
                TopicId::known(topic.topic_id).map(|id| (id, result))
            });
            results.collect()
        })
        .await
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let config = |(key, value): (&String, &String)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(key.clone()))
            .with_value(Some(StrBytes::from_string(value.clone())))
    };
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replication_factor)
        .with_configs(topic.configs.iter().map(config).collect())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
