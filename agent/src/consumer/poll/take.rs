//! What comes from librdkafka: records and events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_kafka::ffi::{Fetched, Taken};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use super::super::budget::Room;
use super::super::offsets::Next;
use super::super::state::Accepted;
use super::super::turns::Doing;
use super::seek::SEEK;
use super::{POLL, Poller};
use crate::error::ConsumeError;
use crate::record::Record;

/// How long it waits while an answer is on its way that does not come through the consumer.
const ARRIVAL_POLL: Duration = Duration::from_millis(5);
/// How often partitions are directed to the queue again, and so how long one can be silent that librdkafka took out of it: while some are
/// new, and then.
const DIRECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// For so long partitions are new.
const NEW: Duration = Duration::from_secs(30);

impl Poller {
    /// Waits for records and events, and takes in what there is.
    pub(super) fn take_in(&mut self, room: Room) -> Result<(), ConsumeError> {
        let mut wait = if self.arrivals.is_reading() { ARRIVAL_POLL } else { POLL };
        // One that has waited long enough waits for a slot now, and not for a timer.
        let (gathers_until, now) = {
            let (mut state, now) = (self.shared.lock(), Instant::now());
            let waits = if state.paused { Doing::Full } else { Doing::Idle };
            state.turns.turn_to(waits, now);
            (state.gathers_until(), now)
        };
        self.gathers_until = gathers_until.filter(|until| *until > now);
        if let Some(until) = self.gathers_until {
            wait = wait.min(until - now);
        }
        self.records.wait(wait);
        self.shared.turn_to(Doing::Working);
        let came = self.poll_events()?;
        let (intake, shared, mut failed) = (&mut self.intake, &self.shared, Vec::new());
        let burst = if came { 0 } else { intake.burst(room) };
        self.records.take(burst, |taken| match taken {
            Taken::Record(record) => intake.add(record, shared),
            Taken::Failed { at, error, reason } => {
                let place = at.map(|at| (at.topic(), at.partition(), at.offset()));
                let (topic, partition, offset) = place.unwrap_or_default();
                shared.counters.fetch_failed();
                tracing::warn!(consumer = shared.name, %error, topic, partition, offset, reason, "a fetch failed; the consumer goes on");
                failed.extend(at.map(|_| (topic.to_owned(), partition, offset)));
            }
        });
        let batches = self.intake.end();
        if !batches.is_empty() {
            let Accepted { slots, went_back } = self.shared.lock().accept(batches, Instant::now());
            Arc::clone(&self.work).start(slots);
            self.go_back(&went_back);
        }
        for (topic, partition, offset) in failed {
            if let Some(offsets) = self.shared.lock().offsets_of(&topic, partition) {
                offsets.misplace(offset);
            }
        }
        Ok(())
    }

    /// These records show that the log of their partition went back. librdkafka is told where it is, since it would go on after a pause where
    /// it was before.
    fn go_back(&self, to: &[Record]) {
        for record in to {
            let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
            tracing::warn!(
                consumer = self.shared.name,
                topic,
                partition,
                offset,
                "the log of the partition went back: its topic was created anew or lost its end; reading goes on from here, and records can come again"
            );
            let next = self.shared.lock().offsets_of(topic, partition).and_then(|offsets| offsets.misplaced());
            let Some(Next::At(next)) = next else { continue };
            match self.consumer.seek(topic, partition, Offset::Offset(next), SEEK) {
                Ok(()) => {
                    if let Some(offsets) = self.shared.lock().offsets_of(topic, partition) {
                        offsets.placed();
                    }
                }
                Err(error) => {
                    tracing::warn!(consumer = self.shared.name, %error, topic, partition, "tried again after a pause");
                }
            }
        }
    }

    /// Rebalances, answers to commits, statistics: the context takes them. Whether a record came.
    fn poll_events(&mut self) -> Result<bool, ConsumeError> {
        loop {
            match self.consumer.poll(Duration::ZERO) {
                // Of a partition that was not directed to the queue at that moment, and older than what lies there. It is a burst alone.
                Some(Ok(message)) => {
                    self.intake.add(Fetched::from(&message), &self.shared);
                    return Ok(true);
                }
                Some(Err(error)) => self.failed(&error)?,
                None => {}
            }
            if !self.records.has_events() {
                return Ok(false);
            }
        }
    }

    /// Now and then, as the queue wants it.
    pub(super) fn direct(&mut self) {
        let often = if self.arrivals.within(NEW) { DIRECT.0 } else { DIRECT.1 };
        if self.directed.elapsed() < often {
            return;
        }
        self.directed = Instant::now();
        let assigned = {
            let state = self.shared.lock();
            state.partitions(state.all().difference(&state.arriving).copied())
        };
        for (topic, partition) in &assigned {
            if let Err(error) = self.records.direct(topic, *partition) {
                tracing::warn!(consumer = self.shared.name, %error, %topic, partition, "records of a partition may be late; tried again");
            }
        }
    }

    fn failed(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        let name = &self.shared.name;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(ConsumeError::Fatal { name: name.clone(), detail: error.to_string() });
        }
        tracing::warn!(consumer = name, %error, "a poll failed; the consumer goes on");
        Ok(())
    }
}
