#![expect(clippy::single_range_in_vec_init, reason = "a list of runs may be of one")]

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

/// Takes in bursts of records this far apart and finishes those of which `finish` says so, until the partition has to pause.
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
        if (number + 1) % BURST == 0 && offsets.is_far_ahead() {
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
    let most = MAX_AHEAD - MAX_AHEAD % BURST;
    let one = 1..i64::try_from(most).unwrap();
    assert_eq!(fill(1, |number| number > 0), (most, Vec::from_iter([one])));
    let (alternating, _) = fill(1, |number| number % 2 == 1);
    assert!((17_000..=18_000).contains(&alternating), "{alternating}");
    let (far_apart, _) = fill(1_000, |number| number % 2 == 1);
    assert!((600..2_000).contains(&far_apart), "{far_apart}");
    // What 250 records in hand leave open at most, with room for as many as memory allows.
    assert_eq!(fill(1, |number| number % 200 > 0).0, most);
}

#[test]
fn what_librdkafka_says_of_its_position_counts_only_once_everything_below_was_read() {
    let mut offsets = Offsets::resume(Some(7), Some(topic()), Vec::new());
    offsets.pass(9);
    assert_eq!((offsets.committable(), offsets.misplaced()), (Some(9), None), "a marker");
    offsets.misplace(9);
    offsets.pass(10);
    assert_eq!(
        (offsets.committable(), offsets.misplaced()),
        (Some(9), Some(Next::At(9))),
        "the record at 9 was not read"
    );
    let sequence = offsets.accept(9);
    offsets.finish(sequence);
    offsets.pass(11);
    assert_eq!((offsets.committable(), offsets.misplaced()), (Some(11), None));

    // The log went back.
    let sequence = offsets.accept(3);
    offsets.finish(sequence);
    offsets.pass(11);
    assert_eq!((offsets.committable(), offsets.misplaced()), (Some(4), Some(Next::At(4))));
    let sequence = offsets.accept(10);
    offsets.finish(sequence);
    offsets.pass(12);
    assert_eq!((offsets.committable(), offsets.misplaced()), (Some(12), None));

    // Nothing was committed and nothing was read.
    let mut offsets = Offsets::default();
    offsets.misplace(-2);
    assert_eq!(offsets.misplaced(), Some(Next::Begin));
    offsets.misplace(5);
    assert_eq!(offsets.misplaced(), Some(Next::At(5)));
    offsets.placed();
    assert_eq!(offsets.misplaced(), None);

    // Only markers follow what could not be read.
    let mut offsets = Offsets::resume(Some(7), Some(topic()), Vec::new());
    offsets.misplace(-1);
    offsets.pass(8);
    assert_eq!(offsets.committable(), Some(7));
    offsets.pass(9);
    assert_eq!(offsets.committable(), Some(9));
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

#[test]
fn where_a_partition_begins_is_committed_before_its_first_record() {
    let mut offsets = Offsets::from(7, None);
    assert_eq!((offsets.to_commit(), offsets.map()), (Some(7), String::new()));
    offsets.sent(7);
    offsets.answered(7, true);
    assert_eq!((offsets.to_commit(), offsets.unconfirmed()), (None, None));
    assert!(!offsets.goes_back(7));
    let sequence = offsets.accept(7);
    offsets.finish(sequence);
    assert_eq!(offsets.to_commit(), Some(8));
}

#[test]
fn a_commit_that_was_sent_again_after_a_later_one_is_made_good() {
    let mut offsets = Offsets::resume(Some(0), None, vec![]);
    for offset in 0..2 {
        let sequence = offsets.accept(offset);
        offsets.finish(sequence);
        offsets.sent(offset + 1);
    }
    offsets.answered(2, true);
    assert_eq!(offsets.to_commit(), None);
    offsets.answered(1, true);
    assert_eq!((offsets.to_commit(), offsets.is_committed(2)), (Some(2), false));
    offsets.sent(2);
    offsets.answered(2, true);
    assert_eq!((offsets.to_commit(), offsets.is_committed(2)), (None, true));
}
