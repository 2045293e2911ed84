//! From librdkafka's messages to batches: what is read at one go is copied, and taken over under one lock.

use std::sync::Arc;

use mq_kafka::ffi::Fetched;

use super::budget::Room;
use super::state::Shared;
use crate::record::{BUFFER, Batch, Filler, Source};

/// How many records are taken in at most before commands, commits and pauses have their turn again.
pub(super) const BURST: usize = 256;

/// Collects one burst.
#[derive(Debug, Default)]
pub(super) struct Intake {
    filler: Filler,
    batches: Vec<Arc<Batch>>,
    /// The partitions of the burst. No rebalance changes them meanwhile: those have their turn before.
    sources: Vec<Source>,
    /// The partition of the last record: most come in runs.
    last: usize,
    /// The largest record of the burst, and of the one before.
    largest: [usize; 2],
}

impl Intake {
    /// How many records may be taken at one go, when there is room for so many and so many bytes. Records are as large as those before them
    /// until they prove to be larger, so that they exceed the room by no more than librdkafka had in its queue.
    pub(super) fn burst(&self, room: Room) -> usize {
        let largest = self.largest[0].max(self.largest[1]);
        let expected = if largest == 0 { BUFFER } else { largest };
        (room.bytes / expected).clamp(1, BURST).min(room.records)
    }

    /// Takes a record in.
    pub(super) fn add(&mut self, record: Fetched<'_>, shared: &Shared) {
        // Unknown: left over from before a revocation.
        let Some(source) = self.source(record, shared) else { return };
        let size = record.payload().map_or(0, <[u8]>::len) + record.key().map_or(0, <[u8]>::len);
        if self.filler.size() > 0 && self.filler.size() + size > BUFFER {
            self.seal();
        }
        let before = self.filler.size();
        self.filler.copy(record, source);
        self.largest[0] = self.largest[0].max(self.filler.size() - before);
    }

    /// Ends the burst: its batches, in order.
    pub(super) fn end(&mut self) -> Vec<Arc<Batch>> {
        self.seal();
        self.sources.clear();
        self.last = 0;
        if !self.batches.is_empty() {
            self.largest = [0, self.largest[0]];
        }
        std::mem::take(&mut self.batches)
    }

    fn seal(&mut self) {
        self.batches.extend(self.filler.seal(&self.sources));
    }

    fn source(&mut self, record: Fetched<'_>, shared: &Shared) -> Option<usize> {
        let (topic, partition) = (record.topic(), record.partition());
        let is_it = |source: &Source| source.partition == partition && *source.topic == *topic;
        if !self.sources.get(self.last).is_some_and(is_it) {
            self.last = if let Some(known) = self.sources.iter().position(is_it) {
                known
            } else {
                let (assignment, topic) = shared.lock().find(topic, partition)?;
                self.sources.push(Source { topic, partition, assignment });
                self.sources.len() - 1
            };
        }
        Some(self.last)
    }
}
