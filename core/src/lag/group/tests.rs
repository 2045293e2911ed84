//! What is told of a group, cycle by cycle.

use super::*;

const CYCLE: Duration = Duration::from_secs(5);

fn watch(age: u64) -> Watch {
    Watch {
        age: Some(Duration::from_secs(age)),
        reset: ResetPolicy::Earliest,
        commit_interval: Duration::from_secs(1),
        longest: Duration::ZERO,
    }
}

fn reading(partition: i32, committed: i64, end: i64) -> Reading {
    Reading {
        of: TopicPartition { topic: "orders".into(), partition },
        committed: Ok(Some(committed)),
        end: Ok(end),
        start: None,
        topic_id: None,
        tail: None,
    }
}

fn rounded(rate: Option<f64>) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
    rate.map(|rate| rate.round() as i64)
}

#[test]
fn sums_and_rates() {
    let mut tracker = GroupTracker::new();
    let first = tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100), reading(1, 50, 60)]);
    assert_eq!((first.outstanding, first.arrival, first.throughput), (110, None, None));
    let second = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 50, 200), reading(1, 60, 60)]);
    assert_eq!(second.outstanding, 150);
    assert_eq!((rounded(second.arrival), rounded(second.throughput)), (Some(20), Some(12)));
    assert!(!second.saturated, "partition 1 was drained");
    assert!(second.is_complete() && !second.is_unknown());
}

#[test]
fn a_partition_that_stands_still_beside_others_is_stuck() {
    let mut tracker = GroupTracker::new();
    let (mut stuck, mut workable) = (Vec::new(), Vec::new());
    for n in 0_i64..80 {
        // The first stands at 20 and is moved in cycle 70; the second works; the third has nothing to do.
        let first = if n < 70 { 20 } else { 21 };
        let readings = [reading(0, first, 100), reading(1, n, 100 + n), reading(2, 5, 5)];
        let lag = tracker.observe(CYCLE * u32::try_from(n).unwrap(), &watch(15), &readings);
        stuck.push(lag.stuck.iter().map(|of| of.partition).collect::<Vec<_>>());
        workable.push(lag.workable().map(|flow| flow.of.partition).collect::<Vec<_>>());
    }
    assert_eq!(stuck.iter().position(|stuck| !stuck.is_empty()), Some(60), "after five minutes");
    assert_eq!((&*stuck[69], &*stuck[70], &*stuck[79]), (&[0][..], &[][..], &[][..]));
    assert_eq!((&*workable[59], &*workable[60], &*workable[70]), (&[0, 1, 2][..], &[1, 2][..], &[0, 1, 2][..]));
    let patient = (0_u32..62).map(|n| tracker.observe(CYCLE * (80 + n), &watch(3_600), &[reading(0, 21, 100)]).stuck);
    assert!(patient.into_iter().all(|stuck| stuck.is_empty()), "who promises an hour has more time");
}

#[test]
fn a_group_that_stands_still_everywhere_has_no_stuck_partitions_to_overlook() {
    let mut tracker = GroupTracker::new();
    let mut seen = Vec::new();
    for n in 0_i64..130 {
        // Both stand from the fifth cycle on.
        let readings = [reading(0, n.min(5), 500), reading(1, 20, 500)];
        let lag = tracker.observe(CYCLE * u32::try_from(n).unwrap(), &watch(15), &readings);
        seen.push((lag.stuck.len(), lag.works, lag.workable().count()));
    }
    assert_eq!([seen[4], seen[62], seen[129]], [(0, true, 2), (1, true, 1), (2, false, 2)]);
}

#[test]
fn records_that_the_next_deletion_would_take_are_in_danger() {
    let mut tracker = GroupTracker::new();
    let mut endangered = Vec::new();
    for (n, start, committed) in [(0, 0, 150), (1, 0, 150), (2, 100, 150), (3, 100, 190), (4, 100, 200), (5, 200, 200)]
    {
        let now = Reading { start: Some(start), ..reading(0, committed, 1_000) };
        endangered.push(tracker.observe(CYCLE * n, &watch(15), &[now]).endangered);
    }
    assert_eq!(endangered, [0, 0, 50, 10, 0, 100], "the last deletion took a hundred");
}

#[test]
fn the_usual_arrival_of_a_partition_outlasts_a_moment() {
    let mut tracker = GroupTracker::new();
    let mut usual = Vec::new();
    let mut end = 0;
    for n in 0..30_u32 {
        // 10 per second, 100 in one cycle, then nothing.
        end += match n {
            0..20 => 50,
            20 => 500,
            _ => 0,
        };
        usual.push(tracker.observe(CYCLE * n, &watch(15), &[reading(0, 0, end)]).arrivals());
    }
    assert_eq!(usual[0], [0.0; 0], "one end makes no rate");
    assert_eq!([rounded(usual[1].first().copied()), rounded(usual[19].first().copied())], [Some(10); 2]);
    assert_eq!(rounded(usual[20].first().copied()), Some(18), "a twelfth of the moment counts");
    assert!(usual[29][0] < usual[20][0] / 2.0, "and what has ended is forgotten");
}

#[test]
fn one_partition_that_falls_behind_is_seen_beside_others_that_do_not() {
    let mut tracker = GroupTracker::new();
    let mut behind = Vec::new();
    for n in 0_i64..8 {
        // The first partition works off 50 of 100 in each cycle until the sixth and then 200; the second has nothing left.
        let committed = if n < 6 { n * 50 } else { 300 + (n - 6) * 200 };
        let readings = [reading(0, committed, 200 + n * 100), reading(1, n * 10, n * 10)];
        behind.push(tracker.observe(CYCLE * u32::try_from(n).unwrap(), &watch(15), &readings).behind);
    }
    assert_eq!(behind, [false, false, true, true, true, true, true, false]);
}

#[test]
fn late_counts_what_arrived_before_the_objective() {
    let mut tracker = GroupTracker::new();
    let mut late = Vec::new();
    // 10 messages per cycle arrive; the consumer stands still at 20.
    for n in 0_u32..8 {
        let end = i64::from(n) * 10;
        let lag = tracker.observe(CYCLE * n, &watch(10), &[reading(0, end.min(20), end)]);
        late.push(lag.late.unwrap().messages);
    }
    // Two cycles are the objective: at the fifth reading the end of two cycles ago is 20, which is committed.
    assert_eq!(late, [0, 0, 0, 0, 0, 10, 20, 30]);
}

#[test]
fn a_young_watch_estimates_at_worst() {
    let mut tracker = GroupTracker::new();
    let lag = tracker.observe(CYCLE, &watch(60), &[reading(0, 40, 100)]);
    assert_eq!(lag.late, Some(Late { messages: 60, estimated: true }), "what was there may be old");
    let lag = tracker.observe(CYCLE * 2, &watch(60), &[reading(0, 100, 400)]);
    assert_eq!(lag.late, Some(Late { messages: 0, estimated: false }), "what came since is surely young");
}

#[test]
fn a_failed_reading_is_unknown_and_keeps_the_arrival_rate() {
    let mut tracker = GroupTracker::new();
    tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100)]);
    let mut failed = reading(0, 0, 0);
    failed.end = Err("no leader".into());
    let lag = tracker.observe(CYCLE * 2, &watch(15), std::slice::from_ref(&failed));
    assert!(lag.is_unknown());
    assert_eq!(lag.unknown_because().as_deref(), Some("orders/0: end offset not readable: no leader"));
    let lag = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 0, 200)]);
    assert_eq!(rounded(lag.arrival), Some(10), "100 messages in the 10 s since the last end that was read");
}

#[test]
fn offsets_that_went_back_give_no_rate() {
    let mut tracker = GroupTracker::new();
    tracker.observe(CYCLE, &watch(15), &[reading(0, 500, 1_000)]);
    let reset = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 100, 1_000)]);
    assert_eq!((reset.throughput, rounded(reset.arrival), reset.outstanding), (None, Some(0), 900));
    let recreated = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 100, 10)]);
    assert_eq!((recreated.arrival, recreated.is_unknown()), (None, true));
    let jumped_back = tracker.observe(CYCLE, &watch(15), &[reading(0, 10, 20)]);
    assert_eq!(jumped_back.arrival, None);
}

#[test]
fn offsets_that_nobody_worked_for_give_no_rate() {
    // Committed after 5 s, log start as last read, rate; before it, 100 messages per second were handled up to 1,000.
    let cases = [
        ("work goes on", 1_500, None, Some(100)),
        ("ten times the work", 6_000, None, Some(1_000)),
        ("retention lost 4,998,600, the start is known", 5_000_100, Some(4_999_600), Some(100)),
        ("retention lost them, the start was read before", 5_000_100, Some(0), None),
        ("retention lost them, or a reset by hand; no start", 5_000_100, None, None),
        ("lost, and no commit since", 1_000, Some(4_999_600), Some(0)),
    ];
    for (name, committed, start, expected) in cases {
        let mut tracker = GroupTracker::new();
        for (n, before) in [(1, 500), (2, 1_000)] {
            tracker.observe(CYCLE * n, &watch(15), &[reading(0, before, 9_000_000)]);
        }
        let now = Reading { start, ..reading(0, committed, 9_000_000) };
        let lag = tracker.observe(CYCLE * 3, &watch(15), &[now]);
        assert_eq!(rounded(lag.throughput), expected, "{name}");
        assert_eq!(lag.saturated, expected.is_some(), "{name}: without a rate nothing is learned");
        let next = tracker.observe(CYCLE * 4, &watch(15), &[reading(0, committed + 500, 9_000_000)]);
        assert_eq!(rounded(next.throughput), Some(100), "{name}: the next cycle counts again");
    }
}

#[test]
fn work_that_became_much_faster_counts_from_the_second_cycle_on() {
    let mut tracker = GroupTracker::new();
    let mut rates = Vec::new();
    for (n, committed) in [(1, 0), (2, 0), (3, 50_000), (4, 100_000)] {
        let lag = tracker.observe(CYCLE * n, &watch(15), &[reading(0, committed, 9_000_000)]);
        rates.push(rounded(lag.throughput));
    }
    assert_eq!(rates, [None, Some(0), None, Some(10_000)]);
}

#[test]
fn grown_and_deleted_partitions() {
    let mut tracker = GroupTracker::new();
    tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 100), reading(1, 0, 100)]);
    let grown = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 0, 150), reading(1, 0, 100), reading(2, 0, 900)]);
    assert_eq!(rounded(grown.arrival), Some(10), "a new partition has no rate yet");
    let deleted = tracker.observe(CYCLE * 3, &watch(15), &[reading(2, 0, 900)]);
    assert_eq!((deleted.partitions, deleted.outstanding), (1, 900));
}

#[test]
fn saturated_while_no_partition_ran_dry() {
    let mut tracker = GroupTracker::new();
    tracker.observe(CYCLE, &watch(15), &[reading(0, 0, 1_000), reading(1, 0, 1_000)]);
    let busy = tracker.observe(CYCLE * 2, &watch(15), &[reading(0, 500, 1_000), reading(1, 500, 1_000)]);
    assert!(busy.saturated);
    // 500 in 5 s are 100 per second: with one second not committed yet, 950 may be all there was.
    let nearly = tracker.observe(CYCLE * 3, &watch(15), &[reading(0, 1_000, 2_000), reading(1, 950, 2_000)]);
    assert!(!nearly.saturated);
}

#[test]
fn a_commit_that_is_gone_is_not_one_that_never_was() {
    let mut tracker = GroupTracker::new();
    let mut look = |n: u32, committed: Option<i64>| {
        let now = Reading { committed: Ok(committed), start: Some(0), ..reading(0, 0, 100) };
        let lag = tracker.observe(CYCLE * n, &watch(15), &[now]);
        (lag.outstanding, lag.oddities.into_values().next())
    };
    let forgotten = Oddity::Forgotten { committed: 90, reset: ResetPolicy::Earliest };
    assert_eq!(look(1, None), (100, None), "nothing was ever committed");
    assert_eq!(look(2, Some(90)), (10, None));
    assert_eq!(look(3, None), (100, Some(forgotten)));
    assert_eq!(look(4, None), (100, Some(forgotten)), "it stays so");
    assert_eq!(look(5, Some(20)), (80, None));
    assert_eq!(look(6, None).1, Some(Oddity::Forgotten { committed: 20, reset: ResetPolicy::Earliest }));
    assert_eq!(look(6 + 720, None), (100, None), "no news after an hour: nobody may be going to commit any more");
    assert!(forgotten.to_string().contains("90 expired or was deleted"), "{forgotten}");
}

#[test]
fn a_topic_with_another_id_is_another_topic() {
    let mut tracker = GroupTracker::new();
    let mut look = |n: u32, id: u128, committed: Option<i64>, end: i64| {
        let now = Reading { committed: Ok(committed), topic_id: Some(id), start: Some(0), ..reading(0, 0, end) };
        let lag = tracker.observe(CYCLE * n, &watch(15), &[now]);
        (lag.arrival, lag.unknown.into_values().next(), lag.outstanding, lag.oddities.len())
    };
    let stale = || Some(Unknown::OfAnotherTopic { committed: 90 });
    look(1, 1, Some(80), 100);
    assert_eq!(look(2, 1, Some(90), 110), (Some(2.0), None, 20, 0));
    // It grew fast: nothing but the id tells.
    assert_eq!(look(3, 2, Some(90), 300), (None, stale(), 0, 0), "what is committed is of the one before");
    assert_eq!(look(4, 2, Some(90), 310), (Some(2.0), stale(), 0, 0));
    assert_eq!(look(5, 2, Some(10), 310), (Some(0.0), None, 300, 0), "a member that has seen the new one");
    assert_eq!(look(6, 2, Some(90), 310).1, None, "it may come to the same offset");
    assert_eq!(look(7, 3, Some(90), 90).1, None, "who has committed the end owes nothing by either");
    assert_eq!(look(8, 4, None, 90), (None, None, 90, 0), "Kafka forgets the commits of a topic that goes");
    assert_eq!(look(9, 4, Some(90), 95).1, None);
}

#[test]
fn a_topic_that_was_gone_for_a_while_is_recognised_in_all_partitions() {
    let mut tracker = GroupTracker::new();
    let mut look = |n: u32, id: u128, end: i64, gone: bool| {
        let now = |partition| Reading { topic_id: Some(id), start: Some(0), ..reading(partition, 90, end) };
        let (readings, unread) = if gone {
            (vec![], Unread::from([("orders".into(), "the topic does not exist".into())]))
        } else {
            ((0..3).map(now).collect(), Unread::new())
        };
        let lag = tracker.observe_beside(CYCLE * n, &watch(15), &readings, &unread);
        (lag.outstanding, lag.unknown.into_values().collect::<Vec<_>>())
    };
    assert_eq!(look(1, 1, 100, false), (30, vec![]));
    assert_eq!(look(2, 1, 100, true), (0, vec![]));
    assert_eq!(look(3, 1, 100, false), (30, vec![]), "it was not read for a while");
    look(4, 1, 100, true);
    assert_eq!(look(5, 2, 100, false), (0, vec![Unknown::OfAnotherTopic { committed: 90 }; 3]));
}

#[test]
fn what_cannot_be_read_at_all_is_no_partition_and_no_lag_of_zero() {
    let mut tracker = GroupTracker::new();
    let unread = Unread::from([(r"^returns\.".into(), "no topic of the cluster matches it".into())]);
    let readings = [reading(0, 0, 1_000), reading(1, 0, 1_000)];
    tracker.observe(CYCLE, &watch(15), &readings);
    let readings = [reading(0, 50, 1_000), reading(1, 50, 1_000)];
    let lag = tracker.observe_beside(CYCLE * 2, &watch(15), &readings, &unread);
    assert_eq!((lag.partitions, lag.flows.len(), lag.outstanding), (2, 2, 1_900));
    assert!(!lag.is_complete() && !lag.is_unknown() && !lag.saturated);
    let because = lag.unknown_because();
    assert_eq!(because.as_deref(), Some(r"^returns\.: no topic of the cluster matches it"));
    let lag = tracker.observe_beside(CYCLE * 3, &watch(15), &[], &unread);
    assert!(lag.is_unknown() && !lag.is_complete());
}

#[test]
fn what_a_group_stands_still_before_is_named() {
    let mut tracker = GroupTracker::new();
    let mut look = |n: u32, committed: i64, end: i64, tail| {
        let now = Reading { tail, ..reading(0, committed, end) };
        let lag = tracker.observe(CYCLE * n, &watch(15), &[now]);
        let standing = tracker.standing(CYCLE * n, CYCLE * 6).map(|(_, position)| position).next();
        (lag.outstanding, lag.oddities.into_values().next(), standing, lag.stuck.len())
    };
    let open = Some(Tail::OpenTransaction { from: 40, since: 40 });
    assert_eq!(look(1, 40, 50, None), (10, None, None, 0));
    assert_eq!(look(7, 40, 50, open), (10, Some(Oddity::OpenTransaction { since: 40 }), Some(40), 0));
    assert_eq!(look(61, 40, 60, open), (20, Some(Oddity::OpenTransaction { since: 40 }), Some(40), 1));
    assert_eq!(look(62, 50, 60, open), (10, None, None, 0), "it goes on");
    let markers = Some(Tail::NoRecords { from: 59, until: 60 });
    assert_eq!(look(63, 59, 60, None).0, 1);
    assert_eq!(look(170, 59, 60, markers), (0, Some(Oddity::NoRecords { committed: 59 }), None, 0), "nothing waits");
    assert_eq!(look(171, 59, 63, markers), (3, None, None, 0), "what came since is owed");
    assert_eq!(look(172, 58, 63, markers), (5, None, None, 0));
}

#[test]
fn a_group_stands_at_what_it_committed_wherever_the_next_record_is() {
    let mut tracker = GroupTracker::new();
    let mut look = |n: u32, committed: Option<i64>, start: Option<i64>, tail| {
        let now = Reading { committed: Ok(committed), start, tail, ..reading(0, 0, 9) };
        let lag = tracker.observe(CYCLE * n, &watch(15), &[now]);
        let standing = tracker.standing(CYCLE * n, CYCLE * 6).map(|(_, committed)| committed).next();
        (lag.outstanding, lag.oddities.into_values().next(), standing)
    };
    let behind_marker = Some(Tail::OpenTransaction { from: 6, since: 7 });
    let open = Some(Oddity::OpenTransaction { since: 7 });
    assert_eq!(look(1, Some(6), None, behind_marker), (2, open, None));
    assert_eq!(look(7, Some(6), None, behind_marker), (2, open, Some(6)), "there it is looked at again");
    let record = Some(Tail::NoRecords { from: 6, until: 8 });
    assert_eq!(look(8, Some(6), None, record), (1, None, None));
    assert_eq!(look(14, Some(6), None, record), (1, None, Some(6)));
    assert_eq!(look(15, Some(2), Some(4), None).0, 5);
    assert_eq!(look(21, Some(2), Some(4), None), (5, None, None), "retention deleted what it committed");
    assert_eq!(look(22, None, Some(4), None).0, 5);
    assert_eq!(look(28, None, Some(4), None).2, None, "it committed nothing");
}
