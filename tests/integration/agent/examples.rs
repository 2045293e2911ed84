//! The examples of the library, as anybody runs them.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use mq_testkit::TestEnv;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::PATIENCE;

struct Example {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn start(brokers: &str, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(path(name)?);
        command.args(arguments).env("MQ_BROKERS", brokers).env("MQ_ENV", "development");
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context(name.to_owned())?;
        let lines = BufReader::new(process.stdout.take().context("it has no output")?).lines();
        Ok(Self { process, lines })
    }

    async fn lines(&mut self, count: usize) -> Result<Vec<String>> {
        let mut read = Vec::new();
        while read.len() < count {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.with_context(|| format!("no line after {read:?}"))??;
            read.push(line.with_context(|| format!("it ended after {read:?}"))?);
        }
        Ok(read)
    }

    /// Asks it to stop as a kubelet does.
    async fn stop(self) -> Result<()> {
        let id = self.process.id().context("it has ended")?;
        let asked = Command::new("kill").args(["-TERM", &id.to_string()]).status().await?;
        ensure!(asked.success(), "SIGTERM was not sent");
        self.ended().await
    }

    async fn ended(mut self) -> Result<()> {
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await.context("it does not end")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

/// Beside this test program, where cargo puts them.
fn path(name: &str) -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let folder = tests.parent().and_then(std::path::Path::parent).context("this test program lies in no folder")?;
    let path = folder.join("examples").join(name);
    ensure!(path.exists(), "{} is missing: `cargo build --workspace --examples` makes it", path.display());
    Ok(path)
}

#[tokio::test]
async fn the_examples_do_what_they_say() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let brokers = kafka.bootstrap().to_owned();
    let run = |name: &str, arguments: &[&str]| Example::start(&brokers, name, arguments);
    let [orders, invoices, group] = ["orders", "invoices", "example"].map(|name| kafka.unique(name));
    for topic in [&orders, &invoices] {
        run("topic", &[topic, "2"])?.ended().await?;
    }
    let mut produce = run("produce", &[&orders, "10"])?;
    let acknowledged = produce.lines(10).await?;
    assert!(acknowledged.iter().all(|line| line.starts_with(&orders) && line.contains("at Some(")), "{acknowledged:?}");
    produce.ended().await?;

    let mut consume = run("consume", &[&group, &orders])?;
    let transform = run("transform", &[&format!("{group}-t"), &orders, &invoices])?;
    let mut payloads: Vec<u32> = Vec::new();
    for line in consume.lines(10).await? {
        let (place, payload) = line.split_once(": ").context("no payload")?;
        ensure!(place.starts_with(&orders), "{line}");
        payloads.push(payload.parse()?);
    }
    payloads.sort_unstable();
    assert_eq!(payloads, (0..10).collect::<Vec<_>>());
    consume.stop().await?;

    let mut stream = run("stream", &[&format!("{group}-s"), &invoices, "10"])?;
    let batch = stream.lines(1).await?;
    assert!(batch[0].contains("records, the last"), "{batch:?}");
    stream.ended().await?;
    transform.stop().await?;
    let written = kafka.read_all(&invoices).await?;
    assert_eq!(written.len(), 10);
    assert!(written.iter().all(|invoice| invoice.header_str("Event-Type") == Some("invoiced")));
    Ok(())
}
