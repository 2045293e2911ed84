//! Something behind the replicas that limits them all together: a step up that brings next to nothing shows it.

use std::time::Duration;

/// Windows for which the first such step counts. Each one that follows counts twice as long.
const FIRST: u32 = 2;
/// The same where the replicas show by themselves when it is over: another try is only for the case that this was misjudged.
const FIRST_VISIBLE: u32 = 8;
/// So many windows at most.
const LONGEST: u32 = 128;

/// A step up that brought next to nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ineffective {
    /// Replicas that do as much: those before it, or as many as it takes for what is handled now.
    pub enough: u32,
    /// Messages per second that it brought.
    pub brought: f64,
    /// Messages per second that it should have brought.
    pub predicted: f64,
}

/// Handling so many times as much as with that step shows that what limited does so no more.
const MORE: f64 = 1.1;
/// Replicas that can do so many times as much will surely show it.
const SURELY_MORE: f64 = 1.25;

/// What steps up have shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Downstream {
    found: Option<Found>,
    strikes: u32,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    until: Duration,
    step: Ineffective,
    /// Messages per second that were handled all the same.
    handled: f64,
}

impl Downstream {
    /// A step up brought next to nothing, and so much is handled with it. The fewest replicas that did as much stay the ones to go back to.
    /// `able` is what a number of replicas could do: where those that stay could do more, they show by themselves when the limit is gone.
    pub(super) fn found(
        &mut self,
        at: Duration,
        window: Duration,
        step: Ineffective,
        handled: f64,
        able: impl Fn(u32) -> f64,
    ) {
        let enough = self.found.map_or(step.enough, |before| before.step.enough.min(step.enough));
        let first = if able(enough) > handled * SURELY_MORE { FIRST_VISIBLE } else { FIRST };
        let windows = first.saturating_mul(2_u32.saturating_pow(self.strikes)).min(LONGEST);
        let until = at.saturating_add(window * windows);
        self.found = Some(Found { until, step: Ineffective { enough, ..step }, handled });
        self.strikes = self.strikes.saturating_add(1);
    }

    /// A step up brought something, or other pods run.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// It is over when more is handled, or when nothing has waited for a window.
    pub(super) fn look(&mut self, handled: f64, quiet_for: Option<Duration>, window: Duration) {
        let more = self.found.is_some_and(|found| handled > found.handled * MORE);
        if more || quiet_for.is_some_and(|quiet| quiet >= window) {
            self.clear();
        }
    }

    pub(super) fn limits(&self, at: Duration) -> bool {
        self.step(at).is_some()
    }

    /// The last such step and for how long it still counts.
    pub(super) fn step(&self, at: Duration) -> Option<(Duration, Ineffective)> {
        let Found { until, step, .. } = self.found?;
        Some((until.checked_sub(at).filter(|left| !left.is_zero())?, step))
    }

    /// Whether there was one, even if it counts no more: the next step up is a small one.
    pub(super) fn is_suspected(&self) -> bool {
        self.found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);
    const STEP: Ineffective = Ineffective { enough: 4, brought: 0.0, predicted: 100.0 };

    const NONE: fn(u32) -> f64 = |_| 0.0;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counts_twice_as_long_each_time_and_goes_back_to_the_fewest() {
        let mut downstream = Downstream::default();
        downstream.found(at(0), WINDOW, STEP, 50.0, NONE);
        assert_eq!(downstream.step(at(150)), Some((at(50), STEP)));
        assert_eq!((downstream.limits(at(200)), downstream.is_suspected()), (false, true));
        downstream.found(at(250), WINDOW, Ineffective { enough: 6, ..STEP }, 50.0, NONE);
        assert_eq!(downstream.step(at(250)), Some((at(400), STEP)));
    }

    #[test]
    fn counts_for_longer_where_its_end_would_show() {
        for (able, until) in [(12.0, 200), (13.0, 800)] {
            let mut downstream = Downstream::default();
            let able = |replicas| f64::from(replicas) * able;
            downstream.found(at(0), WINDOW, STEP, 40.0, able);
            assert_eq!((downstream.limits(at(until - 1)), downstream.limits(at(until))), (true, false));
            // It is the fewer replicas of before that have to show it.
            downstream.found(at(1_000), WINDOW, Ineffective { enough: 8, ..STEP }, 80.0, able);
            assert_eq!((downstream.limits(at(1_399)), downstream.limits(at(1_400))), (true, false));
        }
        let mut downstream = Downstream::default();
        for _ in 0..40 {
            downstream.found(at(0), WINDOW, STEP, 40.0, |_| 99.0);
        }
        assert_eq!(downstream.step(at(0)).map(|(left, _)| left), Some(WINDOW * LONGEST), "it never lasts for ever");
    }

    #[test]
    fn is_over_when_more_is_handled_or_nothing_waits() {
        for (handled, quiet_for, over) in
            [(54.0, None, false), (56.0, None, true), (9.0, Some(at(99)), false), (9.0, Some(at(100)), true)]
        {
            let mut downstream = Downstream::default();
            downstream.found(at(0), WINDOW, STEP, 50.0, NONE);
            downstream.look(handled, quiet_for, WINDOW);
            assert_eq!(downstream.is_suspected(), !over, "{handled} {quiet_for:?}");
        }
    }
}
