//! What a consumer holds: its memory while handlers do not end, and its allocations while they do.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mq_testkit::Broker;
use tokio::process::Command;

use super::consume::filled;
use crate::report::{Better, Row};

/// The agent's budget for records in flight, and librdkafka's queue on top of it.
const BUDGET_MIB: f64 = 64.0 + 16.0;
/// What the process may need beside it.
const BESIDE_MIB: f64 = 32.0;
const RUNS: usize = 3;

pub(super) async fn run(kafka: &Broker, topic: &str, records: usize) -> Result<Vec<Row>> {
    let large = filled(kafka, records, 1_000).await?;
    let stalled = repeat("stalled", kafka, &large, records).await?;
    let memory = Row::alone(
        "agent.memory_stalled_handler",
        &format!("peak resident set, {records} records of 1 KB, handlers that do not end; budget {BUDGET_MIB} MiB"),
        "MiB",
        Better::Lower,
        &stalled,
        BUDGET_MIB + BESIDE_MIB,
    );
    let asked = repeat("allocations", kafka, topic, records).await?;
    let allocations = Row::alone(
        "agent.allocations_per_record",
        "100-byte records without headers, key order, 16 slots, empty handler; Rust's allocator alone",
        "per record",
        Better::Lower,
        &asked,
        0.0,
    );
    Ok(vec![memory, allocations])
}

async fn repeat(what: &str, kafka: &Broker, topic: &str, records: usize) -> Result<Vec<f64>> {
    let mut figures = Vec::new();
    for run in 1..=RUNS {
        let figure = alone(what, kafka, topic, records).await?;
        eprintln!("mq: {what}, run {run} of {RUNS}: {figure:.2}");
        figures.push(figure);
    }
    Ok(figures)
}

async fn alone(what: &str, kafka: &Broker, topic: &str, records: usize) -> Result<f64> {
    let program = beside()?;
    let mut command = Command::new(&program);
    command.args([what, kafka.bootstrap(), topic, &kafka.unique("bench"), &records.to_string()]).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("starting {}", program.display()))?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{what} ended with {}: {errors}", output.status);
    said.trim().parse().with_context(|| format!("what {what} printed: {said}"))
}

fn beside() -> Result<PathBuf> {
    Ok(std::env::current_exe().context("where this program is")?.with_file_name("mq-bench-alone"))
}
