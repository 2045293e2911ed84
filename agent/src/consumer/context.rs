//! Callbacks of librdkafka. They run on the poll thread, inside `poll`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::state::{AssignmentId, Position, Shared};

pub(crate) type KafkaConsumer = BaseConsumer<Context>;

#[derive(Debug)]
pub(crate) struct Context {
    shared: Arc<Shared>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn assigned(&self, consumer: &KafkaConsumer, partitions: &TopicPartitionList) {
        let paused = {
            let mut state = self.shared.lock();
            for partition in partitions.elements() {
                state.assign(partition.topic(), partition.partition());
            }
            state.paused
        };
        let outcome = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
            _ => consumer.assign(partitions),
        };
        self.report("take the assigned partitions", outcome);
        // librdkafka remembers a pause across revocation: a partition that left while all were paused would come back silent.
        if paused {
            self.report("pause the assigned partitions", consumer.pause(partitions));
        } else {
            self.report("resume the assigned partitions", consumer.resume(partitions));
        }
        tracing::info!(consumer = self.shared.name, partitions = %names(partitions), "partitions assigned");
    }

    /// Stop intake, drain in budget, commit, release. Handlers report through the shared state, so waiting here blocks none of them.
    fn revoked(&self, consumer: &KafkaConsumer, partitions: &TopicPartitionList) {
        let lost = consumer.assignment_lost();
        let ids: HashSet<AssignmentId> = {
            let state = self.shared.lock();
            let elements = partitions.elements();
            elements
                .iter()
                .filter_map(|element| state.find(element.topic(), element.partition()))
                .map(|(id, _)| id)
                .collect()
        };
        if !lost {
            let deadline = {
                let mut state = self.shared.lock();
                state.wind_down(&ids);
                Instant::now() + state.limits.revoke_budget
            };
            if !self.shared.wait_idle(&ids, deadline) {
                tracing::warn!(
                    consumer = self.shared.name,
                    "handlers did not end before their partitions moved; their records will be handled again"
                );
            }
            let positions = self.shared.lock().take_last_commit(&ids);
            self.commit_sync(consumer, &positions);
        }
        self.shared.lock().release(&ids);
        self.shared.notify();
        let outcome = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        };
        self.report("give the revoked partitions back", outcome);
        tracing::info!(consumer = self.shared.name, partitions = %names(partitions), lost, "partitions revoked");
    }

    fn commit_sync(&self, consumer: &KafkaConsumer, positions: &[Position]) {
        let list = offsets(positions);
        if list.count() == 0 {
            return;
        }
        let outcome = consumer.commit(&list, CommitMode::Sync);
        self.committed(outcome, &list);
    }

    fn committed(&self, outcome: KafkaResult<()>, list: &TopicPartitionList) {
        let failed = outcome.err();
        let mut state = self.shared.lock();
        for element in list.elements() {
            let Offset::Offset(offset) = element.offset() else { continue };
            let error = element.error().err().or_else(|| failed.clone()).map(|error| error.to_string());
            state.committed(element.topic(), element.partition(), offset, error.as_deref());
        }
        drop(state);
        if let Some(error) = failed {
            self.shared.counters.commit_failed();
            tracing::warn!(consumer = self.shared.name, %error, "offsets were not committed; they go with the next commit");
        }
        self.shared.notify();
    }

    fn report(&self, attempt: &str, outcome: KafkaResult<()>) {
        if let Err(error) = outcome {
            tracing::error!(consumer = self.shared.name, %error, "could not {attempt}");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::librdkafka::log(&self.shared.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(consumer = self.shared.name, %error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &KafkaConsumer, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, partitions),
            _ => self.revoked(consumer, partitions),
        }
    }

    fn commit_callback(&self, outcome: KafkaResult<()>, list: &TopicPartitionList) {
        self.committed(outcome, list);
    }
}

/// An explicit list: a commit of "everything stored" drops metadata and takes along what is not finished.
pub(super) fn offsets(positions: &[Position]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for position in positions {
        // Fails for special offsets alone; these are positions of records.
        let _ = list.add_partition_offset(&position.topic, position.partition, Offset::Offset(position.offset));
    }
    list
}

fn names(partitions: &TopicPartitionList) -> String {
    let names = partitions
        .elements()
        .iter()
        .map(|element| format!("{}-{}", element.topic(), element.partition()))
        .collect::<Vec<_>>();
    names.join(" ")
}
