//! Answers that no broker gives when it is asked to. librdkafka and what follows from its errors are real.

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::fixed::Fixed;
use super::*;
use crate::message::Message;
use crate::producer::Producer;
use crate::record::Record;

struct Stage {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: ClientConfig,
    producer: Producer,
    consumer: Consumer,
}

impl Stage {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["t", "other"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer = Producer::with_client("p", &client, &Hooks::default()).unwrap();
        let mut config = client.clone();
        config.set("group.id", "g").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("partition.assignment.strategy", "cooperative-sticky").set("session.timeout.ms", "6000");
        let limits = Limits {
            auto_commit: None,
            max_poll_records: 100,
            concurrency: 2,
            max_poll_interval: Duration::from_mins(5),
            revoke_budget: Duration::from_secs(10),
        };
        let shared = Arc::new(Shared::new("c", Fixed::of(&Options::default()).unwrap(), limits));
        let prepared = Prepared::new(&shared, &config).unwrap();
        let target = Target { topic: "g.dlq".into(), group: "g".into(), config: client };
        let consumer = Consumer::with_client(shared, prepared, vec!["t".into()], target, Hooks::default());
        Self { cluster, config, producer, consumer }
    }

    /// Starts the consumer and has it handle this many records.
    async fn handle(&self, records: usize) -> tokio::task::JoinHandle<Result<(), ConsumeError>> {
        let consumer = self.consumer.clone();
        let subscription = tokio::spawn(async move { consumer.subscribe(|_| async { Ok(()) }).await });
        for _ in 0..records {
            self.producer.send_sync(Message::to("t").key("k").payload("x")).await.unwrap();
        }
        self.wait_handled(records as u64).await;
        subscription
    }

    fn next_commits_meet_a_rebalance(&self, times: usize) {
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
        self.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &vec![refusal; times]);
    }

    fn committed(&self) -> Offset {
        let reader: BaseConsumer = self.config.create().unwrap();
        let mut partition = TopicPartitionList::new();
        partition.add_partition("t", 0);
        let committed = reader.committed_offsets(partition, Duration::from_secs(10)).unwrap();
        committed.elements()[0].offset()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_answered_after_the_rebalance_that_held_it_up() {
    let stage = Stage::new();
    let _subscription = stage.handle(5).await;
    stage.next_commits_meet_a_rebalance(2);
    stage.consumer.commit().await.unwrap();
    assert_eq!(stage.committed(), Offset::Offset(5));
    assert_eq!(stage.consumer.stats().commit_errors, 2);
    stage.consumer.close(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_of_a_drain_outlasts_a_rebalance() {
    let stage = Stage::new();
    let subscription = stage.handle(5).await;
    stage.next_commits_meet_a_rebalance(3);
    stage.consumer.close(Duration::from_secs(5)).await;
    subscription.await.unwrap().unwrap();
    assert_eq!(stage.committed(), Offset::Offset(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_before_a_partition_is_given_away_outlasts_a_rebalance() {
    let stage = Stage::new();
    let _subscription = stage.handle(5).await;
    stage.next_commits_meet_a_rebalance(3);
    // librdkafka calls the partitions of the old topic lost.
    stage.consumer.resubscribe(&["other".to_owned()]).await.unwrap();
    let given_away = async {
        while !stage.consumer.shared().lock().all().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Until its next assignment it holds nothing.
    tokio::time::timeout(Duration::from_secs(15), given_away).await.unwrap();
    assert_eq!(stage.committed(), Offset::Offset(5));
    stage.consumer.close(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_are_no_text_are_ignored() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let stage = Stage::new();
    for number in 0..5 {
        stage.producer.send_sync(Message::to("t").key(number.to_string()).payload("x")).await.unwrap();
    }
    // OffsetCommit, version 2: group `g` from outside, topic `t`, partition 0, offset 3. Real brokers make text of such bytes.
    let mut request = vec![0, 8, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, b'g', 255, 255, 255, 255, 0, 0];
    request.extend([255; 8]);
    request.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 3, 0xff, 0xfe, 0x80]);
    let mut stream = tokio::net::TcpStream::connect(stage.cluster.bootstrap_servers()).await.unwrap();
    stream.write_all(&[&[0, 0, 0, u8::try_from(request.len()).unwrap()], &request[..]].concat()).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(stage.committed(), Offset::Offset(3));

    let _subscription = stage.handle(0).await;
    stage.wait_handled(2).await;
    stage.consumer.close(Duration::from_secs(5)).await;
    assert_eq!((stage.consumer.stats().messages_consumed, stage.committed()), (2, Offset::Offset(5)));
}

impl Stage {
    /// Starts the consumer, which cannot learn what its group has committed, and waits until it has its partition.
    async fn arrive(&self) -> tokio::task::JoinHandle<Result<(), ConsumeError>> {
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        self.cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[refusal; 100]);
        let subscription = self.handle(0).await;
        let arrived = async {
            while self.consumer.shared().lock().arriving().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), arrived).await.unwrap();
        subscription
    }

    async fn wait_handled(&self, records: u64) {
        let handled = async {
            while self.consumer.stats().messages_consumed < records {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), handled).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_revoked_while_they_arrive_are_not_read() {
    let stage = Stage::new();
    let _subscription = stage.arrive().await;
    stage.producer.send_sync(Message::to("t").key("k").payload("x")).await.unwrap();
    stage.consumer.resubscribe(&["other".to_owned()]).await.unwrap();
    let moved = async {
        while stage.consumer.shared().lock().arriving().iter().all(|(_, topic, _)| &**topic != "other") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), moved).await.unwrap();
    stage.cluster.clear_request_errors(RDKafkaApiKey::OffsetFetch);
    stage.producer.send_sync(Message::to("other").key("k").payload("x")).await.unwrap();
    stage.wait_handled(1).await;
    stage.consumer.resubscribe(&["t".to_owned()]).await.unwrap();
    stage.wait_handled(2).await;
    stage.consumer.close(Duration::from_secs(5)).await;
    assert_eq!(stage.committed(), Offset::Offset(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_closes_while_its_partitions_arrive() {
    let stage = Stage::new();
    let subscription = stage.arrive().await;
    let began = Instant::now();
    stage.consumer.close(Duration::from_secs(5)).await;
    subscription.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_no_metadata_gets_the_offset_alone() {
    let stage = Stage::new();
    let (gate, consumer) = (Arc::new(tokio::sync::Semaphore::new(0)), stage.consumer.clone());
    let _subscription = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move {
            let handler = move |record: Record| {
                let gate = Arc::clone(&gate);
                async move {
                    if record.key() == Some(b"stuck") {
                        gate.acquire().await.map_err(Failure::reject)?.forget();
                    }
                    Ok(())
                }
            };
            consumer.subscribe(handler).await
        }
    });
    for key in ["k", "stuck", "k"] {
        stage.producer.send_sync(Message::to("t").key(key).payload("x")).await.unwrap();
    }
    stage.wait_handled(2).await;
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE;
    stage.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal]);
    let refused = stage.consumer.commit().await.unwrap_err();
    assert!(refused.to_string().contains("metadata"), "{refused}");
    stage.consumer.commit().await.unwrap();
    assert_eq!(stage.committed(), Offset::Offset(1));
    gate.add_permits(1);
    stage.wait_handled(3).await;
    stage.consumer.close(Duration::from_secs(5)).await;
    assert_eq!(stage.committed(), Offset::Offset(3));
}
