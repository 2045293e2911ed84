//! Which offset of an assigned partition may be committed: the end of the contiguous finished prefix, nothing beyond it.

use std::collections::VecDeque;

/// The records of one partition during one assignment. A partition that comes back after a revocation gets a new one, so that a
/// handler that outlived the old assignment cannot finish anything in the new one.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    /// Accepted and not yet part of the prefix, ascending.
    pending: VecDeque<Pending>,
    /// The highest accepted offset.
    last: Option<i64>,
    /// The highest offset whose record a handler has begun.
    begun: Option<i64>,
    /// What may be committed: everything below it is finished.
    committable: Option<i64>,
    /// What the broker last confirmed.
    committed: Option<i64>,
    /// What was last sent to the broker.
    sent: Option<i64>,
}

#[derive(Debug)]
struct Pending {
    offset: i64,
    finished: bool,
}

impl Offsets {
    /// Takes a record in. False: this assignment has seen it (a fetch position that went back), so it must not be handled again.
    pub(crate) fn accept(&mut self, offset: i64) -> bool {
        if self.last.is_some_and(|last| offset <= last) {
            return false;
        }
        self.last = Some(offset);
        self.pending.push_back(Pending { offset, finished: false });
        true
    }

    /// A handler began the record.
    pub(crate) fn begin(&mut self, offset: i64) {
        self.begun = self.begun.max(Some(offset));
    }

    /// Whether dropping this waiting record leaves no gap below a record that was begun: it will be read again, as the first after
    /// the committed prefix, and nothing is handled twice because of it.
    pub(crate) fn may_drop(&self, offset: i64) -> bool {
        self.begun.is_none_or(|begun| offset > begun)
    }

    /// The record was handled, or is safe in the dead-letter topic.
    pub(crate) fn finish(&mut self, offset: i64) {
        if let Ok(index) = self.pending.binary_search_by_key(&offset, |pending| pending.offset) {
            self.pending[index].finished = true;
        }
        while let Some(first) = self.pending.front().filter(|first| first.finished) {
            self.committable = Some(first.offset + 1);
            self.pending.pop_front();
        }
    }

    /// The offset to commit, if the broker was not sent it yet.
    pub(crate) fn to_commit(&self) -> Option<i64> {
        self.committable.filter(|offset| self.sent.is_none_or(|sent| sent < *offset))
    }

    /// The offset that the broker has not confirmed yet, sent or not.
    pub(crate) fn unconfirmed(&self) -> Option<i64> {
        self.committable.filter(|offset| !self.is_committed(*offset))
    }

    /// The offset went to the broker.
    pub(crate) fn sent(&mut self, offset: i64) {
        self.sent = self.sent.max(Some(offset));
    }

    /// The broker answered the commit of this offset. After a refusal the next commit takes the prefix along again.
    pub(crate) fn answered(&mut self, offset: i64, committed: bool) {
        if committed {
            self.committed = self.committed.max(Some(offset));
        } else {
            self.sent = self.committed;
        }
    }

    /// Whether the broker confirmed everything below `offset`.
    pub(crate) fn is_committed(&self, offset: i64) -> bool {
        self.committed.is_some_and(|committed| committed >= offset)
    }

    /// The end of the finished prefix, sent or not.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.committable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gap_in_the_log_does_not_hold_the_prefix() {
        let mut offsets = Offsets::default();
        for offset in [3, 4, 9] {
            assert!(offsets.accept(offset));
        }
        offsets.finish(9);
        assert_eq!(offsets.to_commit(), None);
        offsets.finish(3);
        assert_eq!(offsets.to_commit(), Some(4));
        offsets.finish(4);
        assert_eq!(offsets.to_commit(), Some(10));
    }

    #[test]
    fn a_refused_commit_is_sent_again() {
        let mut offsets = Offsets::default();
        offsets.accept(0);
        offsets.finish(0);
        offsets.sent(1);
        assert_eq!(offsets.to_commit(), None);
        offsets.answered(1, false);
        assert_eq!(offsets.to_commit(), Some(1));
        offsets.sent(1);
        offsets.answered(1, true);
        assert_eq!(offsets.to_commit(), None);
        assert!(offsets.is_committed(1));
    }

    #[test]
    fn a_record_is_accepted_once() {
        let mut offsets = Offsets::default();
        assert!(offsets.accept(7));
        assert!(!offsets.accept(7));
        assert!(!offsets.accept(6));
    }

    proptest! {
        /// Whatever the order in which handlers end: nothing unfinished is ever below the committable offset, and in the end
        /// everything is committable.
        #[test]
        fn only_the_contiguous_prefix(gaps in prop::collection::vec(1_i64..4, 1..60), seed: u64) {
            let mut offsets = Offsets::default();
            let mut next = 10;
            let mut accepted = Vec::new();
            for gap in gaps {
                next += gap;
                prop_assert!(offsets.accept(next));
                accepted.push(next);
            }
            let mut order = accepted.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            let mut unfinished: std::collections::BTreeSet<i64> = accepted.iter().copied().collect();
            for offset in order {
                offsets.finish(offset);
                unfinished.remove(&offset);
                let committable = offsets.committable().unwrap_or(0);
                prop_assert!(unfinished.first().is_none_or(|first| *first >= committable));
                prop_assert!(unfinished.first().is_none_or(|first| accepted.iter().all(|o| *o >= *first || *o < committable)));
            }
            prop_assert_eq!(offsets.committable(), Some(next + 1));
        }
    }
}
