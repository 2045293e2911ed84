//! What Prometheus sees of groups. A number that is not known has no series; it is never zero.

use mq_core::{
    lag::GroupLag,
    scaling::{Decision, Objective},
};
use mq_protocol::message::Health;
use prometheus::{GaugeVec, Opts, Registry};

use super::DesiredGroup;

#[derive(Debug, Clone)]
pub(super) struct GroupMetrics {
    lag: GaugeVec,
    late: GaugeVec,
    unknown: GaugeVec,
    stuck: GaugeVec,
    endangered: GaugeVec,
    lost: GaugeVec,
    current: GaugeVec,
    desired: GaugeVec,
    arrival: GaugeVec,
    capacity: GaugeVec,
    busy: GaugeVec,
    in_hand: GaugeVec,
}

impl GroupMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(name, help), &["cluster", "namespace", "name", "group"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            lag: gauge("mq_group_lag_messages", "Messages between the committed offsets and the ends.")?,
            late: gauge("mq_group_late_messages", "Messages that break the objective.")?,
            unknown: gauge("mq_group_unknown_partitions", "Partitions whose lag is not known.")?,
            stuck: gauge("mq_group_stuck_partitions", "Partitions in which something waits and nothing is committed.")?,
            endangered: gauge(
                "mq_group_endangered_messages",
                "Messages that the next deletion by retention would take.",
            )?,
            lost: gauge("mq_group_lost_messages", "Messages that retention deleted before they were committed.")?,
            current: gauge("mq_group_replicas", "Replicas that the target asks for.")?,
            desired: gauge("mq_group_desired_replicas", "Replicas that the operator decided on.")?,
            arrival: gauge("mq_group_arrival_messages_per_second", "Messages that arrive.")?,
            capacity: gauge("mq_group_capacity_messages_per_second", "Messages that one replica can handle.")?,
            busy: gauge(
                "mq_group_busy_ratio",
                "The part of their time for which the consumers with an agent are busy.",
            )?,
            in_hand: gauge(
                "mq_group_in_hand_messages",
                "Messages that the consumers with an agent have taken and not finished.",
            )?,
        })
    }

    pub(super) fn lag(&self, group: &DesiredGroup, lag: &GroupLag, objective: Option<Objective>) {
        let known = !lag.is_unknown();
        set(&self.lag, group, known.then(|| number(lag.outstanding)));
        let broken = objective.and_then(|objective| objective.broken_by(lag));
        let guessed = lag.late.is_some_and(|late| late.estimated);
        set(&self.late, group, broken.filter(|_| known && !guessed).map(number));
        set(&self.unknown, group, u32::try_from(lag.unknown.len()).ok().map(f64::from));
        set(&self.stuck, group, u32::try_from(lag.stuck.len()).ok().filter(|_| known).map(f64::from));
        set(&self.endangered, group, known.then(|| number(lag.endangered)));
        set(&self.lost, group, known.then(|| number(lag.lost)));
        set(&self.arrival, group, lag.arrival);
    }

    pub(super) fn decision(&self, group: &DesiredGroup, decision: Option<&Decision>) {
        set(&self.current, group, decision.map(|decision| f64::from(decision.current)));
        set(&self.desired, group, decision.map(|decision| f64::from(decision.desired)));
        set(&self.capacity, group, decision.and_then(|decision| decision.terms.capacity));
    }

    pub(super) fn health(&self, group: &DesiredGroup, healths: &[Health]) {
        set(&self.busy, group, average(healths));
        let in_hand = healths.iter().map(|health| health.outstanding).reduce(u64::saturating_add);
        set(&self.in_hand, group, in_hand.map(number));
    }

    pub(super) fn forget(&self, group: &DesiredGroup) {
        let decision = [&self.current, &self.desired, &self.capacity];
        let seen = [&self.lag, &self.late, &self.unknown, &self.arrival, &self.busy, &self.in_hand];
        let alerts = [&self.stuck, &self.endangered, &self.lost];
        for gauge in seen.into_iter().chain(decision).chain(alerts) {
            set(gauge, group, None);
        }
    }
}

/// The part of its time for which a consumer was busy, 0 to 1.
pub(super) fn busy(health: &Health) -> f64 {
    if health.period.is_zero() { 0.0 } else { health.busy.as_secs_f64() / health.period.as_secs_f64() }
}

/// The mean of that; none of none.
pub(super) fn average(healths: &[Health]) -> Option<f64> {
    let pods = u32::try_from(healths.len()).ok().filter(|pods| *pods > 0)?;
    Some(healths.iter().map(busy).sum::<f64>() / f64::from(pods))
}

fn set(gauge: &GaugeVec, group: &DesiredGroup, value: Option<f64>) {
    let labels = [&group.cluster, &group.object.namespace, &group.object.name, &group.group_id].map(String::as_str);
    match value {
        Some(value) => gauge.with_label_values(&labels).set(value),
        // It fails only if there was no series.
        None => drop(gauge.remove_label_values(&labels)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "message counts are far below 2^52")]
fn number(messages: u64) -> f64 {
    messages as f64
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use mq_core::lag::Late;

    use super::{
        super::{census::Series, entry::tests::group},
        *,
    };
    use crate::metrics::Metrics;

    #[test]
    fn what_is_only_guessed_to_be_late_has_no_series() {
        let metrics = Metrics::new().unwrap();
        let groups = GroupMetrics::new(metrics.registry()).unwrap();
        let shown = |estimated: bool, objective| {
            let late = Some(Late { messages: 40, estimated });
            let lag = GroupLag { partitions: 4, outstanding: 50, late, ..GroupLag::default() };
            groups.lag(&group(), &lag, Some(objective));
            let families = metrics.registry().gather();
            let late = families.iter().find(|family| family.name() == "mq_group_late_messages");
            late.map(|family| family.get_metric()[0].get_gauge().get_value())
        };
        let age = Objective::Age(Duration::from_secs(30));
        assert_eq!(shown(false, age), Some(40.0));
        assert_eq!(shown(true, age), None);
        assert_eq!(shown(false, age), Some(40.0));
    }

    #[test]
    fn every_metric_that_the_guide_names_is_exported() {
        let guide = [include_str!("../../../docs/guide/alerts.md"), include_str!("../../../docs/guide/scaling.md")];
        let metrics = Metrics::new().unwrap();
        let registry = metrics.registry();
        GroupMetrics::new(registry).unwrap();
        Series::new(registry).unwrap();
        let words = guide.iter().flat_map(|page| page.split(|c: char| !(c.is_ascii_lowercase() || c == '_')));
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("mq_") && *word != "mq_group_").collect();
        assert!(named.len() > 12, "{named:?}");
        for name in named {
            let again = prometheus::Gauge::new(name, "a name is registered once").unwrap();
            assert!(registry.register(Box::new(again)).is_err(), "no metric is called {name}");
        }
    }
}
