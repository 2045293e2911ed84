//! The members of one group as processes, and what they wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::Agent;
use mq_testkit::{Paused, wait_until};
use mq_tests::{Group, Handled, Member, repeated};
use tokio::time::Instant;

use super::super::stage::{Stage, Writer};
use super::super::{PATIENCE, check_handled, positions};

pub(super) const SESSION: Duration = Duration::from_secs(6);
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
const PARTITIONS: i32 = 4;

/// How much there is to do. Half of what one member can handle is written: what a fault leaves behind is caught up with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) keys: usize,
    /// After each number of each key.
    pub(super) pause: Duration,
    /// How long a record takes.
    pub(super) work: Duration,
    pub(super) concurrency: usize,
    /// `maxPollRecords`.
    pub(super) in_hand: usize,
}

/// 200 messages a second.
pub(super) const LIGHT: Load =
    Load { keys: 20, pause: Duration::from_millis(100), work: Duration::from_millis(10), concurrency: 4, in_hand: 50 };

/// 4,000 messages a second.
pub(super) const HEAVY: Load = Load {
    keys: 400,
    pause: Duration::from_millis(100),
    work: Duration::from_millis(2),
    concurrency: 16,
    in_hand: 500,
};

/// How long a busy broker may take to answer a commit.
const ANSWER: Duration = Duration::from_secs(1);

/// Partition and offset of records that may be handled again.
pub(super) type Opened = BTreeSet<(i32, i64)>;

/// Its processes end with it.
pub(super) struct Crew {
    pub(super) stage: Stage,
    load: Load,
    group: Group,
    members: Vec<Member>,
    /// When commits of all members were last seen to arrive. While a group waits for a member that died, none of the others gets
    /// through.
    settled: Instant,
}

impl Crew {
    pub(super) async fn start(name: &str, size: usize, load: Load) -> Result<Self> {
        let settings = serde_json::json!({
            "sessionTimeoutMs": SESSION.as_millis(),
            "autoCommitIntervalMs": COMMIT_INTERVAL.as_millis(),
            "maxPollRecords": load.in_hand,
        });
        let settings = settings.to_string();
        let stage = Stage::new(name, PARTITIONS, &settings).await?;
        let mut group = Group::new(env!("CARGO_BIN_EXE_mq-member"), &stage.group, &stage.topic, &settings)?;
        (group.concurrency, group.work) = (load.concurrency, load.work);
        let mut crew = Self { stage, load, group, members: Vec::new(), settled: Instant::now() };
        for _ in 0..size {
            crew.members.push(crew.member()?);
        }
        Ok(crew)
    }

    fn member(&self) -> Result<Member> {
        self.group.join(self.stage.kafka.bootstrap())
    }

    pub(super) fn handled(&self) -> Result<Handled<'_>> {
        self.group.handled()
    }

    pub(super) async fn write(&self) -> Writer {
        let agent = Agent::connect_with(self.stage.operator.options()).await;
        self.stage.write(&agent, self.load.keys, self.load.pause)
    }

    pub(super) async fn produce(&self, records: &[(String, String)]) -> Result<()> {
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        self.stage.kafka.produce(&self.stage.topic, records).await
    }

    /// Waits until every member has handled something beyond this length of the log.
    pub(super) async fn wait_all_handle(&self, beyond: usize) -> Result<()> {
        self.group.wait_all_handle(&self.members, beyond, PATIENCE).await
    }

    /// Waits until every member handles records and what is handled is committed.
    pub(super) async fn settle(&mut self, beyond: usize) -> Result<()> {
        self.wait_all_handle(beyond).await?;
        let before = self.positions().await?;
        wait_until("every partition is committed further", PATIENCE, async || {
            let now = self.positions().await?;
            let further =
                now.iter().filter(|(partition, offset)| before.get(partition).is_none_or(|old| *offset > old));
            ensure!(i32::try_from(further.count())? == PARTITIONS, "{before:?}, now {now:?}");
            Ok(())
        })
        .await?;
        self.settled = Instant::now();
        Ok(())
    }

    async fn positions(&self) -> Result<BTreeMap<i32, i64>> {
        positions(&self.stage.kafka, &self.stage.group, &self.stage.topic).await
    }

    /// Kills these members and starts others in their places. What they leave handled and not committed.
    pub(super) async fn kill(&mut self, which: &[usize]) -> Result<Opened> {
        let mut pids = Vec::new();
        for index in which {
            let member = &mut self.members[*index];
            pids.push(member.pid()?);
            member.kill().await?;
        }
        let opened = self.opened(&pids).await?;
        for index in which {
            self.members[*index] = self.member()?;
        }
        Ok(opened)
    }

    /// Stops this member until the value is dropped. What it leaves handled and not committed.
    pub(super) async fn freeze(&self, index: usize) -> Result<(Paused, Opened)> {
        let member = &self.members[index];
        let paused = member.freeze()?;
        Ok((paused, self.opened(&[member.pid()?]).await?))
    }

    /// What these processes have handled beyond what is committed: bounded by what they can handle between two commits that arrive, and
    /// by what is in their hands.
    async fn opened(&self, pids: &[u32]) -> Result<Opened> {
        let between = (self.settled.elapsed() + COMMIT_INTERVAL + ANSWER).as_millis() / self.load.work.as_millis();
        let bound = self.load.concurrency * usize::try_from(between)? + self.load.in_hand;
        let committed = self.positions().await?;
        let handled = self.handled()?;
        let theirs = handled.iter().filter(|handling| pids.contains(&handling.pid)).map(|handling| handling.place);
        let opened: Opened = theirs
            .filter(|(partition, offset)| committed.get(partition).is_none_or(|committed| offset >= committed))
            .collect();
        let (count, bound) = (opened.len(), bound * pids.len());
        ensure!(count <= bound, "{pids:?} have handled {count} that are not committed; {bound} can be");
        Ok(opened)
    }

    /// Waits until another member goes on where one that has left this stopped.
    pub(super) async fn wait_taken_over(&self, opened: &Opened) -> Result<()> {
        wait_until("another member goes on there", PATIENCE, async || {
            let handled = self.handled()?;
            ensure!(
                repeated(&handled).any(|handling| opened.contains(&handling.place)),
                "none of {opened:?} came again"
            );
            Ok(())
        })
        .await
    }

    /// What fails when a commit goes back or beyond what is handled.
    pub(super) fn watch(&self) -> impl Future<Output = Result<()>> + use<> {
        let client = mq_kafka::Client::new([self.stage.kafka.bootstrap()], mq_kafka::Options::default());
        self.group.watch(client)
    }

    /// Everything came and first handlings of a key ascend; what came again is among `repeatable`, but for what was in the hands of members
    /// that woke, so many times.
    pub(super) fn check(&self, each: usize, repeatable: &Opened, wakes: usize) -> Result<()> {
        let handled = self.handled()?;
        let entries: Vec<_> = handled.iter().map(|handling| (handling.key.clone(), handling.number)).collect();
        let repeats = check_handled(&entries, self.load.keys, each)?;
        let others: Vec<_> = repeated(&handled).filter(|handling| !repeatable.contains(&handling.place)).collect();
        println!("{} records, {repeats} handled again, {} of them in woken hands", self.load.keys * each, others.len());
        ensure!(others.len() <= wakes * self.load.in_hand, "handled again though committed: {others:?}");
        Ok(())
    }
}
