//! Writes messages at a rate, and looks on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use mq_demo::order::Order;
use mq_kafka::{Client, GroupState, Isolation, OffsetSpec, Options, Partitions};
use mq_testkit::wait_until;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::told::{Look, Told};
use crate::shop::Shop;

pub(crate) const PARTITIONS: usize = 24;
/// The Deployment that is scaled.
pub(crate) const WORKLOAD: &str = "notification-service";
const LOOK: Duration = Duration::from_millis(500);
/// Looks that may fail one after the other.
const MOST_FAILED: u32 = 10;

/// A load, and whoever looks on.
pub(crate) struct Crowd {
    load: watch::Sender<u32>,
    told: Arc<Mutex<Told>>,
    writing: AbortOnDropHandle<Result<()>>,
    looking: AbortOnDropHandle<Result<()>>,
}

impl Crowd {
    pub(crate) fn start(shop: &Shop, per_second: u32) -> Result<Self> {
        let setting = shop.stage.setting();
        let (topic, group) = (format!("{}orders", setting.prefix), format!("{}notifications", setting.prefix));
        let (load, rate) = watch::channel(per_second);
        let told = Arc::new(Mutex::new(Told::default()));
        let eye = Eye {
            kafka: Client::new([setting.brokers.clone()], Options::default()),
            workload: Api::namespaced(shop.node.control_plane.client()?, &setting.namespace),
            group,
            ends: Partitions::from([(topic.clone(), (0..i32::try_from(PARTITIONS)?).collect())]),
            topic: topic.clone(),
            waiting: BTreeMap::new(),
            began: Instant::now(),
        };
        let producer = ClientConfig::new().set("bootstrap.servers", &setting.brokers).create()?;
        let writing = AbortOnDropHandle::new(tokio::spawn(write(producer, topic, rate.clone())));
        let looking = AbortOnDropHandle::new(tokio::spawn(eye.look_on(rate, Arc::clone(&told))));
        Ok(Self { load, told, writing, looking })
    }

    pub(crate) fn load(&self, per_second: u32) {
        self.load.send_replace(per_second);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn until(
        &self,
        shop: &Shop,
        what: &str,
        limit: Duration,
        seen: impl Fn(&Told) -> bool,
    ) -> Result<()> {
        let waited = wait_until(what, limit, async || {
            ensure!(!self.writing.is_finished() && !self.looking.is_finished(), "nobody writes or looks on any more");
            let told = self.told();
            ensure!(seen(&told), "{:?} after {:?}", told.now(), told.path());
            Ok(())
        });
        if let Err(error) = waited.await {
            self.show(shop).await;
            return Err(error);
        }
        Ok(())
    }

    /// What was seen to the end, printed too.
    pub(crate) async fn end(self, shop: &Shop) -> Result<Told> {
        ensure!(!self.writing.is_finished() && !self.looking.is_finished(), "nobody wrote or looked on to the end");
        self.show(shop).await;
        let told = self.told().clone();
        Ok(told)
    }

    async fn show(&self, shop: &Shop) {
        let scaling = shop.status("MqConsumerGroup", "notifications").await.map(|status| status["scaling"].clone());
        eprintln!("{scaling:#?}");
        eprint!("{}", self.told());
    }
}

/// Orders for the partitions in turn, at an even pace.
async fn write(
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    rate: watch::Receiver<u32>,
) -> Result<()> {
    const TICKS: u32 = 20;
    let mut ticks = interval(Duration::from_secs(1) / TICKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut owed, mut number) = (0, 0_u64);
    loop {
        ticks.tick().await;
        owed += *rate.borrow();
        while owed >= TICKS {
            owed -= TICKS;
            number += 1;
            let order = Order::new("step", number);
            let payload = serde_json::to_vec(&order)?;
            let partition = i32::try_from(number % PARTITIONS as u64)?;
            let record = BaseRecord::to(&topic).key(&order.customer).payload(&payload).partition(partition);
            producer.send(record).map_err(|(error, _)| error)?;
        }
    }
}

struct Eye {
    kafka: Client,
    workload: Api<Deployment>,
    topic: String,
    group: String,
    ends: Partitions,
    /// By partition: when its end was first seen there, for those that are not committed.
    waiting: BTreeMap<i32, VecDeque<(f64, i64)>>,
    began: Instant,
}

impl Eye {
    async fn look_on(mut self, rate: watch::Receiver<u32>, told: Arc<Mutex<Told>>) -> Result<()> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = 0;
        loop {
            ticks.tick().await;
            let load = *rate.borrow();
            match self.look(load).await {
                Ok(look) => {
                    failed = 0;
                    told.lock().unwrap_or_else(PoisonError::into_inner).looks.push(look);
                }
                Err(error) => {
                    eprintln!("no look: {error:#}");
                    failed += 1;
                    ensure!(failed < MOST_FAILED, "nothing is seen any more");
                }
            }
        }
    }

    async fn look(&mut self, load: u32) -> Result<Look> {
        let committed =
            self.kafka.committed_offsets([&self.group]).await.remove(&self.group).context("no answer")??;
        let ends = self.kafka.list_offsets(&self.ends, OffsetSpec::Latest, Isolation::ReadUncommitted).await;
        let members = self.kafka.describe_groups([&self.group]).await.remove(&self.group).context("no answer")?;
        let workload = self.workload.get(WORKLOAD).await?;
        let at = self.began.elapsed().as_secs_f64();
        let (mut oldest, mut sum, mut behind) = (0.0_f64, 0, 0);
        for (partition, end) in ends.get(&self.topic).context("no ends")? {
            let end = end.clone()?.context("no end")?;
            let done = committed.committed(&self.topic, *partition).map_err(Clone::clone)?.map_or(0, |c| c.offset);
            sum += done;
            behind += end - done;
            let waiting = self.waiting.entry(*partition).or_default();
            if waiting.back().map_or(0, |(_, seen)| *seen) < end {
                waiting.push_back((at, end));
            }
            while waiting.front().is_some_and(|(_, seen)| *seen <= done) {
                waiting.pop_front();
            }
            oldest = oldest.max(waiting.front().map_or(0.0, |(seen, _)| at - seen));
        }
        let count = |n: Option<i32>| u32::try_from(n.unwrap_or_default()).unwrap_or_default();
        let members = members.ok().filter(|group| group.state == GroupState::Stable);
        Ok(Look {
            at,
            load,
            oldest,
            committed: sum,
            behind,
            replicas: count(workload.spec.and_then(|spec| spec.replicas)),
            ready: count(workload.status.and_then(|status| status.ready_replicas)),
            members: members.and_then(|group| u32::try_from(group.members.len()).ok()),
        })
    }
}
