//! What goes out ([`Message`], [`Ack`]) and what comes in ([`Record`]).

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::trace::{TraceContext, TraceId};

/// One header of a record. Kafka allows a header without a value and several headers of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub name: String,
    /// The header's bytes; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

/// A message to send.
///
/// ```
/// use mq_agent::Message;
///
/// let message = Message::to("orders").key("7").payload(r#"{"total": 12}"#).header("content-type", "application/json");
/// assert_eq!(message.topic(), "orders");
/// ```
#[derive(Debug, Clone)]
#[must_use = "a message does nothing until it is sent"]
pub struct Message {
    pub(crate) topic: String,
    pub(crate) key: Option<Bytes>,
    pub(crate) payload: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) partition: Option<i32>,
}

impl Message {
    /// A message for `topic`: no key, no payload (Kafka's null: a tombstone in a compacted topic), no headers.
    pub fn to(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), key: None, payload: None, headers: Vec::new(), timestamp: None, partition: None }
    }

    /// The key. Messages of one key go to one partition and keep the order in which `send` took them.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// The payload.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Adds a header; earlier headers of the same name stay.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Header { name: name.into(), value: Some(Bytes::copy_from_slice(value.as_ref())) });
        self
    }

    /// The key, as [`Message::key`] set it.
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The payload; `None` is Kafka's null.
    pub fn payload_bytes(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// The headers in their order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// Sets a header that is there once.
    pub(crate) fn only_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|header| header.name != name);
        self.header(name, value)
    }

    /// The record's time in milliseconds since the Unix epoch; without it, the time at which the client takes the message.
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// Sends to this partition instead of the one that the key's hash gives.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The topic this message is for.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Bytes of key, payload and headers.
    pub(crate) fn size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|header| header.name.len() + length(&header.value));
        length(&self.key) + length(&self.payload) + headers.sum::<usize>()
    }

    /// Puts the current trace context into the headers, where the sender did not choose.
    pub(crate) fn trace(&mut self) {
        if let Some(context) = TraceContext::current() {
            context.write(&mut self.headers);
        }
    }
}

/// Where an acknowledged message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset; `None` when the broker does not tell it (`acks: 0`).
    pub offset: Option<i64>,
    /// The record's time in milliseconds since the Unix epoch, if the broker keeps one.
    pub timestamp: Option<i64>,
}

/// Where a record was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerMetadata {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's time in milliseconds since the Unix epoch, if it has one.
    pub timestamp: Option<i64>,
    /// The headers in their order.
    pub headers: Vec<Header>,
}

/// A record as the handler gets it. Cheap to clone: clones share the bytes.
#[derive(Debug, Clone)]
pub struct Record {
    content: Arc<Content>,
    /// Which attempt of this process to handle it.
    attempt: u32,
}

#[derive(Debug)]
struct Content {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Bytes>,
    payload: Option<Bytes>,
    headers: Vec<Header>,
}

impl Record {
    /// Copies a record out of librdkafka's memory: a borrowed one pins the whole fetch response that it came in.
    pub(crate) fn copied(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| Header { name: header.key.to_owned(), value: header.value.map(Bytes::copy_from_slice) })
                .collect()
        });
        Self::first(Content {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            payload: message.payload().map(Bytes::copy_from_slice),
            headers,
        })
    }

    fn first(content: Content) -> Self {
        Self { content: Arc::new(content), attempt: 1 }
    }

    /// The record as this attempt to handle it gets it, counted from 1.
    pub(crate) fn attempted(&self, attempt: u32) -> Self {
        Self { content: Arc::clone(&self.content), attempt }
    }

    /// The topic that the record was read from.
    pub fn topic(&self) -> &str {
        &self.content.topic
    }

    /// The partition that the record was read from.
    pub fn partition(&self) -> i32 {
        self.content.partition
    }

    /// The record's offset.
    pub fn offset(&self) -> i64 {
        self.content.offset
    }

    /// The record's time in milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> Option<i64> {
        self.content.timestamp
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.content.key.as_deref()
    }

    /// The payload; empty for a record without one. [`Record::is_tombstone`] tells the two apart.
    pub fn payload(&self) -> &[u8] {
        self.content.payload.as_deref().unwrap_or_default()
    }

    /// Whether the payload is Kafka's null.
    pub fn is_tombstone(&self) -> bool {
        self.content.payload.is_none()
    }

    /// The headers in their order.
    pub fn headers(&self) -> &[Header] {
        &self.content.headers
    }

    /// Which attempt of this process to handle the record this is: 1, 2 or 3.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The bytes of the last header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.content.headers.iter().rev().find(|header| header.name == name)?.value.as_deref()
    }

    /// The trace context that the record carries. Its handler runs inside it.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::read(self.headers())
    }

    /// The trace id that the record carries: that of `X-Trace-ID`, else that of `traceparent`.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace_context()?.trace_id().cloned()
    }

    /// Where the record was read.
    pub fn metadata(&self) -> ConsumerMetadata {
        let Content { topic, partition, offset, timestamp, headers, .. } = &*self.content;
        let (partition, offset, timestamp) = (*partition, *offset, *timestamp);
        ConsumerMetadata { topic: topic.to_string(), partition, offset, timestamp, headers: headers.clone() }
    }

    /// The message as it was sent, to be sent again as it is or changed: with key, payload, headers and time, for its topic, and for the
    /// partition that its key gives.
    pub fn to_message(&self) -> Message {
        let Content { topic, timestamp, key, payload, headers, .. } = &*self.content;
        let (key, payload, headers) = (key.clone(), payload.clone(), headers.clone());
        Message { topic: topic.to_string(), key, payload, headers, timestamp: *timestamp, partition: None }
    }

    pub(crate) fn key_bytes(&self) -> Option<Bytes> {
        self.content.key.clone()
    }

    pub(crate) fn payload_bytes(&self) -> Option<Bytes> {
        self.content.payload.clone()
    }

    /// What the record occupies in memory, for the byte budget.
    pub(crate) fn size(&self) -> usize {
        let content = &self.content;
        let headers =
            content.headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len) + 64);
        size_of::<Content>()
            + content.key.as_ref().map_or(0, Bytes::len)
            + content.payload.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
    }
}

#[cfg(any(test, feature = "testing"))]
impl Record {
    /// The record that this message would become.
    pub(crate) fn of(message: Message, offset: i64) -> Self {
        let Message { topic, key, payload, headers, timestamp, partition } = message;
        let (topic, partition) = (Arc::from(topic), partition.unwrap_or(0));
        Self::first(Content { topic, partition, offset, timestamp, key, payload, headers })
    }
}

#[cfg(test)]
impl Record {
    pub(crate) fn for_test(topic: &str, partition: i32, offset: i64, key: Option<&str>, headers: Vec<Header>) -> Self {
        Self::first(Content {
            topic: Arc::from(topic),
            partition,
            offset,
            timestamp: Some(1_700_000_000_000),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            payload: Some(Bytes::from_static(b"payload")),
            headers,
        })
    }
}
