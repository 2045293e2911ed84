//! The assigned partitions: which there are, what they may do, and how they end.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::super::lanes::Claim;
use super::super::offsets::{Next, Offsets};
use super::{Assignment, AssignmentId, State};

impl State {
    pub(crate) fn assign(&mut self, topic: &str, partition: i32) -> AssignmentId {
        self.next_id += 1;
        let topic: Arc<str> = Arc::from(topic);
        self.ids.entry(Arc::clone(&topic)).or_default().insert(partition, self.next_id);
        self.assignments.insert(self.next_id, Assignment { topic, partition, offsets: Offsets::default() });
        self.next_id
    }

    /// The offsets of an assignment, if it still stands.
    pub(crate) fn offsets(&mut self, id: AssignmentId) -> Option<&mut Offsets> {
        self.assignments.get_mut(&id).map(|assignment| &mut assignment.offsets)
    }

    /// The partitions of which everything that was read is finished.
    pub(crate) fn idle(&self) -> Vec<(Arc<str>, i32)> {
        let assigned = self.assignments.iter().filter(|(id, _)| !self.arriving.contains(id));
        let idle = assigned.filter(|(_, assignment)| assignment.offsets.is_idle());
        idle.map(|(_, assignment)| (Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assignments that librdkafka does not have yet.
    pub(crate) fn arriving(&self) -> Vec<(AssignmentId, Arc<str>, i32)> {
        let arriving = self.arriving.iter().filter_map(|id| self.assignments.get_key_value(id));
        arriving.map(|(id, assignment)| (*id, Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assignment of a partition and the shared name of its topic.
    pub(crate) fn find(&self, topic: &str, partition: i32) -> Option<(AssignmentId, Arc<str>)> {
        let (topic, partitions) = self.ids.get_key_value(topic)?;
        partitions.get(&partition).map(|id| (*id, Arc::clone(topic)))
    }

    /// The offsets of an assigned partition.
    pub(crate) fn offsets_of(&mut self, topic: &str, partition: i32) -> Option<&mut Offsets> {
        let (id, _) = self.find(topic, partition)?;
        self.offsets(id)
    }

    /// The partitions of those assignments that there still are.
    pub(crate) fn partitions(&self, ids: impl Iterator<Item = AssignmentId>) -> Vec<(Arc<str>, i32)> {
        let known = ids.filter_map(|id| self.assignments.get(&id));
        known.map(|assignment| (Arc::clone(&assignment.topic), assignment.partition)).collect()
    }

    /// The assigned partitions of a topic.
    pub(crate) fn assigned(&self, topic: &str) -> Vec<i32> {
        self.ids.get(topic).map(|partitions| partitions.keys().copied().collect()).unwrap_or_default()
    }

    /// The assignments that take nothing in for now.
    pub(crate) fn to_hold(&self) -> HashSet<AssignmentId> {
        let paused = self.paused_by_service.iter().filter_map(|(topic, partition)| self.find(topic, *partition));
        self.far_ahead.iter().copied().chain(paused.map(|(id, _)| id)).collect()
    }

    /// The first offset of an assigned partition that is not finished, as far as the records in hand tell.
    pub(crate) fn unfinished(&self, topic: &str, partition: i32) -> Option<i64> {
        let (id, _) = self.find(topic, partition)?;
        self.assignments.get(&id)?.offsets.prefix()
    }

    /// The partitions that librdkafka takes itself for being further in than was read, with where to read next.
    pub(crate) fn misplaced(&self) -> Vec<(Arc<str>, i32, Next)> {
        let arrived = self.assignments.iter().filter(|(id, _)| !self.arriving.contains(id));
        let misplaced = arrived.filter_map(|(_, assignment)| Some((assignment, assignment.offsets.misplaced()?)));
        misplaced.map(|(assignment, next)| (Arc::clone(&assignment.topic), assignment.partition, next)).collect()
    }

    pub(crate) fn all(&self) -> HashSet<AssignmentId> {
        self.assignments.keys().copied().collect()
    }

    pub(super) fn is_busy(&self, ids: &HashSet<AssignmentId>) -> bool {
        self.lanes.is_busy(|item| ids.contains(&item.assignment))
    }

    /// Drops the waiting records of these assignments that come after everything begun: they will be read again as the first ones
    /// after the commit. Those between begun ones stay, so that the prefix closes and nothing is handled twice; but not where they
    /// gather, because nobody is there who would take them.
    pub(crate) fn wind_down(&mut self, ids: &HashSet<AssignmentId>) {
        let (assignments, gather) = (&self.assignments, self.gather.is_some());
        let dropped = self.lanes.discard(|item| {
            ids.contains(&item.assignment)
                && (gather && !item.alone
                    || assignments
                        .get(&item.assignment)
                        .is_none_or(|assignment| assignment.offsets.may_drop(item.sequence)))
        });
        for item in dropped {
            self.forget(item.batch);
        }
    }

    /// Forgets these assignments. What still runs in them can no longer finish anything.
    pub(crate) fn release(&mut self, ids: &HashSet<AssignmentId>) {
        for item in self.lanes.remove(|item| ids.contains(&item.assignment)) {
            self.forget(item.batch);
        }
        let (gone, held) =
            std::mem::take(&mut self.held_back).into_iter().partition(|claim| self.lanes.is_removed(claim));
        self.held_back = held;
        let gone: VecDeque<Claim> = gone;
        for claim in gone {
            self.end(claim);
        }
        self.arriving.retain(|id| !ids.contains(id));
        self.far_ahead.retain(|id| !ids.contains(id));
        self.held.retain(|id| !ids.contains(id));
        for id in ids {
            if let Some(assignment) = self.assignments.remove(id)
                && let Some(partitions) = self.ids.get_mut(&assignment.topic)
                && partitions.get(&assignment.partition) == Some(id)
            {
                partitions.remove(&assignment.partition);
            }
        }
        self.ids.retain(|_, partitions| !partitions.is_empty());
        self.answer_waiters(None);
    }
}
