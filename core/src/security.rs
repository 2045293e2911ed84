//! How a connection to Kafka is protected, in Kafka's own names.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Kafka's `security.protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum SecurityProtocol {
    /// `PLAINTEXT`: neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// `SSL`: encrypted with TLS; the client shows a certificate if it has one.
    Ssl,
    /// `SASL_PLAINTEXT`: authenticated, not encrypted.
    SaslPlaintext,
    /// `SASL_SSL`: authenticated inside TLS.
    SaslSsl,
}

/// Kafka's `sasl.mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum SaslMechanism {
    /// `PLAIN`: the password travels as it is; use it inside TLS.
    Plain,
    /// `SCRAM-SHA-256`.
    ScramSha256,
    /// `SCRAM-SHA-512`.
    ScramSha512,
}

/// A word that is none of those that a field may have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} is {found:?}; use {allowed}")]
pub struct UnknownWord {
    field: &'static str,
    found: String,
    allowed: &'static str,
}

impl SecurityProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    /// Whether connections are encrypted and the broker shows a certificate.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether the client logs in with a user name and a password.
    pub fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl SaslMechanism {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// What users may write, for messages.
    pub const ALLOWED: &str = "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512";

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

macro_rules! words {
    ($($name:ident of $field:literal: $allowed:expr;)*) => {$(
        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(name: &str) -> Result<Self, UnknownWord> {
                Self::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(|| UnknownWord {
                    field: $field,
                    found: name.to_owned(),
                    allowed: $allowed,
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnknownWord;

            fn try_from(name: String) -> Result<Self, UnknownWord> {
                name.parse()
            }
        }

        impl From<$name> for &'static str {
            fn from(word: $name) -> Self {
                word.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "enum": Self::ALL.map(Self::as_str)})
            }
        }
    )*};
}
words! {
    SecurityProtocol of "securityProtocol": "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
    SaslMechanism of "saslMechanism": Self::ALLOWED;
}
