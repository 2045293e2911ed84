//! What members of classic consumer groups tell each other. The broker passes these bytes on unread, so they are whatever
//! any client of the cluster has sent.

use std::collections::BTreeSet;

use crate::Partitions;

/// Topics that a member has subscribed to; `None` if the bytes are not a subscription.
pub(crate) fn subscription(bytes: &[u8]) -> Option<BTreeSet<String>> {
    let mut reader = Reader(bytes);
    reader.version()?;
    (0..reader.length()?).map(|_| reader.string()).collect()
}

/// Partitions that a member was given; `None` if the bytes are not an assignment.
pub(crate) fn assignment(bytes: &[u8]) -> Option<Partitions> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let mut assigned = Partitions::new();
    for _ in 0..reader.length()? {
        let partitions = assigned.entry(reader.string()?).or_default();
        for _ in 0..reader.length()? {
            partitions.insert(reader.int()?);
        }
    }
    Some(assigned)
}

/// Reads the fields that all versions begin with. No length is believed: nothing is reserved, and each item must be there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn version(&mut self) -> Option<i16> {
        let version = self.short()?;
        (version >= 0).then_some(version)
    }

    fn short(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.int()?).ok()
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.short()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::{
        messages::{
            ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName,
            consumer_protocol_assignment::TopicPartition,
        },
        protocol::{Encodable as _, StrBytes},
    };
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_version_that_clients_write() {
        for version in 0..=3 {
            let mut bytes = BytesMut::from(&i16::to_be_bytes(version)[..]);
            let names = ["orders", "payments"].map(StrBytes::from_static_str).to_vec();
            ConsumerProtocolSubscription::default().with_topics(names).encode(&mut bytes, version).unwrap();
            assert_eq!(
                subscription(&bytes),
                Some(["orders".to_owned(), "payments".to_owned()].into()),
                "version {version}"
            );

            let mut bytes = BytesMut::from(&i16::to_be_bytes(version)[..]);
            let given = TopicPartition::default()
                .with_topic(TopicName(StrBytes::from_static_str("orders")))
                .with_partitions(vec![0, 5]);
            ConsumerProtocolAssignment::default()
                .with_assigned_partitions(vec![given])
                .encode(&mut bytes, version)
                .unwrap();
            assert_eq!(assignment(&bytes), Some([("orders".to_owned(), [0, 5].into())].into()), "version {version}");
        }
    }

    #[test]
    fn an_absurd_length_is_no_membership() {
        let bytes = [&[0, 0][..], &i32::MAX.to_be_bytes()].concat();
        assert_eq!(subscription(&bytes), None);
        assert_eq!(assignment(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            subscription(&bytes);
            assignment(&bytes);
        }
    }
}
