use kafka_protocol::ResponseError;

use crate::{BrokerError, Error};

/// Why nothing could be said about one topic, or why it was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The topic does not exist (any more). Just after a creation a broker may not know the topic yet.
    #[error("the topic does not exist")]
    Absent,
    /// A topic of this name exists.
    #[error("a topic of this name exists already")]
    AlreadyExists,
    /// A policy of the brokers (`create.topic.policy.class.name`, a limit of the cluster) forbids it; its own words.
    #[error("forbidden by a policy of the brokers: {0}")]
    PolicyViolation(String),
    /// The user that this client connects as may not do it.
    #[error("not authorized: {error}; grant the operator's Kafka user {right} on this topic")]
    Unauthorized {
        /// The broker's words.
        error: BrokerError,
        /// The operation of Kafka's ACLs that allows it.
        right: &'static str,
    },
    /// The request for this topic cannot be right: name, partitions, replication factor or a config value.
    #[error("{0}")]
    Invalid(BrokerError),
    /// Any other answer of the broker.
    #[error("{0}")]
    Broker(BrokerError),
    /// The request that carried this topic brought no usable answer. For a change, see [`Error::outcome_unknown`].
    #[error(transparent)]
    Request(#[from] Error),
}

impl TopicError {
    /// Whether the same may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_retryable(),
            Self::Request(error) => error.is_retryable(),
            Self::Absent
            | Self::AlreadyExists
            | Self::PolicyViolation(_)
            | Self::Unauthorized { .. }
            | Self::Invalid(_) => false,
        }
    }

    /// `Ok` for code 0. `right` is the operation that the request needs.
    pub(crate) fn check(code: i16, message: Option<&str>, right: &'static str) -> Result<(), Self> {
        use ResponseError as E;
        let Some(error) = BrokerError::from_code(code, message) else { return Ok(()) };
        Err(match error.code {
            E::UnknownTopicOrPartition | E::UnknownTopicId => Self::Absent,
            E::TopicAlreadyExists => Self::AlreadyExists,
            E::PolicyViolation => Self::PolicyViolation(error.message.unwrap_or_default()),
            E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => Self::Unauthorized { error, right },
            E::InvalidTopicException
            | E::InvalidPartitions
            | E::InvalidReplicationFactor
            | E::InvalidReplicaAssignment
            | E::InvalidConfig
            | E::InvalidRequest => Self::Invalid(error),
            _ => Self::Broker(error),
        })
    }
}
