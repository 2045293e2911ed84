//! Slots: how many handlers may run, how many more are worth starting, and how many records one takes at a time.
//!
//! A slot runs one handler after the other. One that takes several records takes the lock once for all of them, which pays where
//! handlers are short; and it keeps them from other slots, which harms where handlers are long. So it takes what it handles in
//! [`SHARE`], as measured.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::lanes::Claim;
use super::state::Job;

/// For this time a slot takes records at once.
pub(super) const SHARE: Duration = Duration::from_micros(64);
/// What a record costs at least: a slot takes at most 64.
const LEAST: Duration = Duration::from_micros(1);
/// After this long at one take, a slot's other records are free for others.
pub(super) const HOLD: Duration = SHARE.saturating_mul(4);
/// The weight of what was measured before, against 1 of the last measurement.
const MEMORY: u32 = 7;

#[derive(Debug)]
pub(super) struct Slots {
    used: Slab<Used>,
    starting: usize,
    limit: usize,
    /// How long a handler runs, lately.
    pace: Duration,
    /// How many records a handler takes at once; `None`: one after the other.
    at_once: Option<usize>,
}

#[derive(Debug)]
struct Used {
    /// Since when it is at its records; `None`: it has not begun.
    since: Option<Instant>,
    hand: Hand,
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Slot {
    index: usize,
    pub(super) hand: Hand,
}

/// What a slot has, but for the record that it handles and the one that it has just handled. Locked after the state, or alone: the slot
/// takes the next one while the state is free for others, and whoever holds the state can take it over from a slot whose handler does not
/// end.
#[derive(Debug, Clone, Default)]
pub(super) struct Hand(Arc<Mutex<InHand>>);

#[derive(Debug, Default)]
pub(super) struct InHand {
    /// Taken and not begun.
    pub(super) waiting: VecDeque<Job>,
    /// Handled, and not yet said so.
    pub(super) handled: Vec<Claim>,
}

impl Hand {
    pub(super) fn lock(&self) -> MutexGuard<'_, InHand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next record, after this one was handled.
    pub(super) fn next(&self, handled: Option<Claim>) -> Option<Job> {
        let mut hand = self.lock();
        hand.handled.extend(handled);
        hand.waiting.pop_front()
    }
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self { used: Slab::new(), starting: 0, limit: limit.max(1), pace: SHARE, at_once: None }
    }

    /// Slots from now on. Fewer: the surplus ends as handlers end, none is cut off.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Handlers take so many records at once.
    pub(super) fn take_at_once(&mut self, records: usize) {
        self.at_once = Some(records.max(1));
    }

    /// How many records a handler takes at once.
    pub(super) fn at_once(&self) -> usize {
        self.at_once.unwrap_or(1)
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.used.len()
    }

    /// Takes the free slots that are of use when so many lanes are ready.
    pub(super) fn claim(&mut self, ready: usize) -> Vec<Slot> {
        let useful = ready.div_ceil(self.share()).saturating_sub(self.starting);
        let claimed = useful.min(self.limit.saturating_sub(self.used.len()));
        self.starting += claimed;
        let slot = |_| {
            let hand = Hand::default();
            Slot { index: self.used.insert(Used { since: None, hand: hand.clone() }), hand }
        };
        (0..claimed).map(slot).collect()
    }

    /// How many records the slot may take now. None: there are fewer slots now.
    pub(super) fn take(&mut self, slot: &Slot, now: Instant) -> usize {
        self.begun(slot, now);
        if self.used.len() > self.limit { 0 } else { self.share() }
    }

    pub(super) fn free(&mut self, slot: &Slot) {
        if self.used.remove(slot.index).since.is_none() {
            self.starting -= 1;
        }
    }

    /// For how long the slot that took its records first has been at them.
    pub(super) fn longest(&self, now: Instant) -> Duration {
        let since = self.used.iter().filter_map(|(_, used)| used.since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// What waits for handlers that do not end.
    pub(super) fn held_up(&self, now: Instant) -> (Vec<Job>, Vec<Claim>) {
        let stuck = |used: &&Used| used.since.is_some_and(|since| now.saturating_duration_since(since) > HOLD);
        let (mut waiting, mut handled) = (Vec::new(), Vec::new());
        for used in self.used.iter().map(|(_, used)| used).filter(stuck) {
            let mut hand = used.hand.lock();
            waiting.extend(hand.waiting.drain(..));
            handled.append(&mut hand.handled);
        }
        (waiting, handled)
    }

    /// So many records were handled in this time by one slot.
    pub(super) fn measured(&mut self, time: Duration, records: u32) {
        if let Some(each) = time.checked_div(records) {
            self.pace = (self.pace * MEMORY + each) / (MEMORY + 1);
        }
    }

    /// A handler waits: the next ones are likely to.
    pub(super) fn waits(&mut self) {
        self.pace = self.pace.max(SHARE);
    }

    fn begun(&mut self, slot: &Slot, now: Instant) {
        if self.used[slot.index].since.replace(now).is_none() {
            self.starting -= 1;
        }
    }

    fn share(&self) -> usize {
        if let Some(records) = self.at_once {
            return records;
        }
        let share = SHARE.as_nanos() / self.pace.max(LEAST).as_nanos();
        usize::try_from(share).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(limit: usize, pace: Duration) -> Slots {
        let mut slots = Slots::new(limit);
        for _ in 0..200 {
            slots.measured(pace, 1);
        }
        slots
    }

    #[test]
    fn a_slot_takes_what_it_handles_in_its_share() {
        for (micros, share) in [(0, 64), (1, 64), (2, 32), (10, 6), (33, 1), (64, 1), (10_000, 1)] {
            let mut slots = paced(100, Duration::from_micros(micros));
            assert_eq!((slots.claim(64).len(), slots.share()), (64_usize.div_ceil(share), share), "{micros} µs");
        }
    }

    #[test]
    fn until_it_is_known_how_long_handlers_run_and_when_one_waits_slots_take_one_record() {
        assert_eq!(Slots::new(8).share(), 1);
        let mut slots = paced(8, Duration::ZERO);
        slots.waits();
        assert_eq!(slots.share(), 1);
    }

    #[test]
    fn never_more_than_the_limit_and_no_more_than_are_of_use() {
        let now = Instant::now();
        let mut slots = Slots::new(3);
        let [first, second] = <[Slot; 2]>::try_from(slots.claim(2)).unwrap();
        assert!(slots.claim(2).is_empty(), "both are on their way");
        assert_eq!((slots.take(&first, now), slots.take(&second, now)), (1, 1));
        let third = slots.claim(2).pop().unwrap();
        assert_eq!((slots.claim(5).len(), slots.used()), (0, 3));
        slots.set_limit(2);
        assert_eq!(slots.take(&first, now), 0);
        slots.free(&first);
        assert_eq!((slots.take(&third, now), slots.used()), (1, 2));
        slots.set_limit(4);
        assert_eq!(slots.claim(5).len(), 2);
    }
}
