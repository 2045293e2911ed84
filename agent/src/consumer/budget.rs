//! How much a consumer holds: two watermarks over the records that were taken from Kafka and are not finished.

/// Intake stops at the limit of either measure and begins again at half of it. Two marks, because pausing a partition throws its
/// fetched records away and fetching them again takes up to a second: it must be rare.
#[derive(Debug)]
pub(crate) struct Budget {
    records: usize,
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
    full: bool,
}

/// How much may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_records: usize, max_bytes: usize) -> Self {
        Self { records: 0, bytes: 0, max_records: max_records.max(1), max_bytes, full: false }
    }

    pub(crate) fn set_max_records(&mut self, max_records: usize) {
        self.max_records = max_records.max(1);
    }

    pub(crate) fn take(&mut self, records: usize, bytes: usize) {
        self.records += records;
        self.bytes += bytes;
    }

    pub(crate) fn give_back(&mut self, records: usize, bytes: usize) {
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Whether no other record is taken until half of those held are finished.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// How much may be taken now: records, and bytes that what is taken at one go may exceed. `None`: nothing until half of it is finished.
    pub(crate) fn room(&mut self, parked: usize) -> Option<Room> {
        self.has_room(parked).then(|| Room {
            records: self.max_records.saturating_sub(self.records.saturating_sub(parked)).max(1),
            bytes: self.max_bytes.saturating_sub(self.bytes),
        })
    }

    /// Whether another record may be taken, while so many of those held are parked: these count by their bytes alone. One record larger
    /// than the whole byte budget is still taken, alone.
    pub(crate) fn has_room(&mut self, parked: usize) -> bool {
        let share = |full: bool, max: usize| if full { max / 2 } else { max };
        let counted = self.records.saturating_sub(parked);
        let over = counted > share(self.full, self.max_records).saturating_sub(usize::from(!self.full))
            || (self.records > 0 && self.bytes > share(self.full, self.max_bytes));
        self.full = over;
        !over
    }

    /// Whether there is room even if everything that is held counts.
    pub(crate) fn is_low(&self) -> bool {
        self.records <= self.max_records / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stops_at_the_limit_and_starts_at_half() {
        let mut budget = Budget::new(4, 1_000);
        for _ in 0..4 {
            assert!(budget.has_room(0));
            budget.take(1, 10);
        }
        assert!(!budget.has_room(0));
        budget.give_back(1, 10);
        assert!(!budget.has_room(0), "3 of 4 is above half");
        budget.give_back(1, 10);
        assert!(budget.has_room(0));
    }

    #[test]
    fn what_there_is_room_for_is_what_may_be_taken_one_by_one() {
        let mut budget = Budget::new(4, 100);
        assert_eq!(budget.room(0), Some(Room { records: 4, bytes: 100 }));
        budget.take(3, 70);
        assert_eq!(budget.room(0), Some(Room { records: 1, bytes: 30 }));
        budget.take(1, 50);
        assert_eq!(budget.room(0), None);
        budget.give_back(2, 0);
        assert_eq!(budget.room(0), None, "too many bytes");
        budget.give_back(0, 70);
        assert_eq!(budget.room(0), Some(Room { records: 2, bytes: 50 }));
    }

    #[test]
    fn what_is_parked_counts_by_its_bytes_alone() {
        let mut budget = Budget::new(4, 100);
        budget.take(50, 40);
        assert_eq!(budget.room(46), None);
        assert_eq!(budget.room(48), Some(Room { records: 2, bytes: 60 }));
        budget.take(1, 70);
        assert_eq!(budget.room(51), None, "too many bytes");
        budget.give_back(48, 90);
        assert!(!budget.is_low() && budget.has_room(3));
        budget.give_back(1, 0);
        assert!(budget.is_low());
    }

    #[test]
    fn one_record_larger_than_the_budget_passes_alone() {
        let mut budget = Budget::new(10, 100);
        assert!(budget.has_room(0));
        budget.take(1, 5_000);
        assert!(!budget.has_room(0));
        budget.give_back(1, 5_000);
        assert!(budget.has_room(0));
    }

    proptest! {
        #[test]
        fn never_above_the_record_limit_and_never_stuck(max in 1_usize..20, steps in prop::collection::vec((any::<bool>(), 0_usize..300), 0..200)) {
            let mut budget = Budget::new(max, 1_000);
            let mut held = Vec::new();
            for (take, size) in steps {
                if take && budget.has_room(0) {
                    budget.take(1, size);
                    held.push(size);
                } else if let Some(size) = held.pop() {
                    budget.give_back(1, size);
                }
                prop_assert!(budget.records() <= max);
            }
            for size in held {
                budget.give_back(1, size);
            }
            prop_assert!(budget.has_room(0));
        }
    }
}
