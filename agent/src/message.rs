//! What goes out: [`Message`], and the [`Ack`] that comes back.

use bytes::Bytes;

use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};

use crate::trace::Missing;

/// One header of a record. Kafka allows a header without a value and several headers of one name.
///
/// ```
/// use mq_agent::{Header, Message};
///
/// let message = Message::to("orders").header("tenant", "7");
/// assert_eq!(message.headers(), [Header { name: "tenant".into(), value: Some("7".into()) }]);
/// ```
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
    ///
    /// ```
    /// use mq_agent::Message;
    ///
    /// let tombstone = Message::to("customers").key("7"); // deletes 7 from a compacted topic
    /// assert_eq!(tombstone.payload_bytes(), None);
    /// ```
    pub fn to(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), key: None, payload: None, headers: Vec::new(), timestamp: None, partition: None }
    }

    /// The key. Messages of one key go to one partition and keep the order in which `send` took them.
    ///
    /// ```
    /// let message = mq_agent::Message::to("orders").key("customer-7");
    /// assert_eq!(message.key_bytes(), Some(&b"customer-7"[..]));
    /// ```
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// The payload.
    ///
    /// ```
    /// let message = mq_agent::Message::to("orders").payload(vec![1, 2, 3]);
    /// assert_eq!(message.payload_bytes(), Some(&[1, 2, 3][..]));
    /// ```
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Adds a header; earlier headers of the same name stay.
    ///
    /// ```
    /// let message = mq_agent::Message::to("orders").header("tenant", "7").header("tenant", "8");
    /// assert_eq!(message.headers().len(), 2);
    /// ```
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
    ///
    /// ```
    /// let message = mq_agent::Message::to("orders").timestamp(1_700_000_000_000);
    /// ```
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// Sends to this partition instead of the one that the key's hash gives.
    ///
    /// ```
    /// let message = mq_agent::Message::to("orders").partition(3);
    /// ```
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

    /// The headers in librdkafka's form, with what else is to be there.
    pub(crate) fn with_headers(&self, more: &Missing<'_>) -> Option<OwnedHeaders> {
        let more = more.iter().flatten().map(|(name, value)| (*name, Some(value.as_bytes())));
        let own = self.headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
        let count = self.headers.len() + more.clone().count();
        let headers = own.chain(more).map(|(key, value)| KafkaHeader { key, value });
        (count > 0).then(|| headers.fold(OwnedHeaders::new_with_capacity(count), OwnedHeaders::insert))
    }
}

/// Where an acknowledged message is.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
/// let ack = producer.send_sync(mq_agent::Message::to("orders").payload("{}")).await?;
/// assert_eq!((ack.topic.as_str(), ack.partition, ack.offset), ("orders", 0, Some(0)));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset. `None` when the broker does not tell it: with `acks: 0`; and with idempotence when the answer to the first attempt was
    /// lost and the broker finds the retry written already but no longer knows where (`DUPLICATE_SEQUENCE_NUMBER`). In that case the
    /// message is written, once and in order, and the timestamp is not told either.
    pub offset: Option<i64>,
    /// The record's time in milliseconds since the Unix epoch, if the broker keeps one.
    pub timestamp: Option<i64>,
}
