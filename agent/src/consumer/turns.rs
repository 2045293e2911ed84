//! Where the poll thread spends its time.

use std::time::Instant;

use mq_protocol::message::PollTime;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Working,
    /// It waits for Kafka.
    Idle,
    /// It waits for handlers, because the consumer holds all that it may.
    Full,
    /// It waits for handlers of partitions that leave.
    Draining,
}

#[derive(Debug)]
pub(super) struct Turns {
    doing: Doing,
    since: Instant,
    spent: PollTime,
}

impl Turns {
    pub(super) fn new(now: Instant) -> Self {
        Self { doing: Doing::Working, since: now, spent: PollTime::default() }
    }

    /// It does this from `now` on. What it did before.
    pub(super) fn turn_to(&mut self, doing: Doing, now: Instant) -> Doing {
        let time = now.saturating_duration_since(std::mem::replace(&mut self.since, now));
        match self.doing {
            Doing::Working => {}
            Doing::Idle => self.spent.idle += time,
            Doing::Full => self.spent.full += time,
            Doing::Draining => self.spent.draining += time,
        }
        std::mem::replace(&mut self.doing, doing)
    }

    /// How long it waited since this was asked last, what it is at included.
    pub(super) fn take(&mut self, now: Instant) -> PollTime {
        self.turn_to(self.doing, now);
        std::mem::take(&mut self.spent)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_goes_on_is_counted_up_to_now_and_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut turns = Turns::new(start);
        turns.turn_to(Doing::Idle, at(1));
        // A rebalance comes through the poll that waits.
        let before = turns.turn_to(Doing::Draining, at(3));
        assert_eq!(before, Doing::Idle);
        let spent = |idle, full, draining| PollTime {
            idle: Duration::from_secs(idle),
            full: Duration::from_secs(full),
            draining: Duration::from_secs(draining),
        };
        assert_eq!(turns.take(at(7)), spent(2, 0, 4));
        turns.turn_to(before, at(8));
        turns.turn_to(Doing::Full, at(10));
        turns.turn_to(Doing::Working, at(15));
        assert_eq!(turns.take(at(99)), spent(2, 5, 1));
    }
}
