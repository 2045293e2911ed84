//! From librdkafka's messages to batches: what is read at one go is copied, and taken over under one lock.

use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Message as _};

use super::budget::Room;
use super::state::Shared;
use crate::record::{BUFFER, Batch, Filler, Source};

/// Collects one burst.
#[derive(Debug, Default)]
pub(super) struct Intake {
    filler: Filler,
    batches: Vec<Arc<Batch>>,
    /// The partitions of the burst. No rebalance changes them meanwhile: a poll that served one returns no message, which ends the burst.
    sources: Vec<Source>,
    /// How many more records each of them takes before it is too far ahead.
    room: Vec<usize>,
    /// The partition of the last record: most come in runs.
    last: usize,
    records: usize,
    bytes: usize,
}

impl Intake {
    /// Takes a record in. Whether another one may follow at once.
    pub(super) fn add(&mut self, message: &BorrowedMessage<'_>, shared: &Shared, room: Room) -> bool {
        // Unknown: left over from before a revocation.
        let Some(source) = self.source(message, shared) else { return true };
        let size = message.payload_len() + message.key_len();
        if self.filler.size() > 0 && self.filler.size() + size > BUFFER {
            self.seal();
        }
        let before = self.filler.size();
        self.filler.copy(message, source);
        self.records += 1;
        self.bytes += self.filler.size() - before;
        self.room[source] = self.room[source].saturating_sub(1);
        self.records < room.records && self.bytes <= room.bytes && self.room[source] > 0
    }

    /// Ends the burst: its batches, in order.
    pub(super) fn end(&mut self) -> Vec<Arc<Batch>> {
        self.seal();
        self.sources.clear();
        self.room.clear();
        (self.last, self.records, self.bytes) = (0, 0, 0);
        std::mem::take(&mut self.batches)
    }

    fn seal(&mut self) {
        self.batches.extend(self.filler.seal(&self.sources));
    }

    fn source(&mut self, message: &BorrowedMessage<'_>, shared: &Shared) -> Option<usize> {
        let (topic, partition) = (message.topic(), message.partition());
        let is_it = |source: &Source| source.partition == partition && *source.topic == *topic;
        if !self.sources.get(self.last).is_some_and(is_it) {
            self.last = if let Some(known) = self.sources.iter().position(is_it) {
                known
            } else {
                let (assignment, topic, room) = shared.lock().source(topic, partition)?;
                self.sources.push(Source { topic, partition, assignment });
                self.room.push(room);
                self.sources.len() - 1
            };
        }
        Some(self.last)
    }
}
