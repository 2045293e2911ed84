//! What `make fuzz` calls with any bytes: the readers of what others have written. A panic is a find.

use bytes::Bytes;

use crate::api::DECODERS;
use crate::groups;

/// The answer to one request in one version, which the first two bytes choose.
pub fn response(data: &[u8]) {
    let [request, version, answer @ ..] = data else { return };
    let decoder = &DECODERS[usize::from(*request) % DECODERS.len()];
    let (oldest, newest) = decoder.versions.clone().into_inner();
    let version = oldest + i16::from(*version) % (newest - oldest + 1);
    (decoder.decode)(Bytes::copy_from_slice(answer), version).ok();
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

    type Target = (&'static str, fn(&[u8]));

    /// What was found once stays found, and what is sound is read.
    #[test]
    fn the_corpus_is_read() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let targets: &[Target] = &[
            ("response", response),
            ("membership", membership),
            #[cfg(feature = "librdkafka")]
            ("header_names", header_names),
        ];
        for (target, read) in targets {
            let files = std::fs::read_dir(corpus.join(target)).unwrap();
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(files.len() >= 5, "{target}: {files:?}");
            for file in files {
                read(&std::fs::read(file).unwrap());
            }
        }
    }
}
