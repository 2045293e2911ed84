use kafka_protocol::messages::MetadataResponse;
use proptest::prelude::*;

use super::*;
use crate::api::DECODERS;
use crate::fake::{metadata, response};

/// The frame without its length, as [`next`] would hand it over.
fn metadata_frame() -> Vec<u8> {
    response(7, &metadata(&[(1, 9092), (2, 9092)], 1, &[("orders", 1), ("payments", 2)])).split_off(4)
}

fn decode_all(frame: &Bytes) {
    for decoder in DECODERS {
        for version in decoder.versions.clone() {
            (decoder.decode)(frame.clone(), version).ok();
        }
    }
}

#[test]
fn a_sound_response_is_read() {
    let decoded: MetadataResponse = decode(metadata_frame().into(), 12).unwrap();
    assert_eq!(decoded.brokers.len(), 2);
    assert_eq!(decoded.topics[1].partitions[0].leader_id.0, 2);
}

#[test]
fn no_memory_is_reserved_for_a_length_that_cannot_be_true() {
    // Correlation id, no tags, throttle time, then four thousand million brokers: unchecked, the reservation aborts the test.
    let frame = [&[0, 0, 0, 7, 0, 0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0; 32]].concat();
    let error = decode::<MetadataResponse>(frame.into(), 12).unwrap_err();
    assert!(matches!(&error, ErrorKind::Malformed(why) if why.contains("4294967295")), "{error}");
}

#[test]
fn a_large_frame_of_garbage_reserves_little() {
    let mut frame = vec![0, 0, 0, 7, 0, 0, 0, 0, 0];
    // Sixteen million brokers, and as many bytes behind the number.
    frame.extend_from_slice(&[0x81, 0x80, 0x80, 0x08]);
    frame.resize(frame.len() + (16 << 20), 0xff);
    let error = decode::<MetadataResponse>(frame.into(), 12).unwrap_err();
    assert!(matches!(&error, ErrorKind::Malformed(why) if why.contains("16777217")), "{error}");
}

#[test]
fn an_array_may_be_as_long_as_the_bytes_behind_it_allow() {
    // Version 4 of ListGroups: throttle time, error code, groups of id, protocol type and state.
    let mut frame = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0x89, 0x27];
    for _ in 0..5_000 {
        frame.extend_from_slice(&[2, b'g', 1, 1, 0]);
    }
    frame.push(0);
    let decoded: kafka_protocol::messages::ListGroupsResponse = decode(frame.into(), 4).unwrap();
    assert_eq!(decoded.groups.len(), 5_000);
}

#[test]
fn frames_are_cut_off_one_by_one() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0][..]);
    assert_eq!(next(&mut buffer, 10).unwrap().as_deref(), Some(&[1, 2, 3, 4, 5][..]));
    assert_eq!(next(&mut buffer, 10), Ok(None));
    buffer.extend_from_slice(&[4, 9, 9, 9]);
    assert_eq!(next(&mut buffer, 10), Ok(None));
    buffer.extend_from_slice(&[9]);
    assert_eq!(next(&mut buffer, 10).unwrap().as_deref(), Some(&[9, 9, 9, 9][..]));
    assert!(buffer.is_empty());
}

proptest! {
    #[test]
    fn garbage_never_panics(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&frame.into());
    }

    /// Garbage that is nearly right gets further into the decoders.
    #[test]
    fn a_damaged_response_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = metadata_frame();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        decode_all(&frame.clone().into());
        frame.truncate(cut.index(frame.len()));
        decode_all(&frame.into());
    }

    #[test]
    fn any_stream_of_bytes_is_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = next(&mut buffer, 64) {
            prop_assert!((4..=64).contains(&frame.len()));
            prop_assert!(correlation_id(&frame).is_some());
        }
    }
}
