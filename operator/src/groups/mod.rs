//! Consumer groups: their lag, and how many replicas they have.
//!
//! ```text
//! reconcilers ─ declare / withdraw ─→ entries ─┐ every cycle, per cluster
//!                                              ├→ collect (batched) → core::lag → core::scaling → /scale
//! runner ←─ wake ─ view per group ←────────────┴──────────────────────────┘
//! ```
//! One task per cluster reads the offsets of all of its groups at once; a cluster that does not answer holds up no other.
//! Groups that are scaled are read in every cycle, all others in every sixth.

mod asks;
mod census;
pub mod collect;
mod declared;
mod entry;
pub(crate) mod live;
mod marks;
mod members;
mod metrics;
pub(crate) mod object;
mod pods;
mod schedule;
mod tails;
mod target;
pub(crate) mod topics;
mod turns;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use asks::{Asks, Place};
use census::Census;
use collect::{Offsets, Wanted};
pub(crate) use declared::{DesiredGroup, DesiredScaling, GroupView};
use entry::{Entry, STANDS, Step};
use futures::{StreamExt, stream};
use kube::{Client, ResourceExt, runtime::reflector::ObjectRef};
use marks::{Loads, Marks};
use metrics::GroupMetrics;
use mq_core::{effect::ObjectKey, scaling::Mode};
use mq_crds::{MqConsumerGroup, ScalingMode, TargetRef};
use mq_protocol::message::{ClientRef, Kind};
use target::{Deployed, NoTarget, Refused, Targets};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    events::Event,
    lease::Lease,
    metrics::Metrics,
    object::key_of,
    options::Options,
    push::{
        Index,
        index::{ConfigKey, Said},
    },
    reconcile::{Report, Waker},
    session::Sessions,
    watch::Cache,
    writer::Writer,
};

/// Cycles between two readings of a group that is not scaled: 30 s at the usual 5 s.
const UNSCALED: u32 = 6;
/// Steps written at the same time.
const WRITES: usize = 16;

/// What was found of targets, by namespace and reference.
type Found = HashMap<(String, TargetRef), Result<Deployed, NoTarget>>;

/// What the groups need from the rest of the operator.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) client: Client,
    pub(crate) options: Arc<Options>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) metrics: Metrics,
    pub(crate) writer: Writer,
    pub(crate) sessions: Arc<Sessions>,
    /// All `MqConsumerGroup`s.
    pub(crate) objects: Cache<MqConsumerGroup>,
    /// Wakes them.
    pub(crate) waker: Waker,
    /// What agents say.
    pub(crate) agents: Index,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("options", &self.options).finish_non_exhaustive()
    }
}

/// All groups of this process.
#[derive(Debug)]
pub(crate) struct Groups {
    environment: Environment,
    targets: Targets,
    marks: Marks,
    metrics: GroupMetrics,
    started: Instant,
    tasks: TaskTracker,
    stop: CancellationToken,
    asks: Mutex<Asks>,
    clusters: Mutex<HashMap<String, Arc<Cluster>>>,
}

#[derive(Debug, Default)]
struct Cluster {
    changed: Notify,
    entries: Mutex<HashMap<ObjectKey, Entry>>,
}

impl Groups {
    /// The lag of declared groups is read from the first declaration on, that of all others from now on.
    pub(crate) fn start(environment: Environment, stop: CancellationToken) -> prometheus::Result<Arc<Self>> {
        let tasks = TaskTracker::new();
        let (client, options) = (environment.client.clone(), Arc::clone(&environment.options));
        let targets = Targets::new(client, options, tasks.clone(), stop.clone());
        if environment.options.all_groups > 0 {
            let census = Arc::new(Census::new(environment.clone())?);
            tasks.spawn(census.run(tasks.clone(), stop.clone()));
        }
        Ok(Arc::new(Self {
            metrics: GroupMetrics::new(environment.metrics.registry())?,
            marks: Marks::new(environment.writer.clone()),
            environment,
            targets,
            started: Instant::now(),
            tasks,
            stop,
            asks: Mutex::default(),
            clusters: Mutex::default(),
        }))
    }

    /// From now on the group of the object has a say in the replicas of its target. Call before all that may fail or wait: other
    /// groups of the target take nothing away from one whose need is not known.
    pub(crate) fn reserve(&self, object: &MqConsumerGroup) {
        lock(&self.asks).declare(&key_of(object), asks_about(object));
    }

    /// The same for all objects that there are: a new leader must not decide about a target before it has heard of all its groups.
    fn reserve_all(&self) {
        let served = |object: &MqConsumerGroup| self.environment.options.serves(&object.spec.cluster);
        for object in self.environment.objects.state() {
            if let Some(object) = object.parsed.as_ref().ok().filter(|object| served(object)) {
                self.reserve(object);
            }
        }
    }

    /// Whether there is a group of this name that has a say about the target, or may have: it cannot be read.
    fn is_declared(&self, name: &str, place: &Place) -> bool {
        let namespace = &place[0];
        let object = self.environment.objects.get(&ObjectRef::new(name).within(namespace));
        object.is_some_and(|object| match &object.parsed {
            Ok(object) => asks_about(object).is_some_and(|target| asks::place(namespace, target) == *place),
            Err(_) => true,
        })
    }

    /// Declares a group whose say is reserved, or declares it anew.
    pub(crate) fn declare(self: &Arc<Self>, group: DesiredGroup) {
        let cluster = self.cluster(&group.cluster);
        let mut entries = lock(&cluster.entries);
        let news = match entries.get_mut(&group.object) {
            Some(entry) => entry.redeclare(group),
            None => entries.insert(group.object.clone(), Entry::new(group)).is_none(),
        };
        drop(entries);
        if news {
            cluster.changed.notify_one();
        }
    }

    /// Declares a group, and adds to `report` what is known about it.
    pub(crate) fn report(self: &Arc<Self>, object: &MqConsumerGroup, group: DesiredGroup, report: &mut Report) {
        let (cluster, key) = (group.cluster.clone(), group.object.clone());
        self.declare(group);
        if let Some(entry) = lock(&self.cluster(&cluster).entries).get_mut(&key) {
            entry.recall(object.status.as_ref());
        }
        object::report(object, self.view(&cluster, &key), self.take_events(&cluster, &key), report);
    }

    /// The object is gone, and with it its say.
    pub(crate) fn withdraw(&self, object: &ObjectKey) {
        self.suspend(object);
        lock(&self.asks).withdraw(object);
    }

    /// The object declares nothing at the moment. It keeps the say that it has; what it needs is not known.
    pub(crate) fn suspend(&self, object: &ObjectKey) {
        for cluster in lock(&self.clusters).values() {
            if let Some(entry) = lock(&cluster.entries).remove(object) {
                self.metrics.forget(&entry.desired);
            }
        }
        lock(&self.asks).tell(object, Duration::ZERO, None);
    }

    /// What is known about the group of an object; nothing before its first cycle.
    fn view(&self, cluster: &str, object: &ObjectKey) -> Option<GroupView> {
        let cluster = lock(&self.clusters).get(cluster).cloned()?;
        lock(&cluster.entries).get(object).filter(|entry| entry.seen).map(|entry| entry.view.clone())
    }

    /// The topics that the patterns of an object matched when its group was last looked at.
    pub(crate) fn matched(&self, cluster: &str, object: &ObjectKey) -> BTreeSet<String> {
        let Some(cluster) = lock(&self.clusters).get(cluster).cloned() else { return BTreeSet::new() };
        let entries = lock(&cluster.entries);
        let entry = entries.get(object).filter(|entry| entry.desired.topics.has_patterns());
        entry.map(|entry| entry.consumed.topics.clone()).unwrap_or_default()
    }

    /// What happened to the group of an object since this was asked last.
    fn take_events(&self, cluster: &str, object: &ObjectKey) -> Vec<Event> {
        let Some(cluster) = lock(&self.clusters).get(cluster).cloned() else { return vec![] };
        lock(&cluster.entries).get_mut(object).map(|entry| std::mem::take(&mut entry.events)).unwrap_or_default()
    }

    /// Waits until all cycles have finished what they had begun. Call after the shutdown.
    pub(crate) async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn cluster(self: &Arc<Self>, name: &str) -> Arc<Cluster> {
        let mut clusters = lock(&self.clusters);
        if let Some(cluster) = clusters.get(name) {
            return Arc::clone(cluster);
        }
        let cluster = Arc::new(Cluster::default());
        clusters.insert(name.to_owned(), Arc::clone(&cluster));
        self.tasks.spawn(Arc::clone(self).run(name.to_owned(), Arc::clone(&cluster)));
        cluster
    }

    async fn run(self: Arc<Self>, name: String, cluster: Arc<Cluster>) {
        let mut offsets = Offsets::default();
        let (mut turn, mut leads) = (0_u32, false);
        // A declaration is read soon; the ones that follow it closely with it. Nothing is read more often than once a cycle
        // for that: rates need time between two readings.
        cluster.changed.notified().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        loop {
            let started = Instant::now();
            if self.environment.lease.permit().is_ok() {
                if !std::mem::replace(&mut leads, true) {
                    self.reserve_all();
                }
                self.cycle(&name, &cluster, &mut offsets, turn).await;
                turn = turn.wrapping_add(1);
            }
            let pause = self.environment.options.lag_interval.mul_f64(0.95 + fastrand::f64() / 20.0);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep_until(started + pause) => {}
            }
        }
    }

    async fn cycle(&self, name: &str, cluster: &Cluster, offsets: &mut Offsets, turn: u32) {
        // Without a session there is no valid MqCluster; the reconcilers of both say so.
        let Some(session) = self.environment.sessions.get(name) else { return };
        // Before the first look nothing is known about the cluster, so nothing about its groups.
        let (client, Some(health)) = (session.client(), session.health()) else { return };
        let due = turns::due(&lock(&cluster.entries), turn);
        if due.is_empty() {
            return;
        }
        let started = Instant::now();
        let right = offsets.check(name, &client, &health).await;
        if right && lock(&cluster.entries).values().any(|entry| entry.desired.topics.has_patterns()) {
            let consumed = || turns::found_by_patterns(&lock(&cluster.entries));
            offsets.list_topics(&client, Wanted::in_turn(turn).topics_anew, consumed).await;
        }
        let (wanted, mut touched) = {
            let mut entries = lock(&cluster.entries);
            let news =
                entries.iter_mut().filter_map(|(key, entry)| entry.consume(offsets.existing()).then(|| key.clone()));
            let news: Vec<_> = news.collect();
            (turns::wanted(&entries, &due, self.started.elapsed(), turn), news)
        };
        if right {
            offsets.read(&client, &wanted).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.environment.metrics.cycle_seconds.with_label_values(&[name, "lag"]).observe(seconds);
        // Of the offsets: how long the targets take says nothing of rates.
        let at = self.started.elapsed();
        let targets = self.look(cluster, &due).await;
        let mut steps = Vec::new();
        {
            let mut entries = lock(&cluster.entries);
            let mut before = Vec::new();
            for key in &due {
                let Some(entry) = entries.get_mut(key) else { continue };
                before.push((key, entry.view.clone(), entry.seen));
                self.judge(at, entry, offsets, &targets);
            }
            // Once all have decided for themselves: several of them may have the same target.
            for (key, view, seen) in before {
                let Some(entry) = entries.get_mut(key) else { continue };
                steps.extend(self.conclude(at, entry).map(|step| (key.clone(), step)));
                if !seen || entry.view != view || !entry.events.is_empty() {
                    touched.push(key.clone());
                }
            }
        }
        let written = stream::iter(steps)
            .map(async |(key, step)| {
                // Groups of other clusters look at the target at any time.
                self.others(&key, &step, |entry| entry.may_follow(&step));
                let result = self.write(&key, &step).await;
                if let Ok(written) = &result {
                    self.others(&key, &step, |entry| entry.followed(*written));
                }
                (result, key, step)
            })
            .buffer_unordered(WRITES)
            .collect::<Vec<_>>()
            .await;
        for (result, key, step) in written {
            if let Some(entry) = lock(&cluster.entries).get_mut(&key) {
                match result {
                    Ok(true) => entry.stepped(&step),
                    Ok(false) => {}
                    Err(refused) => entry.not_stepped(step, refused),
                }
                touched.push(key);
            }
        }
        for key in touched {
            self.environment.waker.wake(key);
        }
        if right {
            offsets.look_behind(&client, &wanted).await;
        }
    }

    /// The targets of these groups.
    async fn look(&self, cluster: &Cluster, groups: &[ObjectKey]) -> Found {
        let targets: HashSet<_> = {
            let entries = lock(&cluster.entries);
            groups.iter().filter_map(|key| target_of(&entries.get(key)?.desired)).collect()
        };
        stream::iter(targets)
            .map(async |target| (self.targets.look(&target.0, &target.1).await, target))
            .buffer_unordered(WRITES)
            .map(|(found, target)| (target, found))
            .collect()
            .await
    }

    /// One group's part of a cycle: its lag, and what it decides for itself.
    fn judge(&self, at: Duration, entry: &mut Entry, offsets: &Offsets, targets: &Found) {
        let group = entry.desired.clone();
        let topics = &entry.consumed.topics;
        let readings = offsets.readings(&group.group_id, topics);
        let mut unread = offsets.unread(topics);
        unread.extend(entry.consumed.nothing.clone());
        let members = offsets.members(&group.group_id, topics);
        let pods = self.pods(&group.object);
        let lag = entry.observe(at, &readings, &unread, members, &pods);
        if let Some(found) = offsets.members_of(&group.group_id) {
            entry.show_members(members::members(found, &self.hosts(&group.object)));
        }
        self.metrics.lag(&group, &lag, group.scaling.as_ref().map(|scaling| scaling.objective));
        self.metrics.health(&group, &pods);
        entry.loads = marks::loads(&pods);
        let target = target_of(&group).and_then(|target| {
            let found = targets.get(&target).cloned()?;
            let alone = if acts(&group) { self.targets.uncontested(&target.0, &target.1) } else { Ok(()) };
            Some(found.and_then(|deployed| alone.map(|()| deployed)))
        });
        let target: Result<Deployed, Refused> = match target {
            Some(Ok(deployed)) => Ok(deployed),
            Some(Err(NoTarget::Refused(refused))) => Err(refused),
            Some(Err(NoTarget::NotListed)) | None => return entry.undecided(),
        };
        entry.judge(at, self.environment.options.lag_interval, lag, target, &pods);
        lock(&self.asks).tell(&group.object, at, entry.asks_for());
    }

    /// What comes of the group's decision beside those of the other groups of its target.
    fn conclude(&self, at: Duration, entry: &mut Entry) -> Option<Step> {
        let fresh = self.environment.options.lag_interval * STANDS;
        let others =
            lock(&self.asks).others(&entry.desired.object, at, fresh, |name, place| self.is_declared(name, place));
        let (decision, step) = entry.conclude(&others).unzip();
        self.metrics.decision(&entry.desired, decision.as_ref());
        step.flatten()
    }

    /// How the consumers are that run in the pods with an agent.
    fn pods(&self, object: &ObjectKey) -> Vec<Said> {
        let client = ClientRef::new(Kind::Consumer, object.name.clone());
        self.environment.agents.health(&ConfigKey { namespace: object.namespace.clone(), client }, Instant::now())
    }

    /// Where the agents of the group's pods come from.
    fn hosts(&self, object: &ObjectKey) -> members::Hosts {
        let client = ClientRef::new(Kind::Consumer, object.name.clone());
        self.environment.agents.hosts(&ConfigKey { namespace: object.namespace.clone(), client })
    }

    /// Tells the other groups of the target of a step, whichever cluster they are of.
    fn others(&self, key: &ObjectKey, step: &Step, mut tell: impl FnMut(&mut Entry)) {
        self.each_of(key, step, |other, entry| {
            if other != key {
                tell(entry);
            }
        });
    }

    /// How much the pods of the target have to do, for all of its groups.
    fn loads(&self, key: &ObjectKey, step: &Step) -> Loads {
        let mut sum = Loads::new();
        self.each_of(key, step, |_, entry| marks::add(&mut sum, &entry.loads));
        sum
    }

    /// All groups of the step's target, that of `key` among them.
    fn each_of(&self, key: &ObjectKey, step: &Step, mut visit: impl FnMut(&ObjectKey, &mut Entry)) {
        let place = asks::place(&key.namespace, &step.target);
        let placed =
            |group: &DesiredGroup| target_of(group).map(|(namespace, target)| asks::place(&namespace, &target));
        let clusters: Vec<Arc<Cluster>> = lock(&self.clusters).values().cloned().collect();
        for cluster in clusters {
            for (group, entry) in lock(&cluster.entries).iter_mut() {
                if placed(&entry.desired).as_ref() == Some(&place) {
                    visit(group, entry);
                }
            }
        }
    }

    /// False: the target was changed meanwhile, which makes the write void; the next cycle looks anew.
    async fn write(&self, key: &ObjectKey, step: &Step) -> Result<bool, Refused> {
        let Environment { client, writer, .. } = &self.environment;
        self.marks.set(client, key, step, &self.loads(key, step)).await;
        let replicas = step.decision.desired;
        let written = target::scale(client.clone(), writer, key, &step.target.name, &step.seen, replicas).await;
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.is_superseded() => Ok(false),
            Err(error) => Err(target::not_scaled(&step.target, &step.seen, &error)),
        }
    }
}

/// Where records of the group go that cannot be handled.
pub(crate) fn dead_letters(object: &MqConsumerGroup) -> String {
    let own = || format!("{}.dlq", object.spec.group_id.clone().unwrap_or_else(|| object.name_any()));
    object.spec.dead_letter.as_ref().map_or_else(own, |letter| letter.topic.clone())
}

/// The workload about whose replicas the group of the object has a say.
fn asks_about(object: &MqConsumerGroup) -> Option<&TargetRef> {
    object.spec.scaling.as_ref().filter(|scaling| scaling.mode == ScalingMode::Auto).map(|scaling| &scaling.target_ref)
}

/// Whether the group's decisions are carried out.
fn acts(group: &DesiredGroup) -> bool {
    !group.paused && group.scaling.as_ref().is_some_and(|scaling| scaling.mode == Mode::Auto)
}

/// The namespace and the target of a group that is scaled.
fn target_of(group: &DesiredGroup) -> Option<(String, TargetRef)> {
    let scaling = group.scaling.as_ref()?;
    Some((group.object.namespace.clone(), scaling.target.clone()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
