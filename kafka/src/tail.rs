//! Whether a log holds records behind an offset: its end alone does not say, for markers of transactions have offsets too, and compaction
//! leaves gaps.

use std::collections::BTreeSet;

use kafka_protocol::{
    messages::{
        BrokerId, FetchRequest, FetchResponse, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
    },
    protocol::StrBytes,
};

use crate::{Client, Error, ErrorKind, PartitionError, PartitionMap, Partitions, api::Api};

/// Most that is read of a log.
const MOST_BYTES: i32 = 64 << 10;
/// The head of a batch of records, up to their number.
const HEAD: usize = 61;
/// Bits of a batch's attributes: it is part of a transaction, it is a marker.
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
/// What an aborted transaction left is named, and nothing behind an open one is read.
const READ_COMMITTED: i8 = 1;

/// What lies behind an offset of a log. Records of aborted transactions are none: whoever reads committed records never gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// From the offset that was asked about up to this one there is no record; the same offset if nothing can be said.
    pub until: i64,
    /// What is at `until`.
    pub then: Then,
}

/// What ends the part of a log in which there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// A record, or something that may be one.
    Record,
    /// The beginning of a transaction that is not ended.
    OpenTransaction,
    /// The end of the log, or of what was read of it.
    Unread,
}

impl Client {
    /// What lies behind the offset `from`.
    ///
    /// One Fetch request of at most 64 KiB to the leader, which takes the right to read the topic. What the records hold is not looked at.
    ///
    /// # Errors
    /// The partition could not be read.
    pub async fn behind(&self, topic: &str, partition: i32, from: i64) -> Result<Behind, PartitionError> {
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
        judge(&answer(response)?, from)
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
        .with_isolation_level(READ_COMMITTED)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

fn answer(response: FetchResponse) -> Result<PartitionData, PartitionError> {
    PartitionError::check(response.error_code)?;
    let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let missing = || ErrorKind::Malformed("no answer for this partition".to_owned());
    partition.ok_or_else(|| Error::new(FetchRequest::NAME, "leader", missing()).into())
}

/// Looks at the heads of batches. A batch that holds records holds one behind `from`, or may do so.
fn judge(read: &PartitionData, from: i64) -> Result<Behind, PartitionError> {
    PartitionError::check(read.error_code)?;
    let (stable, end) = (read.last_stable_offset, read.high_watermark);
    // The oldest first; the producer's next marker ends it.
    let mut begun: Vec<_> = read.aborted_transactions.iter().flatten().collect();
    begun.sort_by_key(|transaction| transaction.first_offset);
    let mut begun = begun.into_iter().peekable();
    let mut aborted = BTreeSet::new();
    let mut batches = read.records.as_deref().unwrap_or_default();
    let mut until = from;
    while let Some(batch) = Batch::first(batches) {
        while let Some(transaction) = begun.next_if(|transaction| transaction.first_offset < batch.next) {
            aborted.insert(transaction.producer_id.0);
        }
        let is_aborted = batch.attributes & TRANSACTIONAL != 0 && aborted.contains(&batch.producer);
        if batch.attributes & CONTROL != 0 {
            aborted.remove(&batch.producer);
        }
        if batch.next > from && batch.holds_records() && !is_aborted {
            return Ok(Behind { until: until.max(batch.base.min(end)), then: Then::Record });
        }
        until = until.max(batch.next.min(end));
        batches = batches.get(batch.length..).unwrap_or_default();
    }
    let open = (from..=until).contains(&stable) && stable < end;
    Ok(if open { Behind { until: stable, then: Then::OpenTransaction } } else { Behind { until, then: Then::Unread } })
}

/// The head of a batch.
struct Batch {
    base: i64,
    /// The offset after its last.
    next: i64,
    /// Its bytes.
    length: usize,
    magic: u8,
    attributes: i16,
    producer: i64,
    count: i32,
}

impl Batch {
    /// The batch with which these bytes begin; none if its head is not whole.
    fn first(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        let long = |at: usize| head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        let int = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
        let (base, length, last) = (long(0)?, int(8)?, int(23)?);
        Some(Self {
            base,
            next: base.checked_add(i64::from(last))?.checked_add(1)?,
            length: usize::try_from(length).ok()?.checked_add(12)?,
            magic: *head.get(16)?,
            attributes: i16::from_be_bytes(head.get(21..23)?.try_into().ok()?),
            producer: long(43)?,
            count: int(57)?,
        })
    }

    /// Older formats than the second are laid out otherwise: they count as records.
    fn holds_records(&self) -> bool {
        self.magic != 2 || (self.attributes & CONTROL == 0 && self.count != 0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::{ProducerId, fetch_response::AbortedTransaction};
    use proptest::prelude::*;

    use super::*;

    /// The head of a batch, and some bytes behind it.
    fn batch(base: i64, last: i32, control: bool, count: i32) -> Vec<u8> {
        let mut batch = vec![0; HEAD + 20];
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[8..12].copy_from_slice(&i32::try_from(HEAD + 20 - 12).unwrap().to_be_bytes());
        batch[16] = 2;
        batch[21..23].copy_from_slice(&(if control { CONTROL | TRANSACTIONAL } else { 0 }).to_be_bytes());
        batch[23..27].copy_from_slice(&last.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        batch
    }

    /// The same, as part of a transaction of this producer.
    fn of(producer: i64, mut batch: Vec<u8>) -> Vec<u8> {
        batch[22] |= u8::try_from(TRANSACTIONAL).unwrap();
        batch[43..51].copy_from_slice(&producer.to_be_bytes());
        batch
    }

    fn marker(base: i64) -> Vec<u8> {
        batch(base, 0, true, 1)
    }

    fn read(records: &[u8], stable: i64, end: i64) -> PartitionData {
        PartitionData::default()
            .with_records(Some(Bytes::copy_from_slice(records)))
            .with_last_stable_offset(stable)
            .with_high_watermark(end)
    }

    fn behind(records: &[u8], from: i64) -> (i64, Then) {
        let behind = judge(&read(records, 1_000, 1_000), from).unwrap();
        (behind.until, behind.then)
    }

    #[test]
    fn markers_and_emptied_batches_are_no_records() {
        use Then::{Record, Unread};
        let emptied = batch(11, 4, false, 0);
        let records = batch(16, 1, false, 2);
        assert_eq!(behind(&marker(10), 10), (11, Unread));
        assert_eq!(behind(&[marker(10), emptied.clone()].concat(), 10), (16, Unread));
        assert_eq!(behind(&[marker(10), emptied, records.clone()].concat(), 10), (16, Record));
        assert_eq!(behind(&[records.clone(), marker(18)].concat(), 18), (19, Unread), "it begins before");
        assert_eq!(behind(&records, 17), (17, Record), "it may be the second");
        assert_eq!(behind(&records, 12), (16, Record), "a gap");
        assert_eq!(behind(&records[..HEAD], 16), (16, Record), "one that is cut is one");
        assert_eq!(behind(&records[..HEAD - 1], 16), (16, Unread));
        assert_eq!(behind(&[marker(10), records[..20].to_vec()].concat(), 10), (11, Unread));
        let mut old = marker(10);
        old[16] = 1;
        assert_eq!(behind(&old, 10), (10, Record));
        assert_eq!(behind(&[], 10), (10, Unread), "nothing was read, nothing is known");
    }

    #[test]
    fn a_transaction_that_is_not_ended_is_found_behind_the_marker_of_the_one_before() {
        let look = |records: &[u8], from, stable, end| {
            let behind = judge(&read(records, stable, end), from).unwrap();
            (behind.until, behind.then)
        };
        let open = (7, Then::OpenTransaction);
        assert_eq!(look(&marker(6), 6, 7, 9), open);
        assert_eq!(look(&[], 7, 7, 9), open);
        assert_eq!(
            look(&[marker(6), of(3, batch(7, 1, false, 2))].concat(), 6, 7, 9),
            (7, Then::Record),
            "not sent so"
        );
        assert_eq!(look(&[batch(6, 0, false, 1)].concat(), 6, 7, 9), (6, Then::Record), "a record comes first");
        assert_eq!(look(&marker(6), 6, 8, 9), (7, Then::Unread), "what is before it was not read");
        assert_eq!(look(&marker(6), 6, 7, 7), (7, Then::Unread));
        assert_eq!(look(&[], 8, 7, 9), (8, Then::Unread), "behind it nothing is read");
    }

    #[test]
    fn records_of_aborted_transactions_are_none() {
        let look = |records: &[Vec<u8>], aborted: &[(i64, i64)], from| {
            let aborted = aborted.iter().map(|(producer, first)| {
                AbortedTransaction::default().with_producer_id(ProducerId(*producer)).with_first_offset(*first)
            });
            let read = read(&records.concat(), 100, 100).with_aborted_transactions(Some(aborted.collect()));
            let behind = judge(&read, from).unwrap();
            (behind.until, behind.then)
        };
        let first = || vec![of(3, batch(5, 1, false, 2)), of(3, marker(7))];
        let second = || vec![of(3, batch(8, 0, false, 1)), of(3, marker(9))];
        let both = [first(), second()].concat();
        assert_eq!(look(&both, &[], 5), (5, Then::Record));
        assert_eq!(look(&both, &[(3, 5)], 5), (8, Then::Record), "its marker ends it");
        assert_eq!(look(&both, &[(3, 8), (3, 5)], 6), (10, Then::Unread));
        assert_eq!(look(&both, &[(3, 8)], 5), (5, Then::Record), "the first was committed");
        assert_eq!(look(&both, &[(4, 5), (4, 8)], 5), (5, Then::Record), "another producer");
        assert_eq!(look(&[batch(5, 0, false, 1)], &[(0, 5)], 5), (5, Then::Record), "it is in no transaction");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), from: i64, stable: i64, end: i64,
        ) {
            let behind = judge(&read(&bytes, stable, end), from).unwrap();
            prop_assert!(behind.until >= from);
        }
    }
}
