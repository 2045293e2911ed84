//! What other clients may write and Rust's cannot: bytes that are no UTF-8 where Kafka expects text and does not look.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetCommitRequest, OffsetCommitResponse, ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

use crate::{Broker, wire};

const PRODUCE: (ApiKey, i16) = (ApiKey::Produce, 9);
const OFFSET_COMMIT: (ApiKey, i16) = (ApiKey::OffsetCommit, 8);
/// Where a batch has its checksum, and from where on it counts.
const CHECKSUM: std::ops::Range<usize> = 17..21;

impl Broker {
    /// Writes a record with one header, whose name consists of these bytes and whose value is empty.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn produce_with_header(
        &self,
        (topic, partition): (&str, i32),
        key: &str,
        value: &str,
        header: &[u8],
    ) -> Result<()> {
        let stand_in = stand_in(header);
        let record = Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: 0,
            sequence: -1,
            timestamp: 0,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: [(StrBytes::from_string(stand_in.clone()), Some(Bytes::new()))].into_iter().collect(),
        };
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut batch, [&record], &options)?;
        replace(&mut batch, stand_in.as_bytes(), header)?;
        let checksum = crc32c(&batch[CHECKSUM.end..]);
        batch[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());

        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.freeze()));
        let topic_data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic_data]);
        let answer: ProduceResponse =
            wire::ask(self.bootstrap(), PRODUCE, &request, |_| ()).await.context("producing")?;
        let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let code = partition.context("no answer for the partition")?.error_code;
        ensure!(code == 0, "producing to {topic}: the broker refuses: error {code}");
        Ok(())
    }

    /// Commits an offset for a group without members, with these bytes as its metadata.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn commit_with_metadata(
        &self,
        group: &str,
        (topic, partition): (&str, i32),
        offset: i64,
        metadata: &[u8],
    ) -> Result<()> {
        let stand_in = stand_in(metadata);
        let text = StrBytes::from_string(stand_in.clone());
        let committed = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text));
        let committed = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![committed]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![committed]);
        let mut replaced = Ok(());
        let rewrite = |message: &mut [u8]| replaced = replace(message, stand_in.as_bytes(), metadata);
        let answer: OffsetCommitResponse =
            wire::ask(self.bootstrap(), OFFSET_COMMIT, &request, rewrite).await.context("committing")?;
        replaced?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        let code = partition.context("no answer for the partition")?.error_code;
        ensure!(code == 0, "committing for {group}: the broker refuses: error {code}");
        Ok(())
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Text of the same length, to be replaced in what was encoded.
fn stand_in(bytes: &[u8]) -> String {
    "~".repeat(bytes.len())
}

fn replace(encoded: &mut [u8], old: &[u8], new: &[u8]) -> Result<()> {
    let at = encoded.windows(old.len()).position(|window| window == old).context("the stand-in is not there")?;
    encoded[at..at + old.len()].copy_from_slice(new);
    Ok(())
}

/// CRC-32C, the checksum of record batches.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 })
    })
}
