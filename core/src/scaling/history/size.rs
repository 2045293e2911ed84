//! What the load asks for, with what is remembered of the group.

use std::time::Duration;

use super::{History, count, mean};
use crate::lag::{Flow, TopicPartition};
use crate::scaling::capacity::{Capacity, imbalance};
use crate::scaling::need::{Load, Need, comfortable, need, skew, useful, whole};
use crate::scaling::share::{FULL, ROOMY, Shares};
use crate::scaling::{Observation, Policy};

/// A cycle whose arrival stands so far above the one of three cycles ago is a step, not noise.
const STEP: f64 = 1.25;

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
        let (mut waiting, mut backlog) = (0.0, 0.0);
        for (flow, messages) in seen.lag.workable().filter_map(|flow| Some((flow, count(flow.waiting?.0)))) {
            waiting += messages;
            backlog += most.map_or(messages, |most| messages.min(drainable(flow, most)));
        }
        let beyond = waiting - backlog;
        Some(Load { arrival, backlog: (backlog - unseen).max(0.0), beyond, skew: self.skew(policy, seen) })
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
        let need = need(load, capacity, replicas, policy.objective.drain_time(), self.change());
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
            f64::from(shares.fitting(whole(comfortable(load.arrival, capacity)), pace, ROOMY, share).min(places))
        } else {
            need.lasting.max(f64::from(shares.fitting(whole(need.lasting), pace, FULL, share).min(places)))
        };
        Some(Need { aim, lasting, hottest, ..need })
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
