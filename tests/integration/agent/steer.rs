//! Pause, resume, seek, and the lag that follows from them.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mq_agent::{Config, ConsumeError, Consumer, Env, Message, Options, Producer};
use mq_testkit::{Broker, TestEnv, wait_until};

use super::stage::{Log, Subscription, subscribe_log};
use super::{DRAIN, PATIENCE, wait_committed};

struct World {
    kafka: Broker,
    topic: String,
    group: String,
    producer: Producer,
    consumer: Consumer,
    log: Log,
    subscription: Subscription,
}

impl World {
    /// A consumer of two empty partitions that writes down what it handles.
    async fn new() -> Result<Self> {
        let kafka = TestEnv::kafka().await?;
        let (topic, group) = (kafka.unique("steer"), kafka.unique("steer"));
        kafka.create_topic(&topic, 2).await?;
        let config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
        let producer = Producer::new(&config, &Options::default()).await?;
        let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
        let log = Log::default();
        let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
        Ok(Self { kafka, topic, group, producer, consumer, log, subscription })
    }

    /// Writes `k0 from`, `k1 from`, …, one key for each partition.
    async fn write(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        let of = |number: usize, partition| {
            Message::to(&self.topic).key(format!("k{partition}")).payload(number.to_string()).partition(partition)
        };
        let messages: Vec<_> = numbers.flat_map(|number| [of(number, 0), of(number, 1)]).collect();
        for outcome in self.producer.send_batch(messages).await {
            outcome?;
        }
        Ok(())
    }

    /// The numbers that were handled of a partition's key, in order.
    fn handled(&self, partition: i32) -> Vec<u32> {
        let key = format!("k{partition}");
        self.log.entries().into_iter().filter(|(of, _)| *of == key).map(|(_, number)| number).collect()
    }

    async fn wait_lag(&self, expected: Option<u64>) -> Result<()> {
        wait_until(&format!("the lag is {expected:?}"), PATIENCE, async || {
            ensure!(self.consumer.stats().lag == expected, "{:?}", self.consumer.stats());
            Ok(())
        })
        .await
    }

    async fn end(self) -> Result<()> {
        self.consumer.close(DRAIN).await;
        self.subscription.await??;
        Ok(())
    }
}

#[tokio::test]
async fn a_paused_partition_waits_and_goes_on_where_it_was() -> Result<()> {
    let world = World::new().await?;
    world.write(0..10).await?;
    world.log.wait_len(20).await?;
    world.wait_lag(Some(0)).await?;
    world.consumer.pause([(&world.topic, 0)]);
    // Taken in at most 50 ms later; a record of the paused partition may slip through until then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.write(10..20).await?;
    world.log.wait_len(30).await?;
    world.wait_lag(None).await?;
    assert_eq!(world.handled(0), (0..10).collect::<Vec<_>>());
    assert_eq!(world.handled(1), (0..20).collect::<Vec<_>>());
    world.consumer.resume([(&world.topic, 0)]);
    world.log.wait_len(40).await?;
    assert_eq!(world.handled(0), (0..20).collect::<Vec<_>>());
    world.wait_lag(Some(0)).await?;
    wait_committed(&world.kafka, &world.group, &world.topic, 40).await?;
    world.end().await
}

#[tokio::test]
async fn a_seek_reads_one_partition_again_and_the_commit_follows() -> Result<()> {
    let world = World::new().await?;
    world.write(0..10).await?;
    world.log.wait_len(20).await?;
    wait_committed(&world.kafka, &world.group, &world.topic, 20).await?;
    world.consumer.seek(&world.topic, 0, 4).await?;
    world.log.wait_len(26).await?;
    assert_eq!(world.handled(0), (0..10).chain(4..10).collect::<Vec<_>>());
    assert_eq!(world.handled(1), (0..10).collect::<Vec<_>>());
    world.write(10..11).await?;
    world.log.wait_len(28).await?;
    wait_committed(&world.kafka, &world.group, &world.topic, 22).await?;
    let refused = |outcome: Result<(), ConsumeError>| outcome.unwrap_err().to_string();
    let absent = refused(world.consumer.seek(&world.topic, 7, 0).await);
    assert!(absent.contains("7 is not assigned to this consumer"), "{absent}");
    assert!(refused(world.consumer.seek(&world.topic, 0, -1).await).contains("-1 is no offset"));
    world.end().await
}

#[tokio::test]
async fn a_seek_to_a_time_moves_every_partition_of_the_topic() -> Result<()> {
    let world = World::new().await?;
    world.write(0..5).await?;
    world.log.wait_len(10).await?;
    // Kafka's times are milliseconds: the next records are later for sure.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    world.write(5..10).await?;
    world.log.wait_len(20).await?;
    world.consumer.seek_to_time(&world.topic, i64::try_from(time)?).await?;
    world.log.wait_len(30).await?;
    for partition in [0, 1] {
        assert_eq!(world.handled(partition), (0..10).chain(5..10).collect::<Vec<_>>(), "partition {partition}");
    }
    let absent = world.consumer.seek_to_time("another", 0).await.unwrap_err().to_string();
    assert!(absent.contains("no partition of another is assigned"), "{absent}");
    world.end().await
}

#[tokio::test]
async fn a_paused_partition_that_was_sought_goes_on_from_there() -> Result<()> {
    let world = World::new().await?;
    world.write(0..10).await?;
    world.log.wait_len(20).await?;
    world.consumer.pause([(&world.topic, 0)]);
    world.wait_lag(None).await?;
    world.consumer.seek(&world.topic, 0, 6).await?;
    world.consumer.resume([(&world.topic, 0)]);
    world.log.wait_len(24).await?;
    assert_eq!(world.handled(0), (0..10).chain(6..10).collect::<Vec<_>>());
    world.end().await
}
