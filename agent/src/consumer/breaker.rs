//! The dead-letter breaker. One bad record is a dead letter; many at a time say that something is broken that all of them need, and a
//! topic that empties into its dead-letter topic is an outage made worse.

use std::time::{Duration, Instant};

use mq_protocol::limits::MAX_ERROR_BYTES;
use mq_protocol::message::OpenBreaker;

/// The records that ended last, of which the share is taken.
const REMEMBERED: u32 = 100;
const MASK: u128 = (1 << REMEMBERED) - 1;
/// How soon a held record is tried again, at first.
const FIRST: Duration = Duration::from_secs(5);
/// And at last.
const LONGEST: Duration = Duration::from_mins(1);

/// When a consumer stops sending dead letters, because it is not single records that fail. Given with
/// [`Options::dead_letter_breaker`](crate::Options::dead_letter_breaker).
///
/// It *opens* when 20 records one after the other, or 50 of the last 100, were to become dead letters; retries in place come first and
/// do not count. While it is open no record becomes a dead letter. Those that would are held: their keys stand still, nothing is
/// committed past them, and once `maxPollRecords` are held, each of another key, the consumer takes nothing in any more. One of them
/// at a time is tried again, after 5 s, then 10 s, up to a minute. When one succeeds the breaker closes, and all that are held are tried again. It closes
/// too, after a minute and more, when others are handled well meanwhile: then those that fail again become dead letters, until it opens.
/// When all that were held left with their partitions it closes at the next try, and opens again if the next record is to become a dead
/// letter.
///
/// ```
/// use mq_agent::{DeadLetterBreaker, Options};
///
/// let options = Options::in_pod().dead_letter_breaker(DeadLetterBreaker::new(200, 90));
/// let options = Options::in_pod().dead_letter_breaker(DeadLetterBreaker::off()); // every dead letter is sent
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterBreaker {
    in_a_row: u32,
    of_hundred: u32,
}

impl Default for DeadLetterBreaker {
    fn default() -> Self {
        Self::new(20, 50)
    }
}

impl DeadLetterBreaker {
    /// Opens when so many records in a row (`in_a_row`), or so many of the last 100 (`of_hundred`), were to become dead letters, over all
    /// partitions of the consumer. The one with which that number is reached is held already. 0 counts as 1; above 100 `of_hundred` is
    /// never reached.
    ///
    /// ```
    /// use mq_agent::DeadLetterBreaker;
    ///
    /// let default = DeadLetterBreaker::new(20, 50);
    /// assert_eq!(default, DeadLetterBreaker::default());
    /// ```
    pub fn new(in_a_row: u32, of_hundred: u32) -> Self {
        Self { in_a_row: in_a_row.max(1), of_hundred: of_hundred.max(1) }
    }

    /// Never opens.
    ///
    /// ```
    /// let options = mq_agent::Options::in_pod().dead_letter_breaker(mq_agent::DeadLetterBreaker::off());
    /// ```
    pub fn off() -> Self {
        Self::new(u32::MAX, u32::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Breaker {
    limits: DeadLetterBreaker,
    /// Dead letters since a record was handled.
    row: u32,
    /// Whether each of the last records was to be one; the newest is lowest.
    recent: u128,
    open: Option<Open>,
    /// The next pause. It begins small again only after a held record succeeded.
    pause: Duration,
    /// Whether it was told last that it is open.
    told: bool,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// What the handler said of the record with which it opened.
    error: String,
    next: Instant,
    /// Records that ended since it opened.
    ended: u32,
}

/// What to do with held records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Wait,
    /// Try one of them again.
    Probe,
    /// Try all of them again.
    Release,
}

impl Breaker {
    pub(super) fn new(limits: DeadLetterBreaker) -> Self {
        Self { limits, row: 0, recent: 0, open: None, pause: FIRST, told: false }
    }

    /// A record was handled.
    pub(super) fn handled(&mut self) {
        self.row = 0;
        self.note(false);
    }

    /// A record that had been held was handled. What to do with those that are held.
    pub(super) fn held_handled(&mut self) -> Held {
        self.handled();
        self.pause = FIRST;
        if self.close() { Held::Release } else { Held::Wait }
    }

    /// A record is to become a dead letter, for this error. Whether it may.
    pub(super) fn may_bury(&mut self, held_before: bool, error: &str, now: Instant) -> bool {
        if self.open.is_some() && held_before {
            return false;
        }
        self.row = self.row.saturating_add(1);
        self.note(true);
        let opens = self.row >= self.limits.in_a_row || self.recent.count_ones() >= self.limits.of_hundred;
        if opens && self.open.is_none() {
            let error = error[..error.floor_char_boundary(MAX_ERROR_BYTES)].to_owned();
            self.open = Some(Open { since: now, error, next: now + self.pause, ended: 0 });
        }
        self.open.is_none()
    }

    /// To be asked again and again.
    pub(super) fn step(&mut self, now: Instant) -> Held {
        let Some(open) = self.open.as_mut().filter(|open| open.next <= now) else { return Held::Wait };
        let others_are_fine = open.ended >= REMEMBERED && self.recent.count_ones() * 2 < self.limits.of_hundred;
        if self.pause == LONGEST && others_are_fine {
            self.close();
            return Held::Release;
        }
        self.pause = (self.pause * 2).min(LONGEST);
        open.next = now + self.pause;
        Held::Probe
    }

    /// No held record is left to be tried again, since they went with their partitions: the next record tells. If it fails, all is as
    /// it was.
    pub(super) fn held_left(&mut self) {
        self.close();
        self.row = self.limits.in_a_row - 1;
    }

    /// Whether it opened or closed since this was asked last.
    pub(super) fn news(&mut self) -> Option<bool> {
        let open = self.open.is_some();
        (std::mem::replace(&mut self.told, open) != open).then_some(open)
    }

    /// How it stands while it is open and holds so many records.
    pub(super) fn standing(&self, now: Instant, held: usize) -> Option<OpenBreaker> {
        let open = self.open.as_ref()?;
        let (since, error) = (now.saturating_duration_since(open.since), open.error.clone());
        Some(OpenBreaker { open: since, held: held as u64, error })
    }

    fn note(&mut self, dead_letter: bool) {
        self.recent = (self.recent << 1 | u128::from(dead_letter)) & MASK;
        if let Some(open) = &mut self.open {
            open.ended = open.ended.saturating_add(1);
        }
    }

    fn close(&mut self) -> bool {
        (self.row, self.recent) = (0, 0);
        self.open.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// How many of these records became dead letters; `true`: handled.
    fn buried(breaker: &mut Breaker, records: impl IntoIterator<Item = bool>, now: Instant) -> usize {
        let mut buried = 0;
        for handled in records {
            if handled {
                breaker.handled();
            } else {
                buried += usize::from(breaker.may_bury(false, "no database", now));
            }
        }
        buried
    }

    #[test]
    fn single_bad_records_are_buried_and_an_outage_is_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(DeadLetterBreaker::default());
        assert_eq!(buried(&mut breaker, (0..1_000).map(|at| at % 3 != 0), now), 334, "a third is bad");
        assert_eq!(breaker.news(), None);
        assert!(buried(&mut breaker, (0..2_000).map(|at| at % 20 == 0), now) < 50, "19 of 20 are bad");
        assert_eq!(breaker.news(), Some(true));
        let mut breaker = Breaker::new(DeadLetterBreaker::default());
        assert_eq!(buried(&mut breaker, [false; 500], now), 19);
        let mut off = Breaker::new(DeadLetterBreaker::off());
        assert_eq!(buried(&mut off, [false; 500], now), 500);
    }

    #[test]
    fn one_held_record_is_tried_again_ever_more_rarely_and_its_success_ends_it() {
        let start = Instant::now();
        let mut breaker = Breaker::new(DeadLetterBreaker::default());
        buried(&mut breaker, [false; 20], start);
        let mut probes = Vec::new();
        for second in 0..200 {
            if breaker.step(start + seconds(second)) == Held::Probe {
                probes.push(second);
                assert!(!breaker.may_bury(true, "still none", start + seconds(second)));
            }
        }
        assert_eq!(probes, [5, 15, 35, 75, 135, 195]);
        assert_eq!((breaker.news(), breaker.news()), (Some(true), None));
        let open = OpenBreaker { open: seconds(200), held: 7, error: "no database".into() };
        assert_eq!(breaker.standing(start + seconds(200), 7), Some(open));
        assert_eq!(breaker.held_handled(), Held::Release);
        assert_eq!(breaker.held_handled(), Held::Wait, "they are being tried again");
        assert_eq!(breaker.standing(start + seconds(201), 0), None);
        assert_eq!((breaker.news(), breaker.step(start + seconds(900))), (Some(false), Held::Wait));
        assert_eq!(buried(&mut breaker, [false; 500], start), 19, "it begins anew");
        assert_eq!(breaker.step(start + seconds(5)), Held::Probe);
    }

    #[test]
    fn a_burst_of_bad_records_does_not_hold_for_ever_and_half_an_outage_leaks_slowly() {
        let start = Instant::now();
        let mut breaker = Breaker::new(DeadLetterBreaker::default());
        buried(&mut breaker, [false; 30], start);
        let mut released = Vec::new();
        for second in 0..300 {
            let now = start + seconds(second);
            buried(&mut breaker, [true; 50], now);
            if breaker.step(now) == Held::Release {
                released.push(second);
                // They fail again.
                assert_eq!(buried(&mut breaker, [false; 30], now), 19);
            }
        }
        assert_eq!(released, [135, 195, 255]);
    }

    #[test]
    fn what_failed_before_it_closed_does_not_count_afterwards() {
        let now = Instant::now();
        let mut breaker = Breaker::new(DeadLetterBreaker::default());
        assert_eq!(buried(&mut breaker, [true, false].repeat(50), now), 49, "half of a hundred fail");
        assert_eq!((breaker.held_handled(), breaker.news()), (Held::Release, None));
        assert_eq!(buried(&mut breaker, [true, false].repeat(49), now), 49);
        assert_eq!(breaker.news(), None);
    }

    #[test]
    fn without_held_records_the_next_one_tells_whether_it_is_over() {
        let now = Instant::now();
        for (after, dead_letters) in [(vec![false; 30], 0), ([vec![true], vec![false; 30]].concat(), 19)] {
            let mut breaker = Breaker::new(DeadLetterBreaker::default());
            buried(&mut breaker, [false; 20], now);
            breaker.held_left();
            assert_eq!(breaker.news(), None, "it was not told of");
            assert_eq!(buried(&mut breaker, after, now), dead_letters);
            assert_eq!(breaker.news(), Some(true));
        }
    }

    proptest! {
        /// Whatever ends how: of no 100 records in a row so many as the limits say become dead letters.
        #[test]
        fn never_more_than_the_limits(records in prop::collection::vec(any::<bool>(), 0..400), in_a_row in 1_u32..30, of_hundred in 1_u32..110) {
            let now = Instant::now();
            let mut breaker = Breaker::new(DeadLetterBreaker::new(in_a_row, of_hundred));
            let fates: Vec<bool> = records.iter().map(|handled| buried(&mut breaker, [*handled], now) > 0).collect();
            for part in fates.windows(100) {
                prop_assert!(part.iter().filter(|buried| **buried).count() < of_hundred as usize);
            }
            prop_assert!(fates.windows(in_a_row as usize).all(|part| !part.iter().all(|buried| *buried)));
        }
    }
}
