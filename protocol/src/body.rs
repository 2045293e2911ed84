//! The configuration inside a `Config`: one complete description of one client, never a part of it.
//!
//! A body is canonical JSON (keys sorted, no white space), so that equal configurations are equal bytes and have equal
//! hashes, whichever operator version wrote them. The hash is over the bytes as they arrive: keys that this side does not
//! know do not break it, they are reported in [`Decoded::unknown_keys`]. Credentials are never part of a body.

use mq_core::canonical;
pub use mq_core::canonical::hash;
pub use mq_core::security::{SaslMechanism, SecurityProtocol, UnknownWord};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::limits::MAX_BODY_BYTES;

/// How to reach the cluster. Credentials come from files of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    /// Protocol of every broker.
    pub security_protocol: SecurityProtocol,
    /// Authorities that a broker's certificate must come from, as PEM. Absent: those of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// How clients log in, with a protocol that has SASL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl_mechanism: Option<SaslMechanism>,
}

impl Connection {
    /// A connection that is neither encrypted nor authenticated.
    pub fn plaintext(brokers: Vec<String>) -> Self {
        Self { brokers, security_protocol: SecurityProtocol::Plaintext, ca_bundle: None, sasl_mechanism: None }
    }
}

/// Body of a `MqProducerConfig`; `S` are its resolved settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerBody<S> {
    /// The cluster.
    #[serde(flatten)]
    pub connection: Connection,
    /// Every setting with its final value.
    pub settings: S,
}

/// Body of a `MqConsumerGroup`; `S` are its resolved settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerBody<S> {
    /// The cluster.
    #[serde(flatten)]
    pub connection: Connection,
    /// Kafka's group id.
    pub group_id: String,
    /// Kafka names of the topics, at least one.
    pub topics: Vec<String>,
    /// Where records go that cannot be handled.
    pub dead_letter: DeadLetter,
    /// Every setting with its final value.
    pub settings: S,
}

/// Where records go that cannot be handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Kafka name of the topic.
    pub topic: String,
}

/// A body as bytes, with the hash of exactly these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Canonical JSON.
    pub json: String,
    /// [`hash`] of `json`.
    pub hash: String,
}

/// A body that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<B> {
    /// What this side understood.
    pub body: B,
    /// Paths (`settings.lingerMs`) that this side does not know. They belong into `Ack.not_applied`.
    pub unknown_keys: Vec<String>,
}

/// Why a body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than [`MAX_BODY_BYTES`].
    #[error("the configuration has {size} bytes, more than the {MAX_BODY_BYTES} that a client accepts")]
    TooLarge {
        /// Bytes.
        size: usize,
    },
    /// The bytes were changed on the way, or cut.
    #[error("the configuration does not match its hash: announced {announced:?}, found {found}")]
    HashMismatch {
        /// The hash that came with it.
        announced: String,
        /// The hash of the bytes.
        found: String,
    },
    /// Not JSON, or JSON of another shape.
    #[error("the configuration cannot be read: {0}")]
    Unreadable(String),
}

/// A body as bytes and their hash.
///
/// # Errors
/// [`BodyError::TooLarge`], or [`BodyError::Unreadable`] when it has no canonical form.
pub fn encode(body: &impl Serialize) -> Result<Encoded, BodyError> {
    let json = canonical::to_json(body).map_err(|error| BodyError::Unreadable(error.to_string()))?;
    if json.len() > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge { size: json.len() });
    }
    let hash = hash(json.as_bytes());
    Ok(Encoded { json, hash })
}

/// Reads a body that came with its hash.
///
/// # Errors
/// See [`BodyError`]; the values themselves are for `mq_core` to judge.
pub fn decode<B: Serialize + DeserializeOwned>(bytes: &[u8], announced: &str) -> Result<Decoded<B>, BodyError> {
    let found = hash(bytes);
    if found != announced {
        return Err(BodyError::HashMismatch { announced: announced.chars().take(64).collect(), found });
    }
    decode_unhashed(bytes)
}

/// Reads a body that has no hash: a file, perhaps written by hand. Its hash, to compare with an announced one, is that of
/// [`encode`] of the result.
///
/// # Errors
/// See [`BodyError`].
pub fn decode_unhashed<B: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Decoded<B>, BodyError> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge { size: bytes.len() });
    }
    let unreadable = |error: serde_json::Error| BodyError::Unreadable(error.to_string());
    let given: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
    let body: B = serde_json::from_slice(bytes).map_err(unreadable)?;
    let known = serde_json::to_value(&body).map_err(unreadable)?;
    let mut unknown_keys = Vec::new();
    collect_unknown(&given, &known, "", &mut unknown_keys);
    Ok(Decoded { body, unknown_keys })
}

// What was given and does not come back when the understood body is written again was not understood.
fn collect_unknown(given: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => collect_unknown(value, known, &path, unknown),
                    None if value.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                collect_unknown(given, known, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::settings::{ConsumerSettings, ProducerSettings};
    use proptest::prelude::*;

    type Body = ProducerBody<Settings>;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Settings {
        linger_ms: u32,
    }

    fn body() -> Body {
        ProducerBody {
            connection: Connection::plaintext(vec!["kafka:9092".into()]),
            settings: Settings { linger_ms: 5 },
        }
    }

    #[test]
    fn the_canonical_form_is_settled() {
        // Golden: a change of this text changes every hash in every cluster.
        let encoded = encode(&body()).unwrap();
        assert_eq!(
            encoded.json,
            r#"{"brokers":["kafka:9092"],"securityProtocol":"PLAINTEXT","settings":{"lingerMs":5}}"#
        );
        assert_eq!(encoded.hash, "a704c3cc6e6c2bff09065faad500726d673f1cf023a8aa59581b97d723a6a00d");
    }

    #[test]
    fn an_upgrade_alone_changes_no_hash() {
        // Golden: what objects without any setting resolve to with preset version 1, for ever.
        let connection = body().connection;
        let settings = ProducerSettings::default().resolve(1).unwrap();
        let producer = encode(&ProducerBody { connection: connection.clone(), settings }).unwrap();
        assert_eq!(
            producer.hash, "c2099b21dc5b633b02a308a2090e1587788e493fbd3ef6acd0ccce9b7edc17c9",
            "{}",
            producer.json
        );
        let consumer = encode(&ConsumerBody {
            connection,
            group_id: "notifications".into(),
            topics: vec!["orders".into()],
            dead_letter: DeadLetter { topic: "notifications.dlq".into() },
            settings: ConsumerSettings::default().resolve(1).unwrap(),
        })
        .unwrap();
        assert_eq!(
            consumer.hash, "dce89f7f03710ce74f049f27646f6ddb06094b3a12907b97dca26278e739a4de",
            "{}",
            consumer.json
        );
    }

    #[test]
    fn a_secure_connection_is_read_by_kafkas_names_and_other_words_are_named() {
        let json = r#"{"brokers":["a:1"],"caBundle":"PEM","saslMechanism":"SCRAM-SHA-512","securityProtocol":"SASL_SSL","settings":{"lingerMs":5}}"#;
        let decoded = decode_unhashed::<Body>(json.as_bytes()).unwrap();
        assert_eq!(decoded.unknown_keys, [""; 0]);
        assert_eq!(encode(&decoded.body).unwrap().json, json);
        let connection = decoded.body.connection;
        assert_eq!(connection.security_protocol, SecurityProtocol::SaslSsl);
        assert_eq!(connection.sasl_mechanism, Some(SaslMechanism::ScramSha512));
        for (good, bad, words) in [
            ("SASL_SSL", "TLS", r#"securityProtocol is "TLS"; use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"#),
            ("SCRAM-SHA-512", "GSSAPI", r#"saslMechanism is "GSSAPI"; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"#),
        ] {
            let error = decode_unhashed::<Body>(json.replace(good, bad).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_reported_wherever_they_are() {
        let json = r#"{"brokers":["a:1"],"securityProtocol":"PLAINTEXT","settings":{"lingerMs":5,"warp":9},"extra":{"a":1},"none":null}"#;
        let decoded: Decoded<Body> = decode(json.as_bytes(), &hash(json.as_bytes())).unwrap();
        assert_eq!(decoded.body.settings.linger_ms, 5);
        assert_eq!(decoded.unknown_keys, ["extra", "settings.warp"]);
    }

    #[test]
    fn what_cannot_be_read_is_a_typed_error() {
        let good = encode(&body()).unwrap();
        assert!(decode::<Body>(good.json.as_bytes(), &good.hash).unwrap().unknown_keys.is_empty());
        let mismatch = decode::<Body>(good.json.as_bytes(), "00").unwrap_err();
        assert!(matches!(mismatch, BodyError::HashMismatch { announced, .. } if announced == "00"));
        assert!(matches!(decode_unhashed::<Body>(b"{}"), Err(BodyError::Unreadable(_))));
        assert!(matches!(decode_unhashed::<Body>(b"\xff"), Err(BodyError::Unreadable(_))));
        let large = " ".repeat(MAX_BODY_BYTES + 1);
        assert_eq!(decode_unhashed::<Body>(large.as_bytes()), Err(BodyError::TooLarge { size: MAX_BODY_BYTES + 1 }));
        let mut large = body();
        large.connection.brokers = vec!["x".repeat(MAX_BODY_BYTES)];
        assert!(matches!(encode(&large), Err(BodyError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = decode_unhashed::<Body>(&bytes);
        }
    }
}
