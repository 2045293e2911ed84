//! A broker of a test's own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::{Broker, TestEnv};

/// A broker that this test alone has, with everything that it writes in one folder. It ends when it is dropped.
#[derive(Debug)]
pub struct OwnBroker {
    pub kafka: Broker,
    /// The launcher runs for as long as its command does, and that one until its standard input ends.
    launcher: Child,
}

impl OwnBroker {
    /// Starts it with another run of the launcher that started the other servers, and returns once it serves.
    ///
    /// # Errors
    /// Without a run, or if the broker does not start.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::configured(folder, &[]).await
    }

    /// The same, with these lines (`name=value`) in its configuration.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn configured(folder: &Path, config: &[&str]) -> Result<Self> {
        let attempt = || format!("starting a broker in {}", folder.display());
        let mut command = Command::new(TestEnv::launcher()?);
        command.args(["run", "--kafka"]);
        command.args(config.iter().flat_map(|line| ["--kafka-config", line]));
        command.args(["--", "sh", "-c", "echo $MQ_TESTKIT; exec cat"]);
        command.env("MQ_RUN", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut launcher = command.spawn().with_context(attempt)?;
        let output = launcher.stdout.take().with_context(attempt)?;
        let description = BufReader::new(output).lines().next_line().await.with_context(attempt)?;
        let description = PathBuf::from(description.with_context(attempt)?);
        Ok(Self { kafka: TestEnv::kafka_of(&description)?, launcher })
    }

    /// Ends it and returns once nothing of it is left.
    ///
    /// # Errors
    /// The launcher could not be waited for.
    pub async fn end(mut self) -> Result<()> {
        // Closes its standard input first.
        self.launcher.wait().await.context("waiting for the launcher")?;
        Ok(())
    }
}
