//! What can go wrong, by what the caller can do about it.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use crate::librdkafka::Trouble;

/// The agent could not give or change a client.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mq_agent::{Config, Env, Error, Options, Producer};
///
/// let no_brokers = Config::for_env(Env::Production);
/// match Producer::new(&no_brokers, &Options::default()).await {
///     Err(Error::InvalidConfig { detail }) => assert!(detail.contains("names no brokers")),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Error)]
pub enum Error {
    /// The name cannot be the name of a Kubernetes object.
    #[error("{name:?} cannot be a client's name: use lower-case letters, digits, '-' and '.', at most 253 of them")]
    InvalidName {
        /// The name that was asked for.
        name: String,
    },
    /// The configuration given in code cannot be used.
    #[error("the configuration given in code cannot be used: {detail}")]
    InvalidConfig {
        /// What is wrong with it.
        detail: String,
    },
    /// librdkafka refused the configuration.
    #[error("librdkafka refused the configuration of {what}: {source}")]
    Refused {
        /// Which client.
        what: String,
        /// librdkafka's words.
        source: KafkaError,
    },
    /// A thread could not be started.
    #[error("could not start the thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The agent was closed or drained.
    #[error("the agent is closed")]
    Closed,
}

/// A message was not acknowledged.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SendError {
    /// It can never be delivered as it is: unknown topic, not authorized, refused by the broker. Sending it again changes nothing.
    #[error("the message for {topic} was refused: {detail}")]
    Refused {
        /// The topic it was for.
        topic: String,
        /// The broker's or librdkafka's words.
        detail: String,
    },
    /// It is larger than the client (`message.max.bytes`) or the topic (`max.message.bytes`) takes.
    #[error("the message for {topic} is too large: {detail}")]
    TooLarge {
        /// The topic it was for.
        topic: String,
        /// The broker's or librdkafka's words.
        detail: String,
    },
    /// The broker did not acknowledge it in time, after all retries. It may have been written: sending it again may write it twice.
    #[error("the message for {topic} was not acknowledged: {detail}; it may have been written")]
    NotAcknowledged {
        /// The topic it was for.
        topic: String,
        /// librdkafka's words.
        detail: String,
    },
    /// It was not sent, and no other message of this producer would be: the cluster does not let it, or its client failed for good and
    /// none could take its place. Later sends try again.
    #[error("the message for {topic} was not sent, and no other one of this producer would be: {detail}")]
    Fatal {
        /// The topic it was for.
        topic: String,
        /// The broker's, librdkafka's or the system's words.
        detail: String,
    },
    /// The producer was closed before it took the message.
    #[error("the producer {name} is closed")]
    Closed {
        /// The producer's name.
        name: String,
    },
}

/// What the sender can do about a [`SendError`]. There will be no further kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendErrorKind {
    /// Send the same message again: that can succeed, and may write it a second time.
    Retriable,
    /// Mend the message, its topic or what is granted for it: other messages of the producer are not concerned.
    Refused,
    /// Mend the producer or what is granted to it, or end the service: no message of it can be sent as things are.
    Fatal,
}

impl SendError {
    /// What the sender can do about it.
    ///
    /// ```
    /// use mq_agent::{SendError, SendErrorKind};
    ///
    /// fn what_to_do(error: &SendError) -> &'static str {
    ///     match error.kind() {
    ///         SendErrorKind::Retriable => "keep the message and send it again later",
    ///         SendErrorKind::Refused => "put the message aside",
    ///         SendErrorKind::Fatal => "end the service, so that it starts anew",
    ///     }
    /// }
    ///
    /// let lost = SendError::NotAcknowledged { topic: "orders".into(), detail: "timed out".into() };
    /// assert_eq!(what_to_do(&lost), "keep the message and send it again later");
    /// ```
    pub fn kind(&self) -> SendErrorKind {
        match self {
            Self::NotAcknowledged { .. } => SendErrorKind::Retriable,
            Self::Refused { .. } | Self::TooLarge { .. } => SendErrorKind::Refused,
            Self::Fatal { .. } | Self::Closed { .. } => SendErrorKind::Fatal,
        }
    }

    /// Whether sending the same message again can succeed.
    ///
    /// ```
    /// let lost = mq_agent::SendError::NotAcknowledged { topic: "orders".into(), detail: "timed out".into() };
    /// assert!(lost.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        self.kind() == SendErrorKind::Retriable
    }

    /// With what is known about its connections.
    pub(crate) fn because(mut self, trouble: Option<&Trouble>) -> Self {
        if let (Self::NotAcknowledged { detail, .. }, Some(trouble)) = (&mut self, trouble) {
            *detail = format!("{detail}; {}", trouble.sentence());
        }
        self
    }

    pub(crate) fn new(topic: &str, error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        let topic = topic.to_owned();
        let detail = error.to_string();
        if matches!(
            error.rdkafka_error_code(),
            Some(
                Code::ClusterAuthorizationFailed | Code::UnsupportedCompressionType | Code::UnsupportedForMessageFormat
            )
        ) {
            return Self::Fatal { topic, detail };
        }
        if matches!(
            error.rdkafka_error_code(),
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge)
        ) {
            return Self::TooLarge { topic, detail };
        }
        let refused = !matches!(error, KafkaError::MessageProduction(_))
            || matches!(
                error.rdkafka_error_code(),
                Some(
                    Code::UnknownTopic
                        | Code::UnknownTopicOrPartition
                        | Code::UnknownPartition
                        | Code::InvalidTopic
                        | Code::TopicAuthorizationFailed
                        | Code::PolicyViolation
                        | Code::InvalidRecord
                        | Code::InvalidTimestamp
                        | Code::InvalidArgument
                )
            );
        if refused { Self::Refused { topic, detail } } else { Self::NotAcknowledged { topic, detail } }
    }
}

/// A flush or a close did not finish.
///
/// ```no_run
/// # async fn example(producer: mq_agent::Producer) -> () {
/// if let Err(error) = producer.flush(std::time::Duration::from_secs(10)).await {
///     eprintln!("{error}"); // "3 messages of the producer orders were not acknowledged within 10000 ms"
/// }
/// # }
/// ```
#[derive(Debug, Clone, Error)]
pub enum FlushError {
    /// Messages are still waiting for their acknowledgement. They go on being sent while the producer lives.
    #[error("{waiting} messages of the producer {name} were not acknowledged within {milliseconds} ms")]
    TimedOut {
        /// The producer's name.
        name: String,
        /// How many messages wait.
        waiting: usize,
        /// How long was waited.
        milliseconds: u128,
    },
}

/// A consumer ended or could not do what was asked.
///
/// ```no_run
/// # async fn example(consumer: mq_agent::Consumer) -> () {
/// use mq_agent::ConsumeError;
///
/// match consumer.subscribe(|_| async { Ok(()) }).await {
///     Ok(()) => println!("closed or drained"),
///     Err(ConsumeError::Fatal { detail, .. }) => eprintln!("end the process: {detail}"),
///     Err(error) => eprintln!("{error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Error)]
pub enum ConsumeError {
    /// `subscribe` runs already; a consumer has one handler.
    #[error("the consumer {name} is already subscribed; a consumer has one handler at a time")]
    AlreadySubscribed {
        /// The consumer's name.
        name: String,
    },
    /// The consumer is closed; get a new one from the agent.
    #[error("the consumer {name} is closed")]
    Closed {
        /// The consumer's name.
        name: String,
    },
    /// The offsets were not committed. What was handled stays handled; it will be read again if this process ends now.
    #[error("the offsets of the consumer {name} were not committed: {detail}")]
    Commit {
        /// The consumer's name.
        name: String,
        /// The broker's or librdkafka's words.
        detail: String,
    },
    /// Reading goes on where it was.
    #[error("the consumer {name} did not seek: {detail}")]
    Seek {
        /// The consumer's name.
        name: String,
        /// What stood in the way.
        detail: String,
    },
    /// librdkafka reported an error that this client cannot recover from.
    #[error("the consumer {name} cannot go on: {detail}")]
    Fatal {
        /// The consumer's name.
        name: String,
        /// librdkafka's words.
        detail: String,
    },
}

/// Why a handler did not handle a record.
///
/// Not an [`std::error::Error`] itself, so that `?` turns any error inside a handler into [`Failure::retry`].
///
/// ```
/// use mq_agent::{Failure, Record};
///
/// async fn handle(record: Record) -> Result<(), Failure> {
///     let text = std::str::from_utf8(record.payload()).map_err(Failure::reject)?; // never: to the dead-letter topic
///     tokio::fs::write("/tmp/last", text).await?; // later perhaps: tried again
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Retry,
    Reject,
    /// Nobody was there to handle it, or will be: it is read again by whoever gets the partition.
    Abandon,
}

impl Failure {
    pub(crate) fn abandoned() -> Self {
        Self { kind: FailureKind::Abandon, message: "nobody reads the stream any more".to_owned() }
    }

    /// Try again: up to 3 attempts in all, 1 s and then 2 s apart, while later records of the same key wait; then the dead-letter topic.
    ///
    /// ```
    /// let failure = mq_agent::Failure::retry("the database does not answer");
    /// assert!(failure.is_retryable());
    /// ```
    pub fn retry(error: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Retry, message: error.to_string() }
    }

    /// Trying again cannot help: to the dead-letter topic at once.
    ///
    /// ```
    /// let failure = mq_agent::Failure::reject("there is no such customer");
    /// assert!(!failure.is_retryable());
    /// ```
    pub fn reject(error: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Reject, message: error.to_string() }
    }

    /// What went wrong.
    ///
    /// ```
    /// assert_eq!(mq_agent::Failure::retry("no answer").message(), "no answer");
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the record is worth another attempt.
    pub fn is_retryable(&self) -> bool {
        self.kind != FailureKind::Reject
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_or_the_client_says_tells_what_can_be_done() {
        use RDKafkaErrorCode as Code;
        use SendErrorKind::{Fatal, Refused, Retriable};
        for (code, kind) in [
            (Code::MessageTimedOut, Retriable),
            (Code::NotEnoughReplicas, Retriable),
            (Code::Fatal, Retriable), // of one client; another one took its place
            (Code::PurgeQueue, Retriable),
            (Code::MessageSizeTooLarge, Refused),
            (Code::UnknownPartition, Refused),
            (Code::TopicAuthorizationFailed, Refused),
            (Code::PolicyViolation, Refused),
            (Code::ClusterAuthorizationFailed, Fatal),
            (Code::UnsupportedCompressionType, Fatal),
        ] {
            let error = SendError::new("t", &KafkaError::MessageProduction(code));
            assert_eq!((error.kind(), error.is_retryable()), (kind, kind == Retriable), "{error}");
        }
    }
}
