//! Programs that do the same work, each run as a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::measure::Cost;

/// Where they are.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// The folder `benches/peers`.
    #[arg(long)]
    sources: PathBuf,
    /// The folder with the jars that its programs need.
    #[arg(long)]
    jars: PathBuf,
    /// The folder with the jars of the broker's version of Kafka.
    #[arg(long)]
    kafka_jars: PathBuf,
    /// The program made of `benches/peers/keda`.
    #[arg(long)]
    keda: PathBuf,
}

impl Peers {
    /// Runs a Java program from its source. Its last line says what it measured of itself: wall and CPU nanoseconds.
    pub(crate) async fn java(&self, program: &str, arguments: &[&str]) -> Result<Cost> {
        let mut java = self.java_command(program, &self.jars);
        java.args(arguments);
        let output = java.output().await.context("starting java")?;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program} {arguments:?} ended with {}: {errors}", output.status);
        cost(&said).with_context(|| format!("what {program} printed: {said}"))
    }

    /// A Java program that speaks with the client of the broker's own version.
    pub(crate) fn newest_java(&self, program: &str) -> Command {
        self.java_command(program, &self.kafka_jars)
    }

    /// KEDA's scalers.
    pub(crate) fn keda(&self) -> Command {
        Command::new(&self.keda)
    }

    fn java_command(&self, program: &str, jars: &Path) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]).arg(jars.join("*"));
        java.arg(self.sources.join(format!("{program}.java"))).kill_on_drop(true);
        java
    }
}

fn cost(said: &str) -> Option<Cost> {
    let mut numbers = said.lines().last()?.split(' ').map(|number| number.parse().ok().map(Duration::from_nanos));
    Some(Cost { wall: numbers.next()??, cpu: numbers.next()?? })
}

/// A program that does its work when it starts and once more for each line that it is given, and says each time how many nanoseconds it
/// took and what came of it. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Stepper {
    name: &'static str,
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Stepper {
    /// Starts it; returns what it said of the first time.
    pub(crate) async fn start(name: &'static str, mut command: Command) -> Result<(Self, Step)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("starting {name}"))?;
        let input = process.stdin.take().context("its input")?;
        let output = BufReader::new(process.stdout.take().context("its output")?).lines();
        let mut stepper = Self { name, process, input, output };
        let first = stepper.answer().await?;
        Ok((stepper, first))
    }

    /// Once more.
    pub(crate) async fn step(&mut self) -> Result<Step> {
        self.input.write_all(b"\n").await.with_context(|| format!("asking {} once more", self.name))?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Step> {
        let line = self.output.next_line().await?.with_context(|| format!("{} ended", self.name))?;
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(nanoseconds)), Some(Ok(result))) = (numbers.next(), numbers.next()) else {
            anyhow::bail!("{} said {line:?}", self.name);
        };
        Ok(Step { wall: Duration::from_nanos(nanoseconds), result })
    }

    /// Its largest resident set so far, in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        let id = self.process.id().with_context(|| format!("{} ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmHWM: {line}"))?;
        Ok(kib / 1024.0)
    }
}

/// What a [`Stepper`] says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) wall: Duration,
    pub(crate) result: u64,
}
