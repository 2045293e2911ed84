//! The ready-key queue: records of one key in order and one at a time, different keys side by side.
//!
//! A lane is the queue of one key. It is *ready* (all its items wait), *held* (its first items are handed out: to a handler, or to
//! a retry that waits for its time) or *removed* (held, and nobody wants to know the outcome any more). Who takes a lane gets a
//! [`Claim`], which cannot be copied and is given back exactly once; until then the lane keeps its place, so the claim always finds it.
//! A lane that empties is gone: memory follows the records in flight and not the number of keys ever seen.

use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;

#[derive(Debug)]
pub(crate) struct Lanes<T> {
    queues: Slab<Lane>,
    items: Slab<Item<T>>,
    /// The lanes that have a key.
    keyed: HashTable<usize>,
    ready: VecDeque<usize>,
    /// Lanes that are stopped.
    stopped: usize,
}

#[derive(Debug)]
struct Item<T> {
    value: T,
    next: Option<usize>,
}

/// Never empty but between [`Lanes::pop`] and the end of its claim.
#[derive(Debug)]
struct Lane {
    /// The hash of its key.
    hash: Option<u64>,
    first: Option<usize>,
    last: usize,
    /// How many of its first items are handed out.
    handed: usize,
    condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ready,
    Held,
    /// Held until somebody mends what it waits for. Nobody waits for it.
    Stopped,
    Removed,
}

/// The right and the duty to say what becomes of the items of a lane that are handed out.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its lane stands still until it is given back"]
pub(crate) struct Claim(usize);

impl<T> Lanes<T> {
    pub(crate) fn new() -> Self {
        let (queues, items) = (Slab::new(), Slab::new());
        Self { queues, items, keyed: HashTable::new(), ready: VecDeque::new(), stopped: 0 }
    }

    /// Appends an item to the lane of its key: the lane with this hash whose first item is `same`. Without a hash it gets one of its own.
    pub(crate) fn push(&mut self, hash: Option<u64>, value: T, same: impl Fn(&T) -> bool) {
        let item = self.items.insert(Item { value, next: None });
        let new = Lane { hash, first: Some(item), last: item, handed: 0, condition: Condition::Ready };
        let Some(hash) = hash else {
            self.ready.push_back(self.queues.insert(new));
            return;
        };
        let (lanes, items) = (&mut self.queues, &mut self.items);
        let is_same = |lane: &usize| lanes[*lane].first.is_some_and(|first| same(&items[first].value));
        match self.keyed.entry(hash, is_same, |lane| lanes[*lane].hash.unwrap_or_default()) {
            Entry::Occupied(lane) => {
                let lane = &mut lanes[*lane.get()];
                items[lane.last].next = Some(item);
                lane.last = item;
            }
            Entry::Vacant(place) => {
                let lane = lanes.insert(new);
                place.insert(lane);
                self.ready.push_back(lane);
            }
        }
    }

    /// The items of the lanes that are ready, a lane after the other, those first that wait for longest.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.ready.iter().flat_map(|lane| self.of(&self.queues[*lane]))
    }

    /// The first item of each lane that has a key and belongs to somebody, and how many it has.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = (&T, usize)> {
        let lanes = self.queues.iter().map(|(_, lane)| lane);
        let lanes = lanes.filter(|lane| lane.hash.is_some() && lane.condition != Condition::Removed);
        lanes.filter_map(|lane| Some((&self.items[lane.first?].value, self.of(lane).count())))
    }

    fn of(&self, lane: &Lane) -> impl Iterator<Item = &T> {
        let item = |item: usize| &self.items[item];
        std::iter::successors(lane.first.map(item), move |item| item.next.map(|next| &self.items[next]))
            .map(|item| &item.value)
    }

    /// How many lanes are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes the lane that has been ready for the longest time and hands out its first item.
    pub(crate) fn take(&mut self) -> Option<Claim> {
        let lane = self.ready.pop_front()?;
        self.queues[lane].condition = Condition::Held;
        self.queues[lane].handed = 1;
        Some(Claim(lane))
    }

    /// The first item of a lane.
    pub(crate) fn first(&self, claim: &Claim) -> Option<&T> {
        Some(&self.items[self.queues[claim.0].first?].value)
    }

    /// The first item of a lane.
    pub(crate) fn first_mut(&mut self, claim: &Claim) -> Option<&mut T> {
        Some(&mut self.items[self.queues[claim.0].first?].value)
    }

    /// Hands out the first item, and up to so many in all of those after it for which `also` says so, until it does not.
    pub(crate) fn hand_out(
        &mut self,
        claim: &Claim,
        most: usize,
        also: impl Fn(&T) -> bool,
    ) -> impl Iterator<Item = &T> {
        let lane = &mut self.queues[claim.0];
        let mut next = lane.first;
        lane.handed = 0;
        while let Some(item) = next
            && (lane.handed == 0 || (lane.handed < most && also(&self.items[item].value)))
        {
            lane.handed += 1;
            next = self.items[item].next;
        }
        let (first, handed, items) = (lane.first, lane.handed, &self.items);
        std::iter::successors(first.map(|item| &items[item]), |item| item.next.map(|next| &items[next]))
            .take(handed)
            .map(|item| &item.value)
    }

    /// Changes everything that is handed out.
    pub(crate) fn change(&mut self, claim: &Claim, change: impl Fn(&mut T)) {
        let lane = &self.queues[claim.0];
        let mut next = lane.first;
        for _ in 0..lane.handed {
            let Some(item) = next.and_then(|item| self.items.get_mut(item)) else { return };
            change(&mut item.value);
            next = item.next;
        }
    }

    /// Of those that are handed out only the first one stays so.
    pub(crate) fn hold_first(&mut self, claim: &Claim) {
        self.queues[claim.0].handed = 1;
    }

    /// The first item is done.
    pub(crate) fn pop(&mut self, claim: &Claim) -> Option<T> {
        let lane = &mut self.queues[claim.0];
        let item = self.items.remove(lane.first?);
        lane.first = item.next;
        lane.handed = lane.handed.saturating_sub(1);
        Some(item.value)
    }

    /// Nothing of the lane is handed out any more: what is left of it waits, behind the lanes that are ready. If the lane was removed
    /// meanwhile, returns what was handed out.
    #[must_use]
    pub(crate) fn end(&mut self, claim: Claim) -> Vec<T> {
        self.close(claim, VecDeque::push_back)
    }

    /// As [`Lanes::end`], before the lanes that are ready.
    #[must_use]
    pub(crate) fn give_back(&mut self, claim: Claim) -> Vec<T> {
        self.close(claim, VecDeque::push_front)
    }

    fn close(&mut self, Claim(index): Claim, queue: impl FnOnce(&mut VecDeque<usize>, usize)) -> Vec<T> {
        let lane = &mut self.queues[index];
        lane.handed = 0;
        if lane.condition == Condition::Stopped {
            self.stopped -= 1;
        }
        if lane.condition == Condition::Removed {
            let rest = self.cut(index, |_| true);
            self.queues.remove(index);
            return rest;
        }
        if lane.first.is_some() {
            lane.condition = Condition::Ready;
            queue(&mut self.ready, index);
        } else {
            self.forget(index);
            self.queues.remove(index);
        }
        Vec::new()
    }

    /// Nobody waits for the lane from now on; it goes on when its claim is given back.
    pub(crate) fn stop(&mut self, claim: &Claim) {
        let lane = &mut self.queues[claim.0];
        if lane.condition == Condition::Held {
            lane.condition = Condition::Stopped;
            self.stopped += 1;
        }
    }

    /// Lanes that are stopped.
    pub(crate) fn stopped(&self) -> usize {
        self.stopped
    }

    pub(crate) fn is_removed(&self, claim: &Claim) -> bool {
        self.queues[claim.0].condition == Condition::Removed
    }

    /// Drops the waiting items for which `drop` says so, and returns them. Those that are handed out stay.
    pub(crate) fn discard(&mut self, mut drop: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut dropped = Vec::new();
        for index in self.indices() {
            dropped.append(&mut self.cut(index, &mut drop));
            if self.queues[index].first.is_none() && self.queues[index].condition == Condition::Ready {
                self.forget(index);
                self.queues.remove(index);
            }
        }
        self.ready.retain(|lane| self.queues.contains(*lane));
        dropped
    }

    /// Removes whole lanes by their first item, and returns what waited in them. What is handed out stays until it is given back.
    pub(crate) fn remove(&mut self, mut remove: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for index in self.indices() {
            let Lane { first, condition, .. } = self.queues[index];
            if condition == Condition::Removed || !first.is_some_and(|first| remove(&self.items[first].value)) {
                continue;
            }
            self.forget(index);
            removed.append(&mut self.cut(index, |_| true));
            match condition {
                Condition::Ready => drop(self.queues.remove(index)),
                Condition::Stopped => self.stopped -= 1,
                Condition::Held | Condition::Removed => {}
            }
            if let Some(lane) = self.queues.get_mut(index) {
                lane.condition = Condition::Removed;
            }
        }
        self.ready.retain(|lane| self.queues.contains(*lane));
        removed
    }

    /// Whether anything is in the lanes of which `of` says yes, by their first item, that somebody should wait for.
    pub(crate) fn is_busy(&self, mut of: impl FnMut(&T) -> bool) -> bool {
        let waited =
            self.queues.iter().filter(|(_, lane)| matches!(lane.condition, Condition::Ready | Condition::Held));
        waited.filter_map(|(_, lane)| lane.first).any(|first| of(&self.items[first].value))
    }

    fn indices(&self) -> Vec<usize> {
        self.queues.iter().map(|(index, _)| index).collect()
    }

    /// Takes the items out of a lane for which `cut` says so and that are not handed out.
    fn cut(&mut self, index: usize, mut cut: impl FnMut(&T) -> bool) -> Vec<T> {
        let lane = &mut self.queues[index];
        let mut removed = Vec::new();
        let (mut kept, mut next, mut position) = (None, lane.first, 0);
        while let Some(item) = next {
            next = self.items[item].next;
            position += 1;
            if position > lane.handed && cut(&self.items[item].value) {
                removed.push(self.items.remove(item).value);
                match kept {
                    Some(kept) => self.items[kept].next = next,
                    None => lane.first = next,
                }
            } else {
                kept = Some(item);
                lane.last = item;
            }
        }
        removed
    }

    /// Takes the lane out of those that are found by key.
    fn forget(&mut self, index: usize) {
        if let Some(hash) = self.queues[index].hash
            && let Ok(entry) = self.keyed.find_entry(hash, |lane| *lane == index)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A key and a number.
    type Numbered = (&'static str, u32);

    fn push(lanes: &mut Lanes<Numbered>, key: &'static str, number: u32) {
        // Keys that share a hash are apart all the same.
        lanes.push(Some(key.len() as u64), (key, number), |first| first.0 == key);
    }

    fn take(lanes: &mut Lanes<Numbered>) -> (Claim, Numbered) {
        let claim = lanes.take().unwrap();
        let first = *lanes.first(&claim).unwrap();
        (claim, first)
    }

    fn finish<T>(lanes: &mut Lanes<T>, claim: Claim) {
        lanes.pop(&claim).unwrap();
        assert!(lanes.end(claim).is_empty());
    }

    #[test]
    fn a_slow_key_delays_only_itself() {
        let mut lanes = Lanes::new();
        for number in 0..3 {
            push(&mut lanes, "slow", number);
        }
        push(&mut lanes, "fast", 10);
        let (slow, first) = take(&mut lanes);
        assert_eq!(first, ("slow", 0));
        let (fast, first) = take(&mut lanes);
        assert_eq!(first, ("fast", 10));
        finish(&mut lanes, fast);
        assert_eq!(lanes.take(), None, "the slow key waits for itself");
        finish(&mut lanes, slow);
        assert_eq!(take(&mut lanes).1, ("slow", 1));
    }

    #[test]
    fn what_was_not_begun_is_next_and_what_failed_is_last() {
        let mut lanes = Lanes::new();
        for key in ["a", "b", "c"] {
            push(&mut lanes, key, 0);
        }
        push(&mut lanes, "a", 1);
        let (a, b) = (take(&mut lanes).0, take(&mut lanes).0);
        assert!(lanes.end(a).is_empty() && lanes.give_back(b).is_empty());
        let order: Vec<_> = (0..3).map(|_| take(&mut lanes).1).collect();
        assert_eq!(order, [("b", 0), ("c", 0), ("a", 0)]);
    }

    #[test]
    fn a_stopped_lane_keeps_nobody_waiting_and_goes_on() {
        let mut lanes = Lanes::new();
        push(&mut lanes, "a", 0);
        push(&mut lanes, "a", 1);
        let claim = lanes.take().unwrap();
        lanes.stop(&claim);
        lanes.stop(&claim);
        assert!(!lanes.is_busy(|_| true));
        assert_eq!(lanes.stopped(), 1);
        finish(&mut lanes, claim);
        assert_eq!((lanes.stopped(), lanes.is_busy(|_| true)), (0, true));
    }

    #[test]
    fn what_is_handed_out_of_a_removed_lane_comes_back_to_nothing() {
        let mut lanes = Lanes::new();
        for number in 0..3 {
            push(&mut lanes, "a", number);
        }
        let old = lanes.take().unwrap();
        assert_eq!(lanes.remove(|_| true), [("a", 1), ("a", 2)]);
        assert!(lanes.is_removed(&old) && !lanes.is_busy(|_| true));
        push(&mut lanes, "a", 3);
        let (new, first) = take(&mut lanes);
        assert_eq!(first, ("a", 3));
        assert_eq!(lanes.end(old), [("a", 0)]);
        assert_eq!(lanes.take(), None, "the new lane is held");
        finish(&mut lanes, new);
        assert!(lanes.queues.is_empty() && lanes.items.is_empty() && lanes.keyed.is_empty());
    }

    #[test]
    fn what_waits_and_which_keys_hold_most() {
        let mut lanes = Lanes::new();
        for (key, number) in [("a", 0), ("bb", 1), ("a", 2), ("ccc", 3), ("a", 4)] {
            push(&mut lanes, key, number);
        }
        lanes.push(None, ("none", 5), |_| false);
        let numbers: Vec<_> = lanes.waiting().map(|item| item.1).collect();
        assert_eq!(numbers, [0, 2, 4, 1, 3, 5]);
        let held = lanes.take().unwrap();
        assert_eq!(lanes.waiting().count(), 3);
        let mut keyed: Vec<_> = lanes.keyed().map(|(first, count)| (first.0, count)).collect();
        keyed.sort_unstable();
        assert_eq!(keyed, [("a", 3), ("bb", 1), ("ccc", 1)]);
        drop(lanes.remove(|item| item.0 == "a"));
        assert_eq!(lanes.keyed().count(), 2);
        assert_eq!(lanes.end(held), [("a", 0)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Take,
        /// Done, not begun, to be tried again: the n-th of the claims.
        Finish(usize),
        GiveBack(usize),
        End(usize),
        Stop(usize),
        /// The waiting items from this number on.
        Discard(u32),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0_u8..6).prop_map(Step::Push),
            8 => Just(Step::Take),
            6 => (0_usize..9).prop_map(Step::Finish),
            2 => (0_usize..9).prop_map(Step::GiveBack),
            2 => (0_usize..9).prop_map(Step::End),
            1 => (0_usize..9).prop_map(Step::Stop),
            1 => (0_u32..99).prop_map(Step::Discard),
            1 => (0_u8..6).prop_map(Step::Remove),
        ]
    }

    /// What is known of the lanes without looking at them. Of key 0 every item has a lane of its own, known by its number.
    #[derive(Default)]
    struct Model {
        waiting: HashMap<(u8, u32), VecDeque<u32>>,
        held: HashMap<(u8, u32), bool>,
        claims: Vec<(Claim, (u8, u32), u32, bool)>,
    }

    impl Model {
        fn ready(&self) -> usize {
            self.waiting.iter().filter(|(lane, items)| !items.is_empty() && !self.held.contains_key(*lane)).count()
        }
    }

    proptest! {
        /// Per key: in order and one at a time, whatever is given back, dropped or removed meanwhile; what is ready is found, and in the
        /// end everything is done and nothing is left behind.
        #[test]
        fn order_per_key(steps in prop::collection::vec(step(), 0..300)) {
            let (mut lanes, mut model, mut next) = (Lanes::new(), Model::default(), 0_u32);
            for step in steps {
                let claim = |model: &mut Model, at: usize| (at < model.claims.len()).then(|| model.claims.swap_remove(at));
                match step {
                    Step::Push(key) => {
                        let hash = (key > 0).then_some(u64::from(key % 3));
                        lanes.push(hash, (key, next), |first| first.0 == key);
                        model.waiting.entry((key, if key > 0 { 0 } else { next })).or_default().push_back(next);
                        next += 1;
                    }
                    Step::Take => {
                        let ready = model.ready();
                        let taken = lanes.take();
                        prop_assert_eq!(taken.is_some(), ready > 0);
                        if let Some(claim) = taken {
                            let (key, number) = *lanes.first(&claim).unwrap();
                            let lane = (key, if key > 0 { 0 } else { number });
                            prop_assert_eq!(model.waiting.get_mut(&lane).unwrap().pop_front(), Some(number));
                            prop_assert!(model.held.insert(lane, false).is_none());
                            model.claims.push((claim, lane, number, false));
                        }
                    }
                    Step::Finish(at) => if let Some((claim, lane, number, removed)) = claim(&mut model, at) {
                        prop_assert_eq!(lanes.pop(&claim), Some((lane.0, number)));
                        prop_assert!(lanes.end(claim).is_empty());
                        if !removed { model.held.remove(&lane); }
                    },
                    Step::GiveBack(at) | Step::End(at) => if let Some((claim, lane, number, removed)) = claim(&mut model, at) {
                        let back = if matches!(step, Step::End(_)) { lanes.end(claim) } else { lanes.give_back(claim) };
                        prop_assert_eq!(back.len(), usize::from(removed));
                        if !removed {
                            model.held.remove(&lane);
                            model.waiting.get_mut(&lane).unwrap().push_front(number);
                        }
                    },
                    Step::Stop(at) => if let Some((claim, lane, _, false)) = model.claims.get(at) {
                        lanes.stop(claim);
                        model.held.insert(*lane, true);
                    },
                    Step::Discard(from) => {
                        let dropped = lanes.discard(|item| item.1 >= from);
                        let before: usize = model.waiting.values().map(VecDeque::len).sum();
                        model.waiting.values_mut().for_each(|items| items.retain(|number| *number < from));
                        prop_assert_eq!(dropped.len(), before - model.waiting.values().map(VecDeque::len).sum::<usize>());
                    }
                    Step::Remove(key) => {
                        let removed = lanes.remove(|item| item.0 == key);
                        let gone = |lane: &(u8, u32)| lane.0 == key;
                        let waiting = model.waiting.iter().filter(|(lane, _)| gone(lane)).map(|(_, items)| items.len());
                        prop_assert_eq!(removed.len(), waiting.sum::<usize>());
                        model.waiting.retain(|lane, _| !gone(lane));
                        model.held.retain(|lane, _| !gone(lane));
                        model.claims.iter_mut().filter(|claim| gone(&claim.1)).for_each(|claim| claim.3 = true);
                    }
                }
                prop_assert_eq!(lanes.ready(), model.ready());
                prop_assert_eq!(lanes.stopped(), model.held.values().filter(|stopped| **stopped).count());
                let waited = model.ready() + model.held.values().filter(|stopped| !**stopped).count();
                prop_assert_eq!(lanes.is_busy(|_| true), waited > 0);
                for (claim, _, _, removed) in &model.claims {
                    prop_assert_eq!(lanes.is_removed(claim), *removed);
                }
            }
            let mut left: usize = model.waiting.values().map(VecDeque::len).sum();
            for (claim, ..) in model.claims.drain(..) {
                finish(&mut lanes, claim);
            }
            while let Some(claim) = lanes.take() {
                finish(&mut lanes, claim);
                left -= 1;
            }
            prop_assert_eq!(left, 0);
            prop_assert!(lanes.queues.is_empty() && lanes.items.is_empty() && lanes.keyed.is_empty());
        }
    }
}
