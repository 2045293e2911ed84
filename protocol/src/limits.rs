//! Bounds and intervals of the stream. Both sides use the same ones, so that neither waits longer than the other speaks.

use std::time::Duration;

/// Largest body. A real one is below 4 KiB; a CA bundle adds a few more.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Largest message in either direction: a body and its envelope, or an `Ack` with every effective value.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Longest name of a client: that of a Kubernetes object.
pub const MAX_NAME_BYTES: usize = 253;

/// Longest sentence of a `Nack` or `NotReady`; longer ones are cut.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// Most effective values, and most keys not applied, that an `Ack` may carry. librdkafka has below 200 properties.
pub const MAX_ACK_ENTRIES: usize = 512;

/// Most clients of one pod.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// The server closes a stream whose `Hello` is not there by then: an idle connection costs memory.
pub const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The agent gives up a connection attempt (TCP and TLS) after this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server sends a heartbeat this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// A consumer that reads says this often how it is.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(3);

/// What a consumer said of itself says nothing after this time: three of its intervals.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(9);

/// Most hot keys that one `Health` names.
pub const MAX_HOT_KEYS: usize = 3;

/// So much of a hot key is said: enough to recognise it, and it is data of the user.
pub const MAX_KEY_BYTES: usize = 64;

/// Longest words of the error with which a dead-letter breaker opened; longer ones are cut.
pub const MAX_ERROR_BYTES: usize = 256;

/// Longest name of a topic in Kafka.
pub const MAX_TOPIC_BYTES: usize = 249;

/// The agent opens a new stream when it heard nothing for this time: three heartbeats.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// HTTP/2 ping interval of both sides, so that each notices a peer that vanished without a FIN.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long a ping may stay unanswered.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream lives this long plus up to [`STREAM_LIFE_JITTER`]: tokens are checked again, and streams spread over
/// replicas again. Below the hour that a projected token lives by default.
pub const STREAM_LIFE: Duration = Duration::from_mins(30);

/// See [`STREAM_LIFE`]. Streams that began together (a deployment) do not end together.
pub const STREAM_LIFE_JITTER: Duration = Duration::from_mins(10);

/// First step of the back-off.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);

/// Most that an agent ever waits between attempts: a new leader has every pod back within this time.
pub const BACKOFF_CAP: Duration = Duration::from_secs(20);

/// Wait before attempt `attempt` (0 = the first one after a failure), full jitter: `random` in 0..=1 chooses between
/// nothing and the doubled step. Any other `random` counts as the nearer end.
pub fn backoff(attempt: u32, random: f64) -> Duration {
    let step = BACKOFF_BASE.saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 1.0 };
    step.min(BACKOFF_CAP).mul_f64(random)
}

/// Cuts a sentence to [`MAX_DETAIL_BYTES`] at a character boundary.
pub fn cut_detail(detail: &str) -> &str {
    cut(detail, MAX_DETAIL_BYTES)
}

/// Cuts a text to so many bytes at a character boundary.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        assert_eq!(backoff(0, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(1, 1.0), Duration::from_secs(1));
        assert_eq!(backoff(5, 1.0), Duration::from_secs(16));
        assert_eq!(backoff(6, 1.0), BACKOFF_CAP);
        assert_eq!(backoff(3, 0.0), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn backoff_is_total_and_capped(attempt: u32, random: f64) {
            prop_assert!(backoff(attempt, random) <= BACKOFF_CAP);
        }

        #[test]
        fn details_are_cut_at_characters(text in ".{0,2000}") {
            let cut = cut_detail(&text);
            prop_assert!(cut.len() <= MAX_DETAIL_BYTES && text.starts_with(cut));
            prop_assert!(text.len() > MAX_DETAIL_BYTES || cut == text);
        }
    }

    const _: () = assert!(MAX_BODY_BYTES < MAX_MESSAGE_BYTES);
    const _: () = assert!(SILENCE_TIMEOUT.as_secs() >= 3 * HEARTBEAT_INTERVAL.as_secs());
}
