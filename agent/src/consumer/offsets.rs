//! Which offset of an assigned partition may be committed: the end of the contiguous finished prefix, nothing beyond it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;

use mq_kafka::TopicId;

use super::finished::{self, Before};
use super::intake::BURST;

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
    /// An offset that was not read although librdkafka takes it for read: see [`Offsets::misplace`]. Negative: not even the first was.
    misplaced: Option<i64>,
}

/// Where to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    At(i64),
    /// Where `auto.offset.reset` says.
    Begin,
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

    /// For a partition of which the group has committed nothing and reads from here on. That is committed too: a partition that moves
    /// before its first record would begin elsewhere.
    pub(crate) fn from(offset: i64, topic: Option<TopicId>) -> Self {
        Self { last: Some(offset - 1), committable: Some(offset), topic, ..Self::default() }
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
            self.misplaced = self.misplaced.max(self.last);
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

    /// The record at this offset could not be read, and librdkafka takes itself from now on for being behind it. So it does after a log went
    /// back, until it has read as far as before. A negative offset: it could not be found out where to begin.
    pub(crate) fn misplace(&mut self, offset: i64) {
        let offset = match self.last {
            Some(last) if offset < 0 => last + 1,
            _ => offset.max(-1),
        };
        self.misplaced = self.misplaced.max(Some(offset));
    }

    /// librdkafka was told where it is.
    pub(crate) fn placed(&mut self) {
        self.misplaced = None;
    }

    /// Where it has to be read next, if librdkafka takes itself for being further.
    pub(crate) fn misplaced(&self) -> Option<Next> {
        let behind = self.misplaced.filter(|offset| self.last.is_none_or(|last| last < *offset))?;
        Some(match self.last {
            Some(last) => Next::At(last + 1),
            None if behind >= 0 => Next::At(behind),
            None => Next::Begin,
        })
    }

    /// There is nothing to handle below this offset: what was read last was a marker of a transaction.
    pub(crate) fn pass(&mut self, next: i64) {
        // Further than any mistake: everything below was read.
        if self.misplaced.is_some_and(|behind| next <= behind + 1) && self.misplaced().is_some() {
            return;
        }
        if self.pending.is_empty() && self.committable.is_some_and(|committable| committable < next) {
            self.committable = Some(next);
            self.last = Some(next - 1);
        }
    }

    /// Whether nothing is pending.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether one burst more is too many: for the memory that the pending ones take, or for the map, which must have room for whatever
    /// becomes of those in hand.
    pub(crate) fn is_far_ahead(&self) -> bool {
        !self.pending.is_empty() && (self.pending.len() + BURST > MAX_AHEAD || !self.fits(BURST, 1))
    }

    /// Whether there is room for as many again.
    pub(crate) fn is_near_again(&self) -> bool {
        self.pending.is_empty() || (self.pending.len() <= MAX_AHEAD / 2 && self.fits(BURST, 2))
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

    /// The broker answered the commit of this offset. After a refusal the next commit takes the prefix along again, and after a success that
    /// lies behind another one too: librdkafka sent an earlier commit again, and the group's offset went back with it.
    pub(crate) fn answered(&mut self, offset: i64, committed: bool) {
        // Sent before the log went back: it says nothing about the records that have those offsets now.
        if self.prefix().is_none_or(|prefix| offset > prefix) {
            return;
        }
        if !committed {
            self.sent = self.committed;
        } else if let Some(sent) = self.sent.filter(|sent| sent.offset == offset) {
            self.committed = Some(sent);
        } else {
            let went_back = self.committed.is_some_and(|committed| committed.offset > offset);
            self.committed = Some(Commit { offset, finished: 0 });
            if went_back {
                self.sent = self.committed;
            }
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
