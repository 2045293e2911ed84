//! Calls of librdkafka that its safe wrapper lacks. Every function here is safe: the client it gets keeps the handle alive for the
//! whole call, and librdkafka is thread-safe.

#![allow(unsafe_code, reason = "the calls exist in C alone; the rest of the crate has none")]

mod committed;
mod headers;
mod records;

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_commit_queue, rd_kafka_conf, rd_kafka_conf_get, rd_kafka_error_code, rd_kafka_error_destroy,
    rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_error_string, rd_kafka_event_log,
    rd_kafka_event_topic_partition_list, rd_kafka_flush, rd_kafka_mem_free, rd_kafka_memberid, rd_kafka_outq_len,
    rd_kafka_queue_destroy, rd_kafka_queue_get_consumer, rd_kafka_queue_new, rd_kafka_queue_poll,
    rd_kafka_sasl_set_credentials, rd_kafka_topic_partition_list_find,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaConfRes, RDKafkaRespErr};

pub use committed::{Committed, committed, positions, topic_ids};
pub use headers::headers;
#[cfg(any(test, fuzzing))]
pub(crate) use headers::with_headers;
pub use records::{Fetched, RecordQueue, Taken};

/// The value of a property in the *running* client, not in the configuration that it was asked to have. `None`: librdkafka has no
/// such property, or it has no value.
pub fn property<C: ClientContext>(client: &Client<C>, name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    let mut size = 0_usize;
    // SAFETY: the handle lives as long as `client`; the configuration belongs to it. With a null buffer only the size is written.
    let conf = unsafe { rd_kafka_conf(client.native_ptr()) };
    let result = unsafe { rd_kafka_conf_get(conf, name.as_ptr(), std::ptr::null_mut(), &raw mut size) };
    if result != RDKafkaConfRes::RD_KAFKA_CONF_OK {
        return None;
    }
    let mut value = vec![0_u8; size.max(1)];
    let mut written = value.len();
    // SAFETY: as above; the buffer has `written` bytes and librdkafka ends the text with a zero within them.
    let result = unsafe { rd_kafka_conf_get(conf, name.as_ptr(), value.as_mut_ptr().cast(), &raw mut written) };
    if result != RDKafkaConfRes::RD_KAFKA_CONF_OK {
        return None;
    }
    Some(CStr::from_bytes_until_nul(&value).ok()?.to_string_lossy().into_owned())
}

/// Whether a consumer has a place in its group. One that leaves has none from the moment when it says so to the group.
pub fn is_member<C: ClientContext>(client: &Client<C>) -> bool {
    let handle = client.native_ptr();
    // SAFETY: the handle lives as long as `client`. The text, if there is one, is ours and is given back once.
    unsafe {
        let id = rd_kafka_memberid(handle);
        let is_member = !id.is_null() && !CStr::from_ptr(id).is_empty();
        rd_kafka_mem_free(handle, id.cast());
        is_member
    }
}

/// Blocks until every message of a producer was acknowledged or failed, at most for `timeout`. Sends at once, whatever `linger.ms`
/// says. Another thread must poll the producer meanwhile. Returns how many messages still wait.
pub fn flush<C: ClientContext>(client: &Client<C>, timeout: Duration) -> usize {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle lives as long as `client`.
    if unsafe { rd_kafka_flush(client.native_ptr(), milliseconds) } == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return 0;
    }
    waiting(client).max(1)
}

/// Sends a commit of these offsets. A later poll calls [`ConsumerContext::commit_callback`] with the answer.
///
/// The wrapper's own asynchronous commit is never answered: librdkafka tells its outcome to a C callback alone, which the wrapper
/// no longer sets, unless a queue is named.
///
/// # Errors
/// When librdkafka does not even take the request: no group, or the consumer is closing.
pub fn commit_async<C: ConsumerContext>(consumer: &BaseConsumer<C>, offsets: &TopicPartitionList) -> KafkaResult<()> {
    let client = consumer.client().native_ptr();
    // SAFETY: the handle lives as long as `consumer`. The list is copied by the call. The queue is a counted reference that is
    // given back once and not used afterwards; librdkafka keeps its own until the answer is in it.
    let code = unsafe {
        let queue = rd_kafka_queue_get_consumer(client);
        if queue.is_null() {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_GROUP
        } else {
            let code = rd_kafka_commit_queue(client, offsets.ptr(), queue, None, std::ptr::null_mut());
            rd_kafka_queue_destroy(queue);
            code
        }
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code.into())),
    }
}

/// Commits these offsets and waits for the answer, at most for `timeout`. It calls no callback, so that a callback may call it. The
/// error of each partition is written into the list.
///
/// The wrapper's own commit waits for as long as the coordinator is away, up to the session timeout, and hides which partition failed.
///
/// # Errors
/// The error of the request or of one of its partitions; [`RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT`] without an answer in time, and
/// the offsets may yet be committed.
pub fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &mut TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<()> {
    let client = consumer.client().native_ptr();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle lives as long as `consumer`. The queue is our own; librdkafka counts its references, so an answer that
    // comes too late finds it. The event and its list are read before the event is destroyed, and `find` returns an element of the
    // list that is borrowed for us alone, or null.
    let code = unsafe {
        let queue = rd_kafka_queue_new(client);
        let mut code = rd_kafka_commit_queue(client, offsets.ptr(), queue, None, std::ptr::null_mut());
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let event = rd_kafka_queue_poll(queue, milliseconds);
            if event.is_null() {
                code = RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT;
            } else {
                code = rd_kafka_event_error(event);
                let answered = rd_kafka_event_topic_partition_list(event);
                if !answered.is_null() {
                    for index in 0..usize::try_from((*answered).cnt).unwrap_or_default() {
                        let element = (*answered).elems.add(index);
                        let ours =
                            rd_kafka_topic_partition_list_find(offsets.ptr(), (*element).topic, (*element).partition);
                        if !ours.is_null() {
                            (*ours).err = (*element).err;
                        }
                    }
                }
                rd_kafka_event_destroy(event);
            }
        }
        rd_kafka_queue_destroy(queue);
        code
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code.into())),
    }
}

/// User name and password of every connection that a running client opens, or proves again, from now on (PLAIN and SCRAM).
/// Connections that stand are left as they are.
///
/// # Errors
/// A text with a zero byte.
pub fn set_sasl_credentials<C: ClientContext>(client: &Client<C>, username: &str, password: &str) -> KafkaResult<()> {
    let (username, password) = (CString::new(username)?, CString::new(password)?);
    // SAFETY: the handle lives as long as `client`; both texts are copied. The error is ours, read once and given back.
    unsafe {
        let error = rd_kafka_sasl_set_credentials(client.native_ptr(), username.as_ptr(), password.as_ptr());
        if error.is_null() {
            return Ok(());
        }
        let code = rd_kafka_error_code(error);
        rd_kafka_error_destroy(error);
        Err(KafkaError::Global(code.into()))
    }
}

/// What librdkafka says of a client's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An error, with its sentence.
    Error(RDKafkaErrorCode, String),
    /// A line of its log.
    Log {
        /// What the line is about, in capitals.
        facility: String,
        /// The line.
        message: String,
    },
}

/// What a consumer that has not joined its group was told since the last call. The wrapper's own poll keeps the sentences to itself.
/// On a subscribed consumer it would throw records away.
pub fn events<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Vec<Event> {
    let mut events = Vec::new();
    // SAFETY: the handle lives as long as `consumer`. The queue is a counted reference that is given back once; each event is read
    // before it is destroyed, and its texts belong to it. Those of a log line are set by the call that returns 0, and of others null.
    unsafe {
        let text = |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
        let queue = rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        if queue.is_null() {
            return events;
        }
        loop {
            let event = rd_kafka_queue_poll(queue, 0);
            if event.is_null() {
                break;
            }
            let (mut facility, mut message, mut level) = (std::ptr::null(), std::ptr::null(), 0);
            let code = rd_kafka_event_error(event);
            if rd_kafka_event_log(event, &raw mut facility, &raw mut message, &raw mut level) == 0 {
                let line = text(facility).zip(text(message));
                events.extend(line.map(|(facility, message)| Event::Log { facility, message }));
            } else if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let sentence = text(rd_kafka_event_error_string(event));
                events.extend(sentence.map(|sentence| Event::Error(code.into(), sentence)));
            }
            rd_kafka_event_destroy(event);
        }
        rd_kafka_queue_destroy(queue);
    }
    events
}

/// Messages of a producer that wait for their acknowledgement, with the events that wait to be polled.
pub fn waiting<C: ClientContext>(client: &Client<C>) -> usize {
    // SAFETY: the handle lives as long as `client`.
    usize::try_from(unsafe { rd_kafka_outq_len(client.native_ptr()) }).unwrap_or_default()
}
