//! Programs in other languages that do the same work, each run as a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::measure::Cost;

/// Where they are.
#[derive(Debug)]
pub(crate) struct Peers {
    sources: PathBuf,
    jars: PathBuf,
}

impl Peers {
    /// The folder of their sources, and that of their jars.
    pub(crate) fn new(folders: &[PathBuf]) -> Self {
        let folder = |index: usize| folders.get(index).cloned().unwrap_or_default();
        Self { sources: folder(0), jars: folder(1) }
    }

    /// Runs a Java program from its source. Its last line says what it measured of itself: wall and CPU nanoseconds.
    pub(crate) async fn java(&self, program: &str, arguments: &[&str]) -> Result<Cost> {
        let class_path = self.jars.join("*");
        let mut java = Command::new("java");
        java.args(["-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]).arg(class_path);
        java.arg(self.source(program)).args(arguments).kill_on_drop(true);
        let output = java.output().await.context("starting java")?;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program} {arguments:?} ended with {}: {errors}", output.status);
        cost(&said).with_context(|| format!("what {program} printed: {said}"))
    }

    fn source(&self, program: &str) -> PathBuf {
        self.sources.join(format!("{program}.java"))
    }
}

fn cost(said: &str) -> Option<Cost> {
    let mut numbers = said.lines().last()?.split(' ').map(|number| number.parse().ok().map(Duration::from_nanos));
    Some(Cost { wall: numbers.next()??, cpu: numbers.next()?? })
}
