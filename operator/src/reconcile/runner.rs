use super::{Error, Kind, PAUSED, Report, memory::Memory};
use crate::{
    events::{Event, Events},
    lease::Lease,
    metrics::Metrics,
    object::{Guarded, Object, key_of},
    options::Options,
    status,
    watch::{Cache, Filled, watch},
    writer::{WriteError, Writer},
};
use futures::{FutureExt, Stream, StreamExt, future, stream, stream::BoxStream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        controller::{self, Action, applier},
        reflector::ObjectRef,
    },
};
use mq_core::{
    condition::{Condition, Verdict},
    effect::ObjectKey,
    reason::Reason,
};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// Objects of one kind that are reconciled at the same time.
const CONCURRENCY: u16 = 16;

/// What all runners share.
#[derive(Clone)]
pub struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) writer: Writer,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Asks for objects of one kind to be looked at again. Never blocks; repeats before the object's turn are one.
#[derive(Debug, Clone)]
pub struct Waker(mpsc::UnboundedSender<ObjectKey>);

impl Waker {
    /// Soon looks at this object.
    pub fn wake(&self, key: ObjectKey) {
        // Without a receiver the operator is shutting down.
        let _ = self.0.send(key);
    }
}

/// The watch and the cache of one kind, and its waker; made before the kinds, which may read each other's caches.
pub struct Source<K: Object> {
    /// Read from it freely; it may lag behind the API server.
    pub cache: Cache<K>,
    /// Wakes objects of this kind.
    pub waker: Waker,
    /// True once the cache was filled.
    pub(crate) filled: Filled,
    touched: BoxStream<'static, ObjectRef<Guarded<K>>>,
    wakes: mpsc::UnboundedReceiver<ObjectKey>,
}

impl<K: Object> std::fmt::Debug for Source<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("kind", &K::kind(&())).finish_non_exhaustive()
    }
}

impl<K: Object> Source<K> {
    /// Watches what `api` lists, once the runner runs.
    pub fn new(api: Api<Guarded<K>>, metrics: &Metrics) -> Self {
        let (cache, filled, touched) = watch(api, metrics);
        let (sender, wakes) = mpsc::unbounded_channel();
        Self { cache, waker: Waker(sender), filled, touched: touched.boxed(), wakes }
    }

    /// For namespaced kinds: the one namespace that is served, or all.
    pub fn namespaced(client: Client, options: &Options, metrics: &Metrics) -> Self
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        let api = match &options.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        Self::new(api, metrics)
    }
}

/// Runs one kind. See the module's documentation.
pub struct Runner<K: Kind> {
    kind: K,
    shared: Shared,
    memory: Memory,
}

impl<K: Kind> std::fmt::Debug for Runner<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("kind", &K::Object::kind(&())).finish_non_exhaustive()
    }
}

impl<K: Kind> Runner<K> {
    /// Runs `kind` until `shutdown`, then finishes what it has begun. The cache is filled from the start; objects are reconciled
    /// once this replica leads.
    pub async fn run(kind: K, source: Source<K::Object>, shared: Shared, shutdown: CancellationToken) {
        let Source { cache, touched, wakes, waker: _waker, filled: _ } = source;
        let queue = queue(&cache, touched, wakes, &shared.lease).take_until(shutdown.cancelled_owned());
        let runner = Arc::new(Self { kind, shared, memory: Memory::default() });
        let reconcile = {
            let runner = Arc::clone(&runner);
            move |object: Arc<Guarded<K::Object>>, _: Arc<()>| {
                let runner = Arc::clone(&runner);
                async move { Ok::<_, Infallible>(runner.reconcile(&object).await) }.boxed()
            }
        };
        let config = controller::Config::default().concurrency(CONCURRENCY);
        let queue = queue.map(Ok::<_, Infallible>);
        applier(reconcile, |_, never, _| match *never {}, Arc::new(()), cache, queue, config)
            .for_each(|done| {
                match done {
                    Ok(_) => {}
                    // Comes in its turn after all passes of the object, so nothing can index it again afterwards.
                    Err(controller::Error::ObjectNotFound(object)) => runner.vanished(&object),
                    Err(error) => tracing::error!(%error, "runner failed"),
                }
                future::ready(())
            })
            .await;
    }

    fn vanished<T: Resource>(&self, object: &ObjectRef<T>) {
        if let Some(key) = self.memory.part(object.namespace.as_deref().unwrap_or_default(), &object.name) {
            self.kind.forget(&key);
        }
    }

    async fn reconcile(&self, object: &Guarded<K::Object>) -> Action {
        if !self.shared.options.serves(&K::cluster(object)) {
            return Action::await_change();
        }
        let kind = K::Object::kind(&());
        let started = Instant::now();
        let key = key_of(object);
        let (result, action) = match self.pass(object, &key).await {
            Ok((result, again)) => {
                self.memory.succeeded(&key);
                (result, again.map_or_else(Action::await_change, Action::requeue))
            }
            Err(error) => {
                let pause = self.memory.failed(&key);
                tracing::warn!(%error, %kind, object = %key, ?pause, "reconciliation failed; it is tried again");
                ("error", Action::requeue(pause))
            }
        };
        self.shared.metrics.reconciles.with_label_values(&[&*kind, result]).inc();
        self.shared.metrics.reconcile_seconds.with_label_values(&[&*kind]).observe(started.elapsed().as_secs_f64());
        action
    }

    /// What came of it, and when to come again although nothing changed.
    async fn pass(
        &self,
        object: &Guarded<K::Object>,
        key: &ObjectKey,
    ) -> Result<(&'static str, Option<Duration>), Error> {
        if let Some(predecessor) = self.memory.meet(key) {
            self.kind.forget(&predecessor);
        }
        if self.memory.is_behind(key, object.meta().resource_version.as_deref()) {
            return Ok(("behind", None));
        }
        let finalizer = object.finalizers().iter().any(|name| name == K::FINALIZER);
        let deleting = object.meta().deletion_timestamp.is_some();
        if deleting && !finalizer {
            self.kind.forget(key);
            return Ok(("ok", None));
        }
        let parsed = match &object.parsed {
            Ok(parsed) => parsed,
            Err(invalid) => {
                self.kind.unreadable(object);
                let mut waits = String::new();
                if deleting {
                    waits = format!(
                        "; the deletion waits until the field is corrected, or the finalizer {} is removed by hand, which leaves Kafka as it is",
                        K::FINALIZER
                    );
                }
                let verdict = Verdict::stalled(Reason::Undeserializable, format!("{}{waits}", invalid.error));
                return self.settle(object, key, as_before(object, verdict)).await.map(|()| ("undeserializable", None));
            }
        };
        if object.annotations().get(PAUSED).is_some_and(|value| value == "true") {
            self.kind.pause(parsed);
            let mut verdict = Verdict::paused();
            if deleting {
                verdict.message += "; the deletion waits for that";
            }
            return self.settle(object, key, as_before(object, verdict)).await.map(|()| ("paused", None));
        }
        let inputs = self.kind.dereference(parsed).await?;
        let valid = match self.kind.validate(parsed, inputs) {
            Ok(valid) => valid,
            Err(refusal) => {
                self.kind.refused(parsed);
                let mut report = as_before(object, refusal.verdict);
                if let Some((reason, message)) = refusal.release.filter(|_| deleting) {
                    report.released = true;
                    report.events.push(Event::warning(reason, message));
                }
                return self.settle(object, key, report).await.map(|()| ("refused", None));
            }
        };
        let decision = self.kind.decide(&valid);
        let wanted = self.kind.needs_finalizer(&decision);
        if wanted != finalizer && !deleting {
            // The watch brings the object back with its new finalizers.
            return self.set_finalizer(object, key, wanted).await.map(|()| ("ok", None));
        }
        let report = self.kind.apply(parsed, valid, decision).await?;
        let again = report.again;
        self.settle(object, key, report).await.map(|()| ("ok", again))
    }

    /// Events first: should the status fail, they are said twice rather than never.
    async fn settle(&self, object: &Guarded<K::Object>, key: &ObjectKey, report: Report) -> Result<(), Error> {
        let turn = report.verdict.as_ref().and_then(|verdict| Event::of_turn(&object.status, verdict));
        for event in report.events.into_iter().chain(turn.filter(|_| !report.released)) {
            self.shared.events.publish(object, "Reconcile", event).await;
        }
        if report.released && object.meta().deletion_timestamp.is_some() {
            return self.set_finalizer(object, key, false).await;
        }
        let conditions: Vec<Condition> = match report.verdict {
            Some(verdict) => verdict.conditions().into_iter().chain(report.conditions).collect(),
            None if status::stored(&object.status, "Ready").is_some() => return Ok(()),
            None => Verdict::reconciling(Reason::Pending, "waiting for the first look at Kafka").conditions(),
        };
        let generation = object.meta().generation.unwrap_or_default();
        let Some(next) = status::next(&object.status, report.status, &conditions, generation, Timestamp::now()) else {
            return Ok(());
        };
        self.wrote(key, self.shared.writer.status::<K::Object>(key, &next).await)
    }

    async fn set_finalizer(&self, object: &Guarded<K::Object>, key: &ObjectKey, wanted: bool) -> Result<(), Error> {
        let mut finalizers: Vec<String> = object.finalizers().to_vec();
        finalizers.retain(|name| name != K::FINALIZER);
        if wanted {
            finalizers.push(K::FINALIZER.to_owned());
        }
        self.wrote(key, self.shared.writer.finalizers::<K::Object>(key, object.meta(), &finalizers).await)
    }

    fn wrote(&self, key: &ObjectKey, result: Result<Option<String>, WriteError>) -> Result<(), Error> {
        match result {
            Ok(version) => self.memory.wrote(key, version.as_deref()),
            // Changed, replaced or gone meanwhile: the watch tells.
            Err(error) if error.is_superseded() => tracing::debug!(%error, "superseded"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// A new verdict beside what the status says already.
fn as_before<K>(object: &Guarded<K>, verdict: Verdict) -> Report {
    Report { verdict: Some(verdict), status: status::fields(&object.status), ..Report::default() }
}

/// Everything to reconcile: nothing before this replica leads, then all objects once, then what is touched or woken.
fn queue<K: Object>(
    cache: &Cache<K>,
    touched: BoxStream<'static, ObjectRef<Guarded<K>>>,
    wakes: mpsc::UnboundedReceiver<ObjectKey>,
    lease: &Lease,
) -> impl Stream<Item = ObjectRef<Guarded<K>>> + Send + use<K> {
    let woken = UnboundedReceiverStream::new(wakes).map(|key| {
        let reference = ObjectRef::new(&key.name);
        if key.namespace.is_empty() { reference } else { reference.within(&key.namespace) }
    });
    let leading = lease.leading();
    let changes = stream::select(touched, woken).filter(move |_| future::ready(*leading.borrow()));
    let (cache, mut leading) = (cache.clone(), lease.leading());
    let all = stream::once(async move {
        let gained = leading.wait_for(|leading| *leading).await.is_ok();
        if gained { cache.state() } else { vec![] }
    });
    let all = all.flat_map(stream::iter).map(|object| ObjectRef::from_obj(&*object));
    stream::select(changes, all)
}
