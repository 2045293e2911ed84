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
    let waiting: Vec<_> = lanes.waiting().map(|(first, items)| (first.1, items)).collect();
    assert_eq!(waiting, [(0, 3), (1, 1), (3, 1), (5, 1)]);
    let held = lanes.take().unwrap();
    assert_eq!(lanes.waiting().count(), 3);
    let mut all: Vec<_> = lanes.all().map(|(first, items, keyed)| (first.0, items, keyed)).collect();
    all.sort_unstable();
    assert_eq!(all, [("a", 3, true), ("bb", 1, true), ("ccc", 1, true), ("none", 1, false)]);
    drop(lanes.remove(|item| item.0 == "a"));
    assert_eq!(lanes.all().count(), 3);
    assert_eq!(lanes.end(held), [("a", 0)]);
}

#[test]
fn what_waits_for_a_slow_key_is_counted_apart() {
    let mut lanes = Lanes::new();
    for number in 0..20 {
        push(&mut lanes, "slow", number);
    }
    push(&mut lanes, "quick", 0);
    push(&mut lanes, "quick", 1);
    let (mut slow, mut quick) = (take(&mut lanes).0, take(&mut lanes).0);
    lanes.park(10);
    assert_eq!(lanes.parked(), 0, "nothing is known yet of how fast they are");
    for (lane, key) in [(&mut slow, "slow"), (&mut quick, "quick")] {
        let claim = std::mem::replace(lane, Claim(usize::MAX));
        finish(&mut lanes, claim);
        let (claim, first) = take(&mut lanes);
        assert_eq!(first, (key, 1));
        *lane = claim;
    }
    lanes.park(20);
    assert_eq!(lanes.parked(), 0, "18 are fewer than in 20 looks");
    finish(&mut lanes, slow);
    let (slow, _) = take(&mut lanes);
    lanes.park(10);
    assert_eq!(lanes.parked(), 17);
    push(&mut lanes, "slow", 20);
    push(&mut lanes, "quick", 2);
    assert_eq!(lanes.parked(), 18, "what joins it as well");
    assert_eq!(lanes.hand_out(&slow, 5, |_| true).count(), 5);
    assert_eq!(lanes.parked(), 14);
    lanes.hold_first(&slow);
    assert_eq!(lanes.parked(), 18);
    finish(&mut lanes, slow);
    assert_eq!(lanes.parked(), 18, "also while nothing of it is handed out");
    lanes.unpark();
    assert_eq!(lanes.parked(), 0);
    finish(&mut lanes, quick);
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
    Park(usize),
    Unpark,
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
        3 => (0_usize..3).prop_map(Step::Park),
        1 => Just(Step::Unpark),
    ]
}

/// What is known of the lanes without looking at them. Of key 0 every item has a lane of its own, known by its number.
#[derive(Default)]
struct Model {
    waiting: HashMap<(u8, u32), VecDeque<u32>>,
    held: HashMap<(u8, u32), bool>,
    /// Whether it is parked, and how many of its items were done since it was looked at.
    paces: HashMap<(u8, u32), (bool, Option<usize>)>,
    claims: Vec<(Claim, (u8, u32), u32, bool)>,
}

impl Model {
    fn waiting(&self, lane: (u8, u32)) -> usize {
        self.waiting.get(&lane).map_or(0, VecDeque::len)
    }

    fn parked(&self) -> usize {
        self.paces.iter().filter(|(_, (parked, _))| *parked).map(|(lane, _)| self.waiting(*lane)).sum()
    }

    fn park(&mut self, looks: usize) {
        for lane in self.held.keys().copied().collect::<Vec<_>>() {
            let waiting = self.waiting(lane);
            let (parked, done) = self.paces.entry(lane).or_default();
            if !*parked {
                *parked = done.replace(0).is_some_and(|done| waiting > looks * done);
            }
        }
    }

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
                    if !removed {
                        model.held.remove(&lane);
                        if let Some((_, Some(done))) = model.paces.get_mut(&lane) { *done += 1; }
                    }
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
                Step::Park(looks) => {
                    lanes.park(looks);
                    model.park(looks);
                }
                Step::Unpark => {
                    lanes.unpark();
                    model.paces.values_mut().for_each(|(parked, _)| *parked = false);
                }
            }
            let Model { paces, held, waiting, .. } = &mut model;
            paces.retain(|lane, _| held.contains_key(lane) || waiting.get(lane).is_some_and(|items| !items.is_empty()));
            prop_assert_eq!(lanes.parked(), model.parked());
            prop_assert_eq!(lanes.ready(), model.ready());
            let all: usize = model.waiting.values().map(VecDeque::len).sum();
            prop_assert_eq!(lanes.all().map(|(_, items, _)| items).sum::<usize>(), all + model.held.len());
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
        prop_assert_eq!((left, lanes.parked()), (0, 0));
        prop_assert!(lanes.queues.is_empty() && lanes.items.is_empty() && lanes.keyed.is_empty());
    }
}
