//! How a consumer is, by its own word.

use std::time::Duration;

use bytes::Bytes;

use super::{MessageError, wire_ms};
use crate::{
    limits::{MAX_ERROR_BYTES, MAX_HOT_KEYS, MAX_KEY_BYTES, MAX_TOPIC_BYTES, cut},
    wire,
};

/// How a consumer was for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The time that this is about.
    pub period: Duration,
    /// The part of it in which the consumer was busy: the handlers that ran over those that could have run, summed over time.
    pub busy: Duration,
    /// Records that were finished in that time.
    pub handled: u64,
    /// Records taken from Kafka and not yet finished, at its end.
    pub outstanding: u64,
    /// How it stands at its end. `None`: the agent is of a version that does not say, so nothing of it is known.
    pub standing: Option<Standing>,
}

/// How a consumer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where the poll thread spent the period.
    pub poll: PollTime,
    /// The record that it has in hand for the longest time, if it has any.
    pub oldest: Option<InHand>,
    /// Keys that hold a large part of what is in hand, the fullest first, at most [`MAX_HOT_KEYS`].
    pub hot_keys: Vec<HotKey>,
    /// The dead-letter breaker, while it is open.
    pub breaker: Option<OpenBreaker>,
}

/// The parts of a period in which a poll thread waited; in the rest it was at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollTime {
    /// For Kafka: there was nothing to read.
    pub idle: Duration,
    /// For handlers, because the consumer holds all that it may.
    pub full: Duration,
    /// For handlers of partitions that leave: in a rebalance, a seek or a drain.
    pub draining: Duration,
}

/// A record that was taken from Kafka and is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Kafka name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// For how long it has been in hand.
    pub age: Duration,
}

/// A key and how many records it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// Kafka name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Its first [`MAX_KEY_BYTES`]; data of the user. `None`: the whole partition is kept in one order.
    pub key: Option<Bytes>,
    /// Records of it in hand.
    pub records: u64,
}

/// So many records failed that a consumer holds them instead of sending dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBreaker {
    /// For how long.
    pub open: Duration,
    /// Records that it holds.
    pub held: u64,
    /// What the handler said of the one with which it opened, cut to [`MAX_ERROR_BYTES`]; data of the user.
    pub error: String,
}

impl Health {
    /// Texts that are too long are cut, and keys beyond the first few left out: what a pod says of its state may not end its stream.
    pub(super) fn check(m: wire::Health) -> Result<Self, MessageError> {
        let wire::Health { period_ms, busy_ms, handled, outstanding, standing, .. } = m;
        if busy_ms > period_ms {
            return Err(MessageError::Busy { busy_ms, period_ms });
        }
        let (period, busy) = (time(period_ms), time(busy_ms));
        Ok(Self { period, busy, handled, outstanding, standing: standing.map(Into::into) })
    }
}

fn time(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

fn topic(name: &str) -> String {
    cut(name, MAX_TOPIC_BYTES).to_owned()
}

fn key(key: Bytes) -> Bytes {
    if key.len() > MAX_KEY_BYTES { Bytes::copy_from_slice(&key[..MAX_KEY_BYTES]) } else { key }
}

impl From<wire::Standing> for Standing {
    fn from(m: wire::Standing) -> Self {
        let wire::Standing { idle_ms, full_ms, draining_ms, oldest, hot_keys, breaker } = m;
        let hot = |hot: wire::HotKey| HotKey {
            topic: topic(&hot.topic),
            partition: hot.partition,
            key: hot.key.map(key),
            records: hot.records,
        };
        Self {
            poll: PollTime { idle: time(idle_ms), full: time(full_ms), draining: time(draining_ms) },
            oldest: oldest.map(|oldest| InHand {
                topic: topic(&oldest.topic),
                partition: oldest.partition,
                offset: oldest.offset,
                age: time(oldest.age_ms),
            }),
            hot_keys: hot_keys.into_iter().take(MAX_HOT_KEYS).map(hot).collect(),
            breaker: breaker.map(|breaker| OpenBreaker {
                open: time(breaker.open_ms),
                held: breaker.held,
                error: cut(&breaker.error, MAX_ERROR_BYTES).to_owned(),
            }),
        }
    }
}

impl From<Health> for wire::Health {
    fn from(health: Health) -> Self {
        Self {
            period_ms: wire_ms(health.period),
            busy_ms: wire_ms(health.busy),
            handled: health.handled,
            outstanding: health.outstanding,
            standing: health.standing.map(Into::into),
            ..Self::default()
        }
    }
}

impl From<Standing> for wire::Standing {
    fn from(standing: Standing) -> Self {
        let hot = |hot: HotKey| wire::HotKey {
            topic: hot.topic,
            partition: hot.partition,
            key: hot.key.map(key),
            records: hot.records,
        };
        Self {
            idle_ms: wire_ms(standing.poll.idle),
            full_ms: wire_ms(standing.poll.full),
            draining_ms: wire_ms(standing.poll.draining),
            oldest: standing.oldest.map(|oldest| wire::InHand {
                topic: oldest.topic,
                partition: oldest.partition,
                offset: oldest.offset,
                age_ms: wire_ms(oldest.age),
            }),
            hot_keys: standing.hot_keys.into_iter().take(MAX_HOT_KEYS).map(hot).collect(),
            breaker: standing.breaker.map(|breaker| wire::OpenBreaker {
                open_ms: wire_ms(breaker.open),
                held: breaker.held,
                error: cut(&breaker.error, MAX_ERROR_BYTES).to_owned(),
            }),
        }
    }
}
