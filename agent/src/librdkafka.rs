//! What both clients need around librdkafka: its log, and a place for its blocking calls.

use rdkafka::config::RDKafkaLogLevel as Level;

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
