//! The headers of a message, whatever bytes its sender called a name.

use std::borrow::Cow;
use std::ffi::CStr;

use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_headers};
use rdkafka::types::RDKafkaRespErr;

use super::records::Fetched;

/// The headers of a record in their order. What is no UTF-8 in a name is replaced by U+FFFD: Kafka takes any bytes, and the wrapper's own
/// access panics at them.
pub fn headers(record: Fetched<'_>) -> Vec<(Cow<'_, str>, Option<&[u8]>)> {
    let mut headers = std::ptr::null_mut();
    // SAFETY: the message lives as long as `'a`, and its headers belong to it.
    unsafe {
        match rd_kafka_message_headers(record.message(), &raw mut headers) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => read(headers),
            _ => Vec::new(),
        }
    }
}

/// # Safety
/// The headers live, and do not change, for as long as what is read of them is used.
unsafe fn read<'a>(headers: *const rd_kafka_headers_t) -> Vec<(Cow<'a, str>, Option<&'a [u8]>)> {
    let mut found = Vec::new();
    let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: promised by the caller. An index beyond the last one is an error and nothing is written; name, which ends with a zero, and
    // value, which has `size` bytes or is null, belong to the headers.
    unsafe {
        while rd_kafka_header_get_all(headers, found.len(), &raw mut name, &raw mut value, &raw mut size)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            let bytes = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            found.push((CStr::from_ptr(name).to_string_lossy(), bytes));
        }
    }
    found
}

/// What is read of headers that librdkafka was given so.
#[cfg(any(test, fuzzing))]
pub(crate) fn with_headers<T>(
    given: &[(&[u8], Option<&[u8]>)],
    call: impl FnOnce(&[(Cow<'_, str>, Option<&[u8]>)]) -> T,
) -> T {
    use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new};

    // SAFETY: the list is ours and given back once, after the last use of what was read of it; names and values are copied into it.
    unsafe {
        let headers = rd_kafka_headers_new(given.len());
        for (name, value) in given {
            let (bytes, size) = value.map_or((std::ptr::null(), 0), |value| (value.as_ptr(), value.len()));
            rd_kafka_header_add(
                headers,
                name.as_ptr().cast(),
                name.len().cast_signed(),
                bytes.cast(),
                size.cast_signed(),
            );
        }
        let outcome = call(&read(headers));
        rd_kafka_headers_destroy(headers);
        outcome
    }
}
