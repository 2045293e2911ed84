//! KEDA's Kafka scaler and the `HorizontalPodAutoscaler` behind it, by their published formulas (KEDA 2.21, Kubernetes 1.34).

use std::collections::VecDeque;

use mq_simulation::{Scaler, World};

/// Seconds between two looks of the autoscaler. It asks KEDA each time, whose own polling only decides between none and one.
const SYNC: u32 = 15;
/// It looks at some moment between two of our cycles.
const PHASE: u32 = 7;
const TOLERANCE: f64 = 0.1;
const DEFAULT_STABILIZATION: u32 = 300;

/// What a user sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// `lagThreshold`: messages per replica.
    pub(super) threshold: u64,
    /// Seconds of `scaleDown.stabilizationWindowSeconds`; none: `behavior` is not given at all.
    pub(super) stabilization: Option<u32>,
}

impl Setting {
    /// What KEDA does when only the topic and the group are named.
    pub(super) const DEFAULT: Self = Self { threshold: 10, stabilization: None };

    pub(super) fn grid() -> impl Iterator<Item = Self> {
        const THRESHOLDS: [u64; 8] = [10, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000];
        const WINDOWS: [u32; 3] = [60, DEFAULT_STABILIZATION, 900];
        let of = |threshold| WINDOWS.map(|window| Self { threshold, stabilization: Some(window) });
        THRESHOLDS.into_iter().flat_map(of)
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let window = self.stabilization.unwrap_or(DEFAULT_STABILIZATION);
        write!(f, "lagThreshold {}, {window} s", self.threshold)
    }
}

/// Both of them, for one group.
#[derive(Debug)]
pub(super) struct Keda {
    setting: Setting,
    min: u32,
    max: u32,
    recommended: VecDeque<(u32, u32)>,
}

impl Keda {
    pub(super) fn new(setting: Setting, min: u32, max: u32) -> Self {
        Self { setting, min, max, recommended: VecDeque::new() }
    }

    /// The sum of all lags, at most so much that there is one replica per partition; none while an end cannot be read.
    fn metric(&self, world: &World<'_>) -> Option<u64> {
        let readings = world.readings();
        let mut total = 0_i64;
        for reading in &readings {
            total += reading.end.as_ref().ok()? - reading.committed.as_ref().ok()?.unwrap_or_default();
        }
        let (total, partitions) = (u64::try_from(total).unwrap_or_default(), u64::try_from(readings.len()).ok()?);
        let over = total / self.setting.threshold > partitions;
        Some(if over { partitions * self.setting.threshold } else { total })
    }

    /// `AverageValue` of an external metric.
    #[expect(clippy::cast_precision_loss, reason = "a count of messages")]
    fn wanted(&self, metric: u64, current: u32) -> u32 {
        let ratio = metric as f64 / (self.setting.threshold as f64 * f64::from(current));
        let tolerable = (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
        if tolerable { current } else { u32::try_from(metric.div_ceil(self.setting.threshold)).unwrap_or(u32::MAX) }
    }

    /// Down to the most that was wanted within the window; up at most to twice as many, or four more (without `behavior`: to four).
    fn normal(&mut self, second: u32, wanted: u32, current: u32) -> u32 {
        let window = self.setting.stabilization.unwrap_or(DEFAULT_STABILIZATION);
        self.recommended.push_back((second, wanted));
        self.recommended.retain(|(then, _)| *then + window > second);
        let most = self.recommended.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted);
        let stable = if wanted > current { wanted } else { current.min(most) };
        let few = if self.setting.stabilization.is_some() { current + 4 } else { 4 };
        stable.clamp(self.min, self.max).min(few.max(current * 2))
    }
}

impl Scaler for Keda {
    fn look(&mut self, second: u32, world: &mut World<'_>) -> Option<(u32, String)> {
        if second % SYNC != PHASE {
            return None;
        }
        let (metric, current) = (self.metric(world)?, world.replicas());
        let wanted = self.wanted(metric, current);
        let replicas = self.normal(second, wanted, current);
        Some((replicas, format!("{metric} messages at {} each", self.setting.threshold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keda(threshold: u64, stabilization: Option<u32>) -> Keda {
        Keda::new(Setting { threshold, stabilization }, 1, 63)
    }

    #[test]
    fn a_tenth_more_or_less_changes_nothing() {
        let keda = keda(100, None);
        let wanted: Vec<u32> = [890, 900, 1_100, 1_110, 0].iter().map(|metric| keda.wanted(*metric, 10)).collect();
        assert_eq!(wanted, [9, 10, 10, 12, 0]);
    }

    #[test]
    fn goes_up_as_fast_as_the_defaults_allow_and_down_after_the_window() {
        let up = |mut keda: Keda| {
            let mut path = vec![1];
            for n in 0..6 {
                path.push(keda.normal(n * SYNC, 63, path[path.len() - 1]));
            }
            path
        };
        assert_eq!(up(keda(10, Some(300))), [1, 5, 10, 20, 40, 63, 63]);
        assert_eq!(up(keda(10, None)), [1, 4, 8, 16, 32, 63, 63]);
        let mut keda = keda(10, Some(60));
        let path: Vec<u32> = (0..6).map(|n| keda.normal(n * SYNC, if n == 0 { 10 } else { 2 }, 10)).collect();
        assert_eq!(path, [10, 10, 10, 10, 2, 2]);
    }
}
