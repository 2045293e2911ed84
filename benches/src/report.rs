//! The rows of a report and the page made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::{Cost, Sides};

/// One figure beside its peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    id: String,
    figure: String,
    unit: String,
    better: Better,
    /// The median of the runs.
    mq: f64,
    peer: Option<String>,
    peer_value: Option<f64>,
    /// The lowest and the highest of the peer's runs.
    peer_spread: Option<[f64; 2]>,
    ratio: Option<f64>,
    runs: usize,
    /// The lowest and the highest of mq's runs.
    spread: [f64; 2],
    /// The ratio that is wanted; without a peer, the value.
    target: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
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
    /// `None`: none was set; it is published all the same.
    pub(crate) wall_target: Option<f64>,
    /// As the other.
    pub(crate) cpu_target: Option<f64>,
}

impl Figure<'_> {
    /// Throughput by the clock, and CPU seconds per million records.
    #[expect(clippy::cast_precision_loss, reason = "a count of records, far below 2^53")]
    pub(crate) fn rows(&self, sides: &Sides) -> Vec<Row> {
        let records = self.records as f64;
        let wall = self.row("_wall", "records/s", Better::Higher, sides, self.wall_target, |cost| {
            records / cost.wall.as_secs_f64()
        });
        let cpu = self.row("_cpu", "CPU s per million", Better::Lower, sides, self.cpu_target, |cost| {
            cost.cpu.as_secs_f64() * 1e6 / records
        });
        vec![wall, cpu]
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
            peer_spread: Some(spread(&theirs)),
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
            peer_spread: None,
            ratio: None,
            runs: values.len(),
            spread: spread(values),
            target: Some(target),
        }
    }
}

impl Row {
    /// A figure that comes out the same whenever it is measured.
    pub(crate) fn once(
        id: &str,
        figure: &str,
        unit: &str,
        mq: f64,
        (peer, peer_value): (&str, f64),
        target: f64,
    ) -> Self {
        Self {
            peer: Some(peer.to_owned()),
            peer_value: Some(peer_value),
            ..Self::alone(id, figure, unit, Better::Lower, &[mq], target)
        }
        .with_ratio()
    }

    /// Values of both sides, taken in turn.
    pub(crate) fn beside(
        id: &str,
        figure: &str,
        unit: &str,
        mq: &[f64],
        (peer, values): (&str, &[f64]),
        target: f64,
    ) -> Self {
        Self {
            peer: Some(peer.to_owned()),
            peer_value: Some(median(values)),
            peer_spread: Some(spread(values)),
            ..Self::alone(id, figure, unit, Better::Lower, mq, target)
        }
        .with_ratio()
    }

    /// Beside nothing there is no ratio.
    fn with_ratio(self) -> Self {
        let ratio = self.peer_value.filter(|value| *value > 0.0).map(|value| self.mq / value);
        Self { ratio, ..self }
    }
}

/// What one benchmark adds to the page.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) rows: Vec<Row>,
    /// What stands below the table, as Markdown.
    pub(crate) notes: String,
}

fn spread(values: &[f64]) -> [f64; 2] {
    [values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max)]
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub(crate) fn save(folder: &Path, section: &Section) -> Result<()> {
    let file = folder.join(format!("{}.json", section.name));
    let attempt = || format!("writing {}", file.display());
    fs::create_dir_all(folder).with_context(attempt)?;
    fs::write(&file, serde_json::to_string_pretty(&section.rows)? + "\n").with_context(attempt)
}

const INTRODUCTION: &str = "# Benchmarks

Written by `make bench`, each section when it was measured last. A figure and its peer ran in turn on the same servers; both columns are
medians. `ratio` is mq divided by the peer. What falls short of its target stands here like the rest.
";

/// Writes these sections of the page and leaves the others as they are.
pub(crate) fn write_page(page: &Path, measured: &[Section]) -> Result<()> {
    let old = if page.exists() {
        fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?
    } else {
        String::new()
    };
    let mut sections = sections(&old);
    for section in measured {
        sections.insert(section.name.to_owned(), text(section)?);
    }
    let sections: Vec<_> = sections.iter().map(|(name, text)| format!("\n## {name}\n\n{}\n", text.trim())).collect();
    let text = sections.concat();
    fs::write(page, format!("{INTRODUCTION}{text}")).with_context(|| format!("writing {}", page.display()))
}

/// What stands below each heading of a page.
fn sections(page: &str) -> BTreeMap<String, String> {
    let sections = page.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'));
    sections.map(|(name, text)| (name.trim().to_owned(), text.to_owned())).collect()
}

fn text(section: &Section) -> Result<String> {
    let mut text = format!(
        "{}: {}.\n\n| id | figure | unit | mq (lowest–highest) | peer (the same) | ratio | target |\n|---|---|---|---|---|---|---|\n",
        jiff::Zoned::now().date(),
        machine()?
    );
    for row in &section.rows {
        text.push_str(&line(row));
    }
    text.push_str(&section.notes);
    Ok(text)
}

fn line(row: &Row) -> String {
    let number =
        |value: f64| if value >= 1_000.0 { format!("{:.1} k", value / 1_000.0) } else { format!("{value:.2}") };
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let between = |[low, high]: [f64; 2]| format!(" ({}–{})", number(low), number(high));
    let peer = match (&row.peer, row.peer_value) {
        (Some(peer), Some(value)) => {
            format!("{}{}: {peer}", number(value), row.peer_spread.map(between).unwrap_or_default())
        }
        _ => "–".to_owned(),
    };
    let target = row.target.map_or_else(
        || "–".to_owned(),
        |target| match row.better {
            Better::Higher => format!("≥ {target:.2}"),
            Better::Lower => format!("≤ {target:.2}"),
        },
    );
    let spread = if row.runs > 1 { between(row.spread) } else { String::new() };
    format!(
        "| `{}` | {} | {} | {}{spread} | {peer} | {} | {target} |\n",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_that_were_not_measured_stay() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("benchmarks.md");
        let section = |name, notes: &str| Section { name, rows: vec![], notes: notes.to_owned() };
        write_page(&page, &[section("agent", "first"), section("scaling", "second\n### below\n")]).unwrap();
        write_page(&page, &[section("scaling", "third")]).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        let at = |word: &str| text.find(word);
        assert!(at("first") < at("third") && at("## agent") < at("first") && at("second").is_none(), "{text}");
        assert_eq!(text.matches("# Benchmarks\n").count(), 1);
        write_page(&page, &[section("scaling", "third")]).unwrap();
        assert_eq!(fs::read_to_string(&page).unwrap(), text);
    }
}
