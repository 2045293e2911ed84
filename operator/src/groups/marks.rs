//! Which pods go first in a step down: those whose loss costs least, by what their agents say.
//!
//! Of the pods that are ready, a `ReplicaSet` takes those with the lowest deletion cost first. Just before a step the pods that should go
//! are marked with a cost below the zero of all others; a mark of an earlier step that holds no more is taken off. Nothing is written
//! while replicas stay. A `StatefulSet` always takes the pods with the highest numbers.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use futures::{TryStreamExt, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::{PartialObjectMeta, Selector},
};
use mq_core::effect::ObjectKey;
use serde_json::json;

use super::{WRITES, entry::Step, pods};
use crate::{
    push::index::Said,
    writer::{FIELD_MANAGER, WriteError, Writer},
};

/// The annotation of Kubernetes; a pod without it costs zero.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of a pod that should go.
const MARK: &str = "-1";
/// A step waits no longer for its marks.
const LONGEST: Duration = Duration::from_secs(1);

/// How much a pod has to do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Load {
    /// The part of its time for which it is busy, summed over its consumers.
    busy: f64,
    /// Records that it has in hand.
    outstanding: u64,
}

/// How much each pod has to do, by name.
pub(super) type Loads = BTreeMap<String, Load>;

/// Marks pods as the leader.
#[derive(Debug)]
pub(super) struct Marks {
    writer: Writer,
    told: AtomicBool,
}

/// Why pods are not marked, or not all of them.
#[derive(Debug, thiserror::Error)]
enum NotMarked {
    #[error("cannot read the {what} of the target: {source}")]
    Unread { what: &'static str, source: Box<kube::Error> },
    #[error("its selector cannot be read")]
    NoSelector,
    #[error(transparent)]
    Unwritten(#[from] WriteError),
    #[error("it takes longer than {LONGEST:?}")]
    TooLong,
}

/// A pod of a target.
#[derive(Debug)]
struct Candidate<'a> {
    name: &'a str,
    load: Option<Load>,
    marked: bool,
}

/// What the pods say of themselves.
pub(super) fn loads(said: &[Said]) -> Loads {
    let load = |said: &Said| Load { busy: pods::busy(&said.health), outstanding: said.health.outstanding };
    said.iter().map(|said| (said.pod.clone(), load(said))).collect()
}

/// Adds what the consumers of another group in the same pods say.
pub(super) fn add(sum: &mut Loads, more: &Loads) {
    for (pod, load) in more {
        let sum = sum.entry(pod.clone()).or_default();
        sum.busy += load.busy;
        sum.outstanding = sum.outstanding.saturating_add(load.outstanding);
    }
}

impl Marks {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, told: AtomicBool::new(false) }
    }

    /// Marks the pods that should go in this step; after a second at most the step goes on without. Steps up and targets without
    /// agents are left alone.
    pub(super) async fn set(&self, client: &Client, group: &ObjectKey, step: &Step, loads: &Loads) {
        let kind = (step.target.api_version.as_str(), step.target.kind.as_str());
        let down = step.decision.desired < step.decision.current;
        if !down || loads.is_empty() || !matches!(kind, ("apps/v1", "Deployment" | "ReplicaSet")) {
            return;
        }
        let set = tokio::time::timeout(LONGEST, self.try_set(client, group, step, loads)).await;
        match set.unwrap_or(Err(NotMarked::TooLong)) {
            Err(error) if error.is_forbidden() => {
                if !self.told.swap(true, Relaxed) {
                    tracing::info!(
                        %error,
                        "steps down take pods without regard to what they have to do: the operator's role needs list and patch on \
                         pods; with the chart, set rbac.podDeletionCost"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, %group, "pods not marked; the step goes on"),
            Ok(()) => {}
        }
    }

    async fn try_set(&self, client: &Client, group: &ObjectKey, step: &Step, loads: &Loads) -> Result<(), NotMarked> {
        let unread = |what| move |source| NotMarked::Unread { what, source: Box::new(source) };
        let target = step.seen.api(client.clone(), &group.namespace).get(&step.target.name).await;
        let target = target.map_err(unread("selector"))?;
        let selector: LabelSelector =
            serde_json::from_value(target.data["spec"]["selector"].clone()).map_err(|_| NotMarked::NoSelector)?;
        let selector = Selector::try_from(selector).map_err(|_| NotMarked::NoSelector)?;
        let api: Api<Pod> = Api::namespaced(client.clone(), &group.namespace);
        let found = api.list_metadata(&ListParams::default().labels_from(&selector)).await.map_err(unread("pods"))?;
        let pods: Vec<_> = found.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        if pods.iter().any(|pod| is_foreign(pod)) {
            return Ok(());
        }
        let by_name: HashMap<String, _> = pods.iter().map(|pod| (pod.name_any(), *pod)).collect();
        let candidates: Vec<_> = by_name
            .iter()
            .map(|(name, pod)| Candidate { name, load: loads.get(name).copied(), marked: cost(pod).is_some() })
            .collect();
        let leave = usize::try_from(step.decision.current - step.decision.desired).unwrap_or(usize::MAX);
        let changes =
            changes(candidates, leave).into_iter().filter_map(|(name, mark)| Some((*by_name.get(name)?, mark)));
        stream::iter(changes.map(Ok))
            .try_for_each_concurrent(WRITES, |(pod, mark)| self.write(&api, group, pod, mark))
            .await?;
        Ok(())
    }

    async fn write(
        &self,
        api: &Api<Pod>,
        group: &ObjectKey,
        pod: &PartialObjectMeta<Pod>,
        mark: bool,
    ) -> Result<(), WriteError> {
        let body = json!({"metadata": {"uid": pod.uid(), "annotations": {COST: mark.then_some(MARK)}}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let (name, patch) = (pod.name_any(), Patch::Merge(&body));
        match self.writer.write("deletion cost", group, api.patch_metadata(&name, &params, &patch)).await {
            // It went meanwhile.
            Err(error) if error.is_superseded() => Ok(()),
            written => written.map(drop),
        }
    }
}

impl NotMarked {
    fn is_forbidden(&self) -> bool {
        match self {
            Self::Unread { source, .. } => matches!(&**source, kube::Error::Api(status) if status.is_forbidden()),
            Self::Unwritten(error) => error.is_forbidden(),
            Self::NoSelector | Self::TooLong => false,
        }
    }
}

/// The pods whose mark has to change so that the `leave` that have least to do go first, and whether they get one.
///
/// Of pods with equally much to do those that are marked go, which spares writes. A pod that says nothing is never marked; it may have as
/// much to do as the others have on average, so that none that is known to have more goes before it.
fn changes(mut pods: Vec<Candidate<'_>>, leave: usize) -> Vec<(&str, bool)> {
    let known: Vec<Load> = pods.iter().filter_map(|pod| pod.load).collect();
    let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
    if leave >= pods.len() || count == 0 {
        return vec![];
    }
    let average = Load {
        busy: known.iter().map(|load| load.busy).sum::<f64>() / f64::from(count),
        outstanding: known.iter().fold(0, |sum: u64, load| sum.saturating_add(load.outstanding)) / u64::from(count),
    };
    let order = |one: &Candidate<'_>, other: &Candidate<'_>| {
        compare(one.load.unwrap_or(average), other.load.unwrap_or(average))
    };
    pods.sort_by(|one, other| {
        order(one, other).then(other.marked.cmp(&one.marked)).then_with(|| one.name.cmp(other.name))
    });
    let even = pods.first().zip(pods.last()).is_none_or(|(least, most)| order(least, most).is_eq());
    let should = |rank: usize, pod: &Candidate<'_>| rank < leave && pod.load.is_some();
    let wrong = pods.iter().enumerate().filter(|(rank, pod)| !even && pod.marked != should(*rank, pod));
    wrong.map(|(_, pod)| (pod.name, !pod.marked)).collect()
}

/// By tenths of their time, since it varies; then by what would have to be finished or done again.
fn compare(one: Load, other: Load) -> Ordering {
    let tenths = |load: Load| (load.busy * 10.0).round();
    tenths(one).total_cmp(&tenths(other)).then(one.outstanding.cmp(&other.outstanding))
}

fn cost(pod: &PartialObjectMeta<Pod>) -> Option<&String> {
    pod.annotations().get(COST)
}

/// Whether somebody else set the cost: then somebody else sees to the order.
fn is_foreign(pod: &PartialObjectMeta<Pod>) -> bool {
    let path = format!("f:{COST}");
    let is_own = pod.managed_fields().iter().any(|entry| {
        let annotations = entry.fields_v1.as_ref().map(|fields| &fields.0["f:metadata"]["f:annotations"]);
        entry.manager.as_deref() == Some(FIELD_MANAGER) && annotations.is_some_and(|set| set.get(&path).is_some())
    });
    cost(pod).is_some() && !is_own
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::Config;
    use mq_core::{
        reason::Reason,
        scaling::{Decision, Target, Terms},
    };
    use mq_crds::TargetRef;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        groups::target::Deployed,
        lease::{Lease, Settings},
        metrics::Metrics,
    };

    #[test]
    fn those_that_have_least_to_do_are_marked_and_only_changes_are_written() {
        type Pods<'a> = &'a [(&'a str, Option<Load>, bool)];
        type Case<'a> = (&'a str, Pods<'a>, usize, &'a [(&'a str, bool)]);
        let load = |busy, outstanding| Some(Load { busy, outstanding });
        let cases: [Case<'_>; 11] = [
            ("least busy", &[("a", load(0.9, 9), false), ("b", load(0.2, 9), false)], 1, &[("b", true)]),
            ("fewest in hand", &[("a", load(0.5, 9), false), ("b", load(0.5, 3), false)], 1, &[("b", true)]),
            ("tenths count", &[("a", load(0.51, 3), false), ("b", load(0.49, 9), false)], 1, &[("a", true)]),
            ("marked already", &[("a", load(0.9, 9), false), ("b", load(0.2, 9), true)], 1, &[]),
            (
                "an old mark holds no more",
                &[("a", load(0.9, 9), true), ("b", load(0.2, 9), false)],
                1,
                &[("b", true), ("a", false)],
            ),
            (
                "a mark spares another among equals",
                &[("a", load(0.2, 1), false), ("b", load(0.2, 1), true), ("c", load(0.9, 1), false)],
                1,
                &[],
            ),
            ("all have as much", &[("a", load(0.5, 1), false), ("b", load(0.5, 1), false)], 1, &[]),
            ("all go", &[("a", load(0.9, 9), false), ("b", load(0.2, 9), false)], 2, &[]),
            ("nothing is known", &[("a", None, false), ("b", None, true)], 1, &[]),
            (
                "who is silent is not marked, nor is one with more than the average before it",
                &[("a", load(0.1, 1), false), ("b", None, false), ("c", load(0.9, 1), false)],
                2,
                &[("a", true)],
            ),
            (
                "who fell silent loses its mark",
                &[("a", load(0.1, 1), false), ("b", None, true), ("c", load(0.9, 1), false)],
                1,
                &[("a", true), ("b", false)],
            ),
        ];
        for (name, pods, leave, expected) in cases {
            let pods = pods.iter().map(|(name, load, marked)| Candidate { name, load: *load, marked: *marked });
            assert_eq!(changes(pods.collect(), leave), expected, "{name}");
        }
    }

    #[test]
    fn what_several_groups_do_in_a_pod_counts_together() {
        let mut sum: Loads = [("a".to_owned(), Load { busy: 0.5, outstanding: 3 })].into();
        let more: Loads = [("a", 0.25, 4), ("b", 0.1, 1)]
            .map(|(pod, busy, outstanding)| (pod.to_owned(), Load { busy, outstanding }))
            .into();
        add(&mut sum, &more);
        assert_eq!(sum["a"], Load { busy: 0.75, outstanding: 7 });
        assert_eq!(sum["b"], Load { busy: 0.1, outstanding: 1 });
    }

    #[test]
    fn a_cost_that_somebody_else_set_is_told_from_a_mark() {
        let pod = |cost: Option<&str>, manager: &str| -> PartialObjectMeta<Pod> {
            let fields = json!({"f:metadata": {"f:annotations": {format!("f:{COST}"): {}}}});
            serde_json::from_value(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {
                    "name": "a", "annotations": cost.map(|cost| json!({COST: cost})),
                    "managedFields": [{"manager": manager, "operation": "Update", "fieldsV1": fields}],
                },
            }))
            .unwrap()
        };
        assert!(is_foreign(&pod(Some("-1"), "kubectl-annotate")));
        assert!(!is_foreign(&pod(Some("-1"), FIELD_MANAGER)));
        assert!(!is_foreign(&pod(None, "kubectl-annotate")));
    }

    #[tokio::test]
    async fn a_step_does_not_wait_for_an_api_server_that_does_not_answer() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let settings = Settings {
            namespace: "mq".into(),
            name: "mq".into(),
            identity: "a".into(),
            pod: None,
            duration: Duration::from_secs(15),
        };
        let writer = Writer::new(client.clone(), Arc::new(Lease::new(settings)), Metrics::new().unwrap());
        let target = Target { replicas: 3, ready: 3, rolling: false, template: "a".into() };
        let step = Step {
            at: Duration::ZERO,
            target: TargetRef { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "worker".into() },
            seen: Deployed::for_test("1", target),
            decision: Decision {
                current: 3,
                desired: 1,
                reason: Reason::AboveNeed,
                message: "less is enough".into(),
                terms: Terms::default(),
                limit: None,
            },
        };
        let group = ObjectKey { namespace: "shop".into(), name: "notifications".into(), uid: "1".into() };
        let loads: Loads = [("a".to_owned(), Load::default())].into();
        let began = tokio::time::Instant::now();
        Marks::new(writer).set(&client, &group, &step, &loads).await;
        let waited = began.elapsed();
        assert!(waited >= LONGEST && waited < LONGEST * 5, "{waited:?}");
    }
}
