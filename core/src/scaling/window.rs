//! The largest value of a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

/// Largest value pushed within a time. Smaller values before a larger one are dropped: they can never be the largest again.
#[derive(Debug, Clone, Default)]
pub(super) struct WindowMax {
    values: VecDeque<(Duration, f64)>,
}

impl WindowMax {
    pub(super) fn push(&mut self, at: Duration, value: f64, window: Duration) {
        while self.values.back().is_some_and(|(_, last)| *last <= value) {
            self.values.pop_back();
        }
        self.values.push_back((at, value));
        let oldest = at.saturating_sub(window);
        while self.values.front().is_some_and(|(then, _)| *then < oldest) {
            self.values.pop_front();
        }
    }

    pub(super) fn max(&self) -> Option<f64> {
        self.values.front().map(|(_, value)| *value)
    }

    /// The largest of those that were pushed at `from` or later.
    pub(super) fn max_since(&self, from: Duration) -> Option<f64> {
        self.values.iter().find(|(then, _)| *then >= from).map(|(_, value)| *value)
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_left_the_window() {
        let mut window = WindowMax::default();
        for (at, value, max) in [(0, 5.0, 5.0), (1, 3.0, 5.0), (2, 4.0, 5.0), (12, 1.0, 4.0), (13, 1.0, 1.0)] {
            window.push(Duration::from_secs(at), value, Duration::from_secs(10));
            assert_eq!(window.max(), Some(max), "at {at}");
        }
        let since = |at| window.max_since(Duration::from_secs(at));
        assert_eq!([since(0), since(12), since(13), since(14)], [Some(1.0), Some(1.0), Some(1.0), None]);
        window.push(Duration::from_secs(14), 0.5, Duration::from_secs(10));
        assert_eq!([13, 14].map(|at| window.max_since(Duration::from_secs(at))), [Some(1.0), Some(0.5)]);
    }
}
