//! What one partition owes its group.

use std::fmt;

/// Where a group starts in a partition that it never committed (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetPolicy {
    /// From the first record that is still there.
    Earliest,
    /// From the next record to come.
    Latest,
}

/// Why the lag of a partition cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// The committed offset could not be read; the broker's or the connection's words.
    Committed(String),
    /// The end offset could not be read.
    End(String),
    /// Nothing is committed, the group starts at the earliest record, and the start of the log could not be read.
    LogStart,
    /// The topic was created anew, and what is committed is what was committed to the one before.
    OfAnotherTopic {
        /// What is committed.
        committed: i64,
    },
    /// The committed offset lies beyond the end: the topic was created anew or truncated under the group.
    BeyondEnd {
        /// What the group committed.
        committed: i64,
        /// Where the log ends.
        end: i64,
    },
}

/// What is odd about a partition although its lag is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// The group had committed, and nothing is committed any more: the commit expired, or somebody deleted it.
    Forgotten {
        /// What was committed.
        committed: i64,
        /// Where the group begins anew.
        reset: ResetPolicy,
    },
    /// A transaction is not ended, and the group stands where it began.
    OpenTransaction {
        /// The offset.
        since: i64,
    },
    /// There is no record from the committed offset to the end: markers of transactions, or what compaction left.
    NoRecords {
        /// The committed offset.
        committed: i64,
    },
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forgotten { committed, reset } => {
                let begins = match reset {
                    ResetPolicy::Earliest => "the earliest record, so what is there is handled again",
                    ResetPolicy::Latest => "the end, so what was not handled yet is skipped",
                };
                write!(f, "the committed offset {committed} expired or was deleted: the group begins anew at {begins}")
            }
            Self::OpenTransaction { since } => write!(
                f,
                "a transaction that began at offset {since} is not ended, and consumers with isolation.level=read_committed wait for it: \
                 kafka-transactions.sh finds and aborts it"
            ),
            // Without the offset: a status would change with every transaction.
            Self::NoRecords { .. } => f.write_str(
                "from the committed offset to the end there are only markers of transactions or gaps of compaction: there is nothing to \
                 handle",
            ),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(why) => write!(f, "committed offset not readable: {why}"),
            Self::End(why) => write!(f, "end offset not readable: {why}"),
            Self::LogStart => f.write_str("nothing committed yet and the start of the log is not readable"),
            Self::OfAnotherTopic { committed } => write!(
                f,
                "the topic was created anew, and the committed offset {committed} is of the one before; reset the offsets of the group \
                 or wait for its next commit"
            ),
            Self::BeyondEnd { committed, end } => write!(
                f,
                "committed offset {committed} lies beyond the end {end}: the topic was re-created or truncated; \
                 reset the offsets of the group or wait for its next commit"
            ),
        }
    }
}

/// The lag of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLag {
    /// The offset of the next record that the group owes.
    pub position: i64,
    /// Records between `position` and the end.
    pub lag: u64,
    /// Records that retention deleted before the group committed them.
    pub lost: u64,
}

/// Judges one partition. `start` is the log start offset where it was read.
///
/// # Errors
/// [`Unknown`] with the cause; never a number that was not observed.
pub fn judge(
    committed: Option<i64>,
    start: Option<i64>,
    end: i64,
    reset: ResetPolicy,
) -> Result<PartitionLag, Unknown> {
    // Kafka says "no commit" with a negative offset.
    let (position, lost) = match committed.filter(|offset| *offset >= 0) {
        Some(committed) if committed > end => return Err(Unknown::BeyondEnd { committed, end }),
        Some(committed) => {
            let position = start.map_or(committed, |start| committed.max(start.min(end)));
            (position, position.abs_diff(committed))
        }
        // An empty log owes nothing wherever it starts.
        None if end == 0 => (0, 0),
        None => match reset {
            // Nothing before the first commit is owed: whoever joins starts at the end.
            ResetPolicy::Latest => (end, 0),
            ResetPolicy::Earliest => (start.ok_or(Unknown::LogStart)?.clamp(0, end), 0),
        },
    };
    Ok(PartitionLag { position, lag: end.abs_diff(position), lost })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ResetPolicy::{Earliest, Latest};

    #[test]
    fn every_case_has_a_name() {
        let known = |position, lag, lost| Ok(PartitionLag { position, lag, lost });
        let cases = [
            ("behind", Some(90), Some(0), 100, Earliest, known(90, 10, 0)),
            ("caught up", Some(100), None, 100, Latest, known(100, 0, 0)),
            ("no commit, from the end", None, None, 100, Latest, known(100, 0, 0)),
            ("no commit, from the start", None, Some(40), 100, Earliest, known(40, 60, 0)),
            ("no commit as Kafka says it", Some(-1), Some(40), 100, Earliest, known(40, 60, 0)),
            ("no commit, start not read", None, None, 100, Earliest, Err(Unknown::LogStart)),
            ("no commit, empty log", None, None, 0, Earliest, known(0, 0, 0)),
            ("retention ate 30", Some(10), Some(40), 100, Earliest, known(40, 60, 30)),
            ("retention ate everything", Some(10), Some(100), 100, Latest, known(100, 0, 90)),
            ("re-created", Some(900), Some(0), 10, Latest, Err(Unknown::BeyondEnd { committed: 900, end: 10 })),
        ];
        for (name, committed, start, end, reset, expected) in cases {
            assert_eq!(judge(committed, start, end, reset), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_offsets_are_judged_without_panic(
            committed in proptest::option::of(any::<i64>()),
            start in proptest::option::of(any::<i64>()),
            end in any::<i64>(),
            latest in any::<bool>(),
        ) {
            let reset = if latest { Latest } else { Earliest };
            if let (Ok(lag), true) = (judge(committed, start, end.max(0), reset), committed.is_some_and(|c| c >= 0)) {
                prop_assert!(lag.position <= end.max(0));
                prop_assert!(lag.position >= committed.unwrap_or(0), "a group never owes what it committed");
            }
        }
    }
}
