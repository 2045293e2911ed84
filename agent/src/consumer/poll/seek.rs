//! Reading from elsewhere, because the service said so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::offsets::Offsets;
use super::super::state::AssignmentId;
use super::{Poller, SeekTo, list};

/// How long the broker may take to answer where a time is, and librdkafka to go there.
pub(super) const SEEK: Duration = Duration::from_secs(5);

impl Poller {
    /// First librdkafka goes there: if it cannot, everything is as before. Then what was read before is finished or dropped.
    pub(super) fn seek(&self, topic: &str, to: &SeekTo) -> Result<(), String> {
        let targets = match to {
            SeekTo::Offset(partition, offset) => vec![(*partition, Offset::Offset(*offset))],
            SeekTo::Time(milliseconds) => self.find_time(topic, *milliseconds)?,
        };
        let mut moved = Vec::new();
        let mut outcome = Ok(());
        for (partition, offset) in targets {
            let Some((id, name)) = self.shared.lock().find(topic, partition) else {
                outcome = Err(format!("{topic} {partition} is not assigned to this consumer"));
                break;
            };
            if let Err(error) = self.consumer.seek(topic, partition, offset, SEEK) {
                outcome = Err(format!("librdkafka did not go to {offset:?} of {topic} {partition}: {error}"));
                break;
            }
            moved.push((id, name, partition));
        }
        let ids = moved.iter().map(|(id, ..)| *id).collect();
        let partitions: Vec<_> = moved.iter().map(|(_, name, partition)| (Arc::clone(name), *partition)).collect();
        let (paused, mut elsewhere): (HashSet<AssignmentId>, HashMap<AssignmentId, Offsets>) = {
            let mut state = self.shared.lock();
            let elsewhere = moved.iter().filter_map(|(id, ..)| Some((*id, state.offsets(*id)?.elsewhere()))).collect();
            (state.held.intersection(&ids).copied().collect(), elsewhere)
        };
        self.consumer.client().context().retire(&self.consumer, &list(&partitions), &ids);
        let mut state = self.shared.lock();
        for (old, name, partition) in moved {
            let new = state.assign(&name, partition);
            if let Some((offsets, elsewhere)) = state.offsets(new).zip(elsewhere.remove(&old)) {
                *offsets = elsewhere;
            }
            // A seek does not resume.
            if paused.contains(&old) {
                state.held.insert(new);
            }
        }
        outcome
    }

    fn find_time(&self, topic: &str, milliseconds: i64) -> Result<Vec<(i32, Offset)>, String> {
        let mut times = TopicPartitionList::new();
        for partition in self.shared.lock().assigned(topic) {
            // Fails for special offsets alone; a time is none.
            let _ = times.add_partition_offset(topic, partition, Offset::Offset(milliseconds.max(0)));
        }
        if times.count() == 0 {
            return Err(format!("no partition of {topic} is assigned to this consumer"));
        }
        let found = self.consumer.offsets_for_times(times, SEEK);
        let found = found.map_err(|error| format!("the broker did not say where that time is in {topic}: {error}"))?;
        Ok(found.elements().iter().map(|element| (element.partition(), element.offset())).collect())
    }
}
