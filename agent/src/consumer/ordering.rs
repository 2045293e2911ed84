//! Which records wait for each other.

/// Which records wait for each other. Given with [`Options::ordering`](crate::Options::ordering), for as long as the consumer lives.
///
/// What waits for a record waits until it is *finished*: handled, or safe in the dead-letter topic. So the pauses between its attempts,
/// and a dead-letter topic that is missing, hold up those that wait for it, and nobody else. In every mode only the contiguous prefix of
/// finished records is committed, per partition, and what was handled beyond it can come again, in the same order.
///
/// ```
/// let options = mq_agent::Options::in_pod().ordering(mq_agent::Ordering::Partition);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Ordering {
    /// Records of one key and partition, in their order and one at a time. Records without a key wait for none.
    #[default]
    Key,
    /// Records of one partition, with a key or without, in their order and one at a time: no more handlers run than partitions are
    /// assigned, and a record that fails holds up its partition.
    Partition,
    /// None: every record begins as soon as a slot is free, also before an earlier one of its key that failed and is tried again.
    None,
}

impl Ordering {
    /// What the records of a partition that wait for each other have in common. `None`: the record waits for no other.
    pub(super) fn lane(self, key: Option<&[u8]>) -> Option<&[u8]> {
        match self {
            Self::Key => key,
            Self::Partition => Some(&[]),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_whom() {
        let (a, b, empty, none) = (Some(&b"a"[..]), Some(&b"b"[..]), Some(&b""[..]), None);
        for (ordering, one, other, waits) in [
            (Ordering::Key, a, a, true),
            (Ordering::Key, a, b, false),
            (Ordering::Key, empty, empty, true),
            (Ordering::Key, empty, none, false),
            (Ordering::Key, none, none, false),
            (Ordering::Partition, a, b, true),
            (Ordering::Partition, a, none, true),
            (Ordering::Partition, none, none, true),
            (Ordering::None, a, a, false),
            (Ordering::None, none, none, false),
        ] {
            let lane = ordering.lane(one);
            assert_eq!(lane.is_some() && lane == ordering.lane(other), waits, "{ordering:?}: {one:?} and {other:?}");
        }
    }
}
