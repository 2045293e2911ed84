//! Calls of `commit` that wait for the broker's answer.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::state::AssignmentId;

/// How soon a commit is sent again that a rebalance held up.
pub(super) const COMMIT_AGAIN: Duration = Duration::from_millis(100);

/// What is told when an assignment ended before the answer.
const GONE: &str =
    "a partition moved to another member, or was lost because its group could not be reached, before the answer";

/// They lie in the shared state and not in the queue of the poll thread, because that thread waits for handlers in a drain and in a
/// revocation, and a handler may wait for its commit.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    open: Vec<Waiter>,
    /// When a commit has to be sent for them; `None`: it is under way.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    /// The ends of the prefixes that were finished at the time of the call.
    targets: Vec<(AssignmentId, i64)>,
    answer: oneshot::Sender<Result<(), String>>,
}

/// How it stands with what a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Committed,
    Open,
    /// The assignment ended before the answer.
    Moved,
}

/// Why something was not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The group is between two generations. That ends by itself.
    Rebalance,
    Error(String),
}

impl Waiters {
    pub(super) fn add(
        &mut self,
        targets: Vec<(AssignmentId, i64)>,
        answer: oneshot::Sender<Result<(), String>>,
        now: Instant,
    ) {
        self.open.push(Waiter { targets, answer });
        self.due = Some(now);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn sent(&mut self) {
        self.due = None;
    }

    /// An answer that is under way will not be heard: nobody polls for it.
    pub(super) fn send_again(&mut self, now: Instant) {
        self.due = (!self.open.is_empty()).then_some(now);
    }

    /// Answers those whose wait is over. `refused` is about one assignment and concerns who waits for that one.
    pub(super) fn answer(
        &mut self,
        standing: impl Fn(AssignmentId, i64) -> Standing,
        refused: Option<(AssignmentId, &Refusal)>,
        now: Instant,
    ) {
        for waiter in std::mem::take(&mut self.open) {
            let mut moved = false;
            let mut open = Vec::new();
            for (id, offset) in &waiter.targets {
                match standing(*id, *offset) {
                    Standing::Committed => {}
                    Standing::Open => open.push(*id),
                    Standing::Moved => moved = true,
                }
            }
            let refused = refused.filter(|(id, _)| open.contains(id)).map(|(_, refusal)| refusal);
            let outcome = match refused {
                _ if moved => Err(GONE.to_owned()),
                _ if open.is_empty() => Ok(()),
                Some(Refusal::Error(words)) => Err(words.clone()),
                Some(Refusal::Rebalance) | None => {
                    if refused.is_some() {
                        self.due.get_or_insert(now + COMMIT_AGAIN);
                    }
                    self.open.push(waiter);
                    continue;
                }
            };
            // Nobody waits any more: the call of `commit` was dropped.
            let _ = waiter.answer.send(outcome);
        }
    }

    /// Nothing will be committed any more.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_answers_those_whom_it_concerns_and_a_rebalance_nobody() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        let add = |waiters: &mut Waiters, id| {
            let (answer, answered) = oneshot::channel();
            waiters.add(vec![(id, 5)], answer, now);
            answered
        };
        let (mut one, mut two) = (add(&mut waiters, 1), add(&mut waiters, 2));
        assert!(waiters.is_due(now));
        waiters.sent();
        waiters.answer(|_, _| Standing::Open, Some((1, &Refusal::Error("no".to_owned()))), now);
        assert_eq!(one.try_recv(), Ok(Err("no".to_owned())));
        assert!(two.try_recv().is_err() && !waiters.is_due(now + COMMIT_AGAIN), "2 was not refused");
        waiters.answer(|_, _| Standing::Open, Some((2, &Refusal::Rebalance)), now);
        assert!(two.try_recv().is_err() && waiters.is_due(now + COMMIT_AGAIN));
        waiters.answer(|_, _| Standing::Committed, None, now);
        assert_eq!(two.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn what_moved_is_not_committed_here() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        let (answer, mut answered) = oneshot::channel();
        waiters.add(vec![(1, 5), (2, 5)], answer, now);
        waiters.answer(|id, _| if id == 1 { Standing::Moved } else { Standing::Open }, None, now);
        assert!(answered.try_recv().unwrap().unwrap_err().contains("moved"));
    }
}
