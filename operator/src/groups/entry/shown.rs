//! Decisions and lags in the words of a status.

use mq_core::{
    condition::{Condition, ConditionType, Status},
    lag::GroupLag,
    reason::Reason,
    scaling::{Decision, Limit, Terms},
};
use mq_crds::{Lag, LagState, LimitedBy, ScalingStatus};

/// Partitions of which a status says what is odd.
const NOTES: usize = 5;

pub(super) fn active(status: Status, reason: Reason, message: String) -> Condition {
    Condition { kind: ConditionType::ScalingActive, status, reason, message }
}

/// Whether the operator acts on the numbers while this is its decision.
pub(super) fn status(reason: Reason) -> Status {
    match reason {
        Reason::Paused
        | Reason::ScalingOff
        | Reason::ScaledToZero
        | Reason::ReplicasContested
        | Reason::ScaledByHand => Status::False,
        Reason::LagUnknown | Reason::ObservationGap | Reason::Measuring => Status::Unknown,
        _ => Status::True,
    }
}

pub(super) fn needs_a_person(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ReplicasContested
            | Reason::ScaledByHand
            | Reason::LagUnknown
            | Reason::AtMaximum
            | Reason::StepIneffective
            | Reason::HotPartition
            | Reason::ObjectiveTooShort
    )
}

pub(super) fn scaling_status(decision: &Decision) -> ScalingStatus {
    ScalingStatus {
        current: i32::try_from(decision.current).ok(),
        desired: i32::try_from(decision.desired).ok(),
        reason: decision.reason.as_str().to_owned(),
        message: decision.message.clone(),
        terms: terms_of(&decision.terms),
        limited_by: decision.limit.map(|limit| match limit {
            Limit::Max => LimitedBy::MaxReplicas,
            Limit::Partitions => LimitedBy::Partitions,
            Limit::Downstream => LimitedBy::Downstream,
        }),
        history: Vec::new(),
    }
}

pub(super) fn terms_of(terms: &Terms) -> mq_crds::Terms {
    let Terms { arrival, capacity, backlog, need, imbalance } = *terms;
    let tenths = |number: Option<f64>| number.map(|number| (number * 10.0).round() / 10.0);
    mq_crds::Terms {
        arrival: tenths(arrival),
        capacity: tenths(capacity),
        backlog: tenths(backlog),
        need: tenths(need),
        imbalance: tenths(imbalance),
    }
}

pub(super) fn status_of(lag: &GroupLag) -> Lag {
    let young = lag.late.is_some_and(|late| late.estimated);
    let state = match lag {
        lag if lag.is_unknown() => LagState::Unknown,
        lag if young || !lag.is_complete() => LagState::Estimated,
        _ => LagState::Known,
    };
    let known = state != LagState::Unknown;
    let reason = lag.unknown_because().or_else(|| match state {
        LagState::Unknown => Some("the topics have no partitions".to_owned()),
        LagState::Estimated => {
            Some("watched for a shorter time than the objective: what was there may be younger".to_owned())
        }
        LagState::Known => None,
    });
    Lag {
        state,
        reason,
        messages: known.then(|| rounded(lag.outstanding)),
        late: lag.late.filter(|_| known).map(|late| rounded(late.messages)),
        notes: lag
            .oddities
            .iter()
            .take(NOTES)
            .map(|(of, odd)| format!("{}/{}: {odd}", of.topic, of.partition))
            .collect(),
    }
}

/// Two digits that count; a status does not move with every message.
pub(super) fn rounded(messages: u64) -> i64 {
    let unit = 10_u64.pow(messages.checked_ilog10().unwrap_or_default().saturating_sub(1));
    i64::try_from(messages / unit * unit).unwrap_or(i64::MAX)
}

/// How little of a lag is known.
pub(super) fn dimness(state: LagState) -> u8 {
    match state {
        LagState::Known => 0,
        LagState::Estimated => 1,
        LagState::Unknown => 2,
    }
}
