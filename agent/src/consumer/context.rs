//! Callbacks of librdkafka. They run on the poll thread, inside `poll`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;

use super::offsets::Next;
use super::pattern::is_pattern;
use super::state::{AssignmentId, Position, Shared, State};
use super::turns::Doing;
use super::waiters::{COMMIT_AGAIN, Refusal};
use crate::librdkafka::Health;

/// How long a leaving consumer, or one that gives partitions away, waits for the answer to its last commit.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(5);
/// A handler that asks for a commit while it is waited for is answered within this time.
pub(super) const SLICE: Duration = Duration::from_millis(50);

pub(crate) type KafkaConsumer = BaseConsumer<Context>;

#[derive(Debug)]
pub(crate) struct Context {
    shared: Arc<Shared>,
    pub(super) health: Health,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, health: Health::default() }
    }

    /// Answers the group at once, so that it goes on, with nothing: the partitions follow when it is known where to start.
    fn assigned(&self, consumer: &KafkaConsumer, partitions: &TopicPartitionList) {
        {
            let mut state = self.shared.lock();
            for partition in partitions.elements() {
                let id = state.assign(partition.topic(), partition.partition());
                state.arriving.insert(id);
            }
        }
        correct(consumer, &self.shared);
        self.report("answer an assignment", consumer.incremental_assign(&TopicPartitionList::new()));
        tracing::info!(consumer = self.shared.name, partitions = %names(partitions), "partitions assigned");
    }

    /// Stop intake, drain in budget, commit, release. Handlers report through the shared state, so waiting here blocks none of them.
    fn revoked(&self, consumer: &KafkaConsumer, partitions: &TopicPartitionList) {
        let lost = is_lost(consumer, partitions);
        let ids: HashSet<AssignmentId> = {
            let state = self.shared.lock();
            let elements = partitions.elements();
            elements
                .iter()
                .filter_map(|element| state.find(element.topic(), element.partition()))
                .map(|(id, _)| id)
                .collect()
        };
        if lost {
            self.release(&ids);
        } else {
            self.retire(consumer, partitions, &ids);
        }
        correct(consumer, &self.shared);
        self.report("give the revoked partitions back", give_back(consumer, partitions));
        tracing::info!(consumer = self.shared.name, partitions = %names(partitions), lost, "partitions revoked");
    }

    /// Ends the assignments of these partitions in order.
    pub(super) fn retire(
        &self,
        consumer: &KafkaConsumer,
        partitions: &TopicPartitionList,
        ids: &HashSet<AssignmentId>,
    ) {
        let before = self.shared.turn_to(Doing::Draining);
        self.drain(consumer, ids);
        self.commit_last(consumer, partitions, ids);
        self.release(ids);
        self.shared.turn_to(before);
    }

    fn release(&self, ids: &HashSet<AssignmentId>) {
        self.shared.lock().release(ids);
        self.shared.notify();
    }

    /// Waits for the handlers of these assignments, at most for the revoke budget, and commits meanwhile if one of them asks for it.
    fn drain(&self, consumer: &KafkaConsumer, ids: &HashSet<AssignmentId>) {
        let deadline = {
            let mut state = self.shared.lock();
            state.wind_down(ids);
            // The answers to commits under way come through the poll that waits here.
            state.waiters.send_again(Instant::now());
            Instant::now() + state.limits.revoke_budget
        };
        loop {
            let idle = self.shared.wait_idle(ids, deadline.min(Instant::now() + SLICE));
            let asked = self.shared.lock().take_asked();
            self.commit(consumer, &asked, deadline);
            if idle {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(
                    consumer = self.shared.name,
                    "handlers did not end before their partitions moved; their records will be handled again"
                );
                return;
            }
        }
    }

    /// Commits what these assignments have finished, again and again while that can help.
    fn commit_last(&self, consumer: &KafkaConsumer, partitions: &TopicPartitionList, ids: &HashSet<AssignmentId>) {
        let deadline = Instant::now() + LAST_COMMIT;
        loop {
            let positions = self.shared.lock().take_unconfirmed(ids);
            let again = self.commit(consumer, &positions, deadline);
            if !again || is_lost(consumer, partitions) || Instant::now() + COMMIT_AGAIN >= deadline {
                return;
            }
            self.shared.wait(COMMIT_AGAIN);
        }
    }

    /// Commits and waits for the answer: a callback cannot poll for it. Whether it failed and can succeed later.
    fn commit(&self, consumer: &KafkaConsumer, positions: &[Position], deadline: Instant) -> bool {
        if positions.is_empty() {
            return false;
        }
        let mut list = offsets(positions);
        let timeout = deadline.saturating_duration_since(Instant::now()).clamp(SLICE, LAST_COMMIT);
        let outcome = mq_kafka::ffi::commit(consumer, &mut list, timeout);
        self.committed(outcome, &list).as_ref().is_some_and(is_retryable)
    }

    /// Takes the answer to a commit. The error, if one of the partitions was refused.
    fn committed(&self, outcome: KafkaResult<()>, list: &TopicPartitionList) -> Option<KafkaError> {
        let failed = outcome.err();
        let elements = list.elements();
        // With an error of one partition the outcome is that error too, and says nothing about the others.
        let all = failed.as_ref().filter(|_| elements.iter().all(|element| element.error().is_ok()));
        let mut state = self.shared.lock();
        for element in &elements {
            let Offset::Offset(offset) = element.offset() else { continue };
            let refused = element.error().err().as_ref().or(all).map(refusal);
            let too_large = Some(RDKafkaErrorCode::OffsetMetadataTooLarge);
            if element.error().err().as_ref().or(all).and_then(KafkaError::rdkafka_error_code) == too_large {
                state.without_map(element.topic(), element.partition());
            }
            state.committed(element.topic(), element.partition(), offset, refused.as_ref());
        }
        drop(state);
        // librdkafka reports an error of the whole only if every partition was refused.
        let refused = elements.iter().find(|element| element.error().is_err());
        let error = failed.or_else(|| refused?.error().err());
        if let Some(error) = &error {
            self.shared.counters.commit_failed();
            let partition = refused.map(|element| format!("{}-{}", element.topic(), element.partition()));
            tracing::warn!(consumer = self.shared.name, %error, partition, "offsets were not committed; they go with the next commit");
        }
        self.shared.notify();
        error
    }

    fn report(&self, attempt: &str, outcome: KafkaResult<()>) {
        if let Err(error) = outcome {
            tracing::error!(consumer = self.shared.name, %error, "could not {attempt}");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.logged(facility, message);
        crate::librdkafka::log(&self.shared.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(consumer = self.shared.name, %error, reason, "librdkafka reports an error");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let read = serde_json::from_slice::<Statistics>(statistics);
        if let Err(error) = &read {
            tracing::debug!(consumer = self.shared.name, %error, "librdkafka's statistics cannot be read");
        }
        let mut state = self.shared.lock();
        state.lag = read.ok().and_then(|statistics| statistics.lag(&state));
    }
}

/// What is read of librdkafka's statistics. An offset that it does not know is negative.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    #[serde(rename = "hi_offset")]
    end: i64,
    #[serde(rename = "committed_offset")]
    committed: i64,
    #[serde(rename = "next_offset")]
    next: i64,
}

impl Statistics {
    /// The lag of all assigned partitions; unknown if that of one is.
    fn lag(&self, state: &State) -> Option<u64> {
        // The end of a paused partition is not asked for; what librdkafka says of it is old.
        if state.paused || !state.held.is_empty() {
            return None;
        }
        let assigned = state.partitions(state.all().into_iter());
        let lags = assigned.iter().map(|(topic, partition)| {
            let known = self.topics.get(&**topic)?.partitions.get(partition)?;
            let read = [known.committed, known.next].into_iter().find(|offset| *offset >= 0);
            let unfinished = state.unfinished(topic, *partition).or(read)?;
            (known.end >= 0).then(|| u64::try_from(known.end - unfinished).unwrap_or(0))
        });
        lags.sum()
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
        self.shared.lock().committing = None;
        self.committed(outcome, list);
    }
}

/// Where librdkafka takes itself for being further than was read, it goes back. Before it goes on after a pause, because it does that at its
/// position; and it pauses and goes on by itself at each rebalance.
pub(super) fn correct(consumer: &KafkaConsumer, shared: &Shared) {
    let misplaced = shared.lock().misplaced();
    for (topic, partition, next) in misplaced {
        let offset = match next {
            Next::At(offset) => Offset::Offset(offset),
            Next::Begin if begins_at_ends(consumer) => Offset::End,
            Next::Begin => Offset::Beginning,
        };
        // Without waiting: what is asked of a partition is done in the order in which it was asked.
        if let Err(error) = consumer.seek(&topic, partition, offset, Duration::ZERO) {
            tracing::error!(consumer = shared.name, %error, %topic, partition, ?offset, "a partition could not be read again from where a fetch failed");
        }
    }
}

/// Whether partitions without a commit are read from their ends.
pub(super) fn begins_at_ends(consumer: &KafkaConsumer) -> bool {
    let reset = mq_kafka::ffi::property(consumer.client(), "auto.offset.reset");
    matches!(reset.as_deref(), Some("latest" | "largest" | "end"))
}

/// Those of them that librdkafka has: others were still arriving.
fn give_back(consumer: &KafkaConsumer, partitions: &TopicPartitionList) -> KafkaResult<()> {
    let known = consumer.assignment();
    let mut held = TopicPartitionList::new();
    for partition in partitions.elements() {
        let (topic, partition) = (partition.topic(), partition.partition());
        if known.as_ref().map_or(true, |known| known.find_partition(topic, partition).is_some()) {
            held.add_partition(topic, partition);
        }
    }
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(&held),
        _ => consumer.unassign(),
    }
}

/// Whether the group may have given these partitions to others already. Those of topics that are no longer subscribed are given up by
/// this member, even where librdkafka calls them lost because their topics are unknown to its new subscription.
fn is_lost(consumer: &KafkaConsumer, partitions: &TopicPartitionList) -> bool {
    let given_up = |subscribed: TopicPartitionList| {
        // Nothing is subscribed while the consumer closes. Of what a pattern finds nobody here knows.
        subscribed.count() > 0
            && !subscribed.elements().iter().any(|topic| is_pattern(topic.topic()))
            && partitions.elements().iter().all(|partition| subscribed.elements_for_topic(partition.topic()).is_empty())
    };
    consumer.assignment_lost() && !consumer.subscription().is_ok_and(given_up)
}

/// Why the broker did not commit, for those who wait for it.
pub(super) fn refusal(error: &KafkaError) -> Refusal {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::RebalanceInProgress) => Refusal::Rebalance,
        _ => Refusal::Error(error.to_string()),
    }
}

/// Whether the same commit can succeed later: not if the group goes on without this member.
fn is_retryable(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::FencedInstanceId
        )
    )
}

/// An explicit list with the maps: a commit of "everything stored" drops metadata and takes along what is not finished.
pub(super) fn offsets(positions: &[Position]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for position in positions {
        // Fails for special offsets alone; these are positions of records.
        let _ = list.add_partition_offset(&position.topic, position.partition, Offset::Offset(position.offset));
        if let Some(mut element) = list.find_partition(&position.topic, position.partition)
            && !position.map.is_empty()
        {
            element.set_metadata(&position.map);
        }
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
