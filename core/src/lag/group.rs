//! The lag of one group, cycle by cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::partition::{Oddity, PartitionLag, ResetPolicy, Unknown, judge};
use super::ring::{EndRing, Past};

/// Commits that move a partition this many times faster than in its last cycles are a jump: an offset reset, or a log whose start
/// moved under the group. Work that really became so fast is counted from the next cycle on.
const JUMP: f64 = 10.0;
/// Messages per second of one partition that are never called a jump: an idle partition wakes up.
const NEVER_A_JUMP: f64 = 1_000.0;
/// A partition in which something waits and nothing is committed for so long, for four times the promised age, and for as long as a
/// handler may take, is stuck.
const STUCK: Duration = Duration::from_mins(5);
/// For so long it is said that a commit is gone: by then the group has begun anew, or nobody is going to.
const NEWS: Duration = Duration::from_hours(1);
/// As long as at most one partition in so many is stuck, it is those that stand still and not the group.
const FEW: usize = 4;
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
    /// Identity of the topic, where it was read: one that is created anew has another one.
    pub topic_id: Option<u128>,
    /// What was read of the log behind the committed offset because the group stood still there.
    pub tail: Option<Tail>,
}

/// Topics of which the partitions are not known, patterns of which no topic is, and why.
pub type Unread = BTreeMap<Arc<str>, String>;

/// What lies behind an offset at which a group stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// From the first of these offsets up to the second there is no record, and from there on a transaction is open.
    OpenTransaction {
        /// Where the group stood.
        from: i64,
        /// Where the transaction begins.
        since: i64,
    },
    /// From the first of these offsets up to the second there is no record.
    NoRecords {
        /// Where the group stood.
        from: i64,
        /// Where a record follows, or what was not read.
        until: i64,
    },
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
    /// How long a handler may take: as long as a member may go without a poll.
    pub longest: Duration,
}

impl Watch {
    /// How long nothing may be committed where something waits.
    fn patience(&self) -> Duration {
        (self.age.unwrap_or_default() * 4).max(STUCK).max(self.longest)
    }
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
    /// What is missing altogether: no partitions of it are counted anywhere.
    pub unread: Unread,
    /// What is odd about partitions whose lag is known.
    pub oddities: BTreeMap<TopicPartition, Oddity>,
    /// Messages between committed and end.
    pub outstanding: u64,
    /// The part of them that is older than the objective; none without an age objective.
    pub late: Option<Late>,
    /// Messages per second that arrived since the reading before; none on the first.
    pub arrival: Option<f64>,
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
    /// Something was committed within the time after which a partition is stuck.
    pub works: bool,
    /// What goes through each partition, in the order of the readings.
    pub flows: Vec<Flow>,
}

/// What goes through one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Which partition.
    pub of: TopicPartition,
    /// Messages per second that arrive, averaged over the last cycles; none where the end was read less than twice.
    pub arrival: Option<f64>,
    /// Messages per second that were committed since the reading before.
    pub throughput: Option<f64>,
    /// Messages between committed and end, and those of them that are late; none where that is not known.
    pub waiting: Option<(u64, u64)>,
    /// There was work during the whole cycle, and some of it was done within the last ones.
    pub busy: bool,
    /// Something waited for long and nothing was committed.
    pub stuck: bool,
}

impl GroupLag {
    /// The partitions in which replicas can do anything about what waits: not the stuck ones, as long as these are few and the group
    /// works elsewhere. Else it is the group that stands still.
    pub fn workable(&self) -> impl Iterator<Item = &Flow> {
        let overlooked = self.works && self.stuck.len() <= (self.flows.len() / FEW).max(1);
        self.flows.iter().filter(move |flow| !(flow.stuck && overlooked))
    }

    /// Messages that wait in those, and how many of them are late.
    pub fn workable_waiting(&self) -> (u64, u64) {
        self.workable().filter_map(|flow| flow.waiting).fold((0, 0), |(all, of_them): (u64, u64), (waiting, late)| {
            (all.saturating_add(waiting), of_them.saturating_add(late))
        })
    }

    /// What arrives at each partition, as far as that is known.
    pub fn arrivals(&self) -> Vec<f64> {
        self.flows.iter().filter_map(|flow| flow.arrival).collect()
    }

    /// Whether the lag of every partition is known.
    pub fn is_complete(&self) -> bool {
        self.partitions > 0 && self.unknown.is_empty() && self.unread.is_empty()
    }

    /// Whether nothing at all is known.
    pub fn is_unknown(&self) -> bool {
        usize::try_from(self.partitions).is_ok_and(|all| self.unknown.len() >= all)
    }

    /// The first of what is not known in words, with the number of others.
    pub fn unknown_because(&self) -> Option<String> {
        let partition = |(of, why): (&TopicPartition, &Unknown)| format!("{}/{}: {why}", of.topic, of.partition);
        let missing = self.unread.iter().map(|(what, why)| format!("{what}: {why}"));
        let first = missing.chain(self.unknown.iter().map(partition)).next()?;
        let others = match self.unread.len() + self.unknown.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Some(format!("{first}{others}"))
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
    topic_id: Option<u128>,
    /// What was committed before nothing was any more.
    forgotten: Option<(Duration, i64)>,
    /// What was committed to the topic of this name before it was created anew.
    of_another: Option<i64>,
}

impl Track {
    fn new(watch: &Watch) -> Self {
        Self {
            ring: watch.age.map(EndRing::new),
            end: None,
            usual: None,
            committed: None,
            moved: VecDeque::new(),
            waiting: VecDeque::new(),
            stands: None,
            start: None,
            topic_id: None,
            forgotten: None,
            of_another: None,
        }
    }
}

/// Follows the offsets of one group from cycle to cycle.
#[derive(Debug, Clone, Default)]
pub struct GroupTracker {
    age: Option<Duration>,
    /// When something was committed last.
    worked: Option<Duration>,
    tracks: BTreeMap<TopicPartition, Track>,
}

impl GroupTracker {
    /// A tracker that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the readings of one cycle, all of the group's partitions, read at `at` (monotonic time since any origin).
    pub fn observe(&mut self, at: Duration, watch: &Watch, readings: &[Reading]) -> GroupLag {
        self.observe_beside(at, watch, readings, &Unread::new())
    }

    /// The same where not all is known that the group consumes.
    ///
    /// Partitions that are neither among the readings nor of an unread topic are forgotten. A changed objective starts the look back anew. An offset
    /// that went down, or time that did, gives no rate for that partition in this cycle. A topic with another id is another topic.
    pub fn observe_beside(&mut self, at: Duration, watch: &Watch, readings: &[Reading], unread: &Unread) -> GroupLag {
        if self.age != watch.age {
            self.age = watch.age;
            for track in self.tracks.values_mut() {
                track.ring = watch.age.map(EndRing::new);
            }
        }
        // They come in the same order every time but when partitions come or go.
        let same = self.tracks.keys().eq(readings.iter().map(|reading| &reading.of));
        if !same {
            let read: BTreeSet<&TopicPartition> = readings.iter().map(|reading| &reading.of).collect();
            // A topic that is gone may be created anew: only its id, and what was committed, tell it from the one before.
            self.tracks.retain(|of, _| read.contains(of) || unread.contains_key(&of.topic));
            for (_, track) in self.tracks.iter_mut().filter(|(of, _)| !read.contains(of)) {
                track.stands = None;
                track.waiting.clear();
            }
        }

        let late = watch.age.map(|_| Late::default());
        let mut sum = GroupLag { late, unread: unread.clone(), ..GroupLag::default() };
        sum.saturated = !readings.is_empty() && unread.is_empty();
        sum.flows.reserve_exact(readings.len());
        if same {
            for (reading, track) in readings.iter().zip(self.tracks.values_mut()) {
                track.add(at, watch, reading, &mut sum);
            }
        } else {
            for reading in readings {
                let track = self.tracks.entry(reading.of.clone()).or_insert_with(|| Track::new(watch));
                track.add(at, watch, reading, &mut sum);
            }
        }
        if sum.flows.iter().any(|flow| flow.throughput.is_some_and(|rate| rate > 0.0)) {
            self.worked = Some(at);
        }
        sum.works = self.worked.is_some_and(|then| at.saturating_sub(then) < watch.patience());
        sum
    }

    /// The partitions in which something waits, and at which committed offset the group has stood there for so long. One that committed
    /// nothing, or what retention deleted, stands at none.
    pub fn standing(&self, at: Duration, so_long: Duration) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.tracks.iter().filter_map(move |(of, track)| {
            let ((since, _), (_, committed)) = (track.stands?, track.committed?);
            let is_there = track.start.is_none_or(|(start, _)| start <= committed);
            (is_there && at.saturating_sub(since) >= so_long).then_some((of, committed))
        })
    }
}

impl Track {
    /// Adds one partition to the sums.
    fn add(&mut self, at: Duration, watch: &Watch, reading: &Reading, sum: &mut GroupLag) {
        sum.partitions = sum.partitions.saturating_add(1);
        let mut flow =
            Flow { of: reading.of.clone(), arrival: None, throughput: None, waiting: None, busy: false, stuck: false };
        if let Err(why) = self.observe(at, watch, reading, sum, &mut flow) {
            self.stands = None;
            sum.saturated = false;
            sum.unknown.insert(reading.of.clone(), why);
        }
        flow.arrival = self.usual.map(|(rate, _)| rate);
        sum.flows.push(flow);
    }

    fn observe(
        &mut self,
        at: Duration,
        watch: &Watch,
        reading: &Reading,
        sum: &mut GroupLag,
        flow: &mut Flow,
    ) -> Result<(), Unknown> {
        if let Some(id) = reading.topic_id {
            if self.topic_id.is_some_and(|before| before != id) {
                let of_another = self.committed.map(|(_, offset)| offset);
                *self = Self { of_another, ..Self::new(watch) };
            }
            self.topic_id = Some(id);
        }
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
        self.recall(at, committed, end)?;
        let mut lag = judge(committed, reading.start, end, watch.reset)?;
        let oddity = self.oddity(watch, &mut lag, reading.tail, end);
        sum.outstanding = sum.outstanding.saturating_add(lag.lag);
        sum.lost = sum.lost.saturating_add(lag.lost);
        flow.waiting = Some((lag.lag, self.count_late(at, watch, lag, end, sum)));
        self.count_endangered(reading.start, lag, sum);
        if let Some(oddity) = oddity {
            sum.oddities.insert(reading.of.clone(), oddity);
        }
        flow.stuck = self.stuck(at, watch, lag);
        if flow.stuck {
            sum.stuck.insert(reading.of.clone());
        }

        // Progress is counted from commits only: a jump over lost records is nobody's work.
        let committed = committed.filter(|offset| *offset >= 0);
        let progress = committed.and_then(|now| self.progress(at, now, reading.start));
        if let Some(rate) = progress {
            *sum.throughput.get_or_insert(0.0) += rate;
        }
        flow.throughput = progress;
        self.committed = committed.map(|offset| (at, offset));
        let had_work = had_work(before, committed, progress, watch.commit_interval);
        sum.saturated &= had_work;
        flow.busy = had_work && self.moved.iter().any(|rate| *rate > 0.0);
        if !had_work {
            self.waiting.clear();
        } else if self.waiting.len() == RECENT {
            self.waiting.pop_front();
        }
        self.waiting.push_back(lag.lag);
        sum.behind |= self.waiting.len() == RECENT && self.waiting.front() < self.waiting.back();
        Ok(())
    }

    /// What became of the commit before.
    fn recall(&mut self, at: Duration, committed: Option<i64>, end: i64) -> Result<(), Unknown> {
        match committed.filter(|offset| *offset >= 0) {
            None => {
                let is_news = |(since, _): &(Duration, i64)| at.saturating_sub(*since) < NEWS;
                let gone = self.committed.map(|(_, offset)| (at, offset));
                self.forgotten = self.forgotten.filter(is_news).or(gone);
                self.of_another = None;
            }
            // Who has committed the end, or nothing but the beginning, owes the same by either.
            Some(committed) if self.of_another == Some(committed) && committed > 0 && committed < end => {
                return Err(Unknown::OfAnotherTopic { committed });
            }
            Some(_) => (self.forgotten, self.of_another) = (None, None),
        }
        Ok(())
    }

    /// Offsets that are seen to have no record are not owed.
    fn oddity(&self, watch: &Watch, lag: &mut PartitionLag, tail: Option<Tail>, end: i64) -> Option<Oddity> {
        let mut oddity = None;
        if let Some(Tail::OpenTransaction { from, since: until } | Tail::NoRecords { from, until }) = tail
            && from == lag.position
            && lag.lag > 0
            && (from..=end).contains(&until)
        {
            *lag = PartitionLag { position: until, lag: end.abs_diff(until), ..*lag };
            oddity = match tail {
                _ if until == end => Some(Oddity::NoRecords { committed: from }),
                Some(Tail::OpenTransaction { since, .. }) => Some(Oddity::OpenTransaction { since }),
                _ => None,
            };
        }
        let forgotten = self.forgotten.map(|(_, committed)| Oddity::Forgotten { committed, reset: watch.reset });
        forgotten.or(oddity)
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
        at.saturating_sub(since) >= watch.patience()
    }

    /// Counts the late messages, and says how many they are in this partition.
    fn count_late(&self, at: Duration, watch: &Watch, lag: PartitionLag, end: i64, sum: &mut GroupLag) -> u64 {
        let (Some(age), Some(ring), Some(late)) = (watch.age, &self.ring, &mut sum.late) else { return 0 };
        let (arrived, estimated) = match ring.at(at.checked_sub(age)) {
            Some(Past::Known(arrived)) => (arrived, false),
            Some(Past::Younger(arrived)) => (arrived, true),
            None => (end, true),
        };
        let messages = u64::try_from(arrived.min(end).saturating_sub(lag.position)).unwrap_or(0);
        late.messages = late.messages.saturating_add(messages);
        // Nothing that could be late is not an estimate.
        late.estimated |= estimated && messages > 0;
        messages
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
mod tests;
