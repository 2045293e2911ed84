//! A consumer as a process of its own, for tests that kill it; SIGTERM makes it leave its group in order. Each record is a line in a file before it counts as handled.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use mq_agent::{Config, Consumer, Failure, Options, Record, StaticMember};
use tokio::signal::unix::{SignalKind, signal};

/// How long running handlers are waited for after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Args {
    #[arg(long, value_delimiter = ',')]
    brokers: Vec<String>,
    #[arg(long)]
    group: String,
    #[arg(long)]
    topic: String,
    /// The settings of the consumer as JSON.
    #[arg(long)]
    settings: String,
    #[arg(long)]
    concurrency: usize,
    /// How long one record takes.
    #[arg(long)]
    work_ms: u64,
    /// A static member with this id.
    #[arg(long)]
    instance: Option<String>,
    /// Records of this key take for ever.
    #[arg(long)]
    stuck: Option<String>,
    /// Shared by all members of the group: its order is the order of their handlings.
    #[arg(long)]
    log: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Errors, and what `RUST_LOG` says.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    std::thread::spawn(end_with_parent);
    let mut config = Config::default().brokers(args.brokers);
    config.consumer = serde_json::from_str(&args.settings).context("reading the settings")?;
    let mut options = Options::default().concurrency(args.concurrency);
    if let Some(instance) = args.instance {
        options = options.static_membership(StaticMember::new(instance));
    }
    let consumer = Consumer::new(&config, &args.group, [args.topic], &options).await?;
    let log = OpenOptions::new().append(true).open(&args.log);
    let log = Arc::new(log.with_context(|| format!("opening {}", args.log.display()))?);
    let (work, stuck) = (Duration::from_millis(args.work_ms), args.stuck.map(String::into_bytes));
    let mut terminate = signal(SignalKind::terminate())?;
    let leaving = consumer.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        leaving.close(DRAIN).await;
    });
    consumer
        .subscribe(move |record| {
            let log = Arc::clone(&log);
            let stuck = stuck.is_some() && record.key() == stuck.as_deref();
            async move {
                tokio::time::sleep(work).await;
                if stuck {
                    std::future::pending::<()>().await;
                }
                write_down(&log, &record).map_err(Failure::retry)
            }
        })
        .await?;
    Ok(())
}

/// One write. A line that a kill cut off lacks its end and spoils no other: each begins with a line break of its own.
fn write_down(mut log: &File, record: &Record) -> std::io::Result<()> {
    let (key, number) = (record.key().unwrap_or_default(), record.payload());
    let (key, number) = (String::from_utf8_lossy(key), String::from_utf8_lossy(number));
    let (pid, partition, offset) = (std::process::id(), record.partition(), record.offset());
    log.write_all(format!("\n{pid} {partition} {offset} {key} {number};").as_bytes())
}

/// The test holds the other end of the standard input.
fn end_with_parent() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}
