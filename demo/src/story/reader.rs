//! The reader as a process of its own: it shares nothing with the story but the API server and the broker.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use clap::ValueEnum as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::{Stage, Step};

/// What the reader prints once it watches.
const WATCHING: &str = "watching";

/// A running `mq-demo summary`.
#[derive(Debug)]
pub(super) struct Reader {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Reader {
    /// Starts it and waits until it watches.
    pub(super) async fn start(stage: &Stage, steps: &[Step], json: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["summary", "--watch", "--namespace", &stage.setting().namespace]);
        if let Some(kubeconfig) = &stage.setting().kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        for step in steps.iter().filter_map(Step::to_possible_value) {
            command.args(["--expect", step.get_name()]);
        }
        if let Some(path) = json {
            command.arg("--json").arg(path);
        }
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = started.context("cannot start the reader")?;
        let mut output = BufReader::new(child.stdout.take().context("the reader has no output")?);
        let mut line = String::new();
        output.read_line(&mut line).await.context("cannot hear the reader")?;
        anyhow::ensure!(line.trim() == WATCHING, "the reader does not watch: {line}");
        Ok(Self { child, output })
    }

    /// Ends its watch, prints what it says and returns whether everything holds.
    pub(super) async fn finish(mut self) -> anyhow::Result<bool> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        while self.output.read_line(&mut line).await.context("cannot hear the reader")? > 0 {
            print!("{line}");
            line.clear();
        }
        let status = self.child.wait().await.context("cannot wait for the reader")?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => anyhow::bail!("the reader could not read: {status}"),
        }
    }
}
