//! The messages of the stream, checked. Everything that the generated types leave open (an empty oneof, an unknown enum
//! value, a name that is no name) is a [`MessageError`] here, so that what follows never meets it.

mod health;

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;

pub use self::health::{Health, HotKey, InHand, OpenBreaker, PollTime, Standing};
use crate::{
    limits::{MAX_ACK_ENTRIES, MAX_BODY_BYTES, MAX_NAME_BYTES, cut_detail},
    wire,
};

/// Which object configures a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `MqProducerConfig`.
    Producer,
    /// `MqConsumerGroup`.
    Consumer,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Producer, Self::Consumer];

    /// As in file names, logs and metrics: `producer`, `consumer`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// One client of a pod. Its namespace is that of the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientRef {
    /// Which object.
    pub kind: Kind,
    /// `metadata.name` of that object.
    pub name: String,
}

impl ClientRef {
    /// A client by kind and name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// File name under `/config/mq/`, and key in the ConfigMap that is mounted there: `producer.orders.json`.
    pub fn file_name(&self) -> String {
        format!("{self}.json").replace('/', ".")
    }

    /// The client whose file this is, if it is one.
    pub fn from_file_name(file_name: &str) -> Option<Self> {
        let (kind, name) = file_name.strip_suffix(".json")?.split_once('.')?;
        let kind = Kind::ALL.into_iter().find(|candidate| candidate.as_str() == kind)?;
        check_name(name).ok().map(|name| Self { kind, name })
    }
}

impl fmt::Display for ClientRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

/// One configuration of one client. Equal hashes are equal configurations; the number orders them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Number of the revision, from 1; 0 = not known (a value from files).
    pub revision: i64,
    /// SHA-256 of the body, 64 lower-case hex digits.
    pub hash: String,
}

/// Why an agent does not run a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NackReason {
    /// The body is not what its hash says, or does not parse.
    Unreadable,
    /// A value is outside of what this agent accepts.
    Invalid,
    /// The Kafka client library refused a property.
    ClientRefused,
    /// A client made from it did not reach the cluster.
    ProbeFailed,
    /// The old client could not be emptied in time; it was kept.
    NotDrained,
    /// The change cannot be made in a running process.
    NeedsRestart,
    /// A reason that this side does not know: the peer is newer.
    Other,
}

impl NackReason {
    /// As in status messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "Unreadable",
            Self::Invalid => "Invalid",
            Self::ClientRefused => "ClientRefused",
            Self::ProbeFailed => "ProbeFailed",
            Self::NotDrained => "NotDrained",
            Self::NeedsRestart => "NeedsRestart",
            Self::Other => "Other",
        }
    }
}

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAgent {
    /// First message of a stream.
    Hello {
        /// Name of the library.
        library: String,
        /// Version of the library.
        version: String,
    },
    /// Asks for a client.
    Subscribe {
        /// Which.
        client: ClientRef,
        /// What it runs with now, if it does not run from code.
        held: Option<Version>,
    },
    /// The client was closed.
    Unsubscribe(ClientRef),
    /// The client runs this version.
    Ack {
        /// Which.
        client: ClientRef,
        /// What it runs.
        version: Version,
        /// Values read back from the live client, by the names of the spec.
        effective: BTreeMap<String, String>,
        /// Keys of the body that it does not run with.
        not_applied: Vec<String>,
    },
    /// The client does not run this version, it goes on with what it had.
    Nack {
        /// Which.
        client: ClientRef,
        /// What it refused.
        version: Version,
        /// Class.
        reason: NackReason,
        /// One sentence, cut to [`crate::limits::MAX_DETAIL_BYTES`].
        detail: String,
    },
    /// How a consumer was since it said so last.
    Health {
        /// Which.
        client: ClientRef,
        /// How it was.
        health: Health,
    },
}

/// What the operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Run this.
    Config {
        /// Which client.
        client: ClientRef,
        /// Number and hash of `body`. The hash is not yet compared: [`crate::body::decode`] does.
        version: Version,
        /// Canonical JSON.
        body: Bytes,
    },
    /// What the agent holds is what it should run. Answer with `Ack`.
    UpToDate {
        /// Which client.
        client: ClientRef,
        /// Its number.
        revision: i64,
    },
    /// No such object: return to what the client would run without the operator.
    Tombstone(ClientRef),
    /// No revision may be sent now: go on with what the client has.
    NotReady {
        /// Which client.
        client: ClientRef,
        /// Why.
        detail: String,
    },
    /// The stream lives; each subscribed client that has a revision, with its number.
    Heartbeat(Vec<(ClientRef, i64)>),
    /// Open a new stream after this time.
    Reconnect {
        /// How long to wait.
        after: Duration,
    },
}

/// Why a message cannot be used. The sender has a bug, or is much newer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A oneof without a value: a message that this side does not know.
    #[error("a message of a kind that is not known here")]
    Unknown,
    /// Neither producer nor consumer.
    #[error("kind {0} is not known here")]
    Kind(i32),
    /// Not the name of a Kubernetes object.
    #[error("{0:?} is not the name of an object: up to {MAX_NAME_BYTES} of a-z, 0-9, '-' and '.'")]
    Name(String),
    /// Not 64 lower-case hex digits, or a negative number.
    #[error("revision {revision} with hash {hash:?} is no version")]
    Version {
        /// As it came.
        revision: i64,
        /// As it came, cut.
        hash: String,
    },
    /// More than the limits allow.
    #[error("{what} has {size} bytes or entries, more than {limit}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// How many.
        size: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Busy for longer than the time that the message is about.
    #[error("busy for {busy_ms} of {period_ms} ms")]
    Busy {
        /// As it came.
        busy_ms: u32,
        /// As it came.
        period_ms: u32,
    },
}

fn check_name(name: &str) -> Result<String, MessageError> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_NAME_BYTES && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
        Ok(name.to_owned())
    } else {
        Err(MessageError::Name(name.chars().take(MAX_NAME_BYTES).collect()))
    }
}

fn check_client(kind: i32, name: &str) -> Result<ClientRef, MessageError> {
    let kind = match wire::Kind::try_from(kind) {
        Ok(wire::Kind::Producer) => Kind::Producer,
        Ok(wire::Kind::Consumer) => Kind::Consumer,
        Ok(wire::Kind::Unspecified) | Err(_) => return Err(MessageError::Kind(kind)),
    };
    Ok(ClientRef { kind, name: check_name(name)? })
}

fn check_version(revision: i64, hash: String) -> Result<Version, MessageError> {
    if revision >= 0 && hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        Ok(Version { revision, hash })
    } else {
        Err(MessageError::Version { revision, hash: hash.chars().take(64).collect() })
    }
}

fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), MessageError> {
    if size > limit { Err(MessageError::TooLarge { what, size, limit }) } else { Ok(()) }
}

fn check_reason(reason: i32) -> NackReason {
    match wire::NackReason::try_from(reason) {
        Ok(wire::NackReason::Unreadable) => NackReason::Unreadable,
        Ok(wire::NackReason::Invalid) => NackReason::Invalid,
        Ok(wire::NackReason::ClientRefused) => NackReason::ClientRefused,
        Ok(wire::NackReason::ProbeFailed) => NackReason::ProbeFailed,
        Ok(wire::NackReason::NotDrained) => NackReason::NotDrained,
        Ok(wire::NackReason::NeedsRestart) => NackReason::NeedsRestart,
        Ok(wire::NackReason::Unspecified) | Err(_) => NackReason::Other,
    }
}

impl TryFrom<wire::AgentMessage> for FromAgent {
    type Error = MessageError;

    fn try_from(message: wire::AgentMessage) -> Result<Self, MessageError> {
        use wire::agent_message::Message as M;
        Ok(match message.message.ok_or(MessageError::Unknown)? {
            M::Hello(m) => {
                Self::Hello { library: cut_detail(&m.library).to_owned(), version: cut_detail(&m.version).to_owned() }
            }
            M::Subscribe(m) => Self::Subscribe {
                client: check_client(m.kind, &m.name)?,
                held: m.held.map(|held| check_version(held.revision, held.hash)).transpose()?,
            },
            M::Unsubscribe(m) => Self::Unsubscribe(check_client(m.kind, &m.name)?),
            M::Ack(m) => {
                check_size("Ack.effective", m.effective.len(), MAX_ACK_ENTRIES)?;
                check_size("Ack.not_applied", m.not_applied.len(), MAX_ACK_ENTRIES)?;
                Self::Ack {
                    client: check_client(m.kind, &m.name)?,
                    version: check_version(m.revision, m.hash)?,
                    effective: m.effective,
                    not_applied: m.not_applied,
                }
            }
            M::Nack(m) => Self::Nack {
                client: check_client(m.kind, &m.name)?,
                version: check_version(m.revision, m.hash)?,
                reason: check_reason(m.reason),
                detail: cut_detail(&m.detail).to_owned(),
            },
            M::Health(m) => Self::Health { client: check_client(m.kind, &m.name)?, health: Health::check(m)? },
        })
    }
}

impl TryFrom<wire::ServerMessage> for FromServer {
    type Error = MessageError;

    fn try_from(message: wire::ServerMessage) -> Result<Self, MessageError> {
        use wire::server_message::Message as M;
        Ok(match message.message.ok_or(MessageError::Unknown)? {
            M::Config(m) => {
                check_size("Config.body", m.body.len(), MAX_BODY_BYTES)?;
                Self::Config {
                    client: check_client(m.kind, &m.name)?,
                    version: check_version(m.revision, m.hash)?,
                    body: m.body,
                }
            }
            M::UpToDate(m) => Self::UpToDate { client: check_client(m.kind, &m.name)?, revision: m.revision },
            M::Tombstone(m) => Self::Tombstone(check_client(m.kind, &m.name)?),
            M::NotReady(m) => {
                Self::NotReady { client: check_client(m.kind, &m.name)?, detail: cut_detail(&m.detail).to_owned() }
            }
            M::Heartbeat(m) => Self::Heartbeat(
                m.revisions
                    .into_iter()
                    .map(|entry| Ok((check_client(entry.kind, &entry.name)?, entry.revision)))
                    .collect::<Result<_, MessageError>>()?,
            ),
            M::Reconnect(m) => Self::Reconnect { after: Duration::from_millis(u64::from(m.after_ms)) },
        })
    }
}

fn wire_kind(client: &ClientRef) -> i32 {
    match client.kind {
        Kind::Producer => wire::Kind::Producer.into(),
        Kind::Consumer => wire::Kind::Consumer.into(),
    }
}

fn wire_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn wire_reason(reason: NackReason) -> i32 {
    match reason {
        NackReason::Unreadable => wire::NackReason::Unreadable,
        NackReason::Invalid => wire::NackReason::Invalid,
        NackReason::ClientRefused => wire::NackReason::ClientRefused,
        NackReason::ProbeFailed => wire::NackReason::ProbeFailed,
        NackReason::NotDrained => wire::NackReason::NotDrained,
        NackReason::NeedsRestart => wire::NackReason::NeedsRestart,
        NackReason::Other => wire::NackReason::Unspecified,
    }
    .into()
}

impl From<FromAgent> for wire::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use wire::agent_message::Message as M;
        let message = match message {
            FromAgent::Hello { library, version } => M::Hello(wire::Hello { library, version }),
            FromAgent::Subscribe { client, held } => M::Subscribe(wire::Subscribe {
                kind: wire_kind(&client),
                name: client.name,
                held: held.map(|Version { revision, hash }| wire::Held { revision, hash }),
            }),
            FromAgent::Unsubscribe(client) => {
                M::Unsubscribe(wire::Unsubscribe { kind: wire_kind(&client), name: client.name })
            }
            FromAgent::Ack { client, version, effective, not_applied } => M::Ack(wire::Ack {
                kind: wire_kind(&client),
                name: client.name,
                revision: version.revision,
                hash: version.hash,
                effective,
                not_applied,
            }),
            FromAgent::Nack { client, version, reason, detail } => M::Nack(wire::Nack {
                kind: wire_kind(&client),
                name: client.name,
                revision: version.revision,
                hash: version.hash,
                reason: wire_reason(reason),
                detail: cut_detail(&detail).to_owned(),
            }),
            FromAgent::Health { client, health } => {
                M::Health(wire::Health { kind: wire_kind(&client), name: client.name, ..health.into() })
            }
        };
        Self { message: Some(message) }
    }
}

impl From<FromServer> for wire::ServerMessage {
    fn from(message: FromServer) -> Self {
        use wire::server_message::Message as M;
        let message = match message {
            FromServer::Config { client, version, body } => M::Config(wire::Config {
                kind: wire_kind(&client),
                name: client.name,
                revision: version.revision,
                hash: version.hash,
                body,
            }),
            FromServer::UpToDate { client, revision } => {
                M::UpToDate(wire::UpToDate { kind: wire_kind(&client), name: client.name, revision })
            }
            FromServer::Tombstone(client) => {
                M::Tombstone(wire::Tombstone { kind: wire_kind(&client), name: client.name })
            }
            FromServer::NotReady { client, detail } => M::NotReady(wire::NotReady {
                kind: wire_kind(&client),
                name: client.name,
                detail: cut_detail(&detail).to_owned(),
            }),
            FromServer::Heartbeat(revisions) => M::Heartbeat(wire::Heartbeat {
                revisions: revisions
                    .into_iter()
                    .map(|(client, revision)| wire::heartbeat::Revision {
                        kind: wire_kind(&client),
                        name: client.name,
                        revision,
                    })
                    .collect(),
            }),
            FromServer::Reconnect { after } => M::Reconnect(wire::Reconnect { after_ms: wire_ms(after) }),
        };
        Self { message: Some(message) }
    }
}

#[cfg(test)]
mod tests;
