//! What both clients need around librdkafka: its log, what it says about connections, and a place for its blocking calls.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Forwards a log line of librdkafka to `tracing`.
pub(crate) fn log(client: &str, level: Level, facility: &str, message: &str) {
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::error!(target: "librdkafka", client, facility, "{message}");
        }
        Level::Warning => tracing::warn!(target: "librdkafka", client, facility, "{message}"),
        Level::Notice | Level::Info => tracing::info!(target: "librdkafka", client, facility, "{message}"),
        Level::Debug => tracing::debug!(target: "librdkafka", client, facility, "{message}"),
    }
}

/// librdkafka repeats a trouble that lasts; one that it has not told for so long is over.
const RECENT: Duration = Duration::from_mins(1);
/// The facility of a log line that tells why a connection ended.
const FAIL: &str = "FAIL";
/// librdkafka's name of the state in which it asks a broker what it speaks.
const FIRST_QUESTION: &str = "APIVERSION_QUERY";

/// What the connections of one client suffer from.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<(Instant, Trouble)>>);

impl Health {
    /// An error that librdkafka reports.
    pub(crate) fn told(&self, code: RDKafkaErrorCode, reason: &str) {
        if let Some(trouble) = Trouble::new(code, reason) {
            let known = self.trouble();
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Trouble::better(known, Some(trouble)).map(|trouble| (Instant::now(), trouble));
        }
    }

    /// A line of its log: a broker that just hangs up, as at the port of another protocol, is told there alone.
    pub(crate) fn logged(&self, facility: &str, message: &str) {
        if facility == FAIL {
            let reason = message.split_once("]: ").map_or(message, |(_thread, reason)| reason);
            self.told(RDKafkaErrorCode::BrokerTransportFailure, reason);
        }
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|(since, _)| since.elapsed() < RECENT).map(|(_, trouble)| trouble.clone())
    }
}

/// What librdkafka said about a connection that it could not use. Its calls themselves say only that time ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Whether it names the cause; else it is a consequence, such as a connection that was closed.
    cause: bool,
    sentence: String,
}

impl Trouble {
    pub(crate) fn new(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        // With TLS 1.3 a broker refuses a client's certificate when all seems well, and librdkafka calls it a lost connection.
        let refused = code == RDKafkaErrorCode::BrokerTransportFailure && reason.contains("SSL routines");
        let code = if refused { RDKafkaErrorCode::SSL } else { code };
        let what = match code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => "authentication failed",
            RDKafkaErrorCode::SSL => "TLS failed",
            RDKafkaErrorCode::Resolve => "the name was not found",
            RDKafkaErrorCode::BrokerTransportFailure => "the connection failed",
            _ => return None,
        };
        let cause = code != RDKafkaErrorCode::BrokerTransportFailure;
        // The first question of a connection: who hangs up at it does not understand it.
        let hint = if !cause && reason.contains(FIRST_QUESTION) {
            "; it may be the port of another securityProtocol"
        } else {
            ""
        };
        Some(Self { cause, sentence: format!("{what}: {reason}{hint}") })
    }

    /// Of two, the one that tells more; of equals, the newer.
    pub(crate) fn better(older: Option<Self>, newer: Option<Self>) -> Option<Self> {
        match (older, newer) {
            (Some(older), Some(newer)) if older.cause && !newer.cause => Some(older),
            (older, newer) => newer.or(older),
        }
    }

    /// The words for a call that failed with `error`.
    pub(crate) fn explain(trouble: Option<&Self>, error: &KafkaError) -> String {
        trouble.map_or_else(|| error.to_string(), |trouble| format!("{} ({error})", trouble.sentence))
    }

    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }
}

/// Runs a blocking call of librdkafka where it may block. Once started it runs to its end even if nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down and will never run the call; nothing that waits here is polled again either.
        Err(_) => std::future::pending().await,
    }
}

/// The topic that a probe asks about: one topic, since the metadata of all of them can be large. It need not exist.
pub(crate) const PROBE_TOPIC: &str = "__consumer_offsets";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_kept_when_its_consequence_is_told_later() {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, SSL};
        let lost = || Trouble::new(BrokerTransportFailure, "Disconnected");
        let password = Trouble::new(Authentication, "Invalid username or password");
        let told = Trouble::better(Trouble::better(lost(), password.clone()), lost());
        assert_eq!(told, password);
        let error = KafkaError::MetadataFetch(BrokerTransportFailure);
        let sentence = Trouble::explain(told.as_ref(), &error);
        assert!(sentence.starts_with("authentication failed: Invalid username or password ("), "{sentence}");
        assert_eq!(Trouble::explain(None, &error), error.to_string());
        let hung_up =
            Trouble::new(BrokerTransportFailure, "Disconnected (after 2ms in state APIVERSION_QUERY)").unwrap();
        assert!(hung_up.sentence().ends_with("another securityProtocol"), "{hung_up:?}");
        assert_eq!(Trouble::new(AllBrokersDown, "1/1 brokers are down"), None);
        let alert = "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate";
        assert_eq!(Trouble::new(BrokerTransportFailure, alert), Trouble::new(SSL, alert));
    }
}
