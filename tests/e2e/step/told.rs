//! What was seen of a step, twice a second.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};

/// One look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Seconds since the first.
    pub(crate) at: f64,
    /// Messages per second that are written.
    pub(crate) load: u32,
    /// Age of the oldest message that is not committed, in seconds.
    pub(crate) oldest: f64,
    /// Messages that were committed.
    pub(crate) committed: i64,
    /// Messages that were not.
    pub(crate) behind: i64,
    pub(crate) replicas: u32,
    pub(crate) ready: u32,
    /// Members of the group; none while it rebalances.
    pub(crate) members: Option<u32>,
}

/// All looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) looks: Vec<Look>,
}

/// Every fifth second.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = 0.0;
        for Look { at, load, oldest, behind, replicas, ready, members, .. } in &self.looks {
            if *at >= next {
                next = at + 5.0;
                let members = members.map_or_else(|| "-".to_owned(), |members| members.to_string());
                writeln!(
                    f,
                    "{at:5.0} s {load:4}/s, {behind:5} wait, {oldest:3.0} s; {replicas} replicas, {ready} ready, {members} members"
                )?;
            }
        }
        Ok(())
    }
}

impl Told {
    pub(crate) fn now(&self) -> Option<Look> {
        self.looks.last().copied()
    }

    fn first(&self, after: f64, what: impl Fn(&Look) -> bool) -> Option<f64> {
        self.looks.iter().find(|look| look.at >= after && what(look)).map(|look| look.at)
    }

    /// Each change of replicas: when, to how many.
    pub(crate) fn path(&self) -> Vec<(u32, u32)> {
        let changes = self.looks.windows(2).filter(|pair| pair[0].replicas != pair[1].replicas);
        changes.map(|pair| (pair[1].at as u32, pair[1].replicas)).collect()
    }

    fn lowest(&self) -> u32 {
        self.looks.first().map_or(0, |look| look.load)
    }

    /// The second in which the load rose.
    pub(crate) fn high(&self) -> Result<u32> {
        self.first(0.0, |look| look.load > self.lowest()).map(|at| at as u32).context("the load never rose")
    }

    /// The second in which it fell again.
    pub(crate) fn low(&self) -> Result<u32> {
        let high = f64::from(self.high()?);
        self.first(high + 1.0, |look| look.load == self.lowest()).map(|at| at as u32).context("the load never fell")
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.now().map_or(0, |look| look.at as u32)
    }

    /// When more replicas were asked for.
    fn grown(&self) -> Option<f64> {
        self.first(0.0, |look| look.replicas > 1)
    }

    fn ready(&self) -> Option<f64> {
        self.first(self.grown()?, |look| look.ready == look.replicas)
    }

    /// When all of them were members of the group.
    pub(crate) fn settled(&self) -> Option<f64> {
        self.first(self.ready()?, |look| look.members == Some(look.replicas))
    }

    /// Seconds until the new pods were ready.
    pub(crate) fn start(&self) -> Option<f64> {
        Some(self.ready()? - self.grown()?)
    }

    /// Seconds until the new pods were members.
    pub(crate) fn rebalance(&self) -> Option<f64> {
        Some(self.settled()? - self.ready()?)
    }

    /// Messages per second that one replica handled while more arrived than it could.
    pub(crate) fn capacity(&self) -> Option<f64> {
        let (high, grown) = (f64::from(self.high().ok()?), self.grown()?);
        let alone: Vec<&Look> = self.looks.iter().filter(|look| (high + 1.0..grown).contains(&look.at)).collect();
        // Commits come in steps: from the first to the last that was seen to come.
        let steps: Vec<&Look> =
            alone.windows(2).filter(|pair| pair[0].committed < pair[1].committed).map(|pair| pair[1]).collect();
        let (first, last) = (steps.first()?, steps.last()?);
        (last.at > first.at).then(|| (last.committed - first.committed) as f64 / (last.at - first.at))
    }

    /// The seconds in which a message older than this waited.
    pub(crate) fn breached(&self, age: Duration) -> Vec<u32> {
        let mut seconds: Vec<u32> =
            self.looks.iter().filter(|look| look.oldest > age.as_secs_f64()).map(|look| look.at as u32).collect();
        seconds.dedup();
        seconds
    }

    /// Replicas asked for, times the seconds of it.
    pub(crate) fn pod_seconds(&self) -> f64 {
        self.looks.windows(2).map(|pair| f64::from(pair[0].replicas) * (pair[1].at - pair[0].at)).sum()
    }
}
