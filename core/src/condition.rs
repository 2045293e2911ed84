//! From a verdict to the conditions that kstatus, Argo CD, Flux and `kubectl wait` understand without custom code.
//!
//! `Ready` is always there. `Reconciling` and `Stalled` exist only while they are true.

use crate::reason::Reason;
use std::time::Duration;

/// The few condition types; everything finer is a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is as declared.
    Ready,
    /// Work is going on, or is tried again without a person's help. Present only while true.
    Reconciling,
    /// Nothing more happens until a person acts. Present only while true.
    Stalled,
    /// The clients run the configuration that the object declares.
    ConfigApplied,
    /// The scaler may act on the target.
    ScalingActive,
    /// A consumer group loses nothing, stands nowhere still and keeps its promise.
    KeepingUp,
}

impl ConditionType {
    /// The text in `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::ConfigApplied => "ConfigApplied",
            Self::ScalingActive => "ScalingActive",
            Self::KeepingUp => "KeepingUp",
        }
    }
}

/// The three values of a condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be found out. Never stands for "no".
    Unknown,
}

impl Status {
    /// The text in `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition without the times and the generation, which the status writer adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which condition.
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// A sentence that a user can act on; lists in it are sorted, so that it does not flap.
    pub message: String,
}

/// How an object is, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// As declared.
    Ready,
    /// On the way.
    Reconciling,
    /// A person must act.
    Stalled,
    /// It could not be found out; it is tried again.
    Unknown,
    /// Left alone because a person asked for that.
    Held,
}

/// The answer to "is it well, and if not why".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it is.
    pub health: Health,
    /// Why.
    pub reason: Reason,
    /// The sentence for users.
    pub message: String,
}

impl Verdict {
    /// As declared.
    pub fn ready(reason: Reason, message: impl Into<String>) -> Self {
        Self { health: Health::Ready, reason, message: message.into() }
    }

    /// On the way.
    pub fn reconciling(reason: Reason, message: impl Into<String>) -> Self {
        Self { health: Health::Reconciling, reason, message: message.into() }
    }

    /// A person must act.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self { health: Health::Stalled, reason, message: message.into() }
    }

    /// It could not be found out.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { health: Health::Unknown, reason, message: message.into() }
    }

    /// Paused by annotation.
    pub fn paused() -> Self {
        let message = "nothing is changed while the annotation mq.infra-kit.io/paused is true".into();
        Self { health: Health::Held, reason: Reason::Paused, message }
    }

    /// Its `MqCluster` is paused by annotation.
    pub fn cluster_paused() -> Self {
        let message =
            "the MqCluster is paused: nothing is changed while its annotation mq.infra-kit.io/paused is true".into();
        Self { health: Health::Held, reason: Reason::Paused, message }
    }

    /// The earlier words, as long as something is not known for the same reason: the texts of errors differ from attempt to attempt, and
    /// a status shall not be written for that.
    #[must_use]
    pub fn steady(self, before: Option<&Self>) -> Self {
        match before {
            Some(before)
                if self.health == Health::Unknown && (before.health, before.reason) == (self.health, self.reason) =>
            {
                before.clone()
            }
            _ => self,
        }
    }

    /// Whether this still stands `age` after it was found, although the next look shows `next`: one look that failed says nothing about
    /// the object, and a restarting broker shall not turn all of them over.
    pub fn outlasts(&self, next: &Self, age: Duration, patience: Duration) -> bool {
        let failed = next.health == Health::Unknown
            && matches!(
                next.reason,
                Reason::ClusterUnreachable
                    | Reason::AddressNotResolved
                    | Reason::TlsFailed
                    | Reason::AuthenticationFailed
                    | Reason::PartialObservation
            );
        failed && self.health != Health::Unknown && age < patience
    }

    /// `Ready`, and `Reconciling` or `Stalled` where they hold.
    pub fn conditions(&self) -> Vec<Condition> {
        let condition = |kind, status| Condition { kind, status, reason: self.reason, message: self.message.clone() };
        let reconciling = || condition(ConditionType::Reconciling, Status::True);
        match self.health {
            Health::Ready => vec![condition(ConditionType::Ready, Status::True)],
            Health::Reconciling => vec![condition(ConditionType::Ready, Status::False), reconciling()],
            Health::Stalled => {
                vec![condition(ConditionType::Ready, Status::False), condition(ConditionType::Stalled, Status::True)]
            }
            Health::Unknown => vec![condition(ConditionType::Ready, Status::Unknown), reconciling()],
            Health::Held => vec![condition(ConditionType::Ready, Status::Unknown)],
        }
    }
}

/// Something that could not be observed, and why. It is a value, never a zero and never a decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unknown {
    /// The reason for conditions.
    pub reason: Reason,
    /// What was asked and what came back.
    pub message: String,
}

impl Unknown {
    /// Something that is not known, for `reason`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<Unknown> for Verdict {
    fn from(unknown: Unknown) -> Self {
        Self::unknown(unknown.reason, unknown.message)
    }
}

/// A value that was observed, or the reason why it is not known.
pub type Observed<T> = Result<T, Unknown>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_first_failure_stay() {
        let refused = Verdict::unknown(Reason::ClusterUnreachable, "refused");
        let timeout = Verdict::unknown(Reason::ClusterUnreachable, "no answer");
        assert_eq!(timeout.clone().steady(Some(&refused)), refused);
        assert_eq!(timeout.clone().steady(None), timeout);
        let other = Verdict::unknown(Reason::PartialObservation, "half an answer");
        assert_eq!(other.clone().steady(Some(&refused)), other);
        let (first, second) = (Verdict::ready(Reason::InSync, "a"), Verdict::ready(Reason::InSync, "b"));
        assert_eq!(second.clone().steady(Some(&first)), second);
    }

    #[test]
    fn a_failed_look_turns_nothing_over_at_once() {
        let ready = Verdict::ready(Reason::InSync, "");
        let unknown = |reason| Verdict::unknown(reason, "");
        let table = [
            (&ready, unknown(Reason::ClusterUnreachable), 29, true),
            (&ready, unknown(Reason::PartialObservation), 29, true),
            (&ready, unknown(Reason::ClusterUnreachable), 30, false),
            (&ready, unknown(Reason::WrongCluster), 0, false),
            (&ready, unknown(Reason::NotAuthorized), 0, false),
            (&ready, Verdict::stalled(Reason::TopicRecreated, ""), 0, false),
            (&unknown(Reason::ClusterUnreachable), unknown(Reason::PartialObservation), 0, false),
        ];
        for (before, next, age, stands) in table {
            let patience = Duration::from_secs(30);
            assert_eq!(before.outlasts(&next, Duration::from_secs(age), patience), stands, "{next:?} after {age} s");
        }
    }

    #[test]
    fn ready_is_always_there_and_the_abnormal_only_while_true() {
        let table = [
            (Verdict::ready(Reason::InSync, ""), "Ready=True"),
            (Verdict::reconciling(Reason::Progressing, ""), "Ready=False Reconciling=True"),
            (Verdict::stalled(Reason::InvalidSpec, ""), "Ready=False Stalled=True"),
            (Verdict::unknown(Reason::ClusterUnreachable, ""), "Ready=Unknown Reconciling=True"),
            (Verdict::paused(), "Ready=Unknown"),
        ];
        for (verdict, expected) in table {
            let conditions: Vec<_> =
                verdict.conditions().iter().map(|c| format!("{}={}", c.kind.as_str(), c.status.as_str())).collect();
            assert_eq!(conditions.join(" "), expected);
        }
    }
}
