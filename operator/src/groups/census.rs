//! The lag of all groups of each cluster, declared or not, for metrics alone.
//!
//! Per look: `ListGroups` at each broker, one `OffsetFetch` per coordinator, one `ListOffsets` per leader. The number
//! of series is bounded: of more groups than that, those with the most lag are shown.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use mq_core::{
    condition,
    lag::{ResetPolicy, partition::judge},
};
use mq_kafka::{Client, GroupKind, GroupOffsets, Isolation, OffsetSpec, PartitionError, PartitionMap, Partitions};
use prometheus::{GaugeVec, Opts, Registry};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Environment, UNSCALED, lock};

type Ends = PartitionMap<Result<Option<i64>, PartitionError>>;

/// The lag of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lag {
    /// Messages that it has not committed.
    Known(u64),
    /// Something of it could not be read.
    Unknown,
    /// It has committed nothing.
    Uncommitted,
}

/// Looks at all groups in turns.
pub(super) struct Census {
    environment: Environment,
    series: Series,
    shown: Mutex<HashMap<String, BTreeSet<String>>>,
}

/// What Prometheus sees.
pub(super) struct Series {
    lag: GaugeVec,
    groups: GaugeVec,
}

impl Series {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            lag: gauge(
                "mq_kafka_group_lag_messages",
                "Messages that a group of the Kafka cluster, declared or not, has not committed, in the partitions that it has committed.",
                &["cluster", "group"],
            )?,
            groups: gauge(
                "mq_kafka_groups",
                "Groups of the Kafka cluster, by what is known of their lag: shown, not_shown (more than may be), unknown, uncommitted.",
                &["cluster", "lag"],
            )?,
        })
    }
}

impl Census {
    pub(super) fn new(environment: Environment) -> prometheus::Result<Self> {
        let series = Series::new(environment.metrics.registry())?;
        Ok(Self { environment, series, shown: Mutex::default() })
    }

    /// Looks at each cluster until `stop`, one task per cluster: one that does not answer holds up no other.
    pub(super) async fn run(self: Arc<Self>, tasks: TaskTracker, stop: CancellationToken) {
        let mut watched = HashMap::new();
        let pause = self.environment.options.lag_interval * UNSCALED;
        loop {
            for cluster in self.environment.sessions.names() {
                let ended = |task: &tokio::task::JoinHandle<_>| task.is_finished();
                if watched.get(&cluster).is_none_or(ended) {
                    let watch = Arc::clone(&self).watch(cluster.clone());
                    let stop = stop.clone();
                    watched.insert(cluster, tasks.spawn(async move { stop.run_until_cancelled(watch).await }));
                }
            }
            watched.retain(|_, task| !task.is_finished());
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause.mul_f64(0.95 + fastrand::f64() / 20.0)) => {}
            }
        }
    }

    async fn watch(self: Arc<Self>, cluster: String) {
        let pause = self.environment.options.lag_interval * UNSCALED;
        let mut lags = BTreeMap::new();
        while let Some(session) = self.environment.sessions.get(&cluster) {
            let right = session.health().is_some_and(|health| health.verdict.health == condition::Health::Ready);
            if right && self.environment.lease.permit().is_ok() {
                match look(&session.client(), &lags).await {
                    Ok(found) => {
                        lags = found;
                        self.show(&cluster, &lags);
                    }
                    Err(error) => {
                        tracing::debug!(cluster, %error, "groups not listed");
                        self.hide(&cluster);
                    }
                }
            } else {
                self.hide(&cluster);
            }
            sleep(pause.mul_f64(0.95 + fastrand::f64() / 20.0)).await;
        }
        self.hide(&cluster);
    }

    fn show(&self, cluster: &str, lags: &BTreeMap<String, Lag>) {
        let most = most(lags, self.environment.options.all_groups);
        let count = |lag| lags.values().filter(|found| **found == lag).count();
        let (unknown, uncommitted) = (count(Lag::Unknown), count(Lag::Uncommitted));
        let hidden = lags.len() - most.len() - unknown - uncommitted;
        let counts = [("shown", most.len()), ("not_shown", hidden), ("unknown", unknown), ("uncommitted", uncommitted)];
        for (label, groups) in counts {
            self.series.groups.with_label_values(&[cluster, label]).set(number(groups as u64));
        }
        for (group, lag) in &most {
            self.series.lag.with_label_values(&[cluster, *group]).set(number(*lag));
        }
        let now: BTreeSet<String> = most.into_iter().map(|(group, _)| group.to_owned()).collect();
        let before = lock(&self.shown).insert(cluster.to_owned(), now.clone()).unwrap_or_default();
        for group in before.difference(&now) {
            let _ = self.series.lag.remove_label_values(&[cluster, group]);
        }
    }

    /// What is not known has no series.
    fn hide(&self, cluster: &str) {
        for group in lock(&self.shown).remove(cluster).unwrap_or_default() {
            let _ = self.series.lag.remove_label_values(&[cluster, &group]);
        }
        for label in ["shown", "not_shown", "unknown", "uncommitted"] {
            let _ = self.series.groups.remove_label_values(&[cluster, label]);
        }
    }
}

/// Committed offsets first, ends second: the other way round a busy group would seem to be ahead of its log. A group of the look
/// before that is missing while a broker does not answer is not gone.
async fn look(client: &Client, before: &BTreeMap<String, Lag>) -> Result<BTreeMap<String, Lag>, mq_kafka::Error> {
    let listed = client.list_groups().await?;
    let missing = if listed.unread.is_empty() { BTreeMap::new() } else { unknown(before) };
    let consumers = listed.groups.into_iter().filter(|(_, group)| {
        matches!(group.protocol_type.as_str(), "consumer" | "") && !matches!(group.kind, Some(GroupKind::Other(_)))
    });
    let committed = client.committed_offsets(consumers.map(|(id, _)| id)).await;
    let mut partitions = Partitions::new();
    for (topic, found) in committed.values().flatten().flat_map(|offsets| &offsets.partitions) {
        partitions.entry(topic.clone()).or_default().extend(found.keys());
    }
    let ends = if partitions.is_empty() {
        Ends::new()
    } else {
        client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await
    };
    let lag = |offsets: Result<GroupOffsets, _>| offsets.map_or(Lag::Unknown, |offsets| sum(&offsets, &ends));
    let found = committed.into_iter().map(|(group, offsets)| (group, lag(offsets)));
    Ok(missing.into_iter().chain(found).collect())
}

fn unknown(groups: &BTreeMap<String, Lag>) -> BTreeMap<String, Lag> {
    groups.keys().map(|group| (group.clone(), Lag::Unknown)).collect()
}

/// What is left of a topic that was deleted does not count.
fn sum(offsets: &GroupOffsets, ends: &Ends) -> Lag {
    let mut lag = Lag::Uncommitted;
    for (topic, partitions) in &offsets.partitions {
        for (partition, committed) in partitions {
            let end = match ends.get(topic).and_then(|ends| ends.get(partition)) {
                Some(Ok(Some(end))) => *end,
                Some(Err(PartitionError::Absent)) => continue,
                Some(Ok(None) | Err(_)) | None => return Lag::Unknown,
            };
            let Ok(committed) = committed else { return Lag::Unknown };
            let Ok(found) = judge(Some(committed.offset), None, end, ResetPolicy::Latest) else { return Lag::Unknown };
            let before = if let Lag::Known(lag) = lag { lag } else { 0 };
            lag = Lag::Known(before.saturating_add(found.lag));
        }
    }
    lag
}

/// The groups with the most lag, at most so many.
fn most(lags: &BTreeMap<String, Lag>, bound: usize) -> Vec<(&str, u64)> {
    let known = |(group, lag): (_, &Lag)| if let Lag::Known(lag) = lag { Some((group, *lag)) } else { None };
    let mut most: Vec<(&str, u64)> = lags.iter().map(|(group, lag)| (group.as_str(), lag)).filter_map(known).collect();
    most.sort_by_key(|(_, lag)| Reverse(*lag));
    most.truncate(bound);
    most
}

#[expect(clippy::cast_precision_loss, reason = "message counts are far below 2^52")]
fn number(messages: u64) -> f64 {
    messages as f64
}

#[cfg(test)]
mod tests {
    use mq_kafka::CommittedOffset;

    use super::*;

    fn offsets(committed: &[(&str, i64)]) -> GroupOffsets {
        let mut offsets = GroupOffsets::default();
        for (topic, offset) in committed {
            let committed = CommittedOffset { offset: *offset, leader_epoch: None, metadata: String::new() };
            offsets.partitions.insert((*topic).to_owned(), [(0, Ok(committed))].into());
        }
        offsets
    }

    #[test]
    fn what_cannot_be_read_is_no_lag() {
        let ends: Ends =
            [("a", Ok(Some(100))), ("b", Ok(Some(50))), ("gone", Err(PartitionError::Absent)), ("lost", Ok(None))]
                .into_iter()
                .map(|(topic, end)| (topic.to_owned(), [(0, end)].into()))
                .collect();
        let cases: [(&[(&str, i64)], Lag); 6] = [
            (&[("a", 90), ("b", 20)], Lag::Known(40)),
            (&[("a", 100), ("gone", 5)], Lag::Known(0)),
            (&[("a", 90), ("lost", 5)], Lag::Unknown),
            (&[("a", 90), ("b", 60)], Lag::Unknown),
            (&[("gone", 5)], Lag::Uncommitted),
            (&[], Lag::Uncommitted),
        ];
        for (committed, expected) in cases {
            assert_eq!(sum(&offsets(committed), &ends), expected, "{committed:?}");
        }
    }

    #[test]
    fn of_too_many_those_that_are_furthest_behind() {
        let lags = [("a", Lag::Known(5)), ("b", Lag::Unknown), ("c", Lag::Known(9)), ("d", Lag::Known(5))];
        let lags = lags.into_iter().map(|(group, lag)| (group.to_owned(), lag)).collect();
        assert_eq!(most(&lags, 2), [("c", 9), ("a", 5)]);
        assert_eq!(most(&lags, 9).len(), 3);
    }
}
