//! `mq-kafka` on a real broker: offsets, groups, and the questions of the delete guard.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use mq_kafka::{
    Client, GroupError, GroupKind, GroupOffsets, GroupState, Isolation, OffsetSpec, Options, PartitionError, Partitions,
};
use mq_testkit::{Broker, TestEnv, wait_until};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, StreamConsumer},
};

const SOON: Duration = Duration::from_secs(30);

fn client(kafka: &Broker) -> Client {
    Client::new([kafka.bootstrap()], Options::default())
}

/// Commits for a group without joining it.
async fn commit(kafka: &Broker, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) -> Result<()> {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    if let Some(mut element) = offsets.find_partition(topic, partition) {
        element.set_metadata(metadata);
    }
    let committer: BaseConsumer = kafka.client_config().set("group.id", group).create()?;
    // librdkafka's call blocks.
    tokio::task::spawn_blocking(move || committer.commit(&offsets, CommitMode::Sync)).await??;
    Ok(())
}

#[tokio::test]
async fn offsets_of_fifty_groups_come_in_one_request() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = client(&kafka);
    let topic = kafka.unique("lag");
    kafka.create_topic(&topic, 2).await?;
    kafka.produce(&topic, (0..200).map(|_| ("same key", "value"))).await?;
    let groups: Vec<String> = (0..50).map(|n| format!("{topic}-{n}")).collect();
    for (group, offset) in groups.iter().zip(0..) {
        commit(&kafka, group, &topic, 1, offset, &format!("done {offset}")).await?;
    }
    // The first call looks up the coordinators.
    client.committed_offsets(&groups).await;

    let cycles = 10;
    let before = kafka.requests("OffsetFetch").await?;
    let mut read = Vec::new();
    for _ in 0..cycles {
        read.push(client.committed_offsets(&groups).await);
    }
    let requests = wait_until("the broker has counted them", SOON, async || {
        let requests = kafka.requests("OffsetFetch").await? - before;
        ensure!(requests >= cycles, "{requests} so far");
        Ok(requests)
    })
    .await?;
    // Consumers of other tests ask for theirs once each; one request per group would be 500.
    assert!(requests < 3 * cycles, "{requests} requests for {cycles} times 50 groups");

    for offsets in read {
        assert_eq!(offsets.len(), groups.len());
        for (group, offset) in groups.iter().zip(0..) {
            let offsets: &GroupOffsets = offsets[group].as_ref().map_err(Clone::clone)?;
            let committed = offsets.committed(&topic, 1).map_err(Clone::clone)?.context("committed")?;
            assert_eq!((committed.offset, committed.metadata.as_str()), (offset, format!("done {offset}").as_str()));
            assert_eq!(offsets.committed(&topic, 0), Ok(None), "never committed is none, not zero");
        }
    }
    Ok(())
}

/// What a request brings back for one group does not cost the others, however many are asked for with it.
#[tokio::test]
async fn a_group_whose_answer_is_too_long_costs_no_other_group() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let topic = kafka.unique("batches");
    kafka.create_topic(&topic, 1).await?;
    let groups: Vec<String> = (0..40).map(|n| format!("{topic}-{n}")).collect();
    for (group, offset) in groups.iter().zip(0..) {
        commit(&kafka, group, &topic, 0, offset, &"x".repeat(100)).await?;
    }
    // Too short for all of them together.
    let client = Client::new([kafka.bootstrap()], Options { max_response_bytes: 3_000, ..Options::default() });
    let read = async |too_long: Option<&String>| -> Result<()> {
        let read = client.committed_offsets(&groups).await;
        for (group, offset) in groups.iter().zip(0..) {
            let offsets = read[group].as_ref().map_err(Clone::clone);
            if too_long == Some(group) {
                ensure!(matches!(offsets, Err(GroupError::Request(_))), "{group}: {offsets:?}");
                continue;
            }
            let committed = offsets?.committed(&topic, 0).map_err(Clone::clone)?.context("committed")?.offset;
            ensure!(committed == offset, "{group}: {committed}");
        }
        Ok(())
    };
    read(None).await?;
    let one = &groups[31];
    kafka.commit_with_metadata(one, (&topic, 0), 31, &[b'x'; 4_000]).await?;
    read(Some(one)).await?;
    // It is known by now, and asked for apart from the others.
    read(Some(one)).await?;
    kafka.commit_with_metadata(one, (&topic, 0), 31, b"short").await?;
    read(None).await
}

#[tokio::test]
async fn ends_of_logs_are_read_and_what_is_missing_is_an_error_of_its_own() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = client(&kafka);
    let (topic, gone) = (kafka.unique("ends"), kafka.unique("gone"));
    kafka.create_topic(&topic, 2).await?;
    kafka.produce(&topic, (0..7).map(|_| ("same key", "value"))).await?;
    let records = kafka.read_all(&topic).await?;
    let (full, third) = (records[0].partition, records[2].timestamp.context("a timestamp")?);
    let empty = 1 - full;

    let asked = Partitions::from([(topic.clone(), BTreeSet::from([0, 1, 9])), (gone.clone(), BTreeSet::from([0]))]);
    let list = async |spec| client.list_offsets(&asked, spec, Isolation::ReadCommitted).await;
    let latest = list(OffsetSpec::Latest).await;
    assert_eq!(latest[&topic][&full], Ok(Some(7)));
    assert_eq!(latest[&topic][&empty], Ok(Some(0)));
    assert_eq!(latest[&topic][&9], Err(PartitionError::Absent));
    assert_eq!(latest[&gone][&0], Err(PartitionError::Absent));
    assert_eq!(list(OffsetSpec::Earliest).await[&topic][&full], Ok(Some(0)));
    let at = list(OffsetSpec::Timestamp(third)).await;
    // Records of one batch may share a millisecond.
    assert!(matches!(&at[&topic][&full], Ok(Some(0..=2))), "{at:?}");
    assert_eq!(at[&topic][&empty], Ok(None));
    assert_eq!(list(OffsetSpec::Timestamp(i64::MAX)).await[&topic][&full], Ok(None));
    Ok(())
}

#[tokio::test]
async fn the_delete_guard_sees_records() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = client(&kafka);
    let topic = kafka.unique("guard");
    kafka.create_topic(&topic, 3).await?;
    assert_eq!(client.holds_records(&topic).await, Ok(false));
    kafka.produce(&topic, [("key", "value")]).await?;
    assert_eq!(client.holds_records(&topic).await, Ok(true));
    assert_eq!(client.holds_records(&kafka.unique("gone")).await, Err(mq_kafka::TopicError::Absent));
    Ok(())
}

#[tokio::test]
async fn members_of_both_protocols_are_described_and_count_as_users() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = client(&kafka);
    for (protocol, kind) in [("classic", GroupKind::Classic), ("consumer", GroupKind::Consumer)] {
        let topic = kafka.unique(protocol);
        kafka.create_topic(&topic, 2).await?;
        let consumer: StreamConsumer = kafka
            .client_config()
            .set("group.id", &topic)
            .set("group.protocol", protocol)
            .set("client.id", "the-client")
            .create()?;
        consumer.subscribe(&[&topic])?;
        let polling = tokio::spawn(async move {
            loop {
                // Joining a group happens inside of it; records do not matter here.
                consumer.recv().await.ok();
            }
        });

        let member = wait_until("the member owns both partitions", SOON, async || {
            let group = client.describe_groups([&topic]).await.remove(&topic).context("asked for")??;
            ensure!(group.kind == kind && group.state == GroupState::Stable, "{group:?}");
            let [member] = group.members.as_slice() else { anyhow::bail!("{group:?}") };
            let assigned = member.assigned.as_ref().context("not assigned yet")?;
            ensure!(assigned.get(&topic).is_some_and(|owned| owned.len() == 2), "{assigned:?}");
            Ok(member.clone())
        })
        .await?;
        assert_eq!((member.client_id.as_str(), member.host.as_str()), ("the-client", "127.0.0.1"));
        assert_eq!(member.subscribed, Some([topic.clone()].into()));
        let listing = client.list_groups().await?;
        assert!(listing.unread.is_empty());
        assert_eq!(listing.groups[&topic].kind, Some(kind.clone()));
        assert_eq!(client.topic_users().await?.of(&topic), Ok([topic.as_str()].into()));

        polling.abort();
        wait_until("nobody uses the topic", SOON, async || {
            let users = client.topic_users().await?;
            let of = users.of(&topic).map_err(anyhow::Error::msg)?;
            ensure!(of.is_empty(), "{of:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_group_that_does_not_exist_is_absent_and_has_committed_nothing() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = client(&kafka);
    let group = kafka.unique("nobody");
    assert_eq!(client.describe_groups([&group]).await[&group], Err(GroupError::Absent));
    assert_eq!(client.committed_offsets([&group]).await[&group], Ok(GroupOffsets::default()));
    Ok(())
}
