//! A topic, a group and their members, and a log of what their handlers saw.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Agent, ConsumeError, Consumer, Failure, Message, Record};
use mq_protocol::message::Kind;
use mq_testkit::{Broker, TestEnv, wait_until};
use tokio::task::JoinHandle;

use super::fake_operator::FakeOperator;
use super::{
    PATIENCE, committed, consumer_body, consumer_settings, create_topic, producer_body, producer_settings,
    wait_committed,
};

/// A topic, a group, and the operator that configures it.
pub(super) struct Stage {
    pub(super) kafka: Broker,
    pub(super) operator: FakeOperator,
    pub(super) topic: String,
    pub(super) group: String,
}

impl Stage {
    pub(super) async fn new(name: &str, partitions: i32, settings: &str) -> Result<Self> {
        Self::with_topic(name, partitions, &[], settings).await
    }

    pub(super) async fn with_topic(
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
        settings: &str,
    ) -> Result<Self> {
        let kafka = TestEnv::kafka().await?;
        let (topic, group) = (kafka.unique(name), kafka.unique(name));
        create_topic(&kafka, &topic, partitions, configs).await?;
        let stage = Self { operator: FakeOperator::start().await?, kafka, topic, group };
        stage.push(1, settings)?;
        let producer = producer_body(stage.kafka.bootstrap(), &producer_settings("{}")?)?;
        stage.operator.push(Kind::Producer, "p", 1, &producer);
        Ok(stage)
    }

    pub(super) fn push(&self, revision: i64, settings: &str) -> Result<mq_protocol::message::Version> {
        let settings = consumer_settings(settings)?;
        let body = consumer_body(self.kafka.bootstrap(), &self.group, &self.topic, &settings)?;
        Ok(self.operator.push(Kind::Consumer, "c", revision, &body))
    }

    pub(super) async fn consumer(&self, concurrency: usize) -> Result<(Agent, Consumer)> {
        let agent = Agent::connect_with(self.operator.options().concurrency(concurrency)).await;
        let consumer = agent.consumer("c").await?;
        Ok((agent, consumer))
    }

    /// Writes `k0 n`, `k1 n`, … for ascending n through a producer of the same operator, with a pause after each n, until it is told
    /// to stop.
    pub(super) fn write(&self, agent: &Agent, keys: usize, pause: Duration) -> Writer {
        let (agent, topic) = (agent.clone(), self.topic.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let producer = agent.producer("p").await?;
            let mut each = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut deliveries = Vec::new();
                for key in 0..keys {
                    let message = Message::to(&topic).key(format!("k{key}")).payload(each.to_string());
                    deliveries.push(producer.send(message).await?);
                }
                for delivery in deliveries {
                    delivery.await?;
                }
                each += 1;
                tokio::time::sleep(pause).await;
            }
            Ok(each)
        });
        Writer { stop, task }
    }

    pub(super) async fn committed(&self) -> Result<i64> {
        committed(&self.kafka, &self.group, &self.topic).await
    }

    pub(super) async fn wait_committed(&self, expected: i64) -> Result<()> {
        wait_committed(&self.kafka, &self.group, &self.topic, expected).await
    }
}

pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<usize>>,
}

impl Writer {
    /// How many records of each key were written.
    pub(super) async fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// What was handled, in the order in which it was.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<(String, u32)>>>);

impl Log {
    pub(super) fn add(&self, record: &Record) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let key = record.key().map(text).unwrap_or_default();
        self.0.lock().unwrap().push((key, text(record.payload()).parse().unwrap()));
    }

    pub(super) fn entries(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) async fn wait_len(&self, at_least: usize) -> Result<()> {
        wait_until(&format!("{at_least} records are handled"), PATIENCE, async || {
            ensure!(self.len() >= at_least, "{} are", self.len());
            Ok(())
        })
        .await
    }
}

pub(super) type Subscription = JoinHandle<Result<(), ConsumeError>>;

pub(super) fn subscribe<F>(consumer: &Consumer, handler: impl Fn(Record) -> F + Send + Sync + 'static) -> Subscription
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let consumer = consumer.clone();
    tokio::spawn(async move { consumer.subscribe(handler).await })
}

/// Handles everything into the log, each record in this time.
pub(super) fn subscribe_log(consumer: &Consumer, log: &Log, time: Duration) -> Subscription {
    let log = log.clone();
    subscribe(consumer, move |record| {
        let log = log.clone();
        async move {
            tokio::time::sleep(time).await;
            log.add(&record);
            Ok(())
        }
    })
}
