//! End offsets of the recent past: what had arrived at a moment that is gone, without asking the broker again.

use std::collections::VecDeque;
use std::time::Duration;

/// Most samples that one ring keeps.
pub const CAPACITY: usize = 64;

/// The end offsets of one partition over the last `horizon`.
///
/// Up to 62 cycles every sample is kept and a look back is exact to one cycle. A longer horizon is thinned to samples at
/// least `horizon / 62` apart; a look back is then exact to `horizon / 62` plus one cycle.
#[derive(Debug, Clone)]
pub struct EndRing {
    horizon: Duration,
    spacing: Duration,
    samples: VecDeque<(Duration, i64)>,
}

/// What a look back found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// The end offset of the last sample at or before the moment: everything below it had surely arrived by then.
    Known(i64),
    /// The ring does not reach back that far; this is the end of its oldest sample. Everything above it arrived later.
    Younger(i64),
}

impl EndRing {
    /// A ring that can look back over `horizon`.
    pub fn new(horizon: Duration) -> Self {
        let intervals = u32::try_from(CAPACITY - 2).unwrap_or(u32::MAX);
        Self { horizon, spacing: horizon / intervals, samples: VecDeque::new() }
    }

    /// Adds the end offset seen at `at` (monotonic time since any origin).
    ///
    /// An end that went down is another log (re-created topic, truncation): what the ring held says nothing about it and
    /// is dropped. A sample older than the newest one is ignored.
    pub fn push(&mut self, at: Duration, end: i64) {
        if let Some(&(newest_at, newest_end)) = self.samples.back() {
            if at <= newest_at {
                return;
            }
            if end < newest_end {
                self.samples.clear();
            }
        }
        // The newest sample is provisional until it stands `spacing` away from the one before it.
        let mut newest = self.samples.iter().rev();
        if let (Some((newest, _)), Some((before, _))) = (newest.next(), newest.next())
            && newest.saturating_sub(*before) < self.spacing
        {
            self.samples.pop_back();
        }
        self.samples.push_back((at, end));
        // One that the horizon has passed is enough.
        let reached = |(then, _): &(Duration, i64)| *then <= at.saturating_sub(self.horizon);
        while self.samples.len() > CAPACITY || self.samples.get(1).is_some_and(reached) {
            self.samples.pop_front();
        }
    }

    /// The end offset at `moment`; nothing while the ring is empty.
    pub fn at(&self, moment: Option<Duration>) -> Option<Past> {
        let oldest = self.samples.front()?;
        let Some(moment) = moment else { return Some(Past::Younger(oldest.1)) };
        let after = self.samples.partition_point(|(at, _)| *at <= moment);
        match after.checked_sub(1).and_then(|index| self.samples.get(index)) {
            Some((_, end)) => Some(Past::Known(*end)),
            None => Some(Past::Younger(oldest.1)),
        }
    }

    /// Samples held now.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether nothing was pushed since the start or since the log was replaced.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CYCLE: Duration = Duration::from_secs(5);

    fn filled(horizon: Duration, cycles: u32) -> (EndRing, Duration) {
        let mut ring = EndRing::new(horizon);
        // One message per second: the end offset is the time.
        for n in 0..=cycles {
            let at = CYCLE * n;
            ring.push(at, i64::try_from(at.as_secs()).unwrap());
        }
        (ring, CYCLE * cycles)
    }

    #[test]
    fn looks_back_to_the_sample_at_or_before() {
        let (ring, now) = filled(Duration::from_secs(15), 20);
        assert_eq!(ring.at(Some(now.saturating_sub(Duration::from_secs(15)))), Some(Past::Known(85)));
        assert_eq!(ring.at(Some(now.saturating_sub(Duration::from_secs(12)))), Some(Past::Known(85)));
        assert_eq!(ring.at(Some(now)), Some(Past::Known(100)));
        assert_eq!(ring.at(Some(now.saturating_sub(Duration::from_secs(16)))), Some(Past::Younger(85)), "nobody asks");
    }

    #[test]
    fn a_young_ring_says_so() {
        let mut ring = EndRing::new(Duration::from_mins(1));
        assert_eq!(ring.at(Some(CYCLE)), None);
        ring.push(CYCLE * 4, 500);
        ring.push(CYCLE * 5, 600);
        assert_eq!(ring.at(Some(CYCLE)), Some(Past::Younger(500)));
        assert_eq!(ring.at(None), Some(Past::Younger(500)));
    }

    #[test]
    fn another_log_forgets_the_old_one() {
        let (mut ring, now) = filled(Duration::from_secs(15), 20);
        ring.push(now + CYCLE, 3);
        assert_eq!(ring.at(Some(now)), Some(Past::Younger(3)));
    }

    #[test]
    fn an_older_sample_is_ignored() {
        let (mut ring, now) = filled(Duration::from_secs(15), 20);
        let before = ring.len();
        ring.push(CYCLE * 19, 1);
        ring.push(now, 1);
        assert_eq!((ring.len(), ring.at(Some(now))), (before, Some(Past::Known(100))));
    }

    proptest! {
        #[test]
        fn bounded_and_as_exact_as_promised(horizon in 10_u64..7_200, cycles in 0_u32..4_000) {
            let horizon = Duration::from_secs(horizon);
            let (ring, now) = filled(horizon, cycles);
            prop_assert!(ring.len() <= CAPACITY);
            let error = if horizon <= CYCLE * 62 { CYCLE } else { horizon / 62 + CYCLE };
            if let Some(moment) = now.checked_sub(horizon) {
                // Whoever ran for the whole horizon can look back over it.
                let Some(Past::Known(end)) = ring.at(Some(moment)) else { panic!("the ring must reach {horizon:?} back") };
                let found = Duration::from_secs(u64::try_from(end).unwrap());
                prop_assert!(found <= moment && moment < found + error, "{found:?} for {moment:?}");
            }
        }
    }
}
