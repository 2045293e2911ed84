//! Answers that no broker gives when it is asked to. librdkafka and what follows from its errors are real.

use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::message::Message;
use crate::producer::Producer;

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
        let producer = Producer::with_client("p", &client).unwrap();
        let mut config = client.clone();
        config.set("group.id", "g").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("partition.assignment.strategy", "cooperative-sticky");
        let limits = Limits {
            auto_commit: None,
            max_poll_records: 100,
            concurrency: 2,
            max_poll_interval: Duration::from_mins(5),
            revoke_budget: Duration::from_secs(10),
        };
        let shared = Arc::new(Shared::new("c", Ordering::Key, limits));
        let prepared = Prepared::new(&shared, &config).unwrap();
        let target = Target { topic: "g.dlq".into(), group: "g".into(), config: client };
        Self { cluster, config, producer, consumer: Consumer::with_client(shared, prepared, vec!["t".into()], target) }
    }

    /// Starts the consumer and has it handle this many records.
    async fn handle(&self, records: usize) -> tokio::task::JoinHandle<Result<(), ConsumeError>> {
        let consumer = self.consumer.clone();
        let subscription = tokio::spawn(async move { consumer.subscribe(|_| async { Ok(()) }).await });
        for _ in 0..records {
            self.producer.send_sync(Message::to("t").key("k").payload("x")).await.unwrap();
        }
        let all = async {
            while self.consumer.stats().messages_consumed < records as u64 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
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
