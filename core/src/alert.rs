//! Whether a group keeps up: one condition for whoever is to be woken.

use crate::condition::{Condition, ConditionType, Status};
use crate::lag::GroupLag;
use crate::reason::Reason;
use crate::scaling::Objective;

/// Partitions that a message names.
const NAMED: usize = 5;

/// The worst that is known of a group.
pub fn keeping_up(lag: &GroupLag, objective: Option<Objective>) -> Condition {
    let say = |status, reason, message: String| Condition { kind: ConditionType::KeepingUp, status, reason, message };
    if lag.lost > 0 {
        let message = format!("retention deleted {} records before they were consumed: they are lost", lag.lost);
        return say(Status::False, Reason::RecordsLost, message);
    }
    if lag.endangered > 0 {
        let message = format!(
            "{} records are not consumed yet and go with the next segment that retention deletes: consume faster, or raise \
             retention.ms or retention.bytes of the topic",
            lag.endangered
        );
        return say(Status::False, Reason::RetentionThreatens, message);
    }
    if !lag.stuck.is_empty() {
        let mut named: Vec<String> =
            lag.stuck.iter().take(NAMED).map(|of| format!("{}/{}", of.topic, of.partition)).collect();
        if lag.stuck.len() > NAMED {
            named.push(format!("{} more", lag.stuck.len() - NAMED));
        }
        let message = format!(
            "something waits and nothing is committed for long in {}: a handler hangs, a record is tried again and again, or \
             no consumer has the partition",
            named.join(", ")
        );
        return say(Status::False, Reason::PartitionStuck, message);
    }
    let broken = objective.and_then(|objective| objective.broken_by(lag)).filter(|_| !lag.is_unknown());
    if let Some(broken) = broken.filter(|broken| *broken > 0) {
        let certain = lag.late.is_none_or(|late| !late.estimated) || matches!(objective, Some(Objective::Lag(_)));
        let message = format!("{broken} messages break the promise of spec.scaling.objective");
        return if certain {
            say(Status::False, Reason::ObjectiveBreached, message)
        } else {
            say(Status::Unknown, Reason::LagUnknown, "watched for a shorter time than was promised".into())
        };
    }
    match lag.unknown_because() {
        Some(why) => say(Status::Unknown, Reason::LagUnknown, why),
        None => say(Status::True, Reason::KeepsUp, "nothing is stuck, in danger or later than promised".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lag::{Late, TopicPartition, Unknown};

    #[test]
    fn the_worst_is_said_first() {
        let of = |partition| TopicPartition { topic: "orders".into(), partition };
        let age = Some(Objective::Age(Duration::from_secs(15)));
        let well = GroupLag { partitions: 9, late: Some(Late::default()), ..GroupLag::default() };
        let late = |messages, estimated| GroupLag { late: Some(Late { messages, estimated }), ..well.clone() };
        let stuck = GroupLag { stuck: (0..7).map(of).collect(), ..late(5, false) };
        let endangered = GroupLag { endangered: 8, ..stuck.clone() };
        let lost = GroupLag { lost: 9, ..endangered.clone() };
        let unknown = GroupLag { unknown: [(of(3), Unknown::End("no leader".into()))].into(), ..well.clone() };
        let cases = [
            (&well, age, Status::True, Reason::KeepsUp, "nothing is stuck"),
            (&late(5, false), age, Status::False, Reason::ObjectiveBreached, "5 messages"),
            (&late(5, true), age, Status::Unknown, Reason::LagUnknown, "shorter time"),
            (&late(5, false), None, Status::True, Reason::KeepsUp, "nothing"),
            (&stuck, age, Status::False, Reason::PartitionStuck, "orders/4, 2 more: a handler hangs"),
            (&endangered, age, Status::False, Reason::RetentionThreatens, "8 records"),
            (&lost, age, Status::False, Reason::RecordsLost, "9 records"),
            (&unknown, age, Status::Unknown, Reason::LagUnknown, "orders/3: end offset not readable: no leader"),
        ];
        for (lag, objective, status, reason, words) in cases {
            let said = keeping_up(lag, objective);
            assert_eq!((said.status, said.reason), (status, reason), "{said:?}");
            assert!(said.message.contains(words), "{said:?}");
        }
        let backlog = GroupLag { outstanding: 11, late: None, ..well };
        assert_eq!(keeping_up(&backlog, Some(Objective::Lag(10))).reason, Reason::ObjectiveBreached);
        assert_eq!(keeping_up(&backlog, Some(Objective::Lag(11))).reason, Reason::KeepsUp);
    }
}
