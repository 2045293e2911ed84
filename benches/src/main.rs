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

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; nothing: everything.
    #[arg(value_enum)]
    bench: Vec<Bench>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The page that shows them; plots go to the folder `plots` beside it.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    #[command(flatten)]
    peers: Peers,
    /// Divides every amount of work: a trial of the measurement itself, whose figures mean nothing and are not written to the page.
    #[arg(long, default_value_t = 1)]
    shrink: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Agent,
    Collector,
    Scaling,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(std::io::stderr)
        .init();
    let Arguments { mut bench, out, page, peers, shrink } = Arguments::parse();
    if bench.is_empty() {
        bench = Bench::value_variants().to_vec();
    }
    let mut sections = Vec::new();
    for bench in bench {
        let section = match bench {
            Bench::Agent => agent::run(shrink.max(1), &peers).await?,
            Bench::Collector => collector::run(shrink.max(1), &peers).await?,
            Bench::Scaling => scaling::run(&page.with_file_name("plots"))?,
        };
        if shrink <= 1 {
            report::save(&out, &section)?;
        }
        sections.push(section);
    }
    if shrink <= 1 {
        report::write_page(&page, &sections)?;
    }
    Ok(())
}
