//! The account itself: it sees what is lost, repeated and out of order.

use std::time::Duration;

use mq_agent::{Ack, SendError};
use mq_testkit::Record;
use mq_tests::{Handling, Sent, Written, check_handled, check_written, repeated};

fn record(offset: i64, key: &str, number: u32) -> Record {
    let (key, value) = (Some(key.into()), Some(number.to_string().into()));
    Record { partition: 0, offset, key, value, headers: Vec::new(), timestamp: None }
}

fn sent(key: &str, number: u32, offset: Option<i64>) -> Sent {
    let ack = offset.map(|offset| Ack { topic: "t".into(), partition: 0, offset: Some(offset), timestamp: None });
    let failed = || SendError::NotAcknowledged { topic: "t".into(), detail: "in vain".into() };
    Sent { key: key.into(), number, outcome: ack.ok_or_else(failed), took: Duration::ZERO }
}

fn handling(offset: i64, key: &str) -> Handling {
    Handling { pid: 1, place: (0, offset), key: key.into(), number: 0 }
}

#[test]
fn what_was_acknowledged_must_be_written_once_and_in_order() {
    let log = [record(0, "a", 0), record(1, "b", 0), record(2, "a", 2)];
    let all = || vec![sent("a", 0, Some(0)), sent("b", 0, Some(1)), sent("a", 1, None), sent("a", 2, None)];
    let written = check_written(&all(), &log).unwrap();
    assert_eq!(written, Written { acknowledged: 2, failed: 2, failed_and_written: 1 });

    let mut lost = all();
    lost.push(sent("a", 3, Some(3)));
    assert!(check_written(&lost, &log).is_err(), "acknowledged and not written");
    assert!(check_written(&all()[1..], &log).is_err(), "written and not sent");
    let twice = [record(0, "a", 0), record(1, "a", 0)];
    assert!(check_written(&[sent("a", 0, Some(0))], &twice).is_err(), "written twice");
    let swapped = [record(0, "a", 1), record(1, "a", 0)];
    let both = [sent("a", 1, Some(0)), sent("a", 0, Some(1))];
    assert!(check_written(&both, &swapped).is_err(), "written out of order");
}

#[test]
fn what_is_written_must_be_handled_in_the_order_of_its_key() {
    let log = [record(0, "a", 0), record(1, "b", 0), record(2, "a", 1)];
    let of = |offsets: &[(i64, &str)]| offsets.iter().map(|(at, key)| handling(*at, key)).collect::<Vec<_>>();
    assert_eq!(check_handled(&log, &of(&[(1, "b"), (0, "a"), (2, "a")])).unwrap(), 0);
    let again = of(&[(0, "a"), (1, "b"), (0, "a"), (2, "a")]);
    assert_eq!(check_handled(&log, &again).unwrap(), 1);
    assert_eq!(repeated(&again).map(|handling| handling.place).collect::<Vec<_>>(), [(0, 0)]);
    assert!(check_handled(&log, &of(&[(0, "a"), (1, "b")])).is_err(), "one is lost");
    assert!(check_handled(&log, &of(&[(2, "a"), (0, "a"), (1, "b")])).is_err(), "one came too early");
    assert!(check_handled(&log[..2], &of(&[(0, "a"), (1, "b"), (2, "a")])).is_err(), "one is not in the log");
}
