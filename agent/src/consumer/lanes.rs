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
    /// Whether there can be parked lanes.
    parking: bool,
    /// What waits in parked lanes.
    parked: usize,
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
    len: usize,
    /// How many of its first items are handed out.
    handed: usize,
    condition: Condition,
    /// Whether what waits in it is counted apart.
    parked: bool,
    /// How many of its items were done since it was looked at; `None`: it never was.
    done: Option<u32>,
}

impl Lane {
    fn waiting(&self) -> usize {
        self.len - self.handed
    }

    fn parked(&self) -> usize {
        if self.parked { self.waiting() } else { 0 }
    }
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
        Self { queues, items, keyed: HashTable::new(), ready: VecDeque::new(), stopped: 0, parking: false, parked: 0 }
    }

    /// Appends an item to the lane of its key: the lane with this hash whose first item is `same`. Without a hash it gets one of its own.
    pub(crate) fn push(&mut self, hash: Option<u64>, value: T, same: impl Fn(&T) -> bool) {
        let item = self.items.insert(Item { value, next: None });
        let new = Lane {
            hash,
            first: Some(item),
            last: item,
            len: 1,
            handed: 0,
            condition: Condition::Ready,
            parked: false,
            done: None,
        };
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
                lane.len += 1;
                self.parked += usize::from(lane.parked);
            }
            Entry::Vacant(place) => {
                let lane = lanes.insert(new);
                place.insert(lane);
                self.ready.push_back(lane);
            }
        }
    }

    /// The lanes that are ready, those first that wait for longest: the first item of each, and how many it has.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&T, usize)> {
        self.ready.iter().filter_map(|lane| self.of(&self.queues[*lane]))
    }

    /// The lanes that belong to somebody: the first item of each, how many it has, and whether it has a key.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&T, usize, bool)> {
        let lanes = self.queues.iter().map(|(_, lane)| lane).filter(|lane| lane.condition != Condition::Removed);
        lanes.filter_map(|lane| self.of(lane).map(|(first, items)| (first, items, lane.hash.is_some())))
    }

    fn of(&self, lane: &Lane) -> Option<(&T, usize)> {
        Some((&self.items[lane.first?].value, lane.len))
    }

    /// How many lanes are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes the lane that has been ready for the longest time and hands out its first item.
    pub(crate) fn take(&mut self) -> Option<Claim> {
        let lane = self.ready.pop_front()?;
        self.queues[lane].condition = Condition::Held;
        self.hand(lane, 1);
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
        let first = self.queues[claim.0].first;
        let (mut next, mut handed) = (first, 0);
        while let Some(item) = next
            && (handed == 0 || (handed < most && also(&self.items[item].value)))
        {
            handed += 1;
            next = self.items[item].next;
        }
        self.hand(claim.0, handed);
        let items = &self.items;
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
        self.hand(claim.0, 1);
    }

    /// So many of the first items are handed out from now on.
    fn hand(&mut self, index: usize, handed: usize) {
        let lane = &mut self.queues[index];
        self.parked -= lane.parked();
        lane.handed = handed;
        self.parked += lane.parked();
    }

    /// The first item is done.
    pub(crate) fn pop(&mut self, claim: &Claim) -> Option<T> {
        let lane = &mut self.queues[claim.0];
        let item = self.items.remove(lane.first?);
        lane.first = item.next;
        self.parked -= lane.parked();
        lane.len -= 1;
        lane.handed = lane.handed.saturating_sub(1);
        self.parked += lane.parked();
        lane.done = lane.done.map(|done| done.saturating_add(1));
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
        self.hand(index, 0);
        let lane = &mut self.queues[index];
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

    /// Looks at the lanes of which something is handed out, and parks those that are slow: at the pace since the last look, what waits
    /// in them would take more than so many looks. A lane stays parked, with what joins it, until [`Lanes::unpark`] or its end.
    pub(crate) fn park(&mut self, looks: usize) {
        for (_, lane) in &mut self.queues {
            if lane.parked || !matches!(lane.condition, Condition::Held | Condition::Stopped) {
                continue;
            }
            let done = lane.done.replace(0).and_then(|done| usize::try_from(done).ok());
            lane.parked = done.is_some_and(|done| lane.waiting() > looks.saturating_mul(done));
            self.parking |= lane.parked;
            self.parked += lane.parked();
        }
    }

    /// No lane is parked any more.
    pub(crate) fn unpark(&mut self) {
        if std::mem::take(&mut self.parking) {
            for (_, lane) in &mut self.queues {
                lane.parked = false;
            }
            self.parked = 0;
        }
    }

    /// What waits in parked lanes; what is handed out of them not included.
    pub(crate) fn parked(&self) -> usize {
        self.parked
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
                self.parked -= usize::from(lane.parked);
                lane.len -= 1;
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
mod tests;
