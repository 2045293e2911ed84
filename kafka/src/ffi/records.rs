//! The records of a consumer, many at a time. The wrapper's poll hands out one by one, in three times the time of the processor.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_message_errstr, rd_kafka_message_t,
    rd_kafka_message_timestamp, rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy, rd_kafka_queue_forward,
    rd_kafka_queue_get_consumer, rd_kafka_queue_get_main, rd_kafka_queue_get_partition, rd_kafka_queue_length,
    rd_kafka_queue_new, rd_kafka_queue_t, rd_kafka_t, rd_kafka_timestamp_type_t, rd_kafka_topic_name,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

/// A queue for the records of those partitions of a consumer that were directed to it. What else happens, rebalances and answers to
/// commits, stays with the consumer, which has to be polled for it.
///
/// It keeps the consumer alive: to close that one, drop this first.
#[expect(missing_debug_implementations, reason = "the consumer has none")]
pub struct RecordQueue<C: ConsumerContext + 'static> {
    consumer: Arc<BaseConsumer<C>>,
    records: *mut rd_kafka_queue_t,
    /// The consumer's own.
    events: *mut rd_kafka_queue_t,
    /// Rung when one of them is no longer empty.
    bell: Arc<Bell>,
    taken: Vec<*mut rd_kafka_message_t>,
}

// SAFETY: queues may be used by any thread, and `taken` is empty between calls.
unsafe impl<C: ConsumerContext + 'static> Send for RecordQueue<C> {}

#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn still(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn wait(&self, timeout: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(rung, timeout, |rung| !*rung));
    }
}

/// # Safety
/// `bell` points to a [`Bell`] that lives until the queue rings no more.
unsafe extern "C" fn ring(_: *mut rd_kafka_t, bell: *mut c_void) {
    // SAFETY: promised by the caller.
    unsafe { &*bell.cast::<Bell>() }.ring();
}

/// What was taken from the queue.
#[derive(Debug)]
pub enum Taken<'a> {
    /// A record.
    Record(Fetched<'a>),
    /// What went wrong with a partition. From there on records follow all the same, but librdkafka takes the failed offset for read: its
    /// position is one too far until that record comes, and it goes on from there after a pause and after each rebalance.
    Failed {
        /// The partition; its offset is the one that was to be read, or negative if that was to be found out. `None`: it is not about one.
        at: Option<Fetched<'a>>,
        /// Why.
        error: KafkaError,
        /// The same in librdkafka's words.
        reason: &'a str,
    },
}

impl<C: ConsumerContext + 'static> RecordQueue<C> {
    /// A queue to which no partition is directed yet.
    pub fn new(consumer: Arc<BaseConsumer<C>>) -> Self {
        let (client, bell) = (consumer.client().native_ptr(), Arc::new(Bell::default()));
        // SAFETY: the handle lives as long as `consumer`. Both queues are counted references that are given back in `drop`, where they are
        // told to ring no more before the bell can go.
        let (records, events) = unsafe {
            let records = rd_kafka_queue_new(client);
            let own = rd_kafka_queue_get_consumer(client);
            // Outside of a group.
            let events = if own.is_null() { rd_kafka_queue_get_main(client) } else { own };
            for queue in [records, events] {
                rd_kafka_queue_cb_event_enable(queue, Some(ring), Arc::as_ptr(&bell).cast_mut().cast());
            }
            (records, events)
        };
        Self { consumer, records, events, bell, taken: Vec::new() }
    }

    /// Directs a partition here: records that were fetched of it and not taken, and all that follow, in their order.
    ///
    /// It has to be repeated now and then as long as the partition is assigned. librdkafka undoes it when it stops fetching the partition,
    /// which it does on a thread of its own after it was unassigned; if it comes back meanwhile, its records lie where nobody takes them.
    ///
    /// # Errors
    /// The name has a zero byte.
    pub fn direct(&self, topic: &str, partition: i32) -> KafkaResult<()> {
        let topic = CString::new(topic)?;
        // SAFETY: the handle lives as long as `consumer`. The partition's queue is a counted reference that is given back once; librdkafka
        // counts that of the queue that it forwards to.
        unsafe {
            let queue = rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if queue.is_null() {
                return Err(KafkaError::Global(RDKafkaErrorCode::UnknownPartition));
            }
            rd_kafka_queue_forward(queue, self.records);
            rd_kafka_queue_destroy(queue);
        }
        Ok(())
    }

    /// Whether the consumer has to be polled.
    pub fn has_events(&self) -> bool {
        // SAFETY: the queue is ours until `drop`.
        unsafe { rd_kafka_queue_length(self.events) > 0 }
    }

    /// Blocks until there are records or events, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        // In this order: whatever comes after the look rings. And without the bell's lock, which librdkafka takes inside of its own.
        self.bell.still();
        // SAFETY: as in `has_events`.
        if self.has_events() || unsafe { rd_kafka_queue_length(self.records) } > 0 {
            return;
        }
        self.bell.wait(timeout);
    }

    /// Takes what there is, in order, up to so many; none takes nothing. Does not wait. What is shown of a record belongs to it and is gone afterwards.
    pub fn take(&mut self, most: usize, mut each: impl FnMut(Taken<'_>)) {
        if most == 0 {
            return;
        }
        self.taken.reserve(most);
        // SAFETY: there is room for `most` pointers, and librdkafka says how many it wrote. Each message is ours: it is read before it is
        // given back, once. If `each` unwinds the rest is leaked, not given back twice.
        unsafe {
            let count = rd_kafka_consume_batch_queue(self.records, 0, self.taken.as_mut_ptr(), most);
            let count = usize::try_from(count).unwrap_or_default();
            for index in 0..count {
                let message = *self.taken.as_ptr().add(index);
                each(Taken::of(&*message));
                rd_kafka_message_destroy(message);
            }
        }
    }
}

impl<C: ConsumerContext + 'static> Drop for RecordQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the queues are ours and not used any more, and the client still lives. librdkafka rings inside of the lock that this takes:
        // nobody rings afterwards.
        unsafe {
            for queue in [self.records, self.events] {
                rd_kafka_queue_cb_event_enable(queue, None, std::ptr::null_mut());
                rd_kafka_queue_destroy(queue);
            }
        }
    }
}

impl<'a> Taken<'a> {
    /// # Safety
    /// The message is one of librdkafka and lives as long as `'a`.
    unsafe fn of(message: &'a rd_kafka_message_t) -> Self {
        // An error without a topic is about none.
        let at = (!message.rkt.is_null()).then_some(Fetched(message));
        match (message.err, at) {
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, Some(record)) => Self::Record(record),
            (code, at) => {
                // SAFETY: the message lives; its payload, and so the text, belongs to it. Without one librdkafka says the code's.
                let text: *const c_char = unsafe { rd_kafka_message_errstr(message) };
                let reason =
                    if text.is_null() { "" } else { unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default() };
                Self::Failed { at, error: KafkaError::MessageConsumption(code.into()), reason }
            }
        }
    }
}

/// A record in librdkafka's memory.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a>(&'a rd_kafka_message_t);

impl<'a> From<&'a BorrowedMessage<'_>> for Fetched<'a> {
    fn from(message: &'a BorrowedMessage<'_>) -> Self {
        // SAFETY: the message lives as long as it is borrowed.
        Self(unsafe { &*message.ptr() })
    }
}

impl<'a> Fetched<'a> {
    /// The topic's name.
    pub fn topic(self) -> &'a str {
        // SAFETY: the topic belongs to the message, and its name to the topic.
        let name: *const c_char = unsafe { rd_kafka_topic_name(self.0.rkt) };
        // Kafka's names are of letters, digits and three signs.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default()
    }

    /// The partition.
    pub fn partition(self) -> i32 {
        self.0.partition
    }

    /// The offset.
    pub fn offset(self) -> i64 {
        self.0.offset
    }

    /// Milliseconds since 1970, if the record has a time.
    pub fn timestamp(self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let timestamp = unsafe { rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let known = kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp != -1;
        known.then_some(timestamp)
    }

    /// The key, if there is one.
    pub fn key(self) -> Option<&'a [u8]> {
        // SAFETY: both belong to the message.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// The payload; `None` is Kafka's null.
    pub fn payload(self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    pub(super) fn message(self) -> *const rd_kafka_message_t {
        self.0
    }
}

/// # Safety
/// There are so many bytes for as long as `'a`, or the pointer is null.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::DefaultConsumerContext;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn filled(records: usize) -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, String) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        for number in 0..records {
            let (key, payload) = (format!("k{number}"), number.to_string());
            let mut record = BaseRecord::to("t").partition(0).payload(&payload).timestamp(7);
            if number > 0 {
                record = record.key(&key);
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
        (cluster, brokers)
    }

    fn consumer(brokers: &str) -> Arc<BaseConsumer<DefaultConsumerContext>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "g").set("enable.auto.commit", "false");
        Arc::new(config.create().unwrap())
    }

    fn from(offset: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(offset)).unwrap();
        list
    }

    #[test]
    fn records_are_shown_as_they_are_and_leave_the_consumer_its_events() {
        let (_cluster, brokers) = filled(3);
        let consumer = consumer(&brokers);
        let mut records = RecordQueue::new(Arc::clone(&consumer));
        records.direct("t", 0).unwrap();
        consumer.assign(&from(0)).unwrap();
        let (mut seen, began) = (Vec::new(), Instant::now());
        while seen.len() < 3 && began.elapsed() < TIMEOUT {
            records.wait(Duration::from_secs(1));
            while records.has_events() {
                assert!(consumer.poll(Duration::ZERO).is_none(), "a record of the consumer's own queue");
            }
            records.take(2, |taken| {
                let Taken::Record(record) = taken else { panic!("{taken:?}") };
                assert_eq!((record.topic(), record.partition(), record.timestamp()), ("t", 0, Some(7)));
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                seen.push((record.offset(), record.key().map(text), record.payload().map(text)));
            });
        }
        let record = |number: i64| (number, (number > 0).then(|| format!("k{number}")), Some(number.to_string()));
        assert_eq!(seen, [record(0), record(1), record(2)]);
    }

    /// librdkafka undoes the direction when it stops fetching, which can be after the next one was given.
    #[test]
    fn a_partition_that_comes_back_at_once_is_read_on_and_in_order() {
        let (_cluster, brokers) = filled(40);
        let consumer = consumer(&brokers);
        let mut records = RecordQueue::new(Arc::clone(&consumer));
        let (mut next, began) = (0, Instant::now());
        while next < 40 {
            records.direct("t", 0).unwrap();
            consumer.assign(&from(next)).unwrap();
            let before = next;
            while next == before {
                assert!(began.elapsed() < TIMEOUT, "silent at {next}");
                records.wait(Duration::from_millis(20));
                while records.has_events() {
                    assert!(consumer.poll(Duration::ZERO).is_none(), "a record of the consumer's own queue");
                }
                records.take(5, |taken| {
                    let Taken::Record(record) = taken else { panic!("{taken:?}") };
                    assert_eq!(record.offset(), next);
                    next += 1;
                });
                records.direct("t", 0).unwrap();
            }
            consumer.unassign().unwrap();
        }
    }
}
