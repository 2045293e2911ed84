//! Whether a log holds records behind an offset: its end alone does not say, for markers of transactions have offsets too, and compaction
//! leaves gaps.

use kafka_protocol::{
    messages::{
        BrokerId, FetchRequest, FetchResponse, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
    },
    protocol::StrBytes,
};

use crate::{Client, Error, ErrorKind, PartitionError, PartitionMap, Partitions, api::Api};

/// Most that is read of a log.
const MOST_BYTES: i32 = 64 << 10;
/// The head of a batch of records, up to their number.
const HEAD: usize = 61;
/// Bit of a batch's attributes: it is a marker.
const CONTROL: i16 = 0x20;

impl Client {
    /// The offset up to which there is no record from `from` on; `None`: there is one, or there may be.
    ///
    /// One Fetch request of at most 64 KiB to the leader, which takes the right to read the topic. What the records hold is not looked at.
    ///
    /// # Errors
    /// The partition could not be read.
    pub async fn nothing_until(&self, topic: &str, partition: i32, from: i64) -> Result<Option<i64>, PartitionError> {
        let asked = Partitions::from([(topic.to_owned(), [partition].into())]);
        let mut failed = PartitionMap::new();
        let routes = self.leaders(&asked, &mut failed).await;
        let Some(leader) = routes.into_keys().next() else {
            let why = failed.remove(topic).and_then(|mut partitions| partitions.remove(&partition));
            return match why {
                Some(Err(error)) => Err(error),
                _ => Err(PartitionError::Absent),
            };
        };
        let response = self.at_node(leader, &request(topic, partition, from)).await?;
        until(response, from)
    }
}

fn request(topic: &str, partition: i32, from: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_fetch_offset(from)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(MOST_BYTES);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    // No session: nothing is asked for again.
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_bytes(MOST_BYTES)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

fn until(response: FetchResponse, from: i64) -> Result<Option<i64>, PartitionError> {
    PartitionError::check(response.error_code)?;
    let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let Some(partition) = partition else {
        let missing = ErrorKind::Malformed("no answer for this partition".to_owned());
        return Err(Error::new(FetchRequest::NAME, "leader", missing).into());
    };
    PartitionError::check(partition.error_code)?;
    let nothing = nothing(partition.records.as_deref().unwrap_or_default(), from);
    Ok(nothing.map(|until| until.min(partition.high_watermark)))
}

/// Looks at the heads of batches. A batch that holds records holds one behind `from`, or may do so.
fn nothing(mut batches: &[u8], from: i64) -> Option<i64> {
    let mut until = from;
    while let Some(head) = batches.get(..HEAD) {
        let long = |at: usize| head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        let int = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
        let attributes = i16::from_be_bytes(head.get(21..23)?.try_into().ok()?);
        let (base, length, last, count) = (long(0)?, int(8)?, int(23)?, int(57)?);
        let next = base.checked_add(i64::from(last))?.checked_add(1)?;
        // Older ones than the second format are laid out otherwise.
        let is_record = head.get(16) != Some(&2) || (attributes & CONTROL == 0 && count != 0);
        if is_record && next > from {
            return None;
        }
        until = until.max(next);
        let whole = usize::try_from(length).ok()?.checked_add(12)?;
        batches = batches.get(whole..).unwrap_or_default();
    }
    (until > from).then_some(until)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head of a batch, and some bytes behind it.
    fn batch(base: i64, last: i32, control: bool, count: i32) -> Vec<u8> {
        let mut batch = vec![0; HEAD + 20];
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[8..12].copy_from_slice(&i32::try_from(HEAD + 20 - 12).unwrap().to_be_bytes());
        batch[16] = 2;
        batch[21..23].copy_from_slice(&(if control { CONTROL | 0x10 } else { 0 }).to_be_bytes());
        batch[23..27].copy_from_slice(&last.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        batch
    }

    #[test]
    fn markers_and_emptied_batches_are_no_records() {
        let marker = || batch(10, 0, true, 1);
        let emptied = batch(11, 4, false, 0);
        let records = batch(16, 1, false, 2);
        assert_eq!(nothing(&marker(), 10), Some(11));
        assert_eq!(nothing(&[marker(), emptied.clone()].concat(), 10), Some(16));
        assert_eq!(nothing(&[marker(), emptied, records.clone()].concat(), 10), None);
        assert_eq!(nothing(&[records.clone(), batch(18, 0, true, 1)].concat(), 18), Some(19), "it begins before");
        assert_eq!(nothing(&records[..HEAD], 16), None, "one that is cut is one");
        assert_eq!(nothing(&records[..HEAD - 1], 16), None);
        assert_eq!(nothing(&[marker(), records[..20].to_vec()].concat(), 10), Some(11));
        let mut old = marker();
        old[16] = 1;
        assert_eq!(nothing(&old, 10), None);
        assert_eq!(nothing(&[], 10), None, "nothing was read, nothing is known");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), from: i64) {
            if let Some(until) = nothing(&bytes, from) {
                prop_assert!(until > from);
            }
        }
    }
}
