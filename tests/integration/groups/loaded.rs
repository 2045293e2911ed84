//! A group under load: whether its replicas are what the load asked for, by what the broker itself has.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use mq_crds::ScalingChange;
use mq_kafka::{Client, Isolation, OffsetSpec, Options, Partitions};
use mq_testkit::{unique, wait_until};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{
    kubelet, reason,
    scaling::{keeps_up, lock, path, scaling, workers},
    world::{SOON, World},
};

/// The window after which replicas may be taken away, by [`scaling()`].
pub(super) const WINDOW: Duration = Duration::from_secs(8);
/// Messages per second that are written, if the machine has time for that.
const LOAD: u32 = 180;
/// Messages per second that a replica handles, and how busy a step down may leave it.
const CAPACITY: u32 = 50;
const AIM: f64 = 0.7;
/// What this test and the operator may see differently: they do not look at the same moments.
const NOISE: f64 = 1.15;
/// Over so many seconds what arrives is averaged here.
const SPAN: f64 = 4.0;

/// What had arrived in a topic, and when that was seen.
type Arrived = Arc<Mutex<Vec<(SystemTime, i64)>>>;

/// A group whose members keep up with a load that is more than one of them can do, once there are enough of them.
pub(super) struct Loaded {
    pub(super) world: World,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) path: Arc<Mutex<Vec<i32>>>,
    arrived: Arrived,
    _tasks: [AbortOnDropHandle<()>; 4],
}

impl Loaded {
    pub(super) async fn start(world: World, base: &str) -> Result<Self> {
        let (topic, group) = (world.topic(12).await?, unique(base));
        let workers = workers(&world, &group, &topic, 1, false).await?;
        let (path, watching) = path(&world);
        world.declare(&group, &topic, Some(scaling(Some(CAPACITY.into())))).await?;
        world.wait_for(&group, "one replica is enough", |s| reason(s) == "WithinBand").await?;
        let load = kubelet::load(&world.kafka.client_config(), topic.clone(), LOAD)?;
        let (arrived, counting) = count(world.kafka.bootstrap(), &topic);
        Ok(Self { world, topic, group, path, arrived, _tasks: [workers, watching, load, counting] })
    }

    /// Waits until more replicas are asked for than the one that there was.
    pub(super) async fn until_it_grows(&self) -> Result<()> {
        wait_until("it grows", SOON, async || {
            let path = lock(&self.path).clone();
            ensure!(path.len() > 1, "{path:?}");
            Ok(())
        })
        .await
    }

    /// Waits until it keeps up by the word of the operator that runs now, and looks on for two windows: a replica is taken away only by
    /// one that has watched for a whole window since `since`, and only if what really arrived in that window asked for no more.
    pub(super) async fn has_what_it_needs(&self, since: SystemTime) -> Result<()> {
        keeps_up(&self.world, &self.group, 400.0).await?;
        sleep(WINDOW * 2).await;
        let said = self.world.status(&self.group).await?.scaling;
        let history = said.map(|said| said.history).unwrap_or_default();
        let downs = history.iter().filter(|change| change.to < change.from);
        downs.filter(|down| time(down) >= since).try_for_each(|down| self.was_right(down, since))?;
        // A step down that no status tells of was nobody's decision.
        let path = lock(&self.path).clone();
        let told = |step: &[i32]| history.iter().any(|change| [change.from, change.to] == *step);
        let untold = path.windows(2).find(|step| step[1] < step[0] && !told(step));
        ensure!(untold.is_none(), "{path:?}, but {history:?}");
        Ok(())
    }

    fn was_right(&self, down: &ScalingChange, since: SystemTime) -> Result<()> {
        let at = time(down);
        // A status keeps whole seconds.
        let watched = at.duration_since(since)? + Duration::from_secs(1);
        ensure!(watched >= WINDOW, "after {watched:?}: {down:?}");
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: Vec<_> = arrived.iter().filter(|(then, _)| (at - WINDOW..=at).contains(then)).collect();
        let most = seen
            .iter()
            .filter_map(|(from, before)| {
                let later =
                    seen.iter().filter_map(|(to, after)| Some((to.duration_since(*from).ok()?, after - before)));
                later.map(|(time, more)| (time.as_secs_f64(), more)).find(|(time, _)| *time >= SPAN)
            })
            .map(|(time, more)| f64::from(i32::try_from(more).unwrap_or(i32::MAX)) / time)
            .fold(0.0, f64::max);
        let carried = f64::from(down.to) * f64::from(CAPACITY) * AIM * NOISE;
        ensure!(most <= carried, "{most:.0} messages per second arrived before {down:?}");
        Ok(())
    }
}

fn time(change: &ScalingChange) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(change.time.0.as_second()).unwrap_or_default())
}

/// Notes twice a second how much arrived; what the broker does not tell is left out.
fn count(bootstrap: &str, topic: &str) -> (Arrived, AbortOnDropHandle<()>) {
    let client = Client::new([bootstrap], Options::default());
    let partitions = Partitions::from([(topic.to_owned(), (0..12).collect::<BTreeSet<_>>())]);
    let arrived = Arrived::default();
    let noted = Arc::clone(&arrived);
    let counting = tokio::spawn(async move {
        loop {
            let ends = client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await;
            let ends: Option<Vec<i64>> = ends.into_values().flatten().map(|(_, end)| end.ok().flatten()).collect();
            if let Some(ends) = ends {
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.push((SystemTime::now(), ends.into_iter().sum()));
            }
            sleep(Duration::from_millis(500)).await;
        }
    });
    (arrived, AbortOnDropHandle::new(counting))
}
