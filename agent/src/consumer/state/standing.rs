//! How the consumer stands, for whoever looks for what is slow.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mq_protocol::limits::MAX_HOT_KEYS;
use mq_protocol::message::{self, Health, InHand, Standing};

use super::super::ordering::Ordering;
use super::{Item, State};
use crate::record::Record;
use crate::stats::HotKey;

/// A key is hot when it holds one of so many records in hand, or more.
const HOT: usize = 10;

impl State {
    /// To be called before anything that changes how many handlers run or could run.
    pub(crate) fn note_occupancy(&mut self, now: Instant) {
        let running = self.slots.used();
        // It holds all that it may and slots are free all the same: the order of keys leaves no more than those that run.
        let possible = if self.budget.is_full() { running } else { self.limits.concurrency };
        self.occupancy.note(now, running, possible);
    }

    /// How the consumer was since this was asked last. Looks at every key in hand.
    pub(crate) fn health(&mut self) -> Health {
        let now = Instant::now();
        self.note_occupancy(now);
        let standing = Standing {
            poll: self.turns.take(now),
            oldest: self.oldest_record(now),
            hot_keys: self.remarkable_keys(),
            breaker: self.breaker.standing(now, self.held_back.len()),
        };
        Health { standing: Some(standing), ..self.occupancy.take(self.budget.records()) }
    }

    /// How long ago the oldest record was taken in that is not finished.
    pub(crate) fn oldest(&self, now: Instant) -> Option<Duration> {
        let oldest = self.batches.iter().map(|(_, open)| open.since).min()?;
        Some(now.saturating_duration_since(oldest))
    }

    /// The record of an assigned partition that was taken in first of those that are not finished.
    fn oldest_record(&self, now: Instant) -> Option<InHand> {
        // Within a lane the first one is.
        let firsts = self.lanes.all().map(|(first, ..)| (self.batches[first.batch].since, first));
        let (since, first) = firsts.min_by_key(|(since, first)| (*since, first.batch, first.index))?;
        let record = self.record(first);
        Some(InHand {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            age: now.saturating_duration_since(since),
        })
    }

    /// The keys that hold most records, and so many at most.
    pub(crate) fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.fullest(most, 1)
    }

    fn remarkable_keys(&self) -> Vec<message::HotKey> {
        // One record of a key is nothing that others of it wait for.
        let hot = self.fullest(MAX_HOT_KEYS, self.budget.records().div_ceil(HOT).max(2));
        let hot = hot.into_iter().map(|HotKey { topic, partition, key, records }| message::HotKey {
            topic,
            partition,
            key,
            records: records as u64,
        });
        hot.collect()
    }

    /// The keys that hold so many records or more, the fullest first.
    fn fullest(&self, most: usize, least: usize) -> Vec<HotKey> {
        let mut lanes: Vec<_> = self.lanes.all().filter(|(_, records, keyed)| *keyed && *records >= least).collect();
        lanes.sort_unstable_by_key(|(_, records, _)| Reverse(*records));
        let hot = lanes.into_iter().take(most).map(|(first, records, _)| {
            let record = self.record(first);
            let key = record.key().filter(|_| self.ordering == Ordering::Key).map(Bytes::copy_from_slice);
            HotKey { topic: record.topic().to_owned(), partition: record.partition(), key, records }
        });
        hot.collect()
    }

    fn record(&self, item: &Item) -> Record {
        self.batches[item.batch].batch.record(item.index, item.attempt)
    }
}
