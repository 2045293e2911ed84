//! The members of a consumer group as processes that write down what they handle.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mq_testkit::{Paused, Process, wait_until};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Handling;

/// A group, and the one log of all its members. Clones are the same group.
#[derive(Debug, Clone)]
pub struct Group {
    program: PathBuf,
    folder: Arc<TempDir>,
    pub id: String,
    pub topic: String,
    /// Of the consumers, as JSON.
    pub settings: String,
    pub concurrency: usize,
    /// How long one record takes.
    pub work: Duration,
    known: Arc<Mutex<Known>>,
}

/// What was read of the log so far: it is long, and asked for again and again.
#[derive(Debug, Default)]
struct Known {
    bytes: u64,
    handled: Vec<Handling>,
}

/// Everything that was handled, in the order in which it was. Other readers wait until it is dropped.
#[derive(Debug)]
pub struct Handled<'a>(MutexGuard<'a, Known>);

impl Deref for Handled<'_> {
    type Target = [Handling];

    fn deref(&self) -> &[Handling] {
        &self.0.handled
    }
}

/// A member. Its process ends with it.
#[derive(Debug)]
pub struct Member(Child);

impl Group {
    /// A group without members. `program` is `mq-member`.
    pub fn new(program: impl Into<PathBuf>, id: &str, topic: &str, settings: &str) -> Result<Self> {
        let group = Self {
            program: program.into(),
            folder: Arc::new(tempfile::tempdir()?),
            id: id.to_owned(),
            topic: topic.to_owned(),
            settings: settings.to_owned(),
            concurrency: 4,
            work: Duration::from_millis(2),
            known: Arc::default(),
        };
        std::fs::File::create(group.log())?;
        Ok(group)
    }

    /// Starts a member that reaches the cluster by these addresses.
    pub fn join(&self, brokers: &str) -> Result<Member> {
        self.start(brokers, None)
    }

    /// As [`Self::join`], a static member with this instance id.
    pub fn join_as(&self, instance: &str, brokers: &str) -> Result<Member> {
        self.start(brokers, Some(instance))
    }

    fn start(&self, brokers: &str, instance: Option<&str>) -> Result<Member> {
        let (concurrency, work) = (self.concurrency.to_string(), self.work.as_millis().to_string());
        let mut command = Command::new(&self.program);
        command.args(["--brokers", brokers, "--group", &self.id, "--topic", &self.topic]);
        command.args(["--settings", &self.settings, "--concurrency", &concurrency, "--work-ms", &work]);
        command.args(instance.into_iter().flat_map(|instance| ["--instance", instance]));
        command.arg("--log").arg(self.log()).stdin(Stdio::piped()).kill_on_drop(true);
        Ok(Member(command.spawn().context("starting a member")?))
    }

    /// Everything that was handled, in the order in which it was.
    pub fn handled(&self) -> Result<Handled<'_>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = std::fs::File::open(self.log())?;
        log.seek(SeekFrom::Start(known.bytes))?;
        let mut news = String::new();
        log.read_to_string(&mut news)?;
        // The last line may be half written; whether it is ended shows the next one, or the end of the line itself.
        let whole = if news.ends_with(';') { news.len() } else { news.rfind('\n').unwrap_or(0) };
        known.handled.extend(Handling::read_all(&news[..whole])?);
        known.bytes += whole as u64;
        Ok(Handled(known))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("handled")
    }

    /// Waits until every one of these members has handled something beyond this length of the log.
    pub async fn wait_all_handle(&self, members: &[Member], beyond: usize, patience: Duration) -> Result<()> {
        let pids = members.iter().map(Member::pid).collect::<Result<Vec<_>>>()?;
        wait_until("every member handles records", patience, async || {
            let handled = self.handled()?;
            let later = handled.get(beyond..).unwrap_or_default();
            let idle: Vec<_> = pids.iter().filter(|pid| later.iter().all(|handling| handling.pid != **pid)).collect();
            ensure!(idle.is_empty(), "{idle:?} have handled nothing since {beyond} of {}", handled.len());
            Ok(())
        })
        .await
    }

    /// What the coordinator holds committed, by partition.
    pub async fn committed(&self, client: &mq_kafka::Client) -> Result<BTreeMap<i32, i64>> {
        let found =
            client.committed_offsets([&self.id]).await.remove(&self.id).context("no answer for the group")??;
        let partitions = found.partitions.get(&self.topic).into_iter().flatten();
        let known = partitions.map(|(partition, committed)| match committed {
            Ok(committed) => Ok((*partition, committed.offset)),
            Err(error) => Err(anyhow!("partition {partition}: {error}")),
        });
        known.collect()
    }

    /// Waits until this many records are committed, over all partitions.
    pub async fn wait_committed(&self, client: &mq_kafka::Client, expected: usize, patience: Duration) -> Result<()> {
        wait_until(&format!("{expected} records are committed"), patience, async || {
            let committed = self.committed(client).await?;
            ensure!(committed.values().sum::<i64>() == i64::try_from(expected)?, "{committed:?} are");
            Ok(())
        })
        .await
    }

    /// Watches what is committed, as often as the cluster answers: it never goes back and never reaches beyond what is handled. Returns
    /// when it does.
    pub fn watch(&self, client: mq_kafka::Client) -> impl Future<Output = Result<()>> + use<> {
        let this = self.clone();
        async move {
            let mut before: BTreeMap<i32, i64> = BTreeMap::new();
            let (mut read, mut prefixes) = (0, BTreeMap::<i32, Prefix>::new());
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let Ok(committed) = this.committed(&client).await else { continue };
                // Read after it: what is committed was written down before.
                {
                    let handled = this.handled()?;
                    for Handling { place: (partition, offset), .. } in &handled[read..] {
                        prefixes.entry(*partition).or_default().add(*offset);
                    }
                    read = handled.len();
                }
                for (partition, offset) in &committed {
                    let all_below = prefixes.get(partition).map_or(0, |prefix| prefix.end);
                    if all_below < *offset {
                        bail!("{offset} is committed in partition {partition}, and {all_below} is not handled");
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
            }
        }
    }
}

/// The end of what is handled without a gap.
#[derive(Debug, Default)]
struct Prefix {
    end: i64,
    beyond: BTreeSet<i64>,
}

impl Prefix {
    fn add(&mut self, offset: i64) {
        if offset >= self.end {
            self.beyond.insert(offset);
        }
        while self.beyond.remove(&self.end) {
            self.end += 1;
        }
    }
}

impl Member {
    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.0.id().context("the member has ended by itself")
    }

    /// Stops it (SIGSTOP) until the value is dropped.
    pub fn freeze(&self) -> Result<Paused> {
        Process::with_id(self.pid()?).pause()
    }

    /// Ends it without warning (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        self.0.start_kill()?;
        self.0.wait().await?;
        Ok(())
    }

    /// Asks it to end (SIGTERM): it finishes what it began, commits, leaves the group.
    pub async fn leave(mut self, patience: Duration) -> Result<()> {
        // To wait closes the standard input, whose end would end the process at once.
        let _input = self.0.stdin.take();
        Process::with_id(self.pid()?).terminate()?;
        let ended = tokio::time::timeout(patience, self.0.wait()).await;
        let status = ended.with_context(|| format!("the member did not leave within {patience:?}"))??;
        ensure!(status.success(), "the member ended with {status}");
        Ok(())
    }
}
