//! What a consumer's group has committed, and for which topic. The calls block.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_broker,
    rd_kafka_AdminOptions_set_request_timeout, rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics,
    rd_kafka_TopicCollection_destroy, rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error,
    rd_kafka_TopicDescription_name, rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_least_significant_bits,
    rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t, rd_kafka_committed, rd_kafka_error_code,
    rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_t,
    rd_kafka_position, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_topic_partition_t,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use uuid::Uuid;

use crate::TopicId;

/// What a group has committed for one partition.
#[derive(Debug)]
pub struct Committed {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset, and the bytes that were committed with it, by whomever: they need not be text. `None`: there is no commit.
    pub commit: KafkaResult<Option<(i64, Vec<u8>)>>,
}

/// What the consumer's group has committed for these partitions. Waits for at most `timeout`.
///
/// The wrapper's own list panics when it is asked for metadata that are not text, when it is compared and when it is printed.
///
/// # Errors
/// The error of the request; that of one partition is with it.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<Vec<Committed>> {
    let list = partitions.clone();
    // SAFETY: the handle lives as long as `consumer`, and the list as long as what is read of it. Nobody else has it. Topics end with a
    // zero; the metadata are as many bytes as librdkafka says, or none.
    unsafe {
        checked(rd_kafka_committed(consumer.client().native_ptr(), list.ptr(), milliseconds(timeout)))
            .map_err(|code| KafkaError::OffsetFetch(code.into()))?;
        let elements: &[rd_kafka_topic_partition_t] = slice((*list.ptr()).elems, list.count());
        let committed = elements.iter().map(|element| {
            let metadata: &[u8] = slice(element.metadata.cast(), element.metadata_size);
            let commit = (element.offset >= 0).then(|| (element.offset, metadata.to_vec()));
            let commit = checked(element.err).map(|()| commit).map_err(|code| KafkaError::OffsetFetch(code.into()));
            Committed { topic: text(element.topic), partition: element.partition, commit }
        });
        Ok(committed.collect())
    }
}

/// Writes into the list where reading has come to: after the record that was polled last, and after what follows it and is no record,
/// the marker of a transaction. `Offset::Invalid`: nothing was polled since the partition was assigned or sought.
pub fn positions<C: ConsumerContext>(consumer: &BaseConsumer<C>, partitions: &mut TopicPartitionList) {
    // SAFETY: the handle lives as long as `consumer`; the list is borrowed for us alone. What fails is told per partition.
    unsafe { rd_kafka_position(consumer.client().native_ptr(), partitions.ptr()) };
}

/// The ids of these topics, each named once. Those that are not there are not in the answer, nor are those of brokers before 2.8. Asks
/// twice, and waits for at most `timeout` each time.
///
/// # Errors
/// The error of the request, or a name with a zero byte.
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> KafkaResult<HashMap<String, TopicId>> {
    // Any broker knows them; by default librdkafka asks the controller, which may be away.
    let Some(first) = topics.first() else { return Ok(HashMap::new()) };
    let broker = client.fetch_metadata(Some(first), timeout)?.orig_broker_id();
    let names: Vec<CString> = topics.iter().map(|topic| CString::new(*topic)).collect::<Result<_, _>>()?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the handle lives as long as `client`. Queue, options and collection are ours and given back once; the request copies the
    // latter two with the names, and librdkafka counts its references to the queue. The event is read before it is destroyed.
    unsafe {
        let client = client.native_ptr();
        let queue = rd_kafka_queue_new(client);
        let options = rd_kafka_AdminOptions_new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        rd_kafka_AdminOptions_set_request_timeout(options, milliseconds(timeout), std::ptr::null_mut(), 0);
        rd_kafka_AdminOptions_set_broker(options, broker, std::ptr::null_mut(), 0);
        let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        rd_kafka_DescribeTopics(client, collection, options, queue);
        rd_kafka_TopicCollection_destroy(collection);
        rd_kafka_AdminOptions_destroy(options);
        let event = rd_kafka_queue_poll(queue, milliseconds(timeout));
        let ids = if event.is_null() {
            Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT)
        } else {
            let ids = checked(rd_kafka_event_error(event)).map(|()| read_topic_ids(event));
            rd_kafka_event_destroy(event);
            ids
        };
        rd_kafka_queue_destroy(queue);
        ids.map_err(|code| KafkaError::AdminOp(code.into()))
    }
}

/// # Safety
/// The event is a result of `DescribeTopics` without an error.
unsafe fn read_topic_ids(event: *mut rd_kafka_event_t) -> HashMap<String, TopicId> {
    // SAFETY: all that is read belongs to the event.
    unsafe {
        let mut count = 0;
        let topics = rd_kafka_DescribeTopics_result_topics(rd_kafka_event_DescribeTopics_result(event), &raw mut count);
        let ids = slice(topics, count).iter().filter_map(|topic| {
            let (error, id) = (rd_kafka_TopicDescription_error(*topic), rd_kafka_TopicDescription_topic_id(*topic));
            let failed = !error.is_null() && checked(rd_kafka_error_code(error)).is_err();
            if failed || id.is_null() {
                return None;
            }
            let (high, low) = (rd_kafka_Uuid_most_significant_bits(id), rd_kafka_Uuid_least_significant_bits(id));
            let id = TopicId::known(Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned()))?;
            Some((text(rd_kafka_TopicDescription_name(*topic)), id))
        });
        ids.collect()
    }
}

fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

fn checked(code: RDKafkaRespErr) -> Result<(), RDKafkaRespErr> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code),
    }
}

/// # Safety
/// An array of librdkafka with this many elements, or none, that lives as long as the slice is used.
unsafe fn slice<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// # Safety
/// A text of librdkafka that ends with a zero.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
