//! What `make fuzz` calls with any bytes: the readers of what other clients may have written. A panic is a find.

use bytes::Bytes;

pub use crate::consumer::commit_metadata;
use crate::message::{Header, Message};
use crate::record::Record;

/// Headers of a record: each a byte that chooses its name, then a length and so many bytes of value; 255 is no value. Names beyond those
/// that something is read of are the value itself.
///
/// # Panics
/// When it finds something.
pub fn headers(mut data: &[u8]) {
    let mut message = Message::to("t");
    while let [name, length, rest @ ..] = data {
        let (value, rest) = rest.split_at(if *length == u8::MAX { 0 } else { usize::from(*length).min(rest.len()) });
        let name = match NAMES.get(usize::from(*name)) {
            Some(name) => (*name).to_owned(),
            None => format!("ce_{}", String::from_utf8_lossy(value)),
        };
        let value = (*length < u8::MAX).then(|| Bytes::copy_from_slice(value));
        message.headers.push(Header { name, value });
        data = rest;
    }
    let record = Record::of(message.clone(), 0);
    assert_eq!(record.headers(), message.headers());
    assert_eq!(record.to_message().headers(), message.headers());
    let _ = (record.content_type(), record.version(), record.event_type(), record.retry_count());

    if let Some(context) = record.trace_context() {
        let missing = context.missing(&[]);
        let written =
            missing.iter().flatten().fold(Message::to("t"), |message, (name, value)| message.header(*name, value));
        assert_eq!(Record::of(written, 0).trace_context(), Some(context));
    }
    if let Ok(Some(event)) = record.cloud_event() {
        let written = Message::to("t").cloud_event(&event);
        assert_eq!(Record::of(written, 0).cloud_event(), Ok(Some(event)));
    }
}

const NAMES: [&str; 15] = [
    "X-Trace-ID",
    "traceparent",
    "tracestate",
    "Content-Type",
    "content-type",
    "Version",
    "Event-Type",
    "Retry-Count",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_",
    "",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        let files = files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()));
        let files: Vec<_> = files.collect();
        assert!(files.len() >= 5, "{target}: {} files", files.len());
        files
    }

    /// What was found once stays found, and what is sound is understood.
    #[test]
    fn the_corpus_is_read() {
        for (_, data) in &corpus("headers") {
            headers(data);
        }
        for (name, data) in corpus("commit_metadata") {
            let understood = commit_metadata(&data);
            assert!(understood || !name.starts_with("sound-"), "{name}");
        }
    }
}
