//! Which offset of an assigned partition may be committed: the end of the contiguous finished prefix, nothing beyond it.

use std::collections::VecDeque;
use std::ops::Range;

use mq_kafka::TopicId;

use super::finished::{self, Before};

/// The number of an accepted record in its assignment, ascending from 0. Offsets cannot take its place: a log that goes back gives
/// the same ones again, to other records.
pub(super) type Sequence = u64;

/// How many records of one partition are accepted from the first unfinished one on: memory that a record nobody can finish would let
/// grow for ever.
const MAX_AHEAD: usize = 50_000;

/// The records of one partition during one assignment. A partition that comes back after a revocation gets a new one, so that a
/// handler that outlived the old assignment cannot finish anything in the new one.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    /// Accepted and not yet part of the prefix, in the order of acceptance and without gaps.
    pending: VecDeque<Pending>,
    /// How many of them are not finished.
    unfinished: usize,
    /// The sequence of the first pending record.
    first: Sequence,
    /// The offset that was accepted last.
    last: Option<i64>,
    /// The highest record that a handler has begun.
    begun: Option<Sequence>,
    /// What may be committed: everything below it is finished.
    committable: Option<i64>,
    /// What the broker last confirmed.
    committed: Option<Commit>,
    /// What was last sent to the broker.
    sent: Option<Commit>,
    /// How many records were finished.
    finished: u64,
    /// The topic whose log this is. `None`: it is not known, and what is finished beyond the prefix is not written down.
    topic: Option<TopicId>,
    before: Before,
}

#[derive(Debug)]
struct Pending {
    /// What may be committed when this record and all before it are finished.
    next: i64,
    finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Commit {
    offset: i64,
    /// The count of finished records that it tells.
    finished: u64,
}

impl Offsets {
    /// What the group has committed for the partition, and what it has finished beyond that.
    pub(crate) fn resume(committed: Option<i64>, topic: Option<TopicId>, finished: Vec<Range<i64>>) -> Self {
        let commit = committed.map(|offset| Commit { offset, finished: 0 });
        Self {
            last: committed.map(|offset| offset - 1),
            committable: committed,
            committed: commit,
            sent: commit,
            topic,
            before: Before::new(finished),
            ..Self::default()
        }
    }

    /// For reading the same log from elsewhere: what was finished before can come again, and is handled again.
    pub(crate) fn elsewhere(&self) -> Self {
        Self { topic: self.topic, ..Self::default() }
    }

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
            self.before = Before::default();
            // It may be another one, and what is pending has lost its place. The next assignment asks again.
            self.topic = None;
        }
        self.last = Some(offset);
        self.pending.push_back(Pending { next: offset + 1, finished: false });
        self.unfinished += 1;
        self.first + self.pending.len() as Sequence - 1
    }

    /// Whether the record to be accepted next was finished by an earlier assignment.
    pub(crate) fn was_finished(&mut self, offset: i64) -> bool {
        !self.goes_back(offset) && self.before.take(offset)
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
        if let Some(pending) = index.and_then(|index| self.pending.get_mut(index)).filter(|pending| !pending.finished) {
            pending.finished = true;
            self.unfinished -= 1;
            self.finished += 1;
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.finished) {
            self.committable = Some(pending.next);
            self.first += 1;
        }
    }

    /// There is nothing to handle below this offset: what was read last was a marker of a transaction.
    pub(crate) fn pass(&mut self, next: i64) {
        if self.pending.is_empty() && self.committable.is_some_and(|committable| committable < next) {
            self.committable = Some(next);
            self.last = Some(next - 1);
        }
    }

    /// Whether nothing is pending.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether one record more is too many: for the memory that the pending ones take, or for the map, which must have room for
    /// whatever becomes of those in hand.
    pub(crate) fn is_far_ahead(&self) -> bool {
        !self.pending.is_empty() && (self.pending.len() >= MAX_AHEAD || !self.fits(1, 1))
    }

    /// How many records more are not too many, if there are no gaps between them. Where nothing is pending one is never too many.
    pub(crate) fn room(&self) -> usize {
        let mut room = MAX_AHEAD.saturating_sub(self.pending.len());
        while room > 0 && !self.fits(room, 1) {
            room /= 2;
        }
        room.max(usize::from(self.pending.is_empty()))
    }

    /// Whether there is room for as many again.
    pub(crate) fn is_near_again(&self) -> bool {
        self.pending.is_empty() || (self.pending.len() <= MAX_AHEAD / 2 && self.fits(1, 2))
    }

    /// Whether the map has room for whatever becomes of those in hand and so many more.
    fn fits(&self, more: usize, share: usize) -> bool {
        let Some((prefix, _)) = self.prefix().zip(self.topic) else { return true };
        let read = self.last.map_or(prefix, |last| last.saturating_add(1 + i64::try_from(more).unwrap_or(i64::MAX)));
        let end = self.before.end().unwrap_or(read).max(read);
        finished::fits(self.unfinished + more + self.before.len(), end - prefix, share)
    }

    /// The offset to commit, if the broker was not sent it yet, or not what is finished beyond it.
    pub(crate) fn to_commit(&self) -> Option<i64> {
        let further = self.committable.filter(|offset| self.sent.is_none_or(|sent| sent.offset < *offset));
        // One at a time: an answer does not say which map it is about.
        further.or_else(|| self.unconfirmed_map().filter(|_| self.sent == self.committed))
    }

    /// The offset that the broker has not confirmed yet, or not with what is finished beyond it, sent or not.
    pub(crate) fn unconfirmed(&self) -> Option<i64> {
        self.committable.filter(|offset| !self.is_committed(*offset)).or_else(|| self.unconfirmed_map())
    }

    fn unconfirmed_map(&self) -> Option<i64> {
        let some = self.topic.is_some() && self.unfinished < self.pending.len();
        let told = self.committed.is_some_and(|committed| committed.finished == self.finished);
        self.prefix().filter(|_| some && !told)
    }

    /// The metadata for a commit now: what is finished beyond the prefix.
    pub(crate) fn map(&self) -> String {
        let Some((prefix, topic)) = self.prefix().zip(self.topic) else { return String::new() };
        let read = self.last.map_or(prefix, |last| last + 1);
        let mut runs: Vec<Range<i64>> = Vec::new();
        // What lies between two records in the log is no record: a run goes on across it.
        let mut joins = false;
        for pending in &self.pending {
            match runs.last_mut() {
                Some(run) if joins && pending.finished => run.end = pending.next,
                _ if pending.finished => runs.push(pending.next - 1..pending.next),
                _ => {}
            }
            joins = pending.finished;
        }
        for run in self.before.runs(read) {
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        finished::encode(topic, prefix, &runs)
    }

    /// The broker does not take the map.
    pub(crate) fn without_map(&mut self) {
        self.topic = None;
    }

    /// The offset went to the broker, with the map.
    pub(crate) fn sent(&mut self, offset: i64) {
        let offset = self.sent.map_or(offset, |sent| sent.offset.max(offset));
        self.sent = Some(Commit { offset, finished: self.finished });
    }

    /// The broker answered the commit of this offset. After a refusal the next commit takes the prefix along again.
    pub(crate) fn answered(&mut self, offset: i64, committed: bool) {
        // Sent before the log went back: it says nothing about the records that have those offsets now.
        if self.prefix().is_none_or(|prefix| offset > prefix) {
            return;
        }
        if !committed {
            self.sent = self.committed;
        } else if let Some(sent) = self.sent.filter(|sent| sent.offset == offset) {
            self.committed = Some(sent);
        } else if !self.is_committed(offset) {
            self.committed = Some(Commit { offset, finished: 0 });
        }
    }

    /// Whether the broker confirmed everything below `offset`.
    pub(crate) fn is_committed(&self, offset: i64) -> bool {
        self.committed.is_some_and(|committed| committed.offset >= offset)
    }

    /// The first offset that is not finished. `None`: nothing was read yet.
    pub(crate) fn prefix(&self) -> Option<i64> {
        self.committable.or_else(|| self.pending.front().map(|pending| pending.next - 1))
    }

    /// The end of the finished prefix, sent or not.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.committable
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of runs may be of one")]
mod tests {
    use std::collections::BTreeSet;

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

    fn topic() -> TopicId {
        "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap()
    }

    fn commit(offsets: &mut Offsets, answer: bool) -> Option<(i64, String)> {
        let offset = offsets.to_commit()?;
        let map = offsets.map();
        offsets.sent(offset);
        offsets.answered(offset, answer);
        Some((offset, map))
    }

    #[test]
    fn what_is_finished_beyond_a_record_that_does_not_end_is_committed_as_it_grows() {
        let mut offsets = Offsets::resume(None, Some(topic()), Vec::new());
        let records: Vec<_> = (5..9).map(|offset| offsets.accept(offset)).collect();
        assert_eq!(commit(&mut offsets, true), None);
        offsets.finish(records[1]);
        let map = |runs: &[Range<i64>]| finished::encode(topic(), 5, runs);
        assert_eq!(commit(&mut offsets, false), Some((5, map(&[6..7]))));
        assert_eq!(offsets.to_commit(), Some(5), "it was refused");
        offsets.sent(5);
        offsets.finish(records[3]);
        assert_eq!(offsets.to_commit(), None, "the answer would not say which map it is about");
        assert_eq!(offsets.unconfirmed(), Some(5));
        offsets.answered(5, true);
        assert_eq!(commit(&mut offsets, true), Some((5, map(&[6..7, 8..9]))));
        assert_eq!((offsets.to_commit(), offsets.unconfirmed()), (None, None));
        offsets.finish(records[0]);
        offsets.finish(records[2]);
        assert_eq!(commit(&mut offsets, true), Some((9, String::new())));
    }

    #[test]
    fn a_map_says_nothing_about_a_log_that_went_back() {
        let mut offsets = Offsets::resume(Some(100), Some(topic()), vec![105..110, 200..300]);
        let stuck = offsets.accept(100);
        assert!(!offsets.was_finished(104) && offsets.was_finished(105));
        offsets.accept(3);
        assert!(!offsets.was_finished(105) && !offsets.was_finished(200));
        let new = offsets.accept(4);
        offsets.finish(new);
        offsets.finish(stuck);
        assert_eq!((offsets.to_commit(), offsets.map()), (Some(3), String::new()));
    }

    #[test]
    fn the_prefix_may_reach_what_was_finished_before_and_is_not_read_yet() {
        let mut offsets = Offsets::resume(Some(100), Some(topic()), vec![101..110, 120..121]);
        let record = offsets.accept(100);
        offsets.finish(record);
        assert_eq!(commit(&mut offsets, true), Some((101, finished::encode(topic(), 101, &[101..110, 120..121]))));
    }

    #[test]
    fn a_seek_handles_again_what_was_finished() {
        let offsets = Offsets::resume(Some(100), Some(topic()), vec![105..110]);
        let mut offsets = offsets.elsewhere();
        assert!(!offsets.was_finished(105));
        offsets.accept(105);
        let next = offsets.accept(106);
        offsets.finish(next);
        assert_eq!(commit(&mut offsets, true), Some((105, finished::encode(topic(), 105, &[106..107]))));
    }

    #[test]
    fn a_marker_is_passed_when_everything_before_it_is_finished() {
        let mut offsets = Offsets::resume(Some(4), Some(topic()), Vec::new());
        let record = offsets.accept(4);
        offsets.pass(6);
        assert_eq!(offsets.to_commit(), None);
        offsets.finish(record);
        offsets.pass(6);
        assert_eq!(offsets.to_commit(), Some(6));
        assert!(!offsets.goes_back(6));
        let mut nothing = Offsets::default();
        nothing.pass(6);
        assert_eq!(nothing.to_commit(), None, "where reading began is not known");
    }

    /// Takes in records this far apart and finishes those of which `finish` says so, until the partition has to pause.
    fn fill(apart: i64, finish: impl Fn(usize) -> bool) -> (usize, Vec<Range<i64>>) {
        let mut offsets = Offsets::resume(Some(0), Some(topic()), Vec::new());
        let mut runs = Vec::new();
        for number in 0.. {
            let offset = i64::try_from(number).unwrap() * apart;
            let sequence = offsets.accept(offset);
            if finish(number) {
                offsets.finish(sequence);
                runs.push(offset..offset + 1);
            }
            if offsets.is_far_ahead() {
                break;
            }
        }
        assert!(!offsets.is_near_again());
        let read = finished::decode(topic(), 0, offsets.map().as_bytes()).unwrap();
        let missing = runs.iter().find(|run| !read.iter().any(|read| read.start <= run.start && run.end <= read.end));
        assert_eq!(missing, None, "every finished record is in the map");
        (offsets.pending.len(), read)
    }

    #[test]
    fn a_partition_pauses_before_its_map_is_full() {
        let one = 1..i64::try_from(MAX_AHEAD).unwrap();
        assert_eq!(fill(1, |number| number > 0), (MAX_AHEAD, Vec::from_iter([one])));
        let (alternating, _) = fill(1, |number| number % 2 == 1);
        assert!((17_000..=18_000).contains(&alternating), "{alternating}");
        let (far_apart, _) = fill(1_000, |number| number % 2 == 1);
        assert!((900..2_000).contains(&far_apart), "{far_apart}");
        // What 500 records in hand leave open at most, with room for as many as memory allows.
        assert_eq!(fill(1, |number| number % 100 > 0).0, MAX_AHEAD);
    }

    #[test]
    fn a_gap_behind_a_full_map_costs_one_record() {
        let mut offsets = Offsets::resume(Some(0), Some(topic()), Vec::new());
        let mut next = 0;
        while !offsets.is_far_ahead() {
            let sequence = offsets.accept(next);
            if next % 2 == 1 {
                offsets.finish(sequence);
            }
            next += 1;
        }
        let before = finished::decode(topic(), 0, offsets.map().as_bytes()).unwrap();
        let beyond = offsets.accept(next + (1 << 30));
        offsets.finish(beyond);
        let after = finished::decode(topic(), 0, offsets.map().as_bytes()).unwrap();
        let within = |run: &Range<i64>| after.iter().any(|kept| kept.start <= run.start && run.end <= kept.end);
        assert!(before.iter().all(within), "what was in the map stays");
        assert!(offsets.is_far_ahead());
        for sequence in 0..beyond {
            offsets.finish(sequence);
        }
        assert!(offsets.is_near_again() && !offsets.is_far_ahead());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Read(u8),
        Finish(u16),
        Commit,
        Refuse,
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (1_u8..8).prop_map(Step::Read),
            8 => any::<u16>().prop_map(Step::Finish),
            2 => Just(Step::Commit),
            1 => Just(Step::Refuse),
            1 => Just(Step::Crash),
        ]
    }

    /// One partition, its group's commit, and one member after another.
    #[derive(Debug)]
    struct Story {
        log: Vec<i64>,
        broker: Option<(i64, String)>,
        offsets: Offsets,
        next: usize,
        in_hand: Vec<(i64, Sequence)>,
        handled: BTreeSet<i64>,
        /// What this member and those before it finished, as far as this one knows.
        known: BTreeSet<i64>,
        /// The same at the last commit that the broker confirmed.
        told: BTreeSet<i64>,
    }

    impl Story {
        fn new(gaps: &[i64]) -> Self {
            let log = gaps.iter().scan(0, |at, gap| {
                *at += gap;
                Some(*at)
            });
            let offsets = Offsets::resume(None, Some(topic()), Vec::new());
            let (handled, known, told) = Default::default();
            Self { log: log.collect(), broker: None, offsets, next: 0, in_hand: Vec::new(), handled, known, told }
        }

        fn crash(&mut self) {
            let committed = self.broker.as_ref().map(|(offset, _)| *offset);
            let map = self.broker.as_ref().and_then(|(offset, map)| finished::decode(topic(), *offset, map.as_bytes()));
            self.offsets = Offsets::resume(committed, Some(topic()), map.unwrap_or_default());
            self.next = self.log.partition_point(|offset| *offset < committed.unwrap_or(0));
            self.in_hand.clear();
            self.known.clone_from(&self.told);
        }

        fn read(&mut self) -> Result<(), TestCaseError> {
            let Some(offset) = self.log.get(self.next) else { return Ok(()) };
            self.next += 1;
            let was_finished = self.offsets.was_finished(*offset);
            let sequence = self.offsets.accept(*offset);
            if was_finished {
                prop_assert!(self.handled.contains(offset), "{offset} was skipped");
                self.offsets.finish(sequence);
            } else {
                prop_assert!(!self.told.contains(offset), "{offset} is handled again");
                self.in_hand.push((*offset, sequence));
            }
            Ok(())
        }

        fn finish(&mut self, which: usize) {
            if !self.in_hand.is_empty() {
                let (offset, sequence) = self.in_hand.remove(which % self.in_hand.len());
                self.offsets.finish(sequence);
                self.handled.insert(offset);
                self.known.insert(offset);
            }
        }

        fn commit(&mut self) -> Result<(), TestCaseError> {
            if let Some((offset, map)) = commit(&mut self.offsets, true) {
                prop_assert!(self.log.iter().all(|at| *at >= offset || self.handled.contains(at)));
                self.broker = Some((offset, map));
            }
            prop_assert_eq!(self.offsets.unconfirmed(), None);
            self.told.clone_from(&self.known);
            Ok(())
        }
    }

    proptest! {
        /// Whatever the order in which handlers end, commits go and members die: nothing is skipped that was not handled, and nothing
        /// is handled again that was before a commit, be it beyond the committed offset.
        #[test]
        fn a_crash_repeats_only_what_was_not_committed(
            gaps in prop::collection::vec(prop_oneof![6 => Just(1_i64), 1 => 2_i64..5, 1 => 1_i64..1 << 40], 1..60),
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut story = Story::new(&gaps);
            for step in steps {
                match step {
                    Step::Read(records) => for _ in 0..records {
                        story.read()?;
                    },
                    Step::Finish(which) => story.finish(which.into()),
                    Step::Commit => story.commit()?,
                    Step::Refuse => drop(commit(&mut story.offsets, false)),
                    Step::Crash => story.crash(),
                }
            }
            for _ in 0..story.log.len() {
                story.read()?;
            }
            while !story.in_hand.is_empty() {
                story.finish(0);
            }
            story.commit()?;
            prop_assert_eq!(story.handled.len(), story.log.len());
            prop_assert_eq!(story.broker, Some((story.log.last().unwrap() + 1, String::new())));
        }

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
