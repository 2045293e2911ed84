//! Measurements: `make bench BENCH=<name>` measures, writes `<out>/<name>.json`, and `docs/benchmarks.md` from all of those files.
//!
//! ```text
//! agent/     the client library beside bare librdkafka
//! peers      programs in other languages
//! measure    wall clock and CPU of one run; mq and peer in turn
//! report     rows, their files, and the page
//! ```

#![forbid(unsafe_code)]

mod agent;
mod measure;
mod peers;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use peers::Peers;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; nothing: everything.
    #[arg(value_enum)]
    bench: Vec<Bench>,
    /// Where the figures go and come from.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The page that is written from them.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    /// The folder `benches/peers`, and the folder with the jars that its programs need.
    #[arg(long, num_args = 2, required = true, value_names = ["SOURCES", "JARS"])]
    peers: Vec<PathBuf>,
    /// Divides every amount of work: a trial of the measurement itself, whose figures mean nothing and are not written to the page.
    #[arg(long, default_value_t = 1)]
    shrink: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Agent,
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(std::io::stderr)
        .init();
    let Arguments { mut bench, out, page, peers, shrink } = Arguments::parse();
    let peers = Peers::new(&peers);
    if bench.is_empty() {
        bench = Bench::value_variants().to_vec();
    }
    for bench in bench {
        let rows = match bench {
            Bench::Agent => agent::run(shrink.max(1), &peers).await?,
        };
        if shrink <= 1 {
            report::save(&out, bench.name(), &rows)?;
        }
    }
    if shrink <= 1 {
        report::write_page(&out, &page)?;
    }
    Ok(())
}
