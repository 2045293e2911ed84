//! Memory of messages that were delivered, for those to come.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Handed from the thread that is told of deliveries to those that send, this many at once.
const LOT: usize = 256;
/// More lots than these are given back to the allocator: a queue that was full once need not hold its memory for ever.
const LOTS: usize = 64;

/// One thread allocates what another one frees: that is the case in which an allocator is slow. So what was freed is kept, and goes
/// back in lots, for which the threads meet once.
pub(crate) struct Spare<T> {
    full: Mutex<Vec<Lot<T>>>,
    senders: Side<T>,
    deliveries: Side<T>,
}

type Lot<T> = Vec<Box<Option<T>>>;

/// In cache lines of its own.
#[repr(align(128))]
struct Side<T>(Mutex<Lot<T>>);

impl<T> fmt::Debug for Spare<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Spare").finish_non_exhaustive()
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        let side = || Side(Mutex::default());
        Self { full: Mutex::default(), senders: side(), deliveries: side() }
    }
}

impl<T> Spare<T> {
    /// Whoever finds another sender at it asks the allocator: to wait would cost more.
    pub(crate) fn boxed(&self, value: T) -> Box<Option<T>> {
        let Ok(mut lot) = self.senders.0.try_lock() else { return Box::new(Some(value)) };
        if lot.is_empty()
            && let Some(full) = lock(&self.full).pop()
        {
            *lot = full;
        }
        let Some(mut spare) = lot.pop() else { return Box::new(Some(value)) };
        drop(lot);
        *spare = Some(value);
        spare
    }

    /// What was in it. Called by the one thread that is told of deliveries.
    pub(crate) fn emptied(&self, mut spare: Box<Option<T>>) -> Option<T> {
        let value = spare.take();
        let mut lot = lock(&self.deliveries.0);
        lot.push(spare);
        if lot.len() >= LOT {
            let lot = std::mem::replace(&mut *lot, Vec::with_capacity(LOT));
            let mut full = lock(&self.full);
            if full.len() < LOTS {
                full.push(lot);
            }
        }
        value
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_in_lots_and_no_value_twice() {
        let spare = Spare::default();
        let out: Vec<_> = (0..3 * LOT).map(|number| spare.boxed(number)).collect();
        let mut addresses: Vec<_> = out.iter().map(|spare| std::ptr::from_ref(&**spare)).collect();
        addresses.sort();
        for (number, boxed) in out.into_iter().enumerate() {
            assert_eq!(spare.emptied(boxed), Some(number));
        }
        let again: Vec<_> = (0..3 * LOT).map(|number| spare.boxed(number)).collect();
        let reused = again.iter().filter(|spare| addresses.binary_search(&std::ptr::from_ref(&***spare)).is_ok());
        assert_eq!(reused.count(), 3 * LOT);
        assert!(again.into_iter().enumerate().all(|(number, boxed)| spare.emptied(boxed) == Some(number)));
    }

    #[test]
    fn a_queue_that_was_full_once_does_not_hold_its_memory_for_ever() {
        let spare = Spare::default();
        let out: Vec<_> = (0..(LOTS + 9) * LOT).map(|number| spare.boxed(number)).collect();
        for boxed in out {
            spare.emptied(boxed);
        }
        assert_eq!(lock(&spare.full).len(), LOTS);
    }
}
