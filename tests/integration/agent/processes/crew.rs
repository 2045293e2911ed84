//! The members of one group as processes, and what they wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mq_agent::Agent;
use mq_testkit::{Paused, Process, wait_until};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::super::stage::{Stage, Writer};
use super::super::{PATIENCE, check_handled, positions};

const SETTINGS: &str = r#"{"sessionTimeoutMs": 6000, "autoCommitIntervalMs": 500, "maxPollRecords": 50}"#;
pub(super) const SESSION: Duration = Duration::from_secs(6);
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// `maxPollRecords`.
pub(super) const IN_HAND: usize = 50;
const PARTITIONS: i32 = 4;
const CONCURRENCY: usize = 4;
const WORK: Duration = Duration::from_millis(10);
pub(super) const KEYS: usize = 20;
/// Half of what one member can handle is written: what a fault leaves behind is caught up with.
const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// How long a busy broker may take to answer a commit.
const ANSWER: Duration = Duration::from_secs(1);

/// Partition and offset of records that may be handled again.
pub(super) type Opened = BTreeSet<(i32, i64)>;

/// One line of the log.
#[derive(Debug)]
pub(super) struct Handling {
    pid: u32,
    place: (i32, i64),
    key: String,
    number: u32,
}

/// Its processes end with it.
pub(super) struct Crew {
    pub(super) stage: Stage,
    folder: TempDir,
    members: Vec<Child>,
    /// When commits of all members were last seen to arrive. While a group waits for a member that died, none of the others gets
    /// through.
    settled: Instant,
}

impl Crew {
    pub(super) async fn start(name: &str, size: usize) -> Result<Self> {
        let (stage, folder) = (Stage::new(name, PARTITIONS, SETTINGS).await?, tempfile::tempdir()?);
        let mut crew = Self { stage, folder, members: Vec::new(), settled: Instant::now() };
        std::fs::File::create(crew.log())?;
        for _ in 0..size {
            let member = crew.member()?;
            crew.members.push(member);
        }
        Ok(crew)
    }

    fn member(&self) -> Result<Child> {
        let (concurrency, work) = (CONCURRENCY.to_string(), WORK.as_millis().to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_mq-member"));
        command.args(["--brokers", self.stage.kafka.bootstrap(), "--group", &self.stage.group]);
        command.args(["--topic", &self.stage.topic, "--settings", SETTINGS]);
        command.args(["--concurrency", &concurrency, "--work-ms", &work]).arg("--log").arg(self.log());
        command.stdin(Stdio::piped()).kill_on_drop(true).spawn().context("starting a member")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("handled")
    }

    pub(super) fn handled(&self) -> Result<Vec<Handling>> {
        read(&self.log())
    }

    pub(super) async fn write(&self) -> Writer {
        let agent = Agent::connect_with(self.stage.operator.options()).await;
        self.stage.write(&agent, KEYS, WRITE_PAUSE)
    }

    pub(super) async fn produce(&self, records: &[(String, String)]) -> Result<()> {
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        self.stage.kafka.produce(&self.stage.topic, records).await
    }

    /// Waits until every member has handled something beyond this length of the log.
    pub(super) async fn wait_all_handle(&self, beyond: usize) -> Result<()> {
        wait_until("every member handles records", PATIENCE, async || {
            let handled = self.handled()?;
            let busy: BTreeSet<u32> = handled.iter().skip(beyond).map(|handling| handling.pid).collect();
            let idle: Vec<u32> = self.members.iter().filter_map(Child::id).filter(|pid| !busy.contains(pid)).collect();
            ensure!(idle.is_empty(), "{idle:?} have handled nothing since {beyond} of {}", handled.len());
            Ok(())
        })
        .await
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
            pids.push(self.pid(*index)?);
            self.members[*index].start_kill()?;
        }
        for index in which {
            self.members[*index].wait().await?;
        }
        let opened = self.opened(&pids).await?;
        for index in which {
            self.members[*index] = self.member()?;
        }
        Ok(opened)
    }

    /// Stops this member until the value is dropped. What it leaves handled and not committed.
    pub(super) async fn freeze(&self, index: usize) -> Result<(Paused, Opened)> {
        let pid = self.pid(index)?;
        let paused = Process::with_id(pid).pause()?;
        Ok((paused, self.opened(&[pid]).await?))
    }

    fn pid(&self, index: usize) -> Result<u32> {
        self.members[index].id().context("the member has ended by itself")
    }

    /// What these processes have handled beyond what is committed: bounded by what they can handle between two commits that arrive, and
    /// by what is in their hands.
    async fn opened(&self, pids: &[u32]) -> Result<Opened> {
        let between = (self.settled.elapsed() + COMMIT_INTERVAL + ANSWER).as_millis() / WORK.as_millis();
        let bound = CONCURRENCY * usize::try_from(between)? + IN_HAND;
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
            ensure!(again(&handled).any(|handling| opened.contains(&handling.place)), "none of {opened:?} came again");
            Ok(())
        })
        .await
    }

    /// Everything came and first handlings of a key ascend; what came again is among `repeatable`, but for this many that were in the
    /// hands of members that woke.
    pub(super) fn check(&self, each: usize, repeatable: &Opened, woken: usize) -> Result<()> {
        let handled = self.handled()?;
        let entries: Vec<_> = handled.iter().map(|handling| (handling.key.clone(), handling.number)).collect();
        let repeats = check_handled(&entries, KEYS, each)?;
        let others: Vec<_> = again(&handled).filter(|handling| !repeatable.contains(&handling.place)).collect();
        println!("{} records, {repeats} handled again, {} of them in woken hands", KEYS * each, others.len());
        ensure!(others.len() <= woken, "handled again though committed: {others:?}");
        Ok(())
    }

    /// Watches what is committed: it never goes back and never reaches beyond what is handled. Returns when it does.
    pub(super) fn watch(&self) -> impl Future<Output = Result<()>> + use<> {
        let (kafka, log) = (self.stage.kafka.clone(), self.log());
        let (group, topic) = (self.stage.group.clone(), self.stage.topic.clone());
        async move {
            let mut before = BTreeMap::new();
            loop {
                let committed = positions(&kafka, &group, &topic).await?;
                // Read after it: what is committed was written down before.
                let handled: Opened = read(&log)?.into_iter().map(|handling| handling.place).collect();
                for (partition, offset) in &committed {
                    let below = handled.range((*partition, 0)..(*partition, *offset)).count();
                    if i64::try_from(below)? != *offset {
                        bail!("{offset} is committed in partition {partition}, and {below} below it are handled");
                    }
                }
                for (partition, offset) in &before {
                    let now = committed.get(partition);
                    ensure!(
                        now >= Some(offset),
                        "partition {partition} was committed to {offset} and is now to {now:?}"
                    );
                }
                before = committed;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The handlings after the first one of a record.
fn again(handled: &[Handling]) -> impl Iterator<Item = &Handling> {
    let mut seen = BTreeSet::new();
    handled.iter().filter(move |handling| !seen.insert(handling.place))
}

/// The whole lines. What was cut off was not handled: its handler did not return.
fn read(log: &Path) -> Result<Vec<Handling>> {
    let text = std::fs::read_to_string(log)?;
    let lines = text.lines().filter_map(|line| line.strip_suffix(';'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [pid, partition, offset, key, number] = &fields[..] else { bail!("the log has a line `{line}`") };
            let (partition, offset) = (partition.parse()?, offset.parse()?);
            Ok(Handling {
                pid: pid.parse()?,
                place: (partition, offset),
                key: (*key).to_owned(),
                number: number.parse()?,
            })
        })
        .collect()
}
