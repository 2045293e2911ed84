//! What comes in: [`Record`], one of a batch that was copied out of librdkafka's memory into one buffer.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mq_kafka::ffi::Fetched;

use crate::message::{Header, Message};
use crate::trace::{TraceContext, TraceId};

/// What it takes to hold a record beside what its batch has of it: its place in the lane of its key and among the offsets.
const IN_HAND: usize = 160;
/// A batch takes no further record beyond this many bytes of keys, payloads and headers. A record that is larger is alone in its batch.
pub(crate) const BUFFER: usize = 32 * 1024;

/// Where a record was read.
///
/// ```
/// use mq_agent::{Message, testing};
///
/// let metadata = testing::record(Message::to("orders").partition(3)).metadata();
/// assert_eq!((metadata.topic.as_str(), metadata.partition, metadata.offset), ("orders", 3, 0));
/// ```
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
///
/// Records that were read together share one buffer of at most 32 KiB, or of the record's own size if it is larger. One that is kept
/// keeps that buffer, and so do its [`Record::to_message`]s.
///
/// ```
/// use mq_agent::{Message, testing};
///
/// let record = testing::record(Message::to("orders").key("7").payload("{}").header("tenant", "1"));
/// assert_eq!((record.topic(), record.partition(), record.offset()), ("orders", 0, 0));
/// assert_eq!((record.key(), record.payload()), (Some(&b"7"[..]), &b"{}"[..]));
/// assert_eq!(record.header("tenant"), Some(&b"1"[..]));
/// ```
#[derive(Clone)]
pub struct Record {
    batch: Arc<Batch>,
    index: u32,
    attempt: u32,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key().map(<[u8]>::escape_ascii).map(|key| key.to_string());
        let payload = (!self.is_tombstone()).then(|| self.payload().escape_ascii().to_string());
        let mut record = formatter.debug_struct("Record");
        record.field("topic", &self.topic()).field("partition", &self.partition()).field("offset", &self.offset());
        record.field("timestamp", &self.timestamp()).field("key", &key).field("payload", &payload);
        record.field("headers", &self.headers()).finish()
    }
}

impl Record {
    /// The topic that the record was read from.
    pub fn topic(&self) -> &str {
        &self.batch.source(self.index).topic
    }

    /// The partition that the record was read from.
    pub fn partition(&self) -> i32 {
        self.batch.source(self.index).partition
    }

    /// Which attempt to handle the record this is, from 1, as this process counts: after a crash or a move of its partition it begins
    /// at 1 again.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The record's offset.
    pub fn offset(&self) -> i64 {
        self.batch.entry(self.index).offset
    }

    /// The record's time in milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> Option<i64> {
        self.batch.entry(self.index).timestamp
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.batch.key(self.index)
    }

    /// The payload; empty for a record without one. [`Record::is_tombstone`] tells the two apart.
    pub fn payload(&self) -> &[u8] {
        self.batch.entry(self.index).payload.map(|span| self.batch.bytes(span)).unwrap_or_default()
    }

    /// Whether the payload is Kafka's null.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// assert!(testing::record(Message::to("customers").key("7")).is_tombstone());
    /// assert!(!testing::record(Message::to("customers").key("7").payload("")).is_tombstone());
    /// ```
    pub fn is_tombstone(&self) -> bool {
        self.batch.entry(self.index).payload.is_none()
    }

    /// The headers in their order. The first call makes the list.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").header("a", "1").header("b", "2"));
    /// let names: Vec<&str> = record.headers().iter().map(|header| header.name.as_str()).collect();
    /// assert_eq!(names, ["a", "b"]);
    /// ```
    pub fn headers(&self) -> &[Header] {
        let Some(headed) = self.batch.headed(self.index) else { return &[] };
        headed.list.get_or_init(|| {
            let of_span = |span: &HeaderSpan| Header {
                name: self.batch.text(span.name).to_owned(),
                value: span.value.map(|span| self.batch.shared(span)),
            };
            self.batch.headers[headed.spans.clone()].iter().map(of_span).collect()
        })
    }

    /// The bytes of the last header of that name.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").header("tenant", "7").header("tenant", "8"));
    /// assert_eq!((record.header("tenant"), record.header("other")), (Some(&b"8"[..]), None));
    /// ```
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.raw_headers().rev().find(|header| header.0 == name)?.1
    }

    /// The trace context that the record carries. Its handler runs inside it.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::read(&self.raw_headers())
    }

    /// The trace id that the record carries: that of `X-Trace-ID`, else that of `traceparent`.
    ///
    /// ```
    /// use mq_agent::{Message, TRACE_HEADER, testing};
    ///
    /// let record = testing::record(Message::to("orders").header(TRACE_HEADER, "4bf92f35"));
    /// assert_eq!(record.trace_id().map(|id| id.to_string()).as_deref(), Some("4bf92f35"));
    /// ```
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace_context()?.trace_id().cloned()
    }

    /// Where the record was read.
    pub fn metadata(&self) -> ConsumerMetadata {
        ConsumerMetadata {
            topic: self.topic().to_owned(),
            partition: self.partition(),
            offset: self.offset(),
            timestamp: self.timestamp(),
            headers: self.headers().to_vec(),
        }
    }

    /// The message as it was sent, to be sent again as it is or changed: with key, payload, headers and time, for its topic, and for the
    /// partition that its key gives.
    ///
    /// ```
    /// use mq_agent::{Failure, Producer, Record};
    ///
    /// async fn forward(producer: &Producer, record: Record) -> Result<(), Failure> {
    ///     producer.send_sync(record.to_message().header("seen-by", "notifications")).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn to_message(&self) -> Message {
        Message {
            topic: self.topic().to_owned(),
            key: self.key_bytes(),
            payload: self.payload_bytes(),
            headers: self.headers().to_vec(),
            timestamp: self.timestamp(),
            partition: None,
        }
    }

    pub(crate) fn key_bytes(&self) -> Option<Bytes> {
        self.batch.entry(self.index).key.map(|span| self.batch.shared(span))
    }

    pub(crate) fn payload_bytes(&self) -> Option<Bytes> {
        self.batch.entry(self.index).payload.map(|span| self.batch.shared(span))
    }

    fn raw_headers(&self) -> impl DoubleEndedIterator<Item = (&str, Option<&[u8]>)> + Clone {
        let spans = self.batch.headed(self.index).map_or(&[][..], |headed| &self.batch.headers[headed.spans.clone()]);
        spans.iter().map(|span| (self.batch.text(span.name), span.value.map(|value| self.batch.bytes(value))))
    }
}

/// Records that were read one after the other.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Bytes,
    sources: Vec<Source>,
    entries: Vec<Entry>,
    headers: Vec<HeaderSpan>,
    headed: Vec<Headed>,
}

/// An assigned partition.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// Under which its consumer knows it.
    pub(crate) assignment: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its index.
    source: usize,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Span>,
    payload: Option<Span>,
    headed: Option<u32>,
    /// Of key, payload and headers.
    size: usize,
}

/// A part of the buffer.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct HeaderSpan {
    name: Span,
    value: Option<Span>,
}

/// A record that has headers: most have none.
#[derive(Debug)]
struct Headed {
    spans: Range<usize>,
    list: OnceLock<Box<[Header]>>,
}

impl Batch {
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn record(self: &Arc<Self>, index: u32, attempt: u32) -> Record {
        Record { batch: Arc::clone(self), index, attempt }
    }

    pub(crate) fn source(&self, index: u32) -> &Source {
        &self.sources[self.entry(index).source]
    }

    pub(crate) fn offset(&self, index: u32) -> i64 {
        self.entry(index).offset
    }

    pub(crate) fn key(&self, index: u32) -> Option<&[u8]> {
        self.entry(index).key.map(|span| self.bytes(span))
    }

    /// Bytes of key, payload and headers of one record.
    pub(crate) fn size_of(&self, index: u32) -> usize {
        self.entry(index).size
    }

    /// What the batch occupies in memory, for the byte budget.
    pub(crate) fn memory(&self) -> usize {
        let list = |headed: &Headed| headed.spans.len() * (size_of::<HeaderSpan>() + size_of::<Header>() + 16);
        let entries = self.entries.len() * (size_of::<Entry>() + IN_HAND);
        self.bytes.len() + entries + self.headed.iter().map(list).sum::<usize>()
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn headed(&self, index: u32) -> Option<&Headed> {
        Some(&self.headed[self.entry(index).headed? as usize])
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.bytes[span.start..span.end]
    }

    fn shared(&self, span: Span) -> Bytes {
        self.bytes.slice(span.start..span.end)
    }

    fn text(&self, span: Span) -> &str {
        // Headers' names came in as text.
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }
}

/// Fills batches. Its own memory is used again, so that a batch is exactly as large as what is in it.
#[derive(Debug, Default)]
pub(crate) struct Filler {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<HeaderSpan>,
    headed: Vec<Headed>,
}

impl Filler {
    /// Bytes of keys, payloads and headers so far.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a record out of librdkafka's memory: a borrowed one pins the whole fetch response that it came in. `source` is the index
    /// of its partition among the sources that the batch will have.
    pub(crate) fn copy(&mut self, record: Fetched<'_>, source: usize) {
        let headers = mq_kafka::ffi::headers(record);
        let headers = headers.iter().map(|(name, value)| (&**name, *value));
        self.add(source, record.offset(), record.timestamp(), record.key(), record.payload(), headers);
    }

    fn add<'a>(
        &mut self,
        source: usize,
        offset: i64,
        timestamp: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        let begin = self.bytes.len();
        let (key, payload) = (key.map(|key| self.put(key)), payload.map(|payload| self.put(payload)));
        let first = self.headers.len();
        for (name, value) in headers {
            let span = HeaderSpan { name: self.put(name.as_bytes()), value: value.map(|value| self.put(value)) };
            self.headers.push(span);
        }
        let headed = (self.headers.len() > first).then(|| {
            self.headed.push(Headed { spans: first..self.headers.len(), list: OnceLock::new() });
            u32::try_from(self.headed.len() - 1).unwrap_or(u32::MAX)
        });
        let size = self.bytes.len() - begin;
        self.entries.push(Entry { source, offset, timestamp, key, payload, headed, size });
    }

    fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start, end: self.bytes.len() }
    }

    /// The batch of what was added, if anything was.
    pub(crate) fn seal(&mut self, sources: &[Source]) -> Option<Arc<Batch>> {
        if self.entries.is_empty() {
            return None;
        }
        let bytes = if self.bytes.len() > BUFFER {
            Bytes::from(std::mem::take(&mut self.bytes))
        } else {
            let bytes = Bytes::copy_from_slice(&self.bytes);
            self.bytes.clear();
            bytes
        };
        Some(Arc::new(Batch {
            bytes,
            sources: sources.to_vec(),
            entries: self.entries.drain(..).collect(),
            headers: self.headers.drain(..).collect(),
            headed: self.headed.drain(..).collect(),
        }))
    }
}

#[cfg(any(test, fuzzing, feature = "testing"))]
impl Record {
    /// The record that this message would become.
    pub(crate) fn of(message: Message, offset: i64) -> Self {
        let Message { topic, key, payload, headers, timestamp, partition } = message;
        let source = Source { topic: Arc::from(topic), partition: partition.unwrap_or(0), assignment: 0 };
        let mut filler = Filler::default();
        let headers = headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
        filler.add(0, offset, timestamp, key.as_deref(), payload.as_deref(), headers);
        let Filler { bytes, entries, headers, headed } = filler;
        let batch = Batch { bytes: Bytes::from(bytes), sources: vec![source], entries, headers, headed };
        Self { batch: Arc::new(batch), index: 0, attempt: 1 }
    }
}

#[cfg(test)]
impl Record {
    pub(crate) fn at_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    pub(crate) fn for_test(topic: &str, partition: i32, offset: i64, key: Option<&str>, headers: Vec<Header>) -> Self {
        let mut message = Message::to(topic).payload("payload").partition(partition).timestamp(1_700_000_000_000);
        message.key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        message.headers = headers;
        Self::of(message, offset)
    }
}

#[cfg(test)]
impl Batch {
    /// Records of one partition at these offsets, each with its key as payload.
    pub(crate) fn for_test(source: Source, records: impl IntoIterator<Item = (i64, Option<String>)>) -> Arc<Self> {
        let mut filler = Filler::default();
        for (offset, key) in records {
            let key = key.as_ref().map(String::as_bytes);
            filler.add(0, offset, None, key, key, std::iter::empty());
        }
        filler.seal(&[source]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(topic: &str) -> Source {
        Source { topic: Arc::from(topic), partition: 3, assignment: 7 }
    }

    #[test]
    fn records_of_one_batch_keep_apart() {
        let mut filler = Filler::default();
        assert!(filler.seal(&[]).is_none());
        let headers = [("a", Some(&b"1"[..])), ("b", None), ("a", Some(b"2"))];
        filler.add(0, 5, Some(9), Some(b"key"), Some(b"payload"), headers.into_iter());
        filler.add(1, 6, None, None, None, std::iter::empty());
        filler.add(1, 7, None, Some(b""), Some(b""), [("c", Some(&b""[..]))].into_iter());
        let batch = filler.seal(&[source("t"), source("u")]).unwrap();
        let [first, second, third] = [0, 1, 2].map(|index| batch.record(index, 1));
        assert_eq!((first.topic(), first.partition(), first.offset(), first.timestamp()), ("t", 3, 5, Some(9)));
        assert_eq!((first.key(), first.payload(), first.is_tombstone()), (Some(&b"key"[..]), &b"payload"[..], false));
        let header =
            |name: &str, value: Option<&'static str>| Header { name: name.to_owned(), value: value.map(Bytes::from) };
        assert_eq!(first.headers(), [header("a", Some("1")), header("b", None), header("a", Some("2"))]);
        assert_eq!((first.header("a"), first.header("b"), first.header("c")), (Some(&b"2"[..]), None, None));
        assert_eq!(
            (second.topic(), second.key(), second.payload(), second.is_tombstone()),
            ("u", None, &b""[..], true)
        );
        assert!(second.headers().is_empty());
        assert_eq!((third.key(), third.is_tombstone(), third.headers().len()), (Some(&b""[..]), false, 1));
        assert_eq!([0, 1, 2].map(|index| batch.size_of(index)), [15, 0, 1]);
        let message = first.to_message();
        assert_eq!((message.key_bytes(), message.payload_bytes()), (first.key(), Some(first.payload())));
        assert_eq!(message.headers(), first.headers());
    }

    #[test]
    fn a_filler_starts_anew_after_each_batch() {
        let mut filler = Filler::default();
        let large = vec![7; 2 * BUFFER];
        for payload in [&large[..], b"small"] {
            filler.add(0, 1, None, None, Some(payload), std::iter::empty());
            let batch = filler.seal(&[source("t")]).unwrap();
            assert_eq!((batch.len(), batch.record(0, 1).payload(), filler.size()), (1, payload, 0));
            assert!(batch.memory() < payload.len() + 400);
        }
    }
}
