//! What is finished, on its way to the broker, and who waits for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::super::waiters::{Refusal, Standing};
use super::{Assignment, AssignmentId, State};

/// The end of the finished prefix of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// What is finished beyond it.
    pub(crate) map: String,
}

impl Assignment {
    /// The offset as something to commit, marked as sent.
    fn send(&mut self, offset: i64) -> Position {
        self.offsets.sent(offset);
        Position { topic: Arc::clone(&self.topic), partition: self.partition, offset, map: self.offsets.map() }
    }
}

impl State {
    /// What may be committed and was not sent yet, marked as sent.
    pub(crate) fn take_commit(&mut self) -> Vec<Position> {
        self.waiters.sent();
        let assignments = self.assignments.values_mut();
        assignments
            .filter_map(|assignment| assignment.offsets.to_commit().map(|offset| assignment.send(offset)))
            .collect()
    }

    /// What these assignments have finished and the broker has not confirmed, sent before or not, marked as sent.
    pub(crate) fn take_unconfirmed(&mut self, ids: &HashSet<AssignmentId>) -> Vec<Position> {
        let leaving = self.assignments.iter_mut().filter(|(id, _)| ids.contains(id));
        leaving
            .filter_map(|(_, assignment)| assignment.offsets.unconfirmed().map(|offset| assignment.send(offset)))
            .collect()
    }

    /// The broker does not take what is committed with the offset: from now on it is the offset alone.
    pub(crate) fn without_map(&mut self, topic: &str, partition: i32) {
        if let Some(offsets) = self.offsets_of(topic, partition) {
            offsets.without_map();
        }
    }

    /// The broker's answer for one partition.
    pub(crate) fn committed(&mut self, topic: &str, partition: i32, offset: i64, refused: Option<&Refusal>) {
        let Some((id, _)) = self.find(topic, partition) else { return };
        if let Some(assignment) = self.assignments.get_mut(&id) {
            assignment.offsets.answered(offset, refused.is_none());
        }
        self.answer_waiters(refused.map(|refusal| (id, refusal)));
    }

    /// All that is unconfirmed, if somebody waits for it.
    pub(crate) fn take_asked(&mut self) -> Vec<Position> {
        if !self.waiters.is_due(Instant::now()) {
            return Vec::new();
        }
        self.waiters.sent();
        let all = self.all();
        self.take_unconfirmed(&all)
    }

    /// Whether the broker confirmed everything that may be committed.
    pub(crate) fn is_committed(&self) -> bool {
        self.assignments.values().all(|assignment| assignment.offsets.unconfirmed().is_none())
    }

    /// Answers when the broker has confirmed what is finished at this moment.
    pub(crate) fn wait_committed(&mut self, answer: oneshot::Sender<Result<(), String>>) {
        let assignments = self.assignments.iter();
        let targets =
            assignments.filter_map(|(id, assignment)| Some((*id, assignment.offsets.committable()?))).collect();
        self.waiters.add(targets, answer, Instant::now());
        self.answer_waiters(None);
    }

    pub(super) fn answer_waiters(&mut self, refused: Option<(AssignmentId, &Refusal)>) {
        let assignments = &self.assignments;
        let standing = |id, offset| match assignments.get(&id) {
            None => Standing::Moved,
            Some(assignment) if assignment.offsets.is_committed(offset) => Standing::Committed,
            Some(_) => Standing::Open,
        };
        self.waiters.answer(standing, refused, Instant::now());
    }
}
