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

impl Budget {
    pub(crate) fn new(max_records: usize, max_bytes: usize) -> Self {
        Self { records: 0, bytes: 0, max_records: max_records.max(1), max_bytes, full: false }
    }

    pub(crate) fn set_max_records(&mut self, max_records: usize) {
        self.max_records = max_records.max(1);
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
    }

    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Whether no other record is taken until half of those held are finished.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether another record may be taken. One record larger than the whole byte budget is still taken, alone.
    pub(crate) fn has_room(&mut self) -> bool {
        let share = |full: bool, max: usize| if full { max / 2 } else { max };
        let over = self.records > 0
            && (self.records > share(self.full, self.max_records).saturating_sub(usize::from(!self.full))
                || self.bytes > share(self.full, self.max_bytes));
        self.full = over;
        !over
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
            assert!(budget.has_room());
            budget.take(10);
        }
        assert!(!budget.has_room());
        budget.give_back(10);
        assert!(!budget.has_room(), "3 of 4 is above half");
        budget.give_back(10);
        assert!(budget.has_room());
    }

    #[test]
    fn one_record_larger_than_the_budget_passes_alone() {
        let mut budget = Budget::new(10, 100);
        assert!(budget.has_room());
        budget.take(5_000);
        assert!(!budget.has_room());
        budget.give_back(5_000);
        assert!(budget.has_room());
    }

    proptest! {
        #[test]
        fn never_above_the_record_limit_and_never_stuck(max in 1_usize..20, steps in prop::collection::vec((any::<bool>(), 0_usize..300), 0..200)) {
            let mut budget = Budget::new(max, 1_000);
            let mut held = Vec::new();
            for (take, size) in steps {
                if take && budget.has_room() {
                    budget.take(size);
                    held.push(size);
                } else if let Some(size) = held.pop() {
                    budget.give_back(size);
                }
                prop_assert!(budget.records() <= max);
            }
            for size in held {
                budget.give_back(size);
            }
            prop_assert!(budget.has_room());
        }
    }
}
