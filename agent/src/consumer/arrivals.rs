//! Partitions that the group gave to this member, until librdkafka has them. First it is read what the group has committed for them,
//! and finished beyond that. Reading blocks, so a thread of its own does it, while the poll thread goes on with what it has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mq_kafka::TopicId;
use mq_kafka::ffi::RecordQueue;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::{Context, KafkaConsumer, begins_at_ends};
use super::finished;
use super::offsets::Offsets;
use super::pattern::is_pattern;
use super::poll::list;
use super::state::{AssignmentId, Shared};

/// How long one answer may take. A consumer that is closed meanwhile waits for it.
const ANSWER: Duration = Duration::from_secs(2);
/// How soon it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

type Partition = (AssignmentId, Arc<str>, i32);
/// How many partitions topics had.
type Known = HashMap<String, i32>;
/// What a thread finds out: the partitions that arrived, and the topics that are known by then.
type Reading = JoinHandle<Result<(Vec<Found>, Option<Known>), KafkaError>>;

#[derive(Debug)]
pub(super) struct Arrivals {
    reading: Option<Reading>,
    not_before: Option<Instant>,
    /// Of a consumer that begins at the ends of logs: what there was when it subscribed. Whatever came later is read from its beginning.
    /// `None`: it begins at the beginning anyway.
    known: Option<Known>,
    /// Topics may be subscribed that are not among the known ones.
    look: bool,
    /// When librdkafka was last given partitions.
    arrived: Option<Instant>,
}

/// What is known of one partition.
#[derive(Debug)]
struct Found {
    partition: Partition,
    committed: Option<i64>,
    /// Where to begin without a commit, if it is not left to librdkafka.
    begin: Option<i64>,
    topic_id: Option<TopicId>,
    finished: Vec<Range<i64>>,
}

impl Arrivals {
    pub(super) fn new(consumer: &KafkaConsumer) -> Self {
        let ends = begins_at_ends(consumer);
        Self { reading: None, not_before: None, known: ends.then(Known::new), look: ends, arrived: None }
    }

    /// Other topics were subscribed.
    pub(super) fn subscribed(&mut self) {
        self.look = self.known.is_some();
    }

    /// Whether an answer may come any moment.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Whether partitions arrived within this time.
    pub(super) fn within(&self, time: Duration) -> bool {
        self.arrived.is_some_and(|arrived| arrived.elapsed() < time)
    }

    /// Asks for partitions that arrived, and gives librdkafka those of which the answer is here.
    pub(super) fn step(&mut self, consumer: &Arc<KafkaConsumer>, records: &RecordQueue<Context>, shared: &Shared) {
        if let Some(reading) = self.reading.take_if(|reading| reading.is_finished()) {
            match reading.join() {
                Ok(Ok((found, known))) => {
                    self.known = known;
                    self.take(consumer, records, shared, found);
                }
                Ok(Err(error)) => self.failed(shared, &error),
                Err(_) => self.failed(shared, &KafkaError::Canceled),
            }
        }
        if self.reading.is_some() || self.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        let arriving = shared.lock().arriving();
        if arriving.is_empty() && !self.look {
            return;
        }
        let (asking, known, look) = (Arc::clone(consumer), self.known.clone(), std::mem::take(&mut self.look));
        let thread = std::thread::Builder::new().name(format!("mq-committed-{}", shared.name));
        let read = move || {
            let known = known.map(|known| if look { look_for(&asking, known) } else { Ok(known) }).transpose()?;
            Ok((read(&asking, arriving, known.as_ref())?, known))
        };
        match thread.spawn(read) {
            Ok(reading) => self.reading = Some(reading),
            Err(error) => {
                self.subscribed();
                tracing::error!(consumer = shared.name, %error, "no thread could be started that reads committed offsets; tried again");
                self.not_before = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Waits until nothing uses the consumer any more.
    pub(super) fn end(&mut self) {
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }

    fn failed(&mut self, shared: &Shared, error: &KafkaError) {
        self.not_before = Some(Instant::now() + AGAIN);
        self.subscribed();
        tracing::warn!(
            consumer = shared.name,
            %error,
            "it could not be read what the group has committed for the assigned partitions; they wait, and it is tried again"
        );
    }

    /// Partitions that were revoked meanwhile stay with the group.
    fn take(&mut self, consumer: &KafkaConsumer, records: &RecordQueue<Context>, shared: &Shared, found: Vec<Found>) {
        let (mut start, mut pause, mut resume) =
            (TopicPartitionList::new(), TopicPartitionList::new(), TopicPartitionList::new());
        let mut taken = HashSet::new();
        {
            let mut state = shared.lock();
            for Found { partition: (id, topic, partition), committed, begin, topic_id, finished } in found {
                if !state.arriving.contains(&id) {
                    continue;
                }
                // Without a commit, `auto.offset.reset` says where.
                let offset = committed.or(begin).map_or(Offset::Invalid, Offset::Offset);
                if let Err(error) = start.add_partition_offset(&topic, partition, offset) {
                    tracing::error!(consumer = shared.name, %error, %topic, partition, ?offset, "no place to start from");
                    continue;
                }
                let again: i64 = finished.iter().map(|run| run.end - run.start).sum();
                if again > 0 {
                    tracing::info!(
                        consumer = shared.name,
                        %topic,
                        partition,
                        committed,
                        finished = again,
                        "records beyond the committed offset were finished already; they are not handled again"
                    );
                }
                if let Some(offsets) = state.offsets(id) {
                    *offsets = match begin {
                        Some(begin) => Offsets::from(begin, topic_id),
                        None => Offsets::resume(committed, topic_id, finished),
                    };
                }
                let alone = state.paused_by_service.contains(&(topic.to_string(), partition));
                if alone {
                    state.held.insert(id);
                }
                let paused = state.paused || alone;
                if paused { &mut pause } else { &mut resume }.add_partition(&topic, partition);
                taken.insert(id);
            }
        }
        if taken.is_empty() {
            return;
        }
        let elements = start.elements();
        let mut directed = elements.iter().map(|element| records.direct(element.topic(), element.partition()));
        if let Err(error) = directed.try_for_each(|outcome| outcome).and_then(|()| consumer.incremental_assign(&start))
        {
            self.failed(shared, &error);
            return;
        }
        self.arrived = Some(Instant::now());
        shared.lock().arriving.retain(|id| !taken.contains(id));
        // librdkafka remembers a pause across revocation: a partition that left while all were paused would come back silent.
        for outcome in [consumer.pause(&pause), consumer.resume(&resume)] {
            if let Err(error) = outcome {
                tracing::error!(consumer = shared.name, %error, "could not pause or resume the assigned partitions");
            }
        }
    }
}

/// Adds what there is of the subscribed topics that are not known yet.
fn look_for(consumer: &KafkaConsumer, mut known: Known) -> Result<Known, KafkaError> {
    let subscribed = consumer.subscription()?;
    let topics: Vec<_> = subscribed.elements().iter().map(|element| element.topic().to_owned()).collect();
    // What a pattern finds is found among all.
    let asked =
        if topics.iter().any(|topic| is_pattern(topic)) { vec![None] } else { topics.iter().map(Some).collect() };
    for topic in asked {
        let metadata = consumer.fetch_metadata(topic.map(String::as_str), ANSWER)?;
        for topic in metadata.topics() {
            let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
            known.entry(topic.name().to_owned()).or_insert(partitions);
        }
    }
    Ok(known)
}

fn read(
    consumer: &KafkaConsumer,
    partitions: Vec<Partition>,
    topics_before: Option<&Known>,
) -> Result<Vec<Found>, KafkaError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<_> = partitions.iter().map(|(_, topic, partition)| (Arc::clone(topic), *partition)).collect();
    let committed = mq_kafka::ffi::committed(consumer, &list(&asked), ANSWER)?;
    let topics: BTreeSet<&str> = partitions.iter().map(|(_, topic, _)| &**topic).collect();
    let topics: Vec<&str> = topics.into_iter().collect();
    let ids = mq_kafka::ffi::topic_ids(consumer.client(), &topics, ANSWER)?;
    let mut found = Vec::new();
    for partition in partitions {
        let of = |known: &&mq_kafka::ffi::Committed| known.topic == *partition.1 && known.partition == partition.2;
        let Some(known) = committed.iter().find(of) else { continue };
        let commit = known.commit.clone()?;
        let topic_id = ids.get(&*partition.1).copied();
        let mut finished = Vec::new();
        if let Some((offset, metadata)) = &commit
            && let Some(map) = topic_id.and_then(|id| finished::decode(id, *offset, metadata))
        {
            // A log that lost its end gives the same offsets to other records.
            let (_, end) = consumer.fetch_watermarks(&partition.1, partition.2, ANSWER)?;
            finished = map.into_iter().map(|run| run.start..run.end.min(end)).filter(|run| !run.is_empty()).collect();
            if *offset > end {
                finished.clear();
            }
        }
        let begin = match topics_before.filter(|_| commit.is_none()) {
            Some(before) => {
                let (start, end) = consumer.fetch_watermarks(&partition.1, partition.2, ANSWER)?;
                let is_new = before.get(&*partition.1).is_none_or(|partitions| partition.2 >= *partitions);
                Some(if is_new { start } else { end })
            }
            None => None,
        };
        found.push(Found { partition, committed: commit.map(|(offset, _)| offset), begin, topic_id, finished });
    }
    Ok(found)
}
