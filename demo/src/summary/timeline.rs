//! What the reader saw at the API server, with its own clock, and the questions that the claims ask of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// One thing seen at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// Milliseconds since the epoch, when the watch delivered it.
    pub at: i64,
    pub what: What,
}

/// The parts of objects that the claims are about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum What {
    /// The orders a second that each pod of the order service was told to place.
    Load { orders_per_second: f64 },
    /// The spec of the producer's settings.
    Settings { generation: i64, linger_ms: Option<i64> },
    /// The status of the producer's settings.
    Applied(Applied),
    /// The Deployment of the consumers.
    Replicas { wanted: i32, ready: i32 },
    /// The consumer group.
    Group { messages: Option<i64>, late: Option<i64>, decision: Option<Decision> },
    /// One pod.
    Pod { uid: String, app: String, ready: bool, gone: bool, restarts: i32 },
    /// An event about one of our objects.
    Event { reason: String, note: String },
}

/// How far a revision has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub observed_generation: i64,
    pub current_revision: i64,
    pub update_revision: i64,
    pub connected: i64,
    pub applied: i64,
    pub rejected: i64,
    /// Pods that status names because they do not run with all of it.
    pub deviating: usize,
    /// What the live clients say.
    pub linger_ms: Option<i64>,
}

/// One decision about replicas with the numbers beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub current: i32,
    pub desired: i32,
    pub reason: String,
    pub message: String,
    /// Messages a second that arrive.
    pub arrival: Option<f64>,
    /// Messages a second that one pod handles.
    pub capacity: Option<f64>,
    /// Messages behind.
    pub backlog: Option<f64>,
}

/// The newest of each thing, as far as it was seen at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Now {
    pub load: Option<f64>,
    pub applied: Option<Applied>,
    pub wanted: Option<i32>,
    pub ready: i32,
    pub messages: Option<i64>,
    pub late: Option<i64>,
    pub decision: Option<Decision>,
}

/// A change of the wanted replicas.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub at: i64,
    pub from: i32,
    pub to: i32,
    pub decision: Option<Decision>,
}

/// Everything seen, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Timeline(Vec<Seen>);

impl Timeline {
    pub fn push(&mut self, at: i64, what: What) {
        self.0.push(Seen { at, what });
    }

    pub fn seen(&self) -> &[Seen] {
        &self.0
    }

    /// The newest of each thing.
    pub fn now(&self) -> Now {
        let mut now = Now::default();
        for seen in &self.0 {
            match &seen.what {
                What::Load { orders_per_second } => now.load = Some(*orders_per_second),
                What::Applied(applied) => now.applied = Some(applied.clone()),
                What::Replicas { wanted, ready } => (now.wanted, now.ready) = (Some(*wanted), *ready),
                What::Group { messages, late, decision } => {
                    (now.messages, now.late, now.decision) = (*messages, *late, decision.clone());
                }
                What::Settings { .. } | What::Pod { .. } | What::Event { .. } => {}
            }
        }
        now
    }

    /// The first edit of `lingerMs`: when, its generation, from and to.
    pub fn edit(&self) -> Option<(i64, i64, Option<i64>, Option<i64>)> {
        let mut before: Option<Option<i64>> = None;
        for seen in &self.0 {
            if let What::Settings { generation, linger_ms } = &seen.what {
                match before {
                    Some(old) if old != *linger_ms => return Some((seen.at, *generation, old, *linger_ms)),
                    _ => before = Some(*linger_ms),
                }
            }
        }
        None
    }

    /// Pods of `app` at a moment: uid → (ready, restarts).
    pub fn pods(&self, app: &str, at: i64) -> BTreeMap<String, (bool, i32)> {
        let mut pods = BTreeMap::new();
        for seen in self.0.iter().filter(|seen| seen.at <= at) {
            if let What::Pod { uid, app: of, ready, gone, restarts } = &seen.what
                && of == app
            {
                if *gone {
                    pods.remove(uid);
                } else {
                    pods.insert(uid.clone(), (*ready, *restarts));
                }
            }
        }
        pods
    }

    /// Uids of all pods of `app` that were ever seen at or after a moment, with the most restarts seen.
    pub fn pods_since(&self, app: &str, since: i64) -> BTreeMap<String, i32> {
        let mut all: BTreeMap<String, i32> = self.pods(app, since).into_iter().map(|(uid, (_, n))| (uid, n)).collect();
        for seen in self.0.iter().filter(|seen| seen.at > since) {
            if let What::Pod { uid, app: of, restarts, .. } = &seen.what
                && of == app
            {
                let most = all.entry(uid.clone()).or_default();
                *most = (*most).max(*restarts);
            }
        }
        all
    }

    /// The moment from which the status says that every pod of `app` runs the settings of `generation`, and those pods.
    pub fn applied_by_all(
        &self,
        app: &str,
        generation: i64,
        linger_ms: Option<i64>,
    ) -> Option<(i64, BTreeSet<String>)> {
        self.0.iter().find_map(|seen| {
            let What::Applied(status) = &seen.what else { return None };
            let pods = self.pods(app, seen.at);
            let everyone =
                i64::try_from(pods.len()).is_ok_and(|n| n > 0 && status.connected == n && status.applied == n);
            let settled = status.observed_generation >= generation && status.current_revision == status.update_revision;
            (settled && everyone && status.rejected == 0 && status.deviating == 0 && status.linger_ms == linger_ms)
                .then(|| (seen.at, pods.into_keys().collect()))
        })
    }

    /// The load over time: (from when, orders a second), changes only.
    pub fn loads(&self) -> Vec<(i64, f64)> {
        let mut loads: Vec<(i64, f64)> = Vec::new();
        for seen in &self.0 {
            if let What::Load { orders_per_second } = seen.what
                && loads.last().is_none_or(|(_, last)| (last - orders_per_second).abs() > f64::EPSILON)
            {
                loads.push((seen.at, orders_per_second));
            }
        }
        loads
    }

    /// The step up (at least five times the load before it) and when it ended, if it did.
    pub fn load_step(&self) -> Option<LoadStep> {
        let loads = self.loads();
        loads.windows(2).enumerate().find_map(|(i, pair)| {
            let ((_, low), (from, high)) = (pair[0], pair[1]);
            (low > 0.0 && high >= 5.0 * low).then(|| LoadStep {
                from,
                until: loads.get(i + 2).map(|(at, _)| *at),
                low,
                high,
            })
        })
    }

    /// Changes of the wanted replicas, each with the decision for it: the newest that wants this number, at most a few seconds later.
    pub fn replica_path(&self) -> (Option<i32>, Vec<Step>) {
        const STATUS_DELAY_MS: i64 = 10_000;
        let mut first = None;
        let mut steps: Vec<Step> = Vec::new();
        for seen in &self.0 {
            let What::Replicas { wanted, .. } = seen.what else { continue };
            let last = steps.last().map(|step| step.to).or(first);
            match last {
                None => first = Some(wanted),
                Some(from) if from != wanted => steps.push(Step { at: seen.at, from, to: wanted, decision: None }),
                Some(_) => {}
            }
        }
        for step in &mut steps {
            step.decision = self.0.iter().rev().find_map(|seen| match &seen.what {
                What::Group { decision: Some(decision), .. }
                    if seen.at <= step.at + STATUS_DELAY_MS
                        && decision.desired == step.to
                        && decision.current == step.from =>
                {
                    Some(decision.clone())
                }
                _ => None,
            });
        }
        (first, steps)
    }
}

/// A step of the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadStep {
    pub from: i64,
    pub until: Option<i64>,
    /// Orders a second before it.
    pub low: f64,
    /// Orders a second in it.
    pub high: f64,
}
