//! What lies behind the offsets at which groups stand still: records, an open transaction, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use mq_core::lag::Tail;
use mq_kafka::{Client, Isolation, OffsetSpec, Partitions};

/// Topic, partition, and the offset at which a group stands.
pub(super) type Place = (String, i32, i64);

/// Places of which the log is read in one turn.
const MOST: usize = 16;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Tails(BTreeMap<Place, Looked>);

#[derive(Debug)]
struct Looked {
    /// The end of then.
    end: i64,
    tail: Option<Tail>,
}

impl Tails {
    /// Looks at the places where groups stand; `end` is the end of a partition. One `ListOffsets` per leader, and one Fetch for each of
    /// at most 16 places behind which something is new.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        standing: &BTreeSet<Place>,
        end: impl Fn(&str, i32) -> Option<i64>,
    ) {
        let mut partitions = Partitions::new();
        for (topic, partition, _) in standing {
            partitions.entry(topic.clone()).or_default().insert(*partition);
        }
        let stable = client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadCommitted).await;
        let mut read = 0;
        for place in standing {
            let (topic, partition, offset) = place;
            let stable = stable.get(topic).and_then(|stable| stable.get(partition)?.as_ref().ok().copied().flatten());
            let (Some(stable), Some(end)) = (stable, end(topic, *partition)) else { continue };
            let known = self.0.get(place).is_some_and(|known| known.end == end && known.tail != Some(open(*offset)));
            let tail = if stable == *offset && stable < end {
                Some(open(*offset))
            } else if known {
                continue;
            } else if read < MOST {
                read += 1;
                match client.nothing_until(topic, *partition, *offset).await {
                    Ok(until) => until.map(|until| Tail::NoRecords { from: *offset, until }),
                    Err(error) => {
                        tracing::debug!(topic, partition, %error, "what a group stands before was not read");
                        continue;
                    }
                }
            } else {
                continue;
            };
            self.0.insert(place.clone(), Looked { end, tail });
        }
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.keys()
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, places: &BTreeSet<Place>) {
        self.0.retain(|place, _| places.contains(place));
    }

    /// What is known of the log behind this offset.
    pub(super) fn at(&self, topic: &str, partition: i32, offset: i64) -> Option<Tail> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(topic.to_owned(), partition, offset))?.tail
    }
}

fn open(offset: i64) -> Tail {
    Tail::OpenTransaction(offset)
}
