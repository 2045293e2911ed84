//! Measurements: `make bench BENCH=<name>` measures, writes `<out>/<name>.json`, and their sections of `docs/benchmarks.md`.
//!
//! ```text
//! agent/     the client library beside bare librdkafka
//! collector  the lag of many groups beside KEDA's scalers and Java's AdminClient
//! scaling    the decisions in a simulated plant, beside KEDA and an oracle
//! peers      programs that do the same work
//! measure    wall clock and CPU of one run; mq and peer in turn
//! report     rows, their files, and the page
//! ```

#![forbid(unsafe_code)]

mod agent;
mod collector;
mod measure;
mod peers;
mod report;
mod scaling;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use peers::Peers;
use report::Section;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; nothing: everything.
    #[arg(value_enum)]
    bench: Vec<Bench>,
    #[command(flatten)]
    peers: Peers,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Parser)]
struct Output {
    /// Where the figures go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The page that shows them; plots go to the folder `plots` beside it.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    /// Divides every amount of work: a trial of the measurement itself, whose figures mean nothing and are not written to the page.
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    shrink: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Agent,
    Collector,
    Scaling,
}

/// Measures what the arguments of this program name.
///
/// # Errors
/// Something could not be measured; nothing is written then.
pub async fn run() -> Result<()> {
    begin();
    let Arguments { mut bench, peers, output } = Arguments::parse();
    if bench.is_empty() {
        bench = Bench::value_variants().to_vec();
    }
    let mut sections = Vec::new();
    for bench in bench {
        sections.push(match bench {
            Bench::Agent => agent::run(output.shrink, &peers).await?,
            Bench::Collector => collector::run(output.shrink, &peers).await?,
            Bench::Scaling => scaling::run(&output.page.with_file_name("plots"))?,
        });
    }
    output.publish(&sections)
}

/// Measures sending alone, in a program with mimalloc.
///
/// # Errors
/// As [`run`].
pub async fn sending_with_mimalloc() -> Result<()> {
    begin();
    let output = Output::parse();
    let section = agent::sending_with_mimalloc(output.shrink).await?;
    output.publish(&[section])
}

fn begin() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(std::io::stderr)
        .init();
}

impl Output {
    fn publish(&self, sections: &[Section]) -> Result<()> {
        if self.shrink > 1 {
            return Ok(());
        }
        for section in sections {
            report::save(&self.out, section)?;
        }
        report::write_page(&self.page, sections)
    }
}
