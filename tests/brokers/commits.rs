//! What groups committed, in the order in which the cluster wrote it down. A coordinator that takes over, or that wakes, may answer an older
//! commit for a moment; its log does not.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mq_testkit::Record;

/// The topic that holds commits.
pub(crate) const TOPIC: &str = "__consumer_offsets";

/// One commit: partition and offset.
type Commit = (i32, i64);

/// The commits of a group, which has one topic, from the records of [`TOPIC`].
pub(crate) fn of_group(records: &[Record], group: &str) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    for record in records {
        // Without a value the commit was removed.
        let (Some(key), Some(value)) = (&record.key, &record.value) else { continue };
        let mut key = Fields(key);
        // Others say who is in a group.
        if !matches!(key.i16()?, 0 | 1) || key.text()? != group.as_bytes() {
            continue;
        }
        key.text()?;
        let mut value = Fields(value);
        value.i16()?;
        commits.push((key.i32()?, value.i64()?));
    }
    Ok(commits)
}

/// Checks that no commit of a partition lies behind one before it.
pub(crate) fn check_ascending(commits: &[Commit]) -> Result<()> {
    ensure!(!commits.is_empty(), "nothing was ever committed");
    let mut partitions: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for (partition, offset) in commits {
        partitions.entry(*partition).or_default().push(*offset);
    }
    for (partition, offsets) in partitions {
        let back = offsets.windows(2).position(|pair| pair[1] < pair[0]);
        let around = back.map(|at| &offsets[at.saturating_sub(2)..(at + 5).min(offsets.len())]);
        ensure!(around.is_none(), "commits of partition {partition} went back: {:?}", around.unwrap_or_default());
    }
    Ok(())
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().context("a commit that is cut off")?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.bytes()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.bytes()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.i16()?)?;
        let (text, rest) = self.0.split_at_checked(length).context("a commit that is cut off")?;
        self.0 = rest;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: i16, group: &str, partition: i32, offset: i64) -> Record {
        let mut key = version.to_be_bytes().to_vec();
        for text in [group, "orders"] {
            key.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
            key.extend(text.as_bytes());
        }
        key.extend(partition.to_be_bytes());
        let value = [3_i16.to_be_bytes().as_slice(), &offset.to_be_bytes()].concat();
        Record { partition: 0, offset: 0, key: Some(key), value: Some(value), headers: Vec::new(), timestamp: None }
    }

    #[test]
    fn a_commit_that_goes_back_is_seen() {
        let mut log = vec![record(1, "g", 0, 5), record(1, "g", 1, 9), record(1, "other", 0, 1), record(2, "g", 0, 0)];
        assert_eq!(of_group(&log, "g").unwrap(), [(0, 5), (1, 9)]);
        log.push(record(1, "g", 0, 5));
        check_ascending(&of_group(&log, "g").unwrap()).unwrap();
        log.push(record(1, "g", 1, 8));
        check_ascending(&of_group(&log, "g").unwrap()).unwrap_err();
        check_ascending(&[]).unwrap_err();
    }
}
