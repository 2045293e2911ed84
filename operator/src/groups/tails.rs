//! What lies behind the offsets at which groups stand still: records, an open transaction, or nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use mq_core::lag::Tail;
use mq_kafka::{
    Behind, BrokerError, Client, Isolation, OffsetSpec, PartitionError, PartitionMap, Partitions, ResponseError, Then,
};
use tokio::time::Instant;

/// Topic, partition, and the offset that a group committed where it stands.
pub(super) type Place = (String, i32, i64);

/// Places that are looked at in one turn, and of how many of them the log is read.
const LOOKS: usize = 1_000;
const READS: usize = 16;
/// For so long a record stays where it was seen (only compaction takes it away), and a refusal a refusal.
const STAYS: Duration = Duration::from_hours(1);

type Offsets = PartitionMap<Result<Option<i64>, PartitionError>>;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Tails {
    found: BTreeMap<Place, Found>,
    /// The topics that may not be read, and since when that is known.
    refused: BTreeMap<String, Instant>,
    /// Where the last turn ended.
    last: Option<Place>,
}

#[derive(Debug)]
struct Found {
    at: Instant,
    behind: Behind,
}

/// A place behind which the log is to be read, from an offset on.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    place: Place,
    from: i64,
}

impl Tails {
    /// Looks at the places where groups stand; `end` is the end of a partition. One `ListOffsets` per leader for at most 1000 places, and
    /// one Fetch for each of at most 16 behind which something is new. Where there are more, each has its turn.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        standing: &BTreeSet<Place>,
        end: impl Fn(&str, i32) -> Option<i64>,
    ) {
        let places = self.next(standing);
        let mut partitions = Partitions::new();
        for (topic, partition, _) in &places {
            partitions.entry(topic.clone()).or_default().insert(*partition);
        }
        let stable = client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadCommitted).await;
        for read in self.reads(places, &stable, end, Instant::now()) {
            let (topic, partition, _) = &read.place;
            if self.is_refused(topic, Instant::now()) {
                continue;
            }
            let found = client.behind(topic, *partition, read.from).await;
            self.take(read.place, found, Instant::now());
        }
    }

    /// The places whose turn it is: those behind the last one first.
    fn next(&self, standing: &BTreeSet<Place>) -> Vec<Place> {
        let Some(last) = &self.last else { return standing.iter().take(LOOKS).cloned().collect() };
        let behind = standing.range::<Place, _>((Excluded(last), Unbounded));
        behind.chain(standing.range::<Place, _>(..=last)).take(LOOKS).cloned().collect()
    }

    /// Where the log has to be read; what its ends alone say is taken over.
    fn reads(
        &mut self,
        places: Vec<Place>,
        stable: &Offsets,
        end: impl Fn(&str, i32) -> Option<i64>,
        now: Instant,
    ) -> Vec<Read> {
        self.refused.retain(|_, since| now.duration_since(*since) < STAYS);
        let mut reads = Vec::new();
        for place in places {
            let (topic, partition, offset) = &place;
            if reads.len() < READS {
                self.last = Some(place.clone());
            }
            let stable = stable.get(topic).and_then(|stable| stable.get(partition)?.as_ref().ok().copied().flatten());
            let (Some(stable), Some(end)) = (stable, end(topic, *partition)) else { continue };
            let known = self.found.get_mut(&place);
            let until = known.as_ref().map_or(*offset, |found| found.behind.until);
            let lasts = match known.as_ref().map(|found| found.behind.then) {
                Some(Then::Record) => known.as_ref().is_some_and(|found| now.duration_since(found.at) < STAYS),
                Some(Then::OpenTransaction | Then::Unread) | None => false,
            };
            if lasts || until > stable || until >= end {
                continue;
            }
            if until == stable {
                self.found.insert(place, Found { at: now, behind: Behind { until, then: Then::OpenTransaction } });
                continue;
            }
            // Whatever was open has ended.
            if let Some(found) = known {
                found.behind.then = Then::Unread;
            }
            if reads.len() < READS && !self.is_refused(topic, now) {
                reads.push(Read { place, from: until });
            }
        }
        reads
    }

    fn take(&mut self, place: Place, found: Result<Behind, PartitionError>, now: Instant) {
        match found {
            Ok(behind) => {
                self.found.insert(place, Found { at: now, behind });
            }
            Err(PartitionError::Broker(BrokerError { code: ResponseError::TopicAuthorizationFailed, .. })) => {
                tracing::info!(
                    topic = place.0,
                    "no right to Read: markers of transactions at its end count as messages"
                );
                self.refused.insert(place.0, now);
            }
            Err(error) => {
                tracing::debug!(topic = place.0, partition = place.1, %error, "what a group stands before was not read");
            }
        }
    }

    fn is_refused(&self, topic: &str, now: Instant) -> bool {
        self.refused.get(topic).is_some_and(|since| now.duration_since(*since) < STAYS)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.found.keys()
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, places: &BTreeSet<Place>) {
        self.found.retain(|place, _| places.contains(place));
    }

    /// What is known of the log behind this committed offset.
    pub(super) fn at(&self, topic: &str, partition: i32, offset: i64) -> Option<Tail> {
        if self.found.is_empty() {
            return None;
        }
        let Behind { until, then } = self.found.get(&(topic.to_owned(), partition, offset))?.behind;
        match then {
            Then::OpenTransaction => Some(Tail::OpenTransaction { from: offset, since: until }),
            Then::Record | Then::Unread => (until > offset).then_some(Tail::NoRecords { from: offset, until }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Then = Then::OpenTransaction;

    fn place(partition: i32) -> Place {
        ("orders".to_owned(), partition, 6)
    }

    fn standing(partitions: i32) -> BTreeSet<Place> {
        (0..partitions).map(place).collect()
    }

    /// One turn, in which all logs are stable up to one offset and end at another. Which partitions are read, and from where.
    fn turn(
        tails: &mut Tails,
        places: &BTreeSet<Place>,
        (stable, end): (i64, i64),
        now: Instant,
        answer: &Result<Behind, PartitionError>,
    ) -> Vec<(i32, i64)> {
        let mut all = Offsets::new();
        for (topic, partition, _) in places {
            all.entry(topic.clone()).or_default().insert(*partition, Ok(Some(stable)));
        }
        let reads = tails.reads(tails.next(places), &all, |_, _| Some(end), now);
        let said = reads.iter().map(|read| (read.place.1, read.from)).collect();
        for read in reads {
            tails.take(read.place, answer.clone(), now);
        }
        said
    }

    fn behind(until: i64, then: Then) -> Behind {
        Behind { until, then }
    }

    #[test]
    fn each_place_has_its_turn_even_if_others_are_never_done() {
        let (mut tails, now) = (Tails::default(), Instant::now());
        let places = standing(40);
        let mut read = BTreeSet::new();
        for _ in 0..3 {
            let reads = turn(&mut tails, &places, (9, 9), now, &Err(PartitionError::Absent));
            assert_eq!(reads.len(), READS);
            read.extend(reads.into_iter().map(|(partition, _)| partition));
        }
        assert_eq!(read.len(), 40);
        let many = standing(1_500);
        let mut looked: BTreeSet<_> = tails.next(&many).into_iter().collect();
        assert_eq!(looked.len(), LOOKS);
        tails.last = looked.last().cloned();
        looked.extend(tails.next(&many));
        assert_eq!(looked, many);
    }

    #[test]
    fn a_record_that_was_seen_is_not_read_again_although_more_follow() {
        let (mut tails, now) = (Tails::default(), Instant::now());
        let places = standing(1);
        let mut look = |end, minutes| {
            turn(&mut tails, &places, (end, end), now + Duration::from_mins(minutes), &Ok(behind(7, Then::Record)))
        };
        assert_eq!(look(9, 0), [(0, 6)]);
        assert_eq!(look(20, 1), []);
        assert_eq!(look(30, 59), []);
        assert_eq!(look(40, 60), [(0, 7)], "compaction may have taken it away");
        assert_eq!(tails.at("orders", 0, 6), Some(Tail::NoRecords { from: 6, until: 7 }));
    }

    #[test]
    fn a_topic_that_may_not_be_read_is_not_asked_for_again_for_long() {
        let (mut tails, now) = (Tails::default(), Instant::now());
        let places = standing(1);
        let code = ResponseError::TopicAuthorizationFailed;
        let refused = Err(PartitionError::Broker(BrokerError { code, message: None }));
        let mut look = |stable, minutes| {
            let reads = turn(&mut tails, &places, (stable, 9), now + Duration::from_mins(minutes), &refused);
            (reads.len(), tails.at("orders", 0, 6))
        };
        assert_eq!(look(9, 0), (1, None));
        assert_eq!(look(9, 1), (0, None));
        assert_eq!(look(6, 2), (0, Some(Tail::OpenTransaction { from: 6, since: 6 })), "the ends say it");
        assert_eq!(look(9, 59), (0, None), "it has ended");
        assert_eq!(look(9, 60), (1, None));
    }

    #[test]
    fn an_open_transaction_behind_a_marker_is_looked_at_until_it_has_ended() {
        let (mut tails, now) = (Tails::default(), Instant::now());
        let places = standing(1);
        let mut look = |stable, end, found| {
            let reads = turn(&mut tails, &places, (stable, end), now, &found);
            (reads, tails.at("orders", 0, 6))
        };
        let open = Some(Tail::OpenTransaction { from: 6, since: 7 });
        let no_records = |until| Some(Tail::NoRecords { from: 6, until });
        assert_eq!(look(7, 9, Ok(behind(7, OPEN))), (vec![(0, 6)], open));
        assert_eq!(look(7, 12, Err(PartitionError::Absent)), (vec![], open), "the ends say it");
        assert_eq!(look(12, 12, Err(PartitionError::Absent)), (vec![(0, 7)], no_records(7)));
        assert_eq!(look(12, 12, Ok(behind(12, Then::Unread))), (vec![(0, 7)], no_records(12)));
        assert_eq!(look(12, 12, Err(PartitionError::Absent)), (vec![], no_records(12)));
        assert_eq!(look(14, 14, Ok(behind(12, Then::Record))), (vec![(0, 12)], no_records(12)));
    }
}
