//! A consumer in a process of its own, for what only a whole process shows: its memory, and its allocations.

#![forbid(unsafe_code)]

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use mq_agent::{Agent, Config, Consumer, Env, Failure, Options};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PATIENCE: Duration = Duration::from_mins(5);
const SLOTS: usize = 16;

#[derive(Debug, Parser)]
struct Arguments {
    what: What,
    bootstrap: String,
    topic: String,
    group: String,
    records: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Handlers that never end. Prints the largest resident set in MiB, once no more is read.
    Stalled,
    /// Empty handlers. Prints how often Rust's allocator was asked for memory, per record, after the first fifth.
    Allocations,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { what, bootstrap, topic, group, records } = Arguments::parse();
    let mut config = Config::for_env(Env::Production).brokers([bootstrap]).group("bench", group, [topic]);
    // The budget in bytes shall be what holds a stalled consumer.
    config.consumer.max_poll_records = Some(if what == What::Stalled { 100_000 } else { 1_000 });
    let nowhere = Path::new("/nonexistent");
    let agent = Agent::connect_with(Options::in_folders(nowhere, nowhere).config(config).concurrency(SLOTS)).await;
    let consumer = agent.consumer("bench").await?;
    let figure = match what {
        What::Stalled => stalled(consumer).await?,
        What::Allocations => allocations(consumer, records).await?,
    };
    println!("{figure}");
    Ok(())
}

async fn stalled(consumer: Consumer) -> Result<f64> {
    let reading = consumer.clone();
    tokio::spawn(async move { reading.subscribe(|_| std::future::pending::<Result<(), Failure>>()).await });
    let full = async {
        let (mut held, mut same) = (0, 0);
        // Ten seconds without another record: it is full, and so is librdkafka's queue.
        while same < 10 || held == 0 {
            sleep(Duration::from_secs(1)).await;
            let now = consumer.stats().in_flight;
            same = if now == held { same + 1 } else { 0 };
            held = now;
        }
    };
    timeout(PATIENCE, full).await.context("waiting until the stalled consumer is full")?;
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmHWM is {peak}"))?;
    Ok(kib / 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
async fn allocations(consumer: Consumer, records: usize) -> Result<f64> {
    let begin = records / 5;
    let (handled, before) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let last = Arc::new(Notify::new());
    let subscription = {
        let (before, last) = (Arc::clone(&before), Arc::clone(&last));
        consumer.subscribe(move |_| {
            let count = handled.fetch_add(1, Ordering::Relaxed) + 1;
            if count == begin {
                before.store(asked(), Ordering::Relaxed);
            } else if count == records {
                before.store(asked() - before.load(Ordering::Relaxed), Ordering::Relaxed);
                last.notify_one();
            }
            std::future::ready(Ok::<(), Failure>(()))
        })
    };
    let measured = async {
        last.notified().await;
        consumer.close(PATIENCE).await;
    };
    let (subscribed, ()) = timeout(PATIENCE, async { tokio::join!(subscription, measured) })
        .await
        .context("waiting until every record was handled")?;
    subscribed?;
    Ok(before.load(Ordering::Relaxed) as f64 / (records - begin) as f64)
}

fn asked() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}
