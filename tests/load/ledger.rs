//! The account: sent, written, handled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mq_agent::{Ack, SendError};
use mq_testkit::Record;

/// A message and what its producer was told of it.
#[derive(Debug)]
pub struct Sent {
    pub key: String,
    pub number: u32,
    pub outcome: Result<Ack, SendError>,
    /// From the call to the outcome.
    pub took: Duration,
}

/// What [`check_written`] counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub acknowledged: usize,
    pub failed: usize,
    /// Written although the producer was told that they may not be.
    pub failed_and_written: usize,
}

/// Checks that every acknowledged message lies where its acknowledgement says, that those of a key lie in the order in which they were
/// sent, none twice, and that nothing else is there.
pub fn check_written(sent: &[Sent], log: &[Record]) -> Result<Written> {
    let mut places = BTreeMap::new();
    let mut last: BTreeMap<String, u32> = BTreeMap::new();
    for record in log {
        let (key, number) = named(record)?;
        if let Some(before) = last.insert(key.clone(), number) {
            ensure!(before < number, "{key} {number} was written after {key} {before}");
        }
        places.insert((key, number), (record.partition, record.offset));
    }
    let mut written = Written { acknowledged: 0, failed: 0, failed_and_written: 0 };
    for Sent { key, number, outcome, .. } in sent {
        let place = places.remove(&(key.clone(), *number));
        if let Ok(ack) = outcome {
            // A broker that finds a message written already, when it is sent again, may no longer know where.
            let offset = ack.offset.or_else(|| Some(place?.1));
            let promised = offset.map(|offset| (ack.partition, offset));
            ensure!(
                place.is_some() && place == promised,
                "{key} {number} was acknowledged with {ack:?} and lies at {place:?}"
            );
            written.acknowledged += 1;
        } else {
            written.failed += 1;
            written.failed_and_written += usize::from(place.is_some());
        }
    }
    ensure!(places.is_empty(), "nobody sent these: {places:?}");
    Ok(written)
}

/// One handling of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handling {
    /// The member that handled it.
    pub pid: u32,
    /// Partition and offset.
    pub place: (i32, i64),
    pub key: String,
    pub number: u32,
}

impl Handling {
    /// Reads the lines of members. What was cut off was not handled: its handler did not return.
    pub(crate) fn read_all(text: &str) -> Result<Vec<Self>> {
        text.lines().filter_map(|line| line.strip_suffix(';')).map(Self::read).collect()
    }

    fn read(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [pid, partition, offset, key, number] = &fields[..] else { bail!("the log has a line `{line}`") };
        let place = (partition.parse()?, offset.parse()?);
        Ok(Self { pid: pid.parse()?, place, key: (*key).to_owned(), number: number.parse()? })
    }
}

/// Checks that every record of the log was handled, and that the first handlings of each key came in the order of the log. How many
/// handlings were not the first of their record.
pub fn check_handled(log: &[Record], handled: &[Handling]) -> Result<usize> {
    let mut expected: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
    for record in log {
        expected.entry(named(record)?.0).or_default().push((record.partition, record.offset));
    }
    let mut first: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for handling in handled.iter().filter(|handling| seen.insert(handling.place)) {
        first.entry(&handling.key).or_default().push(handling.place);
    }
    for (key, expected) in &expected {
        let first = first.remove(key.as_str()).unwrap_or_default();
        if let Some(index) = (0..expected.len()).find(|index| first.get(*index) != Some(&expected[*index])) {
            let (wanted, found) = (expected[index], first.get(index));
            bail!("record {index} of {key} lies at {wanted:?}; handled in its turn was {found:?}");
        }
        ensure!(first.len() == expected.len(), "{key} was handled beyond its log: {:?}", &first[expected.len()..]);
    }
    ensure!(first.is_empty(), "handled and not in the log: {first:?}");
    Ok(handled.len() - seen.len())
}

/// The handlings after the first one of a record.
pub fn repeated(handled: &[Handling]) -> impl Iterator<Item = &Handling> {
    let mut seen = BTreeSet::new();
    handled.iter().filter(move |handling| !seen.insert(handling.place))
}

fn named(record: &Record) -> Result<(String, u32)> {
    let (key, number) = record.key_str().zip(record.value_str()).context("a record without a key or a number")?;
    Ok((key.to_owned(), number.parse()?))
}
