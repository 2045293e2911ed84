//! The operator's collector in a process of its own: reads the lag of all groups at once, and again for each line that it is given.
//! Answers with the nanoseconds that it took and the sum of all lags.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mq_core::condition::Verdict;
use mq_core::lag::{GroupTracker, ResetPolicy, Watch};
use mq_core::reason::Reason;
use mq_kafka::{Client, Options};
use mq_operator::groups::collect::{Offsets, Wanted};
use mq_operator::session::Health;

#[derive(Debug, Parser)]
struct Arguments {
    bootstrap: String,
    /// Topics and groups are named by it and a number.
    prefix: String,
    topics: usize,
    groups: usize,
}

/// All groups of one cluster, each with the memory that the operator keeps of its lag.
struct Collector {
    client: Arc<Client>,
    health: Health,
    started: Instant,
    offsets: Offsets,
    groups: BTreeMap<String, (BTreeSet<String>, ResetPolicy)>,
    trackers: BTreeMap<String, GroupTracker>,
    turn: u32,
}

impl Collector {
    fn new(arguments: &Arguments, cluster_id: Option<String>) -> Self {
        let Arguments { bootstrap, prefix, topics, groups } = arguments;
        let group = |n: usize| {
            let topic = format!("{prefix}-topic-{}", n % topics);
            (format!("{prefix}-group-{n}"), (BTreeSet::from([topic]), ResetPolicy::Earliest))
        };
        let groups: BTreeMap<_, _> = (0..*groups).map(group).collect();
        let health = Health { verdict: Verdict::ready(Reason::Connected, "answers"), cluster_id, brokers: Some(1) };
        Self {
            client: Arc::new(Client::new([bootstrap.clone()], Options::default())),
            health,
            started: Instant::now(),
            offsets: Offsets::default(),
            trackers: groups.keys().map(|group| (group.clone(), GroupTracker::new())).collect(),
            groups,
            turn: 0,
        }
    }

    /// One cycle, with what is read in turns. Returns the sum of all lags.
    async fn cycle(&mut self) -> Result<u64> {
        let members =
            if Wanted::members(self.turn, true) { self.groups.keys().cloned().collect() } else { BTreeSet::new() };
        let wanted = Wanted { groups: self.groups.clone(), members, ..Wanted::in_turn(self.turn) };
        self.turn += 1;
        ensure!(self.offsets.check("bench", &self.client, &self.health).await, "the cluster is not trusted");
        self.offsets.read(&self.client, &wanted).await;
        let (at, mut sum) = (self.started.elapsed(), 0);
        let watch = Watch {
            age: Some(Duration::from_secs(30)),
            reset: ResetPolicy::Earliest,
            commit_interval: Duration::from_secs(1),
            longest: Duration::from_mins(5),
        };
        for (group, tracker) in &mut self.trackers {
            let (topics, _) = self.groups.get(group).context("a group without topics")?;
            let lag =
                tracker.observe_beside(at, &watch, &self.offsets.readings(group, topics), &self.offsets.unread(topics));
            ensure!(lag.is_complete(), "{group}: {:?}", lag.unknown_because());
            sum += lag.outstanding;
        }
        Ok(sum)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The operator knows it from the MqCluster.
    let cluster = Client::new([arguments.bootstrap.clone()], Options::default()).describe_cluster().await?.id;
    let mut started = Instant::now();
    let mut collector = Collector::new(&arguments, cluster);
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let lag = collector.cycle().await?;
        println!("{} {lag}", started.elapsed().as_nanos());
        if lines.next().transpose()?.is_none() {
            return Ok(());
        }
        started = Instant::now();
    }
}
