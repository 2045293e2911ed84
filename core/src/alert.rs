//! Whether a group keeps up: one condition for whoever is to be woken.

use std::time::Duration;

use crate::condition::{Condition, ConditionType, Status};
use crate::lag::{GroupLag, Oddity, TopicPartition};
use crate::reason::Reason;
use crate::scaling::Objective;

/// Partitions, and pods, that a message names.
const NAMED: usize = 5;

/// What a pod says of its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Name of the pod.
    pub pod: String,
    /// The record that it has in hand for the longest time, if it has any.
    pub oldest: Option<InHand>,
    /// With which error its dead-letter breaker opened, while it is open; the words of a handler.
    pub held: Option<String>,
}

/// A record that was taken from Kafka and is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InHand {
    /// Which partition.
    pub of: TopicPartition,
    /// The offset.
    pub offset: i64,
    /// For how long.
    pub age: Duration,
}

/// The worst that is known of a group. `consumers` are those that say how they are, in the order of their pods.
pub fn keeping_up(lag: &GroupLag, objective: Option<Objective>, consumers: &[Consumer]) -> Condition {
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
    if let Some(message) = held(consumers) {
        return say(Status::False, Reason::DeadLettersHeld, message);
    }
    let (behind_transactions, stuck): (Vec<_>, Vec<_>) =
        lag.stuck.iter().partition(|of| matches!(lag.oddities.get(*of), Some(Oddity::OpenTransaction { .. })));
    if stuck.is_empty()
        && let Some(first) = behind_transactions.first()
        && let Some(why) = lag.oddities.get(*first)
    {
        let message =
            format!("nothing is committed for long in {}: {why}", places(behind_transactions.iter().copied()));
        return say(Status::False, Reason::TransactionOpen, message);
    }
    if !lag.stuck.is_empty() {
        let stuck = places(stuck.into_iter());
        let message = format!(
            "something waits and nothing is committed for long in {stuck}: a handler hangs, a record is tried again and again, or \
             no consumer has the partition{}",
            in_hand(lag, consumers)
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
    if let Some(message) = forgotten(lag) {
        return say(Status::False, Reason::OffsetsForgotten, message);
    }
    match lag.unknown_because() {
        Some(why) => say(Status::Unknown, Reason::LagUnknown, why),
        None => say(Status::True, Reason::KeepsUp, "nothing is stuck, in danger or later than promised".into()),
    }
}

fn places<'a>(all: impl Iterator<Item = &'a TopicPartition>) -> String {
    named(all.map(|of| format!("{}/{}", of.topic, of.partition)))
}

/// Partitions that begin anew, with the first of them in words.
fn forgotten(lag: &GroupLag) -> Option<String> {
    let forgotten = || lag.oddities.iter().filter(|(_, oddity)| matches!(oddity, Oddity::Forgotten { .. }));
    let (_, why) = forgotten().next()?;
    Some(format!("in {} {why}", places(forgotten().map(|(of, _)| of))))
}

/// Nothing in it changes while the same pods have the same trouble.
fn held(consumers: &[Consumer]) -> Option<String> {
    let held = || consumers.iter().filter_map(|consumer| Some((&consumer.pod, consumer.held.as_ref()?)));
    let (first, error) = held().next()?;
    let whose = if held().count() > 1 { format!("{error:?} in {first}") } else { format!("{error:?}") };
    Some(format!(
        "so many records failed ({whose}) in {} that something seems broken which they all need: what fails is held and not sent to the \
         dead-letter topic, and nothing beyond it is committed; mend what is broken and all of it goes on by itself, or correct the \
         handler and start the pods again",
        named(held().map(|(pod, _)| pod.clone()))
    ))
}

/// Where the records are for which stuck partitions wait.
fn in_hand(lag: &GroupLag, consumers: &[Consumer]) -> String {
    let oldest = consumers.iter().filter_map(|consumer| Some((&consumer.pod, consumer.oldest.as_ref()?)));
    let stuck: Vec<String> = oldest
        .filter(|(_, oldest)| lag.stuck.contains(&oldest.of))
        .map(|(pod, InHand { of, offset, age })| {
            format!("{pod} has offset {offset} of {}/{} in hand for {} s", of.topic, of.partition, age.as_secs())
        })
        .collect();
    if stuck.is_empty() { String::new() } else { format!("; {}", named(stuck.into_iter())) }
}

/// A list in words, of which not all are said.
fn named(mut all: impl Iterator<Item = String>) -> String {
    let mut named: Vec<String> = all.by_ref().take(NAMED).collect();
    match all.count() {
        0 => {}
        more => named.push(format!("{more} more")),
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::{Late, Unknown};

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
            let said = keeping_up(lag, objective, &[]);
            assert_eq!((said.status, said.reason), (status, reason), "{said:?}");
            assert!(said.message.contains(words), "{said:?}");
        }
        let backlog = GroupLag { outstanding: 11, late: None, ..well };
        assert_eq!(keeping_up(&backlog, Some(Objective::Lag(10)), &[]).reason, Reason::ObjectiveBreached);
        assert_eq!(keeping_up(&backlog, Some(Objective::Lag(11)), &[]).reason, Reason::KeepsUp);
    }

    #[test]
    fn what_is_odd_about_partitions_is_said() {
        let of = |partition| TopicPartition { topic: "orders".into(), partition };
        let open = Oddity::OpenTransaction { since: 17 };
        let stuck = |stuck: &[i32]| GroupLag {
            partitions: 9,
            stuck: stuck.iter().copied().map(of).collect(),
            oddities: [(of(1), open), (of(2), open)].into(),
            ..GroupLag::default()
        };
        let said = keeping_up(&stuck(&[1, 2]), None, &[]);
        assert_eq!((said.status, said.reason), (Status::False, Reason::TransactionOpen));
        assert!(said.message.contains("in orders/1, orders/2: a transaction that began at offset 17"), "{said:?}");
        let said = keeping_up(&stuck(&[1, 3]), None, &[]);
        assert_eq!(said.reason, Reason::PartitionStuck, "one of them is stuck for another reason");
        assert!(said.message.contains("in orders/3: a handler hangs"), "{said:?}");
        assert_eq!(keeping_up(&stuck(&[]), None, &[]).reason, Reason::KeepsUp, "it may end in time");

        let forgotten = Oddity::Forgotten { committed: 90, reset: crate::lag::ResetPolicy::Earliest };
        let lag = |stuck: GroupLag| GroupLag { oddities: [(of(1), forgotten)].into(), ..stuck };
        assert_eq!(keeping_up(&lag(stuck(&[2])), None, &[]).reason, Reason::PartitionStuck, "what goes on is worse");
        let said = keeping_up(&lag(stuck(&[])), None, &[]);
        assert_eq!((said.status, said.reason), (Status::False, Reason::OffsetsForgotten));
        assert!(said.message.starts_with("in orders/1 the committed offset 90 expired or was deleted"), "{said:?}");
    }

    #[test]
    fn an_open_breaker_is_worse_than_lag_and_better_than_loss() {
        let consumer = |pod: usize, held: Option<&str>| Consumer {
            pod: format!("worker-{pod}"),
            oldest: None,
            held: held.map(str::to_owned),
        };
        let stuck = GroupLag {
            partitions: 9,
            stuck: [TopicPartition { topic: "orders".into(), partition: 1 }].into(),
            ..GroupLag::default()
        };
        let said = keeping_up(&stuck, None, &[consumer(1, None), consumer(2, Some("no \"database\"\n"))]);
        assert_eq!((said.status, said.reason), (Status::False, Reason::DeadLettersHeld));
        assert!(said.message.contains(r#"failed ("no \"database\"\n") in worker-2 that"#), "{}", said.message);
        let many: Vec<_> = (0..7).map(|pod| consumer(pod, Some("no database"))).collect();
        let said = keeping_up(&stuck, None, &many).message;
        assert!(
            said.contains(r#"("no database" in worker-0) in worker-0, worker-1, worker-2, worker-3, worker-4, 2 more"#),
            "{said}"
        );
        let lost = GroupLag { lost: 1, ..stuck.clone() };
        assert_eq!(keeping_up(&lost, None, &many).reason, Reason::RecordsLost);
        assert_eq!(keeping_up(&stuck, None, &[consumer(1, None)]).reason, Reason::PartitionStuck);
    }

    #[test]
    fn the_record_that_a_stuck_partition_waits_for_is_named() {
        let of = |partition| TopicPartition { topic: "orders".into(), partition };
        let oldest = |pod: &str, partition| Consumer {
            pod: pod.into(),
            oldest: Some(InHand { of: of(partition), offset: 17, age: Duration::from_millis(361_500) }),
            held: None,
        };
        let stuck = GroupLag { partitions: 9, stuck: [of(1)].into(), ..GroupLag::default() };
        let said = keeping_up(&stuck, None, &[oldest("a", 1), oldest("b", 2)]).message;
        assert!(said.ends_with("partition; a has offset 17 of orders/1 in hand for 361 s"), "{said}");
        let said = keeping_up(&stuck, None, &[oldest("b", 2)]).message;
        assert!(said.ends_with("no consumer has the partition"), "{said}");
    }
}
