//! What the load asks for, with what is remembered of the group.

use std::time::Duration;

use super::{History, count, mean};
use crate::lag::{Flow, TopicPartition};
use crate::scaling::capacity::{Capacity, imbalance, span};
use crate::scaling::need::{AIM, Load, Need, busy, need, skew, urgent, useful, whole};
use crate::scaling::share::{FULL, ROOMY, Shares};
use crate::scaling::{Objective, Observation, Policy};

/// A cycle whose arrival stands so far above the one of three cycles ago is a step, not noise.
const STEP: f64 = 1.25;
/// Who handles less than this part of what arrives does not keep up: less is a partition that stands still, or chance.
const KEEPS_UP: f64 = 0.9;
/// A load has fallen if it is less than this part of the one that the last step up was for.
const FALLEN: f64 = 0.9;
/// How busy a step down may leave replicas then.
const TIGHT: f64 = 0.8;

impl History {
    /// The most replicas that can have partitions.
    pub(super) fn places(&self, seen: &Observation) -> u32 {
        seen.lag.partitions.div_ceil(self.threads.max(1))
    }

    /// What one partition can have at most: no two members work on it.
    pub(super) fn each_member(&self, capacity: f64) -> f64 {
        capacity / f64::from(self.threads.max(1))
    }

    /// Arrival: the mean of three cycles, except in the second cycle of a step, where the mean is still the past.
    /// Backlog: outstanding less what was handled and not committed yet.
    pub(super) fn load(&self, policy: &Policy, seen: &Observation) -> Option<Load> {
        let mean_arrival = mean(&self.arrivals)?;
        let arrival = match self.arrivals.iter().copied().collect::<Vec<_>>()[..] {
            [old, before, now] if before > old * STEP && now > old * STEP => now.max(mean_arrival),
            _ => mean_arrival,
        };
        let unseen = mean(&self.throughputs).unwrap_or_default() * policy.commit_interval.as_secs_f64();
        let most = self.capacity_of(policy).known();
        let most = most.map(|capacity| (self.each_member(capacity), policy.objective.drain_time()));
        let skew = self.skew(policy, seen);
        let too_little = self.too_little(policy, seen, arrival);
        let grown = self.grows(policy, arrival * skew, too_little).map(|rate| rate * self.change().as_secs_f64());
        let usual: f64 = seen.lag.flows.iter().filter_map(|flow| flow.arrival).sum();
        let waiting = count(seen.lag.workable_waiting().0);
        let (mut backlog, mut pressing, mut coming) = (0.0, 0.0, 0.0);
        for (flow, (messages, late)) in seen.lag.workable().filter_map(|flow| Some((flow, flow.waiting?))) {
            let messages = count(messages);
            let most = most.map_or(f64::INFINITY, |most| drainable(flow, most));
            let part = flow.arrival.filter(|_| usual > 0.0).map_or(0.0, |rate| rate / usual);
            let owed = (messages - unseen * part).max(0.0);
            // A promise of a number is one of the sum.
            let may_wait = match policy.objective {
                Objective::Age(age) => arrival * part * age.as_secs_f64(),
                Objective::Lag(limit) => count(limit) * if waiting > 0.0 { messages / waiting } else { 0.0 },
            };
            let urgent = |owed| urgent(owed, may_wait).max(count(late).min(owed)).min(most);
            backlog += messages.min(most);
            pressing += urgent(owed);
            coming += urgent(owed + grown.unwrap_or_default() * part);
        }
        let (beyond, backlog) = (waiting - backlog, (backlog - unseen).max(0.0));
        let behind = too_little.is_some();
        Some(Load { arrival, backlog, beyond, urgent: pressing, growing: grown.map(|_| coming), behind, skew })
    }

    /// Messages per second that come to wait with the present replicas: by what they can do, or by what was seen.
    fn grows(&self, policy: &Policy, arrival: f64, too_little: Option<f64>) -> Option<f64> {
        let able = self.capacity_of(policy).known().map(|each| each * f64::from(self.replicas.unwrap_or_default()));
        let rates = [able, too_little].into_iter().flatten().map(|handled| arrival - handled);
        rates.filter(|rate| *rate > 0.0).reduce(f64::max)
    }

    /// Messages per second that were handled, if these are too few: what waits became more for cycles, and not only in a few partitions.
    /// Nothing is said of times in which not everything was seen.
    fn too_little(&self, policy: &Policy, seen: &Observation, arrival: f64) -> Option<f64> {
        let (handled, over) =
            if self.often { (mean(&self.throughputs)?, policy.cycle * 3) } else { (self.mean_handled(), span(policy)) };
        self.watched_since.filter(|since| seen.at.saturating_sub(*since) >= over)?;
        (seen.lag.behind && handled < arrival * KEEPS_UP).then_some(handled)
    }

    /// Partitions of which more arrives than one member can handle.
    pub(super) fn hot(&self, policy: &Policy, seen: &Observation) -> Vec<TopicPartition> {
        let Some(capacity) = self.capacity_of(policy).known() else { return Vec::new() };
        let most = self.each_member(capacity) * FULL;
        let hot = |flow: &&Flow| flow.arrival.is_some_and(|arrival| arrival > most);
        seen.lag.workable().filter(hot).map(|flow| flow.of.clone()).collect()
    }

    pub(super) fn skew(&self, policy: &Policy, seen: &Observation) -> f64 {
        let capacity = self.capacity_of(policy).known();
        let most = capacity.map_or(f64::INFINITY, |capacity| self.each_member(capacity) * ROOMY);
        let told = seen.members.as_ref().filter(|_| self.work.learned().is_none());
        let times = told.and_then(|members| imbalance(members, &seen.lag.flows, most));
        let times = times.unwrap_or_else(|| self.work.imbalance(seen.lag.behind));
        skew(times, self.replicas.unwrap_or_default(), self.places(seen))
    }

    pub(super) fn need(
        &self,
        policy: &Policy,
        seen: &Observation,
        load: Option<Load>,
        capacity: Capacity,
    ) -> Option<Need> {
        let (load, capacity) = (load?, capacity.known().filter(|rate| *rate > 0.0)?);
        let replicas = self.replicas.unwrap_or_default();
        let need = need(load, capacity, policy.objective.drain_time(), self.change());
        let mut arrivals = seen.lag.arrivals();
        if arrivals.is_empty() {
            return Some(need);
        }
        // Of a partition that is too much for one member, no number of replicas takes anything away.
        let (most, places) = (self.each_member(capacity) * ROOMY, self.places(seen));
        let all: f64 = arrivals.iter().sum();
        for rate in &mut arrivals {
            *rate = rate.min(most);
        }
        let part = if all > 0.0 { arrivals.iter().sum::<f64>() / all } else { 1.0 };
        let shares = Shares::new(&arrivals);
        let share = |replicas| self.met.share(replicas, &shares);
        let pace = load.arrival * part / capacity;
        let fitting = shares.fitting(whole(need.aim), pace, FULL, share).min(places);
        let hottest = fitting > useful(whole(need.aim), places);
        let aim = need.aim.max(f64::from(fitting));
        let lasting = if self.quiet_since.is_some() {
            let told = shares.busiest(replicas);
            let hidden = self.busiest.filter(|_| told > 0.0).map_or(1.0, |busiest| (busiest / told).max(1.0));
            let share = |replicas| (share(replicas) * hidden).min(1.0);
            let (average, busiest) = self.may_be_busy(load.arrival);
            let enough = whole(busy(average, load.arrival, capacity));
            f64::from(shares.fitting(enough, pace, busiest, share).min(places))
        } else {
            need.lasting.max(f64::from(shares.fitting(whole(need.lasting), pace, FULL, share).min(places)))
        };
        Some(Need { aim, lasting, hottest, ..need })
    }

    /// How busy a step down may leave replicas, on average and the busiest. As many as a load was found to need are not taken back for less
    /// comfort while it lasts: they would be asked for again. Nor are they where that happened with a load that comes and goes.
    fn may_be_busy(&self, arrival: f64) -> (f64, f64) {
        if self.has_fallen(arrival) { (TIGHT, TIGHT) } else { (AIM, ROOMY) }
    }

    pub(super) fn has_fallen(&self, arrival: f64) -> bool {
        let regretted = self.regretted_until.is_some_and(|until| self.last.is_some_and(|now| now < until));
        !regretted && self.rose_to.is_some_and(|before| arrival < before * FALLEN)
    }

    pub(super) fn imbalance(&self, load: Option<Load>, seen: &Observation) -> Option<f64> {
        let arrivals = seen.lag.arrivals();
        let replicas = self.replicas.filter(|replicas| *replicas > 0 && !arrivals.is_empty())?;
        let measured = self.busiest.filter(|_| load.is_some());
        let share = measured.unwrap_or_else(|| Shares::new(&arrivals).busiest(replicas));
        Some(share * f64::from(replicas))
    }
}

/// What a replica that has nothing else to do can work off of a partition in time, beside what arrives there.
fn drainable(flow: &Flow, (capacity, drain): (f64, Duration)) -> f64 {
    (capacity - flow.arrival.unwrap_or_default()).max(0.0) * drain.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::GroupLag;
    use crate::scaling::{Members, Target};

    /// Four partitions, of which so many messages arrive per second and so many wait, of which some are late.
    fn seen(of_each: [(f64, u64, u64); 4]) -> Observation {
        let flows = (0..).zip(of_each).map(|(partition, (arrival, waiting, late))| Flow {
            of: TopicPartition { topic: "orders".into(), partition },
            arrival: Some(arrival),
            throughput: Some(arrival),
            waiting: Some((waiting, late)),
            busy: false,
            stuck: false,
        });
        let arrival = Some(of_each.iter().map(|(rate, ..)| rate).sum());
        let lag =
            GroupLag { partitions: 4, arrival, throughput: Some(0.0), flows: flows.collect(), ..GroupLag::default() };
        let (at, members) = (Duration::from_secs(5), None::<Members>);
        let target = Target { replicas: 1, ready: 1, ..Target::default() };
        Observation { at, lag, target, members, config: String::new(), work: None }
    }

    fn urgent_of(of_each: [(f64, u64, u64); 4]) -> f64 {
        urgent_under(crate::scaling::tests::policy(), of_each)
    }

    fn urgent_under(policy: Policy, of_each: [(f64, u64, u64); 4]) -> f64 {
        let mut history = History::new();
        history.observe(&policy, &seen(of_each));
        let load = history.load(&policy, &seen(of_each)).unwrap();
        assert_eq!(load.growing, None, "one replica can do more than arrives");
        load.urgent
    }

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
    }

    /// 30 s are promised, and one consumer handles 480 per second.
    #[test]
    fn what_waits_is_urgent_where_it_is_old() {
        let nothing = (10.0, 0, 0);
        close(urgent_of([(10.0, 150, 0); 4]), 0.0);
        close(urgent_of([(10.0, 225, 0); 4]), 4.0 * 150.0);
        close(urgent_of([(10.0, 600, 0), nothing, nothing, nothing]), 600.0);
        close(urgent_of([(10.0, 600, 0), (90.0, 600, 0), (90.0, 600, 0), (90.0, 600, 0)]), 600.0);
        close(urgent_of([(0.0, 7, 0), nothing, nothing, nothing]), 7.0);
        close(urgent_of([(80.0, 1_000_000, 0), nothing, nothing, nothing]), 400.0 * 30.0);
        close(urgent_of([(90.0, 600, 450), nothing, nothing, nothing]), 450.0);
    }

    #[test]
    fn a_promised_number_is_one_of_the_sum() {
        let policy = Policy { objective: Objective::Lag(1_000), ..crate::scaling::tests::policy() };
        close(urgent_under(policy, [(10.0, 400, 0), (10.0, 100, 0), (10.0, 0, 0), (10.0, 0, 0)]), 0.0);
        close(urgent_under(policy, [(10.0, 600, 0), (0.0, 150, 0), (10.0, 0, 0), (10.0, 0, 0)]), 500.0);
    }
}
