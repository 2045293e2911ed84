//! The rows of a report and the page made of them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::{Cost, Sides};

/// One figure beside its peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    id: String,
    figure: String,
    unit: String,
    better: Better,
    /// The median of the runs.
    mq: f64,
    peer: Option<String>,
    peer_value: Option<f64>,
    ratio: Option<f64>,
    runs: usize,
    /// The lowest and the highest of mq's runs.
    spread: [f64; 2],
    /// The ratio that is wanted; without a peer, the value.
    target: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a benchmark says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure<'a> {
    pub(crate) id: &'a str,
    pub(crate) text: &'a str,
    pub(crate) peer: &'a str,
    /// Records in one run.
    pub(crate) records: usize,
    pub(crate) wall_target: f64,
    /// `None`: CPU is not what this figure is about.
    pub(crate) cpu_target: Option<f64>,
}

impl Figure<'_> {
    /// Throughput by the clock, and CPU seconds per million records.
    #[expect(clippy::cast_precision_loss, reason = "a count of records, far below 2^53")]
    pub(crate) fn rows(&self, sides: &Sides) -> Vec<Row> {
        let records = self.records as f64;
        let wall = self.row("_wall", "records/s", Better::Higher, sides, Some(self.wall_target), |cost| {
            records / cost.wall.as_secs_f64()
        });
        let cpu = self.cpu_target.map(|target| {
            self.row("_cpu", "CPU s per million", Better::Lower, sides, Some(target), |cost| {
                cost.cpu.as_secs_f64() * 1e6 / records
            })
        });
        std::iter::once(wall).chain(cpu).collect()
    }

    fn row(
        &self,
        suffix: &str,
        unit: &str,
        better: Better,
        sides: &Sides,
        target: Option<f64>,
        value: impl Fn(&Cost) -> f64,
    ) -> Row {
        let ours: Vec<f64> = sides.mq.iter().map(&value).collect();
        let theirs: Vec<f64> = sides.peer.iter().map(&value).collect();
        let (mq, peer_value) = (median(&ours), median(&theirs));
        Row {
            id: format!("{}{suffix}", self.id),
            figure: self.text.to_owned(),
            unit: unit.to_owned(),
            better,
            mq,
            peer: Some(self.peer.to_owned()),
            peer_value: Some(peer_value),
            ratio: Some(mq / peer_value),
            runs: ours.len(),
            spread: spread(&ours),
            target,
        }
    }
}

impl Row {
    /// A figure without a peer, in its own unit.
    pub(crate) fn alone(id: &str, figure: &str, unit: &str, better: Better, values: &[f64], target: f64) -> Self {
        Self {
            id: id.to_owned(),
            figure: figure.to_owned(),
            unit: unit.to_owned(),
            better,
            mq: median(values),
            peer: None,
            peer_value: None,
            ratio: None,
            runs: values.len(),
            spread: spread(values),
            target: Some(target),
        }
    }
}

fn spread(values: &[f64]) -> [f64; 2] {
    [values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max)]
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub(crate) fn save(folder: &Path, name: &str, rows: &[Row]) -> Result<()> {
    let file = folder.join(format!("{name}.json"));
    let attempt = || format!("writing {}", file.display());
    fs::create_dir_all(folder).with_context(attempt)?;
    fs::write(&file, serde_json::to_string_pretty(rows)? + "\n").with_context(attempt)
}

/// Writes the page from every file of the folder.
pub(crate) fn write_page(folder: &Path, page: &Path) -> Result<()> {
    let mut text = format!(
        "# Benchmarks\n\nWritten by `make bench` on {}: {}. Each figure and its peer ran in turn on the same servers; both columns are medians.\n\
         `ratio` is mq divided by the peer. What falls short of its target stands here like the rest.\n",
        jiff::Zoned::now().date(),
        machine()?
    );
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    for file in files {
        let rows: Vec<Row> =
            serde_json::from_slice(&fs::read(&file)?).with_context(|| format!("reading {}", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        write!(
            text,
            "\n## {name}\n\n| id | figure | unit | mq (lowest–highest of {}) | peer | ratio | target |\n|---|---|---|---|---|---|---|\n",
            rows.first().map_or(0, |row| row.runs)
        )?;
        for row in &rows {
            text.push_str(&line(row));
        }
    }
    fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

fn line(row: &Row) -> String {
    let number =
        |value: f64| if value >= 1_000.0 { format!("{:.1} k", value / 1_000.0) } else { format!("{value:.2}") };
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let peer = match (&row.peer, row.peer_value) {
        (Some(peer), Some(value)) => format!("{}: {peer}", number(value)),
        _ => "–".to_owned(),
    };
    let target = row.target.map_or_else(
        || "–".to_owned(),
        |target| match row.better {
            Better::Higher => format!("≥ {target:.2}"),
            Better::Lower => format!("≤ {target:.2}"),
        },
    );
    let [low, high] = row.spread.map(number);
    format!(
        "| `{}` | {} | {} | {} ({low}–{high}) | {peer} | {} | {target} |\n",
        row.id,
        row.figure,
        row.unit,
        number(row.mq),
        optional(row.ratio)
    )
}

fn machine() -> Result<String> {
    let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib: u64 =
        memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).context("the size of the memory")?;
    let cores = std::thread::available_parallelism()?;
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    Ok(format!(
        "{cores} cores, {} GiB, broker and client on the same machine, librdkafka {librdkafka}, release build",
        kib / (1 << 20)
    ))
}
