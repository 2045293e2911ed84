//! What can go wrong with a request, and whether trying again can help.

use std::{borrow::Cow, fmt, time::Duration};

use kafka_protocol::ResponseError;

/// A request that brought no usable answer: what was attempted, at which broker, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attempted} at {broker}: {kind}")]
pub struct Error {
    /// The request, for example `Metadata` or `connect`.
    pub attempted: Cow<'static, str>,
    /// `host:port` of the broker, or the bootstrap list when no single broker is to blame.
    pub broker: String,
    /// What went wrong.
    #[source]
    pub kind: ErrorKind,
}

impl Error {
    pub(crate) fn new(attempted: impl Into<Cow<'static, str>>, broker: impl Into<String>, kind: ErrorKind) -> Self {
        Self { attempted: attempted.into(), broker: broker.into(), kind }
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// Whether the broker may have carried the request out although no answer arrived. False only when it was never sent
    /// or was answered with an error.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::Timeout(_) | ErrorKind::Closed(_) | ErrorKind::Malformed(_))
    }
}

/// Why a request brought no usable answer. Transport kinds are retryable, [`ErrorKind::Broker`] depends on the code, the
/// rest are terminal: they come back until the broker or the configuration is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Transport: the name of the broker could not be resolved.
    #[error("the name cannot be resolved: {0}; check the address and DNS")]
    Unresolved(String),
    /// Transport: no connection was made (refused, unreachable network).
    #[error("cannot connect: {0}; check that the address is right and the broker is running")]
    Connect(String),
    /// Transport: the connection was not made in time.
    #[error("not connected within {0:?}; check the address, firewalls and network policies")]
    ConnectTimeout(Duration),
    /// Transport: the connection was closed before the request was sent.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Terminal: the gate of the client ([`crate::Client::with_gate`]) was shut, so that the change was not sent.
    #[error("not sent: changes are not permitted now")]
    NotPermitted,
    /// Transport: the connection was lost before the answer arrived.
    #[error("connection lost: {0}")]
    Closed(String),
    /// Transport: connected, but no answer in time. The connection is closed, since Kafka answers in order.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Transport: every address of the bootstrap list (and every broker learnt from it) failed; the reason of each.
    #[error("no broker could be reached: {}", list(.0))]
    NoBroker(Vec<Error>),
    /// The cluster names no broker for the request at the moment, for example while a leader or controller is elected.
    #[error("no broker to send to: {0}")]
    Unrouted(String),
    /// The broker answered with an error code.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Terminal: broker and this library have no version of the request in common.
    #[error("the broker {}, this client needs version {oldest} to {newest}; use a broker of Kafka 3.0 or newer", offer(.offered.as_ref()))]
    UnsupportedApi {
        /// Oldest version that this library speaks.
        oldest: i16,
        /// Newest version that this library speaks.
        newest: i16,
        /// Versions that the broker offers; `None` when it does not know the request at all.
        offered: Option<(i16, i16)>,
    },
    /// Terminal: the frame or message breaks the protocol. The connection is closed.
    #[error("malformed response: {0}")]
    Malformed(String),
    /// Terminal: no TLS with this broker. Its certificate is not trusted, has ended or names another host; or it refuses the client's;
    /// or it does not speak TLS there.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Terminal: the broker refuses the login, in its own words.
    #[error("the login was refused: {0}")]
    Authentication(BrokerError),
    /// Terminal: the broker failed to prove itself during the login. It is not told more.
    #[error("the login was broken off, the broker is not trusted: {0}")]
    BrokerNotTrusted(String),
    /// Terminal: whatever listens there did not begin like a broker.
    #[error("not a Kafka broker: {0}; check that the listener is one of the securityProtocol that is used")]
    NotKafka(String),
    /// Terminal: the request cannot be expressed in the negotiated version.
    #[error("cannot encode the request: {0}")]
    Encode(String),
}

impl ErrorKind {
    /// See [`Error::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unresolved(_)
            | Self::Connect(_)
            | Self::ConnectTimeout(_)
            | Self::NotSent(_)
            | Self::Closed(_)
            | Self::Timeout(_)
            | Self::Unrouted(_) => true,
            Self::NoBroker(tried) => tried.iter().any(Error::is_retryable),
            Self::Broker(error) => error.is_retryable(),
            Self::NotPermitted
            | Self::UnsupportedApi { .. }
            | Self::Malformed(_)
            | Self::Tls(_)
            | Self::Authentication(_)
            | Self::BrokerNotTrusted(_)
            | Self::NotKafka(_)
            | Self::Encode(_) => false,
        }
    }
}

/// An error code of a broker with its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerError {
    /// The code.
    pub code: ResponseError,
    /// The broker's own words, if it sent any.
    pub message: Option<String>,
}

impl BrokerError {
    /// `None` for code 0 (no error).
    pub(crate) fn from_code(code: i16, message: Option<&str>) -> Option<Self> {
        let code = ResponseError::try_from_code(code)?;
        Some(Self { code, message: message.filter(|m| !m.is_empty()).map(str::to_owned) })
    }

    /// Whether Kafka defines the code as temporary.
    pub fn is_retryable(&self) -> bool {
        // Quorum without a leader right after a restart: Kafka's own list calls it final, its clients retry it.
        self.code.is_retriable() || self.code == ResponseError::BrokerNotAvailable
    }
}

impl std::error::Error for BrokerError {}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.code, self.code.code())?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn offer(offered: Option<&(i16, i16)>) -> String {
    match offered {
        Some((min, max)) => format!("offers version {min} to {max}"),
        None => "does not offer this request".to_owned(),
    }
}
