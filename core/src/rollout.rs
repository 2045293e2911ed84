//! Which revision is in force.
//!
//! A new revision is in force at once. The first client that refuses it takes it back: it joins the rejected ones, the
//! newest revision that nobody refused is in force again, and the object says so until it is edited.

use std::collections::BTreeSet;

use crate::{
    condition::{Condition, ConditionType, Status, Verdict},
    reason::Reason,
};

/// What the status of the object says about its revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// In force; `None`: no revision may be run.
    pub current: Option<i64>,
    /// The newest.
    pub update: Option<i64>,
    /// Refused by a client; never sent again.
    pub rejected: BTreeSet<i64>,
}

/// A client's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Of which revision.
    pub revision: i64,
    /// Pod of the client.
    pub pod: String,
    /// Why, in the client's words.
    pub words: String,
}

/// The clients that are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// With an open stream.
    pub connected: usize,
    /// Of these, those that run the current revision.
    pub applied: usize,
    /// Of these, those that refused the newest revision.
    pub rejected: usize,
}

/// The state after what clients said. `revisions` are the numbers of those that exist.
///
/// Rejections of revisions that are gone are forgotten: they cannot be sent any more.
pub fn decide(revisions: &BTreeSet<i64>, state: &State, rejections: &[Rejection]) -> State {
    let refused = rejections.iter().map(|rejection| rejection.revision);
    let rejected: BTreeSet<i64> =
        state.rejected.iter().copied().chain(refused).filter(|number| revisions.contains(number)).collect();
    State { current: revisions.difference(&rejected).last().copied(), update: revisions.last().copied(), rejected }
}

/// The revision that may be sent to a client now: the one in force, or, when somebody has just refused it and the status
/// does not say so yet, the newest one before it that nobody refused. Never one that is newer than what is in force.
pub fn to_send(revisions: &BTreeSet<i64>, state: &State, refused: &BTreeSet<i64>) -> Option<i64> {
    revisions
        .range(..=state.current?)
        .rev()
        .find(|number| !state.rejected.contains(number) && !refused.contains(number))
        .copied()
}

/// How the object is. `words` are those of the client that refused the newest revision; if it `heals`, that is tried again, so that
/// nobody has to do anything.
pub fn verdict(state: &State, clients: Clients, words: Option<&str>, heals: bool) -> Verdict {
    let words = words.unwrap_or("a client refused it");
    let rejected = |message| {
        let verdict = if heals { Verdict::reconciling } else { Verdict::stalled };
        verdict(Reason::RejectedByClient, message)
    };
    let until = if heals { "for now and tried again later" } else { "until spec is edited" };
    match (state.current, state.update) {
        (_, None) => Verdict::reconciling(Reason::Progressing, "the first revision is being written"),
        (None, Some(update)) => {
            rejected(format!("revision {update} is rejected {until} and there is no earlier one to return to: {words}"))
        }
        (Some(current), Some(update)) if current != update => {
            rejected(format!("revision {update} is rejected {until}, revision {current} is in force again: {words}"))
        }
        (Some(current), Some(_)) => match clients {
            Clients { connected: 0, .. } => {
                Verdict::ready(Reason::NoClients, format!("revision {current} waits for clients; none is connected"))
            }
            Clients { connected, applied, .. } if applied < connected => Verdict::reconciling(
                Reason::Progressing,
                format!("{applied} of {connected} clients run revision {current}"),
            ),
            Clients { connected, .. } => {
                Verdict::ready(Reason::Applied, format!("{connected} of {connected} clients run revision {current}"))
            }
        },
    }
}

/// The condition `ConfigApplied` of an object whose `Ready` also speaks of other things.
pub fn config_applied(verdict: &Verdict) -> Condition {
    let status = match verdict.reason {
        Reason::Applied => Status::True,
        Reason::NoClients => Status::Unknown,
        _ => Status::False,
    };
    Condition { kind: ConditionType::ConfigApplied, status, reason: verdict.reason, message: verdict.message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::Health;
    use proptest::prelude::*;

    fn state(current: Option<i64>, update: Option<i64>, rejected: &[i64]) -> State {
        State { current, update, rejected: rejected.iter().copied().collect() }
    }

    fn refusal(revision: i64) -> Rejection {
        Rejection { revision, pod: "orders-1".into(), words: "no broker".into() }
    }

    #[test]
    fn the_newest_that_nobody_refused_is_in_force() {
        type Case<'a> = (&'a [i64], State, &'a [i64], State);
        let cases: [Case<'_>; 7] = [
            (&[], State::default(), &[], State::default()),
            (&[1], State::default(), &[], state(Some(1), Some(1), &[])),
            (&[1, 2], state(Some(1), Some(1), &[]), &[], state(Some(2), Some(2), &[])),
            (&[1, 2], state(Some(2), Some(2), &[]), &[2], state(Some(1), Some(2), &[2])),
            (&[1, 2, 3], state(Some(1), Some(2), &[2]), &[], state(Some(3), Some(3), &[2])),
            (&[1], state(Some(1), Some(1), &[]), &[1], state(None, Some(1), &[1])),
            // What is gone is forgotten.
            (&[3], state(Some(3), Some(3), &[2]), &[1], state(Some(3), Some(3), &[])),
        ];
        for (revisions, before, refused, after) in cases {
            let revisions = revisions.iter().copied().collect();
            let refused: Vec<_> = refused.iter().map(|number| refusal(*number)).collect();
            assert_eq!(decide(&revisions, &before, &refused), after, "{before:?}");
        }
    }

    #[test]
    fn each_situation_has_its_sentence() {
        let clients = |connected, applied, rejected| Clients { connected, applied, rejected };
        let table = [
            (state(None, None, &[]), clients(1, 0, 0), Health::Reconciling, "being written"),
            (state(Some(1), Some(1), &[]), clients(0, 0, 0), Health::Ready, "none is connected"),
            (state(Some(2), Some(2), &[]), clients(3, 2, 0), Health::Reconciling, "2 of 3 clients run revision 2"),
            (state(Some(2), Some(2), &[]), clients(3, 3, 0), Health::Ready, "3 of 3 clients run revision 2"),
            (
                state(Some(1), Some(2), &[2]),
                clients(3, 3, 1),
                Health::Stalled,
                "revision 1 is in force again: no broker",
            ),
            (state(None, Some(1), &[1]), clients(3, 0, 1), Health::Stalled, "no earlier one to return to: no broker"),
        ];
        for (state, clients, health, sentence) in table {
            let verdict = verdict(&state, clients, Some("no broker"), false);
            assert_eq!(verdict.health, health, "{verdict:?}");
            assert!(verdict.message.contains(sentence), "{verdict:?}");
        }
    }

    #[test]
    fn a_refusal_that_may_heal_needs_nobody() {
        for state in [state(Some(1), Some(2), &[2]), state(None, Some(1), &[1])] {
            let verdict = verdict(&state, Clients::default(), Some("no broker"), true);
            assert_eq!((verdict.health, verdict.reason), (Health::Reconciling, Reason::RejectedByClient));
            assert!(verdict.message.contains("tried again later"), "{verdict:?}");
        }
    }

    proptest! {
        #[test]
        fn a_refused_revision_is_never_sent(
            revisions in proptest::collection::btree_set(1_i64..20, 0..12),
            rejected in proptest::collection::btree_set(1_i64..20, 0..12),
            current in proptest::option::of(1_i64..20),
            refused in proptest::collection::btree_set(1_i64..20, 0..12),
        ) {
            let before = State { current, update: None, rejected };
            if let Some(sent) = to_send(&revisions, &before, &refused) {
                prop_assert!(revisions.contains(&sent) && !before.rejected.contains(&sent) && !refused.contains(&sent));
                prop_assert!(Some(sent) <= current);
            }
            let refusals: Vec<_> = refused.iter().map(|number| refusal(*number)).collect();
            let after = decide(&revisions, &before, &refusals);
            prop_assert!(after.current.is_none_or(|current| !after.rejected.contains(&current)));
            // Deciding again changes nothing, and what is decided is what is sent.
            prop_assert_eq!(&decide(&revisions, &after, &refusals), &after);
            prop_assert_eq!(to_send(&revisions, &after, &refused), after.current);
        }
    }
}
