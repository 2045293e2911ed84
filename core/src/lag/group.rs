//! The lag of one group, cycle by cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::partition::{PartitionLag, ResetPolicy, Unknown, judge};
use super::ring::{EndRing, Past};

/// Commits that move a partition this many times faster than in its last cycles are a jump: an offset reset, or a log whose start
/// moved under the group. Work that really became so fast is counted from the next cycle on.
const JUMP: f64 = 10.0;
/// Messages per second of one partition that are never called a jump: an idle partition wakes up.
const NEVER_A_JUMP: f64 = 1_000.0;
/// A partition in which something waits and nothing is committed for so long, and for four times the promised age, is stuck. Handlers
/// may take as long as a member may go without a poll.
const STUCK: Duration = Duration::from_mins(5);
/// Cycles over which the usual arrival of a partition is averaged: with fewer, chance alone would make one of many slow partitions hot.
const USUAL: u32 = 12;
/// Cycles that one is compared with. Several, because a group may commit less often than it is looked at.
const RECENT: usize = 3;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Kafka name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
}

/// What one cycle read about a partition. The committed offset must have been read before the end, or a busy group would
/// seem to be ahead of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which partition.
    pub of: TopicPartition,
    /// Committed offset; none = nothing committed; an error in the words of whoever refused.
    pub committed: Result<Option<i64>, String>,
    /// Offset after the last record (read-uncommitted).
    pub end: Result<i64, String>,
    /// First offset that retention left, where it was read.
    pub start: Option<i64>,
}

/// How a group is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Age beyond which a message is late; none: late messages are not counted.
    pub age: Option<Duration>,
    /// Where the group starts without a commit.
    pub reset: ResetPolicy,
    /// How often its members commit.
    pub commit_interval: Duration,
}

/// Messages that arrived longer ago than the objective and are not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Late {
    /// How many.
    pub messages: u64,
    /// The watch is younger than the objective: what it found at its start is counted as late, although it may be younger.
    pub estimated: bool,
}

/// The lag of a group at one moment. Sums cover the known partitions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupLag {
    /// Partitions looked at, known or not.
    pub partitions: u32,
    /// The partitions whose lag cannot be told, with the cause.
    pub unknown: BTreeMap<TopicPartition, Unknown>,
    /// Messages between committed and end.
    pub outstanding: u64,
    /// The part of them that is older than the objective; none without an age objective.
    pub late: Option<Late>,
    /// Messages per second that arrived since the reading before; none on the first.
    pub arrival: Option<f64>,
    /// What arrives at each partition, averaged over the last cycles: messages per second, in the order of the readings. Without
    /// partitions whose end was read less than twice.
    pub usual: Vec<f64>,
    /// Messages per second that were committed since the reading before; none on the first.
    pub throughput: Option<f64>,
    /// Every partition had uncommitted work during the whole cycle, so `throughput` is what the group can do.
    pub saturated: bool,
    /// In some partition there was work all the time for some cycles, and what waits there became more.
    pub behind: bool,
    /// Records that retention deleted before the group committed them.
    pub lost: u64,
    /// Records that the group has not committed and that retention deletes next, if it takes as many as the last time.
    pub endangered: u64,
    /// Partitions in which something waited for long and nothing was committed.
    pub stuck: BTreeSet<TopicPartition>,
}

impl GroupLag {
    /// Whether the lag of every partition is known.
    pub fn is_complete(&self) -> bool {
        self.partitions > 0 && self.unknown.is_empty()
    }

    /// Whether nothing at all is known.
    pub fn is_unknown(&self) -> bool {
        usize::try_from(self.partitions).is_ok_and(|all| self.unknown.len() >= all)
    }

    /// The first unknown partition in words, with the number of others.
    pub fn unknown_because(&self) -> Option<String> {
        let (partition, why) = self.unknown.first_key_value()?;
        let others = match self.unknown.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Some(format!("{}/{}: {why}{others}", partition.topic, partition.partition))
    }
}

#[derive(Debug, Clone)]
struct Track {
    ring: Option<EndRing>,
    end: Option<(Duration, i64)>,
    /// Mean arrival of the last cycles, and of how many.
    usual: Option<(f64, u32)>,
    committed: Option<(Duration, i64)>,
    /// Rates of the last commits, jumps among them.
    moved: VecDeque<f64>,
    /// What waited in the last cycles, as long as there was work all the time.
    waiting: VecDeque<u64>,
    /// Since when the group stands at an offset although something waits.
    stands: Option<(Duration, i64)>,
    /// The first offset that retention left, and by how many it moved the last time.
    start: Option<(i64, i64)>,
}

/// Follows the offsets of one group from cycle to cycle.
#[derive(Debug, Clone, Default)]
pub struct GroupTracker {
    age: Option<Duration>,
    tracks: BTreeMap<TopicPartition, Track>,
}

impl GroupTracker {
    /// A tracker that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the readings of one cycle, all of the group's partitions, read at `at` (monotonic time since any origin).
    ///
    /// Partitions that are not among the readings are forgotten. A changed objective starts the look back anew. An offset
    /// that went down, or time that did, gives no rate for that partition in this cycle.
    pub fn observe(&mut self, at: Duration, watch: &Watch, readings: &[Reading]) -> GroupLag {
        if self.age != watch.age {
            self.age = watch.age;
            for track in self.tracks.values_mut() {
                track.ring = watch.age.map(EndRing::new);
            }
        }
        self.tracks.retain(|of, _| readings.iter().any(|reading| reading.of == *of));

        let mut sum = GroupLag { late: watch.age.map(|_| Late::default()), ..GroupLag::default() };
        sum.saturated = !readings.is_empty();
        for reading in readings {
            let track = self.tracks.entry(reading.of.clone()).or_insert_with(|| Track {
                ring: watch.age.map(EndRing::new),
                end: None,
                usual: None,
                committed: None,
                moved: VecDeque::new(),
                waiting: VecDeque::new(),
                stands: None,
                start: None,
            });
            sum.partitions = sum.partitions.saturating_add(1);
            if let Err(why) = track.observe(at, watch, reading, &mut sum) {
                track.stands = None;
                sum.saturated = false;
                sum.unknown.insert(reading.of.clone(), why);
            }
            sum.usual.extend(track.usual.map(|(rate, _)| rate));
        }
        sum
    }
}

impl Track {
    fn observe(&mut self, at: Duration, watch: &Watch, reading: &Reading, sum: &mut GroupLag) -> Result<(), Unknown> {
        // The end counts as arrival even where the committed offset is not readable.
        let end = *reading.end.as_ref().map_err(|why| Unknown::End(why.clone()))?;
        let before = self.end.replace((at, end));
        if let Some(rate) = rate(before, at, end) {
            *sum.arrival.get_or_insert(0.0) += rate;
            let (mean, cycles) = self.usual.unwrap_or_default();
            let cycles = (cycles + 1).min(USUAL);
            self.usual = Some((mean + (rate - mean) / f64::from(cycles), cycles));
        }
        if let Some(ring) = &mut self.ring {
            ring.push(at, end);
        }

        let committed = *reading.committed.as_ref().map_err(|why| Unknown::Committed(why.clone()))?;
        let lag = judge(committed, reading.start, end, watch.reset)?;
        sum.outstanding = sum.outstanding.saturating_add(lag.lag);
        sum.lost = sum.lost.saturating_add(lag.lost);
        self.count_late(at, watch, lag, end, sum);
        self.count_endangered(reading.start, lag, sum);
        if self.stuck(at, watch, lag) {
            sum.stuck.insert(reading.of.clone());
        }

        // Progress is counted from commits only: a jump over lost records is nobody's work.
        let committed = committed.filter(|offset| *offset >= 0);
        let progress = committed.and_then(|now| self.progress(at, now, reading.start));
        if let Some(rate) = progress {
            *sum.throughput.get_or_insert(0.0) += rate;
        }
        self.committed = committed.map(|offset| (at, offset));
        let had_work = had_work(before, committed, progress, watch.commit_interval);
        sum.saturated &= had_work;
        if !had_work {
            self.waiting.clear();
        } else if self.waiting.len() == RECENT {
            self.waiting.pop_front();
        }
        self.waiting.push_back(lag.lag);
        sum.behind |= self.waiting.len() == RECENT && self.waiting.front() < self.waiting.back();
        Ok(())
    }

    /// Messages per second that were handled since the commit before. Records below the log start were not; and because the start
    /// may have moved since it was read, and offsets can be reset by hand, a jump gives no rate at all.
    fn progress(&mut self, at: Duration, now: i64, start: Option<i64>) -> Option<f64> {
        let (then, before) = self.committed?;
        let first = start.map_or(before, |start| before.max(start.min(now)));
        let rate = rate(Some((then, first)), at, now)?;
        let usual = self.moved.iter().copied().reduce(f64::max);
        if self.moved.len() == RECENT {
            self.moved.pop_front();
        }
        self.moved.push_back(rate);
        let jumped = usual.is_some_and(|usual| rate > (usual * JUMP).max(NEVER_A_JUMP));
        (!jumped).then_some(rate)
    }

    /// Retention deletes whole segments, and the next one may be as large as the last.
    fn count_endangered(&mut self, start: Option<i64>, lag: PartitionLag, sum: &mut GroupLag) {
        let Some(start) = start else { return };
        let (before, moved) = self.start.unwrap_or((start, 0));
        let moved = if start > before { start.saturating_sub(before) } else { moved };
        self.start = Some((start, moved));
        let next = start.saturating_add(moved).saturating_sub(lag.position);
        sum.endangered = sum.endangered.saturating_add(u64::try_from(next).unwrap_or(0).min(lag.lag));
    }

    /// Whether nothing was committed for so long that a slow handler does not explain it.
    fn stuck(&mut self, at: Duration, watch: &Watch, lag: PartitionLag) -> bool {
        if lag.lag == 0 {
            self.stands = None;
            return false;
        }
        let (since, _) = *self.stands.insert(match self.stands {
            Some((since, position)) if position == lag.position => (since, position),
            _ => (at, lag.position),
        });
        let patience = watch.age.map_or(STUCK, |age| (age * 4).max(STUCK));
        at.saturating_sub(since) >= patience
    }

    fn count_late(&self, at: Duration, watch: &Watch, lag: PartitionLag, end: i64, sum: &mut GroupLag) {
        let (Some(age), Some(ring), Some(late)) = (watch.age, &self.ring, &mut sum.late) else { return };
        let (arrived, estimated) = match ring.at(at.checked_sub(age)) {
            Some(Past::Known(arrived)) => (arrived, false),
            Some(Past::Younger(arrived)) => (arrived, true),
            None => (end, true),
        };
        let messages = u64::try_from(arrived.min(end).saturating_sub(lag.position)).unwrap_or(0);
        late.messages = late.messages.saturating_add(messages);
        // Nothing that could be late is not an estimate.
        late.estimated |= estimated && messages > 0;
    }
}

/// Whether the partition never ran dry since the reading before: what is committed now, and what may be handled but not
/// committed yet, lies below the end of then.
fn had_work(before: Option<(Duration, i64)>, committed: Option<i64>, progress: Option<f64>, unseen: Duration) -> bool {
    let (Some((_, end)), Some(committed), Some(progress)) = (before, committed, progress) else { return false };
    #[expect(clippy::cast_precision_loss, reason = "offsets are far below 2^52")]
    let left = end.saturating_sub(committed) as f64;
    left > progress * unseen.as_secs_f64()
}

/// Messages per second between two offsets; none for the first, and when the offset or the time went back.
fn rate(before: Option<(Duration, i64)>, at: Duration, now: i64) -> Option<f64> {
    let (then, offset) = before?;
    let seconds = at.checked_sub(then)?.as_secs_f64();
    let messages = now.checked_sub(offset)?;
    #[expect(clippy::cast_precision_loss, reason = "offsets are far below 2^52")]
    (messages >= 0 && seconds > 0.0).then(|| messages as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CYCLE: Duration = Duration::from_secs(5);

    fn watch(age: u64) -> Watch {
        Watch {
            age: Some(Duration::from_secs(age)),
            reset: ResetPolicy::Earliest,
            commit_interval: Duration::from_secs(1),
        }
    }

    fn reading(partition: i32, committed: i64, end: i64) -> Reading {
        Reading {
            of: TopicPartition { topic: "orders".into(), partition },
            committed: Ok(Some(committed)),
            end: Ok(end),
            start: None,
        }
    }

    fn rounded(rate: Option<f64>) -> Option<i64> {
        #[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
        rate.map(|rate| rate.round() as i64)
    }

    #[test]
    fn sums_and_rates() {
        let mut tracker = GroupTracker::new();
        let first = tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100), reading(1, 50, 60)]);
        assert_eq!((first.outstanding, first.arrival, first.throughput), (110, None, None));
        let second = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 50, 200), reading(1, 60, 60)]);
        assert_eq!(second.outstanding, 150);
        assert_eq!((rounded(second.arrival), rounded(second.throughput)), (Some(20), Some(12)));
        assert!(!second.saturated, "partition 1 was drained");
        assert!(second.is_complete() && !second.is_unknown());
    }

    #[test]
    fn a_partition_that_stands_still_beside_others_is_stuck() {
        let mut tracker = GroupTracker::new();
        let mut stuck = Vec::new();
        for n in 0_i64..80 {
            // The first stands at 20 and is moved in cycle 70; the second works; the third has nothing to do.
            let first = if n < 70 { 20 } else { 21 };
            let readings = [reading(0, first, 100), reading(1, n, 100 + n), reading(2, 5, 5)];
            let lag = tracker.observe(CYCLE * u32::try_from(n).unwrap(), &watch(15), &readings);
            stuck.push(lag.stuck.iter().map(|of| of.partition).collect::<Vec<_>>());
        }
        assert_eq!(stuck.iter().position(|stuck| !stuck.is_empty()), Some(60), "after five minutes");
        assert_eq!((&*stuck[69], &*stuck[70], &*stuck[79]), (&[0][..], &[][..], &[][..]));
        let patient =
            (0_u32..62).map(|n| tracker.observe(CYCLE * (80 + n), &watch(3_600), &[reading(0, 21, 100)]).stuck);
        assert!(patient.into_iter().all(|stuck| stuck.is_empty()), "who promises an hour has more time");
    }

    #[test]
    fn records_that_the_next_deletion_would_take_are_in_danger() {
        let mut tracker = GroupTracker::new();
        let mut endangered = Vec::new();
        for (n, start, committed) in
            [(0, 0, 150), (1, 0, 150), (2, 100, 150), (3, 100, 190), (4, 100, 200), (5, 200, 200)]
        {
            let now = Reading { start: Some(start), ..reading(0, committed, 1_000) };
            endangered.push(tracker.observe(CYCLE * n, &watch(15), &[now]).endangered);
        }
        assert_eq!(endangered, [0, 0, 50, 10, 0, 100], "the last deletion took a hundred");
    }

    #[test]
    fn the_usual_arrival_of_a_partition_outlasts_a_moment() {
        let mut tracker = GroupTracker::new();
        let mut usual = Vec::new();
        let mut end = 0;
        for n in 0..30_u32 {
            // 10 per second, 100 in one cycle, then nothing.
            end += match n {
                0..20 => 50,
                20 => 500,
                _ => 0,
            };
            usual.push(tracker.observe(CYCLE * n, &watch(15), &[reading(0, 0, end)]).usual);
        }
        assert_eq!(usual[0], [0.0; 0], "one end makes no rate");
        assert_eq!([rounded(usual[1].first().copied()), rounded(usual[19].first().copied())], [Some(10); 2]);
        assert_eq!(rounded(usual[20].first().copied()), Some(18), "a twelfth of the moment counts");
        assert!(usual[29][0] < usual[20][0] / 2.0, "and what has ended is forgotten");
    }

    #[test]
    fn one_partition_that_falls_behind_is_seen_beside_others_that_do_not() {
        let mut tracker = GroupTracker::new();
        let mut behind = Vec::new();
        for n in 0_i64..8 {
            // The first partition works off 50 of 100 in each cycle until the sixth and then 200; the second has nothing left.
            let committed = if n < 6 { n * 50 } else { 300 + (n - 6) * 200 };
            let readings = [reading(0, committed, 200 + n * 100), reading(1, n * 10, n * 10)];
            behind.push(tracker.observe(CYCLE * u32::try_from(n).unwrap(), &watch(15), &readings).behind);
        }
        assert_eq!(behind, [false, false, true, true, true, true, true, false]);
    }

    #[test]
    fn late_counts_what_arrived_before_the_objective() {
        let mut tracker = GroupTracker::new();
        let mut late = Vec::new();
        // 10 messages per cycle arrive; the consumer stands still at 20.
        for n in 0_u32..8 {
            let end = i64::from(n) * 10;
            let lag = tracker.observe(CYCLE * n, &watch(10), &[reading(0, end.min(20), end)]);
            late.push(lag.late.unwrap().messages);
        }
        // Two cycles are the objective: at the fifth reading the end of two cycles ago is 20, which is committed.
        assert_eq!(late, [0, 0, 0, 0, 0, 10, 20, 30]);
    }

    #[test]
    fn a_young_watch_estimates_at_worst() {
        let mut tracker = GroupTracker::new();
        let lag = tracker.observe(CYCLE, &watch(60), &[reading(0, 40, 100)]);
        assert_eq!(lag.late, Some(Late { messages: 60, estimated: true }), "what was there may be old");
        let lag = tracker.observe(CYCLE * 2, &watch(60), &[reading(0, 100, 400)]);
        assert_eq!(lag.late, Some(Late { messages: 0, estimated: false }), "what came since is surely young");
    }

    #[test]
    fn a_failed_reading_is_unknown_and_keeps_the_arrival_rate() {
        let mut tracker = GroupTracker::new();
        tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100)]);
        let mut failed = reading(0, 0, 0);
        failed.end = Err("no leader".into());
        let lag = tracker.observe(CYCLE * 2, &watch(15), std::slice::from_ref(&failed));
        assert!(lag.is_unknown());
        assert_eq!(lag.unknown_because().as_deref(), Some("orders/0: end offset not readable: no leader"));
        let lag = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 0, 200)]);
        assert_eq!(rounded(lag.arrival), Some(10), "100 messages in the 10 s since the last end that was read");
    }

    #[test]
    fn offsets_that_went_back_give_no_rate() {
        let mut tracker = GroupTracker::new();
        tracker.observe(CYCLE, &watch(15), &[reading(0, 500, 1_000)]);
        let reset = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 100, 1_000)]);
        assert_eq!((reset.throughput, rounded(reset.arrival), reset.outstanding), (None, Some(0), 900));
        let recreated = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 100, 10)]);
        assert_eq!((recreated.arrival, recreated.is_unknown()), (None, true));
        let jumped_back = tracker.observe(CYCLE, &watch(15), &[reading(0, 10, 20)]);
        assert_eq!(jumped_back.arrival, None);
    }

    #[test]
    fn offsets_that_nobody_worked_for_give_no_rate() {
        // Committed after 5 s, log start as last read, rate; before it, 100 messages per second were handled up to 1,000.
        let cases = [
            ("work goes on", 1_500, None, Some(100)),
            ("ten times the work", 6_000, None, Some(1_000)),
            ("retention lost 4,998,600, the start is known", 5_000_100, Some(4_999_600), Some(100)),
            ("retention lost them, the start was read before", 5_000_100, Some(0), None),
            ("retention lost them, or a reset by hand; no start", 5_000_100, None, None),
            ("lost, and no commit since", 1_000, Some(4_999_600), Some(0)),
        ];
        for (name, committed, start, expected) in cases {
            let mut tracker = GroupTracker::new();
            for (n, before) in [(1, 500), (2, 1_000)] {
                tracker.observe(CYCLE * n, &watch(15), &[reading(0, before, 9_000_000)]);
            }
            let now = Reading { start, ..reading(0, committed, 9_000_000) };
            let lag = tracker.observe(CYCLE * 3, &watch(15), &[now]);
            assert_eq!(rounded(lag.throughput), expected, "{name}");
            assert_eq!(lag.saturated, expected.is_some(), "{name}: without a rate nothing is learned");
            let next = tracker.observe(CYCLE * 4, &watch(15), &[reading(0, committed + 500, 9_000_000)]);
            assert_eq!(rounded(next.throughput), Some(100), "{name}: the next cycle counts again");
        }
    }

    #[test]
    fn work_that_became_much_faster_counts_from_the_second_cycle_on() {
        let mut tracker = GroupTracker::new();
        let mut rates = Vec::new();
        for (n, committed) in [(1, 0), (2, 0), (3, 50_000), (4, 100_000)] {
            let lag = tracker.observe(CYCLE * n, &watch(15), &[reading(0, committed, 9_000_000)]);
            rates.push(rounded(lag.throughput));
        }
        assert_eq!(rates, [None, Some(0), None, Some(10_000)]);
    }

    #[test]
    fn grown_and_deleted_partitions() {
        let mut tracker = GroupTracker::new();
        tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100), reading(1, 0, 100)]);
        let grown =
            tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 0, 150), reading(1, 0, 100), reading(2, 0, 900)]);
        assert_eq!(rounded(grown.arrival), Some(10), "a new partition has no rate yet");
        let deleted = tracker.observe(CYCLE * 3, &watch(15), &[reading(2, 0, 900)]);
        assert_eq!((deleted.partitions, deleted.outstanding), (1, 900));
    }

    #[test]
    fn saturated_while_no_partition_ran_dry() {
        let mut tracker = GroupTracker::new();
        tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 1_000), reading(1, 0, 1_000)]);
        let busy = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 500, 1_000), reading(1, 500, 1_000)]);
        assert!(busy.saturated);
        // 500 in 5 s are 100 per second: with one second not committed yet, 950 may be all there was.
        let nearly = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 1_000, 2_000), reading(1, 950, 2_000)]);
        assert!(!nearly.saturated);
    }
}
