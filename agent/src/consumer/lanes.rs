//! The ready-key queue: records of one key in order and one at a time, different keys side by side.
//!
//! A lane is the queue of one key. It is in one of three conditions: *ready* (has a record, none of it runs), *running* (its first
//! record is with a handler) or *parked* (its first record failed and waits for its next attempt). A lane that empties is gone,
//! so memory follows the records in flight and not the number of keys ever seen.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct Lanes<K, T> {
    by_key: HashMap<K, Lane<T>>,
    ready: VecDeque<K>,
    /// Slots in use.
    running: usize,
    limit: usize,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ready,
    Running,
    Parked,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { by_key: HashMap::new(), ready: VecDeque::new(), running: 0, limit: limit.max(1) }
    }

    /// Slots from now on. Fewer: the surplus ends as handlers end, none is cut off.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Slots in use.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Appends an item to the lane of its key.
    pub(crate) fn push(&mut self, key: K, item: T) {
        if let Some(lane) = self.by_key.get_mut(&key) {
            lane.waiting.push_back(item);
        } else {
            self.by_key.insert(key.clone(), Lane { waiting: VecDeque::from([item]), condition: Condition::Ready });
            self.ready.push_back(key);
        }
    }

    /// Takes the first item of the lane that has been ready for the longest time, if a slot is free.
    pub(crate) fn start(&mut self) -> Option<(K, T)> {
        if self.running >= self.limit {
            return None;
        }
        let key = self.ready.pop_front()?;
        let lane = self.by_key.get_mut(&key)?;
        let item = lane.waiting.pop_front()?;
        lane.condition = Condition::Running;
        self.running += 1;
        Some((key, item))
    }

    /// The slot of a started item is free: the item is done, and the next one of its lane becomes ready. Exactly one of `finish` and
    /// `park` follows each `start`.
    pub(crate) fn finish(&mut self, key: &K) {
        self.running -= 1;
        if self.condition(key) == Some(Condition::Running) {
            self.advance(key);
        }
    }

    /// The slot of a started item is free, but the item keeps its lane: later items of the key wait for it.
    pub(crate) fn park(&mut self, key: &K) {
        self.running -= 1;
        if let Some(lane) = self.by_key.get_mut(key) {
            lane.condition = Condition::Parked;
        }
    }

    /// A parked item goes back to the head of its lane, to be started again. Returned if the lane was removed meanwhile.
    pub(crate) fn unpark(&mut self, key: &K, item: T) -> Option<T> {
        let Some(lane) = self.by_key.get_mut(key).filter(|lane| lane.condition == Condition::Parked) else {
            return Some(item);
        };
        lane.waiting.push_front(item);
        lane.condition = Condition::Ready;
        self.ready.push_back(key.clone());
        None
    }

    /// A parked item is done (its dead letter is delivered); the next one becomes ready.
    pub(crate) fn finish_parked(&mut self, key: &K) {
        if self.condition(key) == Some(Condition::Parked) {
            self.advance(key);
        }
    }

    /// Drops the waiting items for which `drop` says so, and returns them. Running and parked ones stay.
    pub(crate) fn discard(&mut self, mut drop: impl FnMut(&K, &T) -> bool) -> Vec<T> {
        let mut dropped = Vec::new();
        self.by_key.retain(|key, lane| {
            let (gone, kept) = lane.waiting.drain(..).partition(|item| drop(key, item));
            lane.waiting = kept;
            dropped.extend::<VecDeque<T>>(gone);
            !lane.waiting.is_empty() || lane.condition != Condition::Ready
        });
        self.ready.retain(|key| self.by_key.contains_key(key));
        dropped
    }

    /// Removes whole lanes, whatever their condition, and returns what waited in them. What runs in them goes on and keeps its slot.
    pub(crate) fn remove(&mut self, mut remove: impl FnMut(&K) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        self.by_key.retain(|key, lane| {
            if !remove(key) {
                return true;
            }
            removed.extend(lane.waiting.drain(..));
            false
        });
        self.ready.retain(|key| self.by_key.contains_key(key));
        removed
    }

    /// Whether anything waits, runs or is parked in the lanes of which `of` says yes.
    pub(crate) fn is_busy(&self, of: impl FnMut(&K) -> bool) -> bool {
        self.by_key.keys().any(of)
    }

    fn condition(&self, key: &K) -> Option<Condition> {
        self.by_key.get(key).map(|lane| lane.condition)
    }

    fn advance(&mut self, key: &K) {
        if let Some(lane) = self.by_key.get_mut(key) {
            if lane.waiting.is_empty() {
                self.by_key.remove(key);
            } else {
                lane.condition = Condition::Ready;
                self.ready.push_back(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_key_delays_only_itself() {
        let mut lanes = Lanes::new(2);
        for item in 0..3 {
            lanes.push("slow", item);
        }
        lanes.push("fast", 10);
        lanes.push("other", 20);
        assert_eq!(lanes.start(), Some(("slow", 0)));
        assert_eq!(lanes.start(), Some(("fast", 10)));
        assert_eq!(lanes.start(), None, "two slots");
        lanes.finish(&"fast");
        assert_eq!(lanes.start(), Some(("other", 20)));
        lanes.finish(&"other");
        assert_eq!(lanes.start(), None, "the slow key waits for itself");
        lanes.finish(&"slow");
        assert_eq!(lanes.start(), Some(("slow", 1)));
    }

    #[test]
    fn a_parked_item_frees_its_slot_and_keeps_its_place() {
        let mut lanes = Lanes::new(1);
        lanes.push("a", 0);
        lanes.push("a", 1);
        lanes.push("b", 0);
        assert_eq!(lanes.start(), Some(("a", 0)));
        lanes.park(&"a");
        assert_eq!(lanes.start(), Some(("b", 0)));
        lanes.finish(&"b");
        assert_eq!(lanes.start(), None);
        assert_eq!(lanes.unpark(&"a", 0), None);
        assert_eq!(lanes.start(), Some(("a", 0)));
        lanes.finish(&"a");
        assert_eq!(lanes.start(), Some(("a", 1)));
    }

    #[test]
    fn a_removed_lane_gives_its_parked_item_back() {
        let mut lanes = Lanes::new(1);
        lanes.push("a", 0);
        lanes.push("a", 1);
        lanes.start();
        lanes.park(&"a");
        assert_eq!(lanes.remove(|_| true), vec![1]);
        assert_eq!(lanes.unpark(&"a", 0), Some(0));
        assert!(!lanes.is_busy(|_| true));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Start,
        Finish(u8),
        Park(u8),
        Unpark(u8),
        Limit(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..5).prop_map(Step::Push),
            4 => Just(Step::Start),
            3 => (0_u8..5).prop_map(Step::Finish),
            1 => (0_u8..5).prop_map(Step::Park),
            1 => (0_u8..5).prop_map(Step::Unpark),
            1 => (1_usize..4).prop_map(Step::Limit),
        ]
    }

    proptest! {
        /// Per key: in order, one at a time. Over all: never more started at once than slots, and everything is started in the end.
        #[test]
        fn order_and_slots(steps in prop::collection::vec(step(), 0..200)) {
            let mut lanes = Lanes::new(2);
            let mut limit = 2;
            let mut pushed: HashMap<u8, u32> = HashMap::new();
            let mut done: HashMap<u8, u32> = HashMap::new();
            let mut running: HashMap<u8, u32> = HashMap::new();
            let mut parked: HashMap<u8, u32> = HashMap::new();
            for step in steps {
                match step {
                    Step::Push(key) => {
                        let next = pushed.entry(key).or_default();
                        lanes.push(key, *next);
                        *next += 1;
                    }
                    Step::Start => {
                        let before = running.len();
                        if let Some((key, item)) = lanes.start() {
                            prop_assert!(before < limit);
                            prop_assert_eq!(item, done.get(&key).copied().unwrap_or_default());
                            prop_assert!(running.insert(key, item).is_none() && !parked.contains_key(&key));
                        }
                    }
                    Step::Finish(key) => {
                        if running.remove(&key).is_some() {
                            lanes.finish(&key);
                            *done.entry(key).or_default() += 1;
                        }
                    }
                    Step::Park(key) => {
                        if let Some(item) = running.remove(&key) {
                            lanes.park(&key);
                            parked.insert(key, item);
                        }
                    }
                    Step::Unpark(key) => {
                        if let Some(item) = parked.remove(&key) {
                            prop_assert_eq!(lanes.unpark(&key, item), None);
                        }
                    }
                    Step::Limit(slots) => {
                        limit = slots;
                        lanes.set_limit(slots);
                    }
                }
            }
            for (key, item) in parked.drain() {
                lanes.unpark(&key, item);
            }
            for key in running.drain().map(|(key, _)| key).collect::<HashSet<_>>() {
                lanes.finish(&key);
                *done.entry(key).or_default() += 1;
            }
            while let Some((key, item)) = lanes.start() {
                prop_assert_eq!(item, done.get(&key).copied().unwrap_or_default());
                lanes.finish(&key);
                *done.entry(key).or_default() += 1;
            }
            pushed.retain(|_, count| *count > 0);
            prop_assert_eq!(done, pushed);
            prop_assert!(!lanes.is_busy(|_| true));
        }
    }
}
