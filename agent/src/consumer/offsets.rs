//! Which offset of an assigned partition may be committed: the end of the contiguous finished prefix, nothing beyond it.

use std::collections::VecDeque;

/// The number of an accepted record in its assignment, ascending from 0. Offsets cannot take its place: a log that goes back gives
/// the same ones again, to other records.
pub(super) type Sequence = u64;

/// The records of one partition during one assignment. A partition that comes back after a revocation gets a new one, so that a
/// handler that outlived the old assignment cannot finish anything in the new one.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    /// Accepted and not yet part of the prefix, in the order of acceptance and without gaps.
    pending: VecDeque<Pending>,
    /// The sequence of the first pending record.
    first: Sequence,
    /// The offset that was accepted last.
    last: Option<i64>,
    /// The highest record that a handler has begun.
    begun: Option<Sequence>,
    /// What may be committed: everything below it is finished.
    committable: Option<i64>,
    /// What the broker last confirmed.
    committed: Option<i64>,
    /// What was last sent to the broker.
    sent: Option<i64>,
}

#[derive(Debug)]
struct Pending {
    /// What may be committed when this record and all before it are finished.
    next: i64,
    finished: bool,
}

impl Offsets {
    /// Whether a record at this offset says that the log went back: its topic was created anew, or it lost its end. librdkafka
    /// itself drops what was fetched before a pause or a revocation, so nothing else comes at or below the last offset.
    pub(crate) fn goes_back(&self, offset: i64) -> bool {
        self.last.is_some_and(|last| offset <= last)
    }

    /// Takes a record in. Where the log went back it is another record than the one that had this offset before. What is still
    /// pending is finished first, but commits nothing beyond the new position: those offsets belong to other records now.
    pub(crate) fn accept(&mut self, offset: i64) -> Sequence {
        if self.goes_back(offset) {
            for pending in &mut self.pending {
                pending.next = pending.next.min(offset);
            }
            // Sent again: the group must not point behind the end of the log.
            self.committable = self.committable.map(|committable| committable.min(offset));
            self.committed = None;
            self.sent = None;
        }
        self.last = Some(offset);
        self.pending.push_back(Pending { next: offset + 1, finished: false });
        self.first + self.pending.len() as Sequence - 1
    }

    /// A handler began the record.
    pub(crate) fn begin(&mut self, sequence: Sequence) {
        self.begun = self.begun.max(Some(sequence));
    }

    /// Whether dropping this waiting record leaves no gap below a record that was begun: it will be read again, as the first after
    /// the committed prefix, and nothing is handled twice because of it.
    pub(crate) fn may_drop(&self, sequence: Sequence) -> bool {
        self.begun.is_none_or(|begun| sequence > begun)
    }

    /// The record was handled, or is safe in the dead-letter topic.
    pub(crate) fn finish(&mut self, sequence: Sequence) {
        let index = sequence.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) {
            pending.finished = true;
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.finished) {
            self.committable = Some(pending.next);
            self.first += 1;
        }
    }

    /// How many records were accepted from the first unfinished one on.
    pub(crate) fn ahead(&self) -> usize {
        self.pending.len()
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
        // Sent before the log went back: it says nothing about the records that have those offsets now.
        if self.committable.is_none_or(|committable| offset > committable) {
            return;
        }
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

    /// The first offset that is not finished. `None`: nothing was read yet.
    pub(crate) fn unfinished(&self) -> Option<i64> {
        self.committable.or_else(|| self.pending.front().map(|pending| pending.next - 1))
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
        let [three, four, nine] = [3, 4, 9].map(|offset| offsets.accept(offset));
        offsets.finish(nine);
        assert_eq!(offsets.to_commit(), None);
        offsets.finish(three);
        assert_eq!(offsets.to_commit(), Some(4));
        offsets.finish(four);
        assert_eq!(offsets.to_commit(), Some(10));
    }

    #[test]
    fn a_refused_commit_is_sent_again() {
        let mut offsets = Offsets::default();
        let record = offsets.accept(0);
        offsets.finish(record);
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
    fn after_a_topic_was_created_anew_its_records_are_handled_and_committed() {
        let mut offsets = Offsets::default();
        let [old, running] = [100, 101].map(|offset| offsets.accept(offset));
        offsets.finish(old);
        offsets.sent(101);
        assert!(!offsets.goes_back(102) && offsets.goes_back(101) && offsets.goes_back(0));
        let new = offsets.accept(0);
        assert_eq!(offsets.to_commit(), Some(0), "the group points behind the end of the log");
        offsets.sent(0);
        offsets.answered(101, true);
        assert!(!offsets.is_committed(0), "the answer is about the old topic");
        offsets.finish(new);
        assert_eq!(offsets.committable(), Some(0), "a record of the old topic is still being handled");
        offsets.finish(running);
        assert_eq!(offsets.to_commit(), Some(1));
    }

    #[test]
    fn a_log_that_lost_its_end_does_not_lose_what_it_kept() {
        let mut offsets = Offsets::default();
        let kept: Vec<_> = (5..8).map(|offset| offsets.accept(offset)).collect();
        let new = offsets.accept(7);
        offsets.finish(new);
        offsets.finish(kept[2]);
        offsets.finish(kept[0]);
        assert_eq!(offsets.to_commit(), Some(6), "6 is in the log and not handled yet");
        offsets.finish(kept[1]);
        assert_eq!(offsets.to_commit(), Some(8));
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
                accepted.push((next, offsets.accept(next)));
            }
            let mut order = accepted.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            let mut unfinished: std::collections::BTreeSet<i64> = accepted.iter().map(|(offset, _)| *offset).collect();
            for (offset, sequence) in order {
                offsets.finish(sequence);
                unfinished.remove(&offset);
                let committable = offsets.committable().unwrap_or(0);
                prop_assert!(unfinished.first().is_none_or(|first| *first >= committable));
                prop_assert!(unfinished.first().is_none_or(|first| accepted.iter().all(|(o, _)| *o >= *first || *o < committable)));
            }
            prop_assert_eq!(offsets.committable(), Some(next + 1));
        }
    }
}
