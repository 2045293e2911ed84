//! What Prometheus sees of groups. A number that is not known has no series; it is never zero.

use std::time::Duration;

use mq_core::{
    lag::{GroupLag, Oddity},
    scaling::{Decision, Objective},
};
use mq_protocol::message::{Health, PollTime, Standing};
use prometheus::{GaugeVec, Opts, Registry};

use super::{DesiredGroup, pods};
use crate::push::index::Said;

#[derive(Debug, Clone)]
pub(super) struct GroupMetrics {
    lag: GaugeVec,
    late: GaugeVec,
    unknown: GaugeVec,
    stuck: GaugeVec,
    forgotten: GaugeVec,
    held_back: GaugeVec,
    endangered: GaugeVec,
    lost: GaugeVec,
    current: GaugeVec,
    desired: GaugeVec,
    arrival: GaugeVec,
    capacity: GaugeVec,
    busy: GaugeVec,
    in_hand: GaugeVec,
    oldest: GaugeVec,
    breakers: GaugeVec,
    poll_idle: GaugeVec,
    poll_full: GaugeVec,
    poll_draining: GaugeVec,
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
            unknown: gauge(
                "mq_group_unknown_partitions",
                "Partitions whose lag is not known, and topics and patterns of which no partition is.",
            )?,
            stuck: gauge("mq_group_stuck_partitions", "Partitions in which something waits and nothing is committed.")?,
            forgotten: gauge(
                "mq_group_forgotten_partitions",
                "Partitions of which the commit expired or was deleted: the group begins anew.",
            )?,
            held_back: gauge(
                "mq_group_transaction_held_partitions",
                "Partitions in which the group stands before a transaction that is not ended.",
            )?,
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
            oldest: gauge(
                "mq_group_oldest_in_hand_seconds",
                "The longest time for which a consumer with an agent has a message in hand.",
            )?,
            breakers: gauge(
                "mq_group_open_breakers",
                "Consumers that hold what fails instead of sending dead letters, because too much does.",
            )?,
            poll_idle: gauge(
                "mq_group_poll_idle_ratio",
                "The part of their time for which poll threads wait for Kafka.",
            )?,
            poll_full: gauge(
                "mq_group_poll_full_ratio",
                "The part of their time for which poll threads wait for handlers, because the consumer is full.",
            )?,
            poll_draining: gauge(
                "mq_group_poll_draining_ratio",
                "The part of their time for which poll threads wait for handlers of partitions that leave.",
            )?,
        })
    }

    pub(super) fn lag(&self, group: &DesiredGroup, lag: &GroupLag, objective: Option<Objective>) {
        let known = !lag.is_unknown();
        set(&self.lag, group, known.then(|| number(lag.outstanding)));
        let broken = objective.and_then(|objective| objective.broken_by(lag));
        let guessed = lag.late.is_some_and(|late| late.estimated);
        set(&self.late, group, broken.filter(|_| known && !guessed).map(number));
        let unknown = lag.unknown.len() + lag.unread.len();
        set(&self.unknown, group, u32::try_from(unknown).ok().map(f64::from));
        set(&self.stuck, group, u32::try_from(lag.stuck.len()).ok().filter(|_| known).map(f64::from));
        let odd = |which: fn(&Oddity) -> bool| {
            let count = lag.oddities.values().filter(|odd| which(odd)).count();
            u32::try_from(count).ok().filter(|_| known).map(f64::from)
        };
        set(&self.forgotten, group, odd(|odd| matches!(odd, Oddity::Forgotten { .. })));
        set(&self.held_back, group, odd(|odd| matches!(odd, Oddity::OpenTransaction { .. })));
        set(&self.endangered, group, known.then(|| number(lag.endangered)));
        set(&self.lost, group, known.then(|| number(lag.lost)));
        set(&self.arrival, group, lag.arrival);
    }

    pub(super) fn decision(&self, group: &DesiredGroup, decision: Option<&Decision>) {
        set(&self.current, group, decision.map(|decision| f64::from(decision.current)));
        set(&self.desired, group, decision.map(|decision| f64::from(decision.desired)));
        set(&self.capacity, group, decision.and_then(|decision| decision.terms.capacity));
    }

    pub(super) fn health(&self, group: &DesiredGroup, pods: &[Said]) {
        set(&self.busy, group, pods::average(pods, pods::busy));
        let in_hand = pods.iter().map(|said| said.health.outstanding).reduce(u64::saturating_add);
        set(&self.in_hand, group, in_hand.map(number));
        let standings = pods::standings(pods);
        let oldest = |all: &Vec<&Standing>| {
            all.iter()
                .filter_map(|standing| standing.oldest.as_ref())
                .map(|oldest| oldest.age)
                .max()
                .unwrap_or_default()
        };
        set(&self.oldest, group, standings.as_ref().map(oldest).map(|age| age.as_secs_f64()));
        let breaker = |said: &&Said| said.health.standing.as_ref().is_some_and(|standing| standing.breaker.is_some());
        let open = pods.iter().filter(breaker).count();
        set(&self.breakers, group, (open > 0 || standings.is_some()).then(|| number(open as u64)));
        let waits = |of: fn(PollTime) -> Duration| {
            standings.as_ref()?;
            let poll = |health: &Health| health.standing.as_ref().map(|standing| standing.poll).unwrap_or_default();
            pods::average(pods, |health| pods::part(health, of(poll(health))))
        };
        set(&self.poll_idle, group, waits(|poll| poll.idle));
        set(&self.poll_full, group, waits(|poll| poll.full));
        set(&self.poll_draining, group, waits(|poll| poll.draining));
    }

    pub(super) fn forget(&self, group: &DesiredGroup) {
        let decision = [&self.current, &self.desired, &self.capacity];
        let seen = [&self.lag, &self.late, &self.unknown, &self.arrival];
        let alerts = [&self.stuck, &self.forgotten, &self.held_back, &self.endangered, &self.lost, &self.breakers];
        let polls = [&self.poll_idle, &self.poll_full, &self.poll_draining];
        let said = [&self.busy, &self.in_hand, &self.oldest].into_iter().chain(polls);
        for gauge in seen.into_iter().chain(decision).chain(alerts).chain(said) {
            set(gauge, group, None);
        }
    }
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
    use std::collections::BTreeSet;

    use mq_core::lag::Late;

    use super::{
        super::{
            census::Series,
            entry::tests::group,
            pods::tests::{held, said},
        },
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
    fn what_one_pod_does_not_say_is_not_known_of_the_group_but_an_open_breaker_is() {
        let metrics = Metrics::new().unwrap();
        let groups = GroupMetrics::new(metrics.registry()).unwrap();
        let shown = |pods: &[Said]| {
            groups.health(&group(), pods);
            let families = metrics.registry().gather();
            ["mq_group_open_breakers", "mq_group_oldest_in_hand_seconds", "mq_group_poll_full_ratio"].map(|name| {
                let found = families.iter().find(|family| family.name() == name);
                found.map(|family| family.get_metric()[0].get_gauge().get_value())
            })
        };
        let full = PollTime { full: Duration::from_millis(1_500), ..PollTime::default() };
        let well = said("a", 0, Some(Standing { poll: full, ..Standing::default() }));
        let (old, open) = (said("b", 0, None), said("c", 0, Some(held("no database"))));
        assert_eq!(shown(&[]), [None; 3]);
        assert_eq!(shown(std::slice::from_ref(&well)), [Some(0.0), Some(0.0), Some(0.5)]);
        assert_eq!(shown(&[well.clone(), open.clone()]), [Some(1.0), Some(0.0), Some(0.25)]);
        assert_eq!(shown(&[well, old.clone()]), [None; 3]);
        assert_eq!(shown(&[old, open]), [Some(1.0), None, None]);
        groups.forget(&group());
        assert!(metrics.registry().gather().iter().all(|family| !family.name().starts_with("mq_group_")));
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
