//! Something behind the replicas that limits them all together: a step up that brings next to nothing shows it.

use std::time::Duration;

/// Windows for which the first such step counts. Each one that follows counts twice as long.
const FIRST: u32 = 2;
/// So many times at most.
const DOUBLINGS: u32 = 6;

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

/// What steps up have shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Downstream {
    step: Option<(Duration, Ineffective)>,
    strikes: u32,
}

impl Downstream {
    /// A step up brought next to nothing. The fewest replicas that did as much stay the ones to go back to.
    pub(super) fn found(&mut self, at: Duration, window: Duration, step: Ineffective) {
        let enough = self.step.map_or(step.enough, |(_, before)| before.enough.min(step.enough));
        let until = at.saturating_add(window * FIRST * 2_u32.saturating_pow(self.strikes.min(DOUBLINGS)));
        self.step = Some((until, Ineffective { enough, ..step }));
        self.strikes = self.strikes.saturating_add(1);
    }

    /// A step up brought something, or other pods run.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Nothing waits since `quiet`: what limited does so no more, once it has stopped to count.
    pub(super) fn forget(&mut self, at: Duration, quiet: Option<Duration>) {
        if quiet.is_some() && self.is_suspected() && !self.limits(at) {
            self.clear();
        }
    }

    pub(super) fn limits(&self, at: Duration) -> bool {
        self.step(at).is_some()
    }

    /// The last such step and for how long it still counts.
    pub(super) fn step(&self, at: Duration) -> Option<(Duration, Ineffective)> {
        let (until, step) = self.step?;
        Some((until.checked_sub(at).filter(|left| !left.is_zero())?, step))
    }

    /// Whether there was one, even if it counts no more: the next step up is a small one.
    pub(super) fn is_suspected(&self) -> bool {
        self.step.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counts_twice_as_long_each_time_and_goes_back_to_the_fewest() {
        let mut downstream = Downstream::default();
        let step = |enough| Ineffective { enough, brought: 0.0, predicted: 100.0 };
        downstream.found(at(0), WINDOW, step(4));
        assert_eq!(downstream.step(at(150)), Some((at(50), step(4))));
        assert_eq!((downstream.limits(at(200)), downstream.is_suspected()), (false, true));
        downstream.found(at(250), WINDOW, step(6));
        assert_eq!(downstream.step(at(250)), Some((at(400), step(4))));
    }

    #[test]
    fn is_forgotten_when_nothing_waits_any_more() {
        let mut downstream = Downstream::default();
        downstream.found(at(0), WINDOW, Ineffective { enough: 4, brought: 0.0, predicted: 100.0 });
        downstream.forget(at(150), Some(at(100)));
        assert!(downstream.limits(at(150)), "not before it has stopped to count");
        downstream.forget(at(250), None);
        assert!(downstream.is_suspected());
        downstream.forget(at(250), Some(at(240)));
        assert!(!downstream.is_suspected());
    }
}
