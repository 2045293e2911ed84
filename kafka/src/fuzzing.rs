//! What `make fuzz` calls with any bytes: the readers of what others have written. A panic is a find.

use bytes::Bytes;

use crate::api::DECODERS;
use crate::groups;

/// The answer to a request, whose key and version, as Kafka numbers them, are the first two bytes. Whether it can be read.
pub fn response(data: &[u8]) -> bool {
    let [key, version, answer @ ..] = data else { return false };
    let (key, version) = (i16::from(*key), i16::from(*version));
    let decoder = DECODERS.iter().find(|decoder| decoder.key == key && decoder.versions.contains(&version));
    decoder.is_some_and(|decoder| (decoder.decode)(Bytes::copy_from_slice(answer), version).is_ok())
}

/// What the members of a group tell each other.
///
/// # Panics
/// When it finds something.
pub fn membership(data: &[u8]) {
    let subscribed = groups::subscription(data).map_or(0, |topics| topics.len());
    let assigned = groups::assignment(data).map_or(0, |topics| topics.len());
    assert!(subscribed.max(assigned) <= data.len(), "nothing is made up");
}

/// Headers of a record, as librdkafka holds them: each a length and so many bytes of name, then of value; 255 is no value.
///
/// # Panics
/// When it finds something.
#[cfg(feature = "librdkafka")]
pub fn header_names(mut data: &[u8]) {
    let mut given = Vec::new();
    while let Some((name, rest)) = counted(data) {
        let value = counted(rest);
        given.push((name, value.map(|(value, _)| value)));
        data = value.map_or_else(|| rest.get(1..).unwrap_or_default(), |(_, rest)| rest);
    }
    crate::ffi::with_headers(&given, |read| {
        assert_eq!(read.len(), given.len());
        for ((name, value), (given_name, given_value)) in read.iter().zip(&given) {
            // Names are texts of C: they end at a zero.
            let given_name = given_name.split(|byte| *byte == 0).next().unwrap_or_default();
            assert_eq!((&**name, *value), (&*String::from_utf8_lossy(given_name), *given_value));
        }
    });
}

#[cfg(feature = "librdkafka")]
fn counted(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first().filter(|(length, _)| **length < u8::MAX)?;
    Some(rest.split_at(usize::from(*length).min(rest.len())))
}

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

    /// What was found once stays found.
    #[test]
    fn the_corpus_is_read() {
        for (_, data) in &corpus("membership") {
            membership(data);
        }
        #[cfg(feature = "librdkafka")]
        for (_, data) in &corpus("header_names") {
            header_names(data);
        }
    }

    /// And what is sound is understood: at least one answer to each request.
    #[test]
    fn sound_answers_are_understood() {
        let mut understood = std::collections::BTreeSet::new();
        for (name, data) in corpus("response") {
            let read = response(&data);
            if name.starts_with("sound-") {
                assert!(read, "{name}");
                understood.insert(i16::from(data[0]));
            }
        }
        let missing: Vec<i16> =
            DECODERS.iter().map(|decoder| decoder.key).filter(|key| !understood.contains(key)).collect();
        assert!(missing.is_empty(), "no sound answer to the requests {missing:?}");
    }
}
