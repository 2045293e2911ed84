use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::super::breaker::DeadLetterBreaker;
use super::super::stage::Stage;
use super::*;

fn stage<H, F>(concurrency: usize, handler: H) -> Stage
where
    H: Fn(Record) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    Stage::new(concurrency, |desk| Arc::new(Work { desk, handler }))
}

fn keys(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|number| format!("k{number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_handlers_run_as_there_are_slots_and_never_more() {
    let (running, most, gate) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let mut stage = stage(300, {
        let (running, most, gate) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
        move |_| {
            let (running, most, gate) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
            async move {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                gate.acquire().await?.forget();
                running.fetch_sub(1, SeqCst);
                Ok(())
            }
        }
    });
    // First handlers that do not wait, so that slots take many records at once; then all of them wait.
    gate.add_permits(2_000);
    stage.read(keys(0..2_000));
    stage.finished(2_000).await;
    stage.read(keys(0..1_000));
    let reached = async {
        while running.load(SeqCst) < 300 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("slots were left free");
    gate.add_permits(1_000);
    stage.finished(3_000).await;
    assert!(most.load(SeqCst) <= 300, "{most:?}");
    // What a slot has handled may be settled before it comes to see that there is no more.
    let free = async {
        while stage.shared().lock().slots.used() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("a slot was not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_waits_or_computes_holds_up_nobody_else() {
    struct Stop(Arc<AtomicUsize>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(0, SeqCst);
        }
    }
    let (gate, spin) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(1)));
    let stop = Stop(Arc::clone(&spin));
    let mut stage = stage(4, {
        let (gate, spin) = (Arc::clone(&gate), Arc::clone(&spin));
        move |record: Record| {
            let (gate, spin) = (Arc::clone(&gate), Arc::clone(&spin));
            async move {
                match record.payload() {
                    b"waits" => gate.acquire().await?.forget(),
                    b"computes" => {
                        while spin.load(SeqCst) > 0 {
                            std::hint::spin_loop();
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    });
    stage.read(keys(0..5_000));
    stage.finished(5_000).await;
    stage.read(["waits".to_owned()].into_iter().chain(keys(0..40)));
    stage.finished(5_040).await;
    // Short handlers again, so that a slot takes many records: those that it handled before do not wait either.
    stage.read(keys(0..2_000));
    stage.finished(7_040).await;
    stage.read(keys(0..20).chain(["computes".to_owned()]).chain(keys(20..40)));
    stage.finished(7_080).await;
    drop(stop);
    gate.add_permits(1);
    stage.finished(7_082).await;
}

/// Others of its thread may compute for long: what was handled must not wait for them.
#[tokio::test]
async fn what_was_handled_is_said_before_others_run() {
    let mut stage = stage(1, |_| async { Ok(()) });
    // Who takes that long takes one record at a time.
    stage.shared().lock().slots.measured(Duration::from_secs(1_000), 1);
    stage.read(keys(0..1_000));
    tokio::task::yield_now().await;
    assert_eq!(stage.stats().messages_consumed, u64::from(TAKES));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_whatever_their_handlers_do() {
    let seen: Arc<Mutex<HashMap<String, Vec<i64>>>> = Arc::default();
    let mut stage = stage(16, {
        let seen = Arc::clone(&seen);
        move |record: Record| {
            let seen = Arc::clone(&seen);
            async move {
                match fastrand::u8(..) {
                    0..10 => tokio::time::sleep(Duration::from_millis(1)).await,
                    10..40 => tokio::task::yield_now().await,
                    _ => {}
                }
                let key = String::from_utf8(record.payload().to_vec())?;
                seen.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(record.offset());
                Ok(())
            }
        }
    });
    for _ in 0..100 {
        stage.read((0..200).map(|_| format!("k{}", fastrand::u8(..50))));
        tokio::task::yield_now().await;
    }
    stage.finished(20_000).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 20_000);
    assert!(seen.values().all(|offsets| offsets.is_sorted()));
    let left = stage.shared().lock();
    assert_eq!((left.budget.records(), left.lanes.ready(), left.slots.used()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_cancelled_and_the_record_tried_again() {
    let seen: Arc<Mutex<Vec<(String, u32, u64)>>> = Arc::default();
    let began = tokio::time::Instant::now();
    let mut stage = stage(1, {
        let seen = Arc::clone(&seen);
        move |record: Record| {
            let seen = Arc::clone(&seen);
            async move {
                let key = String::from_utf8(record.payload().to_vec())?;
                let hangs = key == "hangs" && record.attempt() < 3;
                seen.lock().unwrap().push((key, record.attempt(), began.elapsed().as_secs()));
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
    });
    stage.read(["hangs", "other"].map(str::to_owned));
    stage.finished(2).await;
    let all = [("hangs", 1, 0), ("other", 1, 6), ("hangs", 2, 7), ("hangs", 3, 15)];
    assert_eq!(*seen.lock().unwrap(), all.map(|(key, attempt, at)| (key.to_owned(), attempt, at)));
    assert_eq!(stage.stats().processing_errors, 2);
}

/// Keys and offsets.
type Seen = Arc<Mutex<Vec<(String, i64)>>>;

#[tokio::test]
async fn rejects_scattered_over_what_a_slot_took_are_no_outage() {
    let mut stage = Stage::with_breaker(DeadLetterBreaker::new(2, 101), 1, |desk| {
        let handler = async |record: Record| {
            if record.offset() % 3 == 0 { Err(Failure::reject("bad")) } else { Ok(()) }
        };
        Arc::new(Work { desk, handler })
    });
    for _ in 0..200 {
        stage.shared().lock().slots.measured(Duration::ZERO, 1);
    }
    stage.read(keys(0..64));
    stage.finished(42).await;
    let stats = stage.stats();
    assert_eq!((stats.processing_errors, stats.held_dead_letters), (22, 0));
}

/// All records fail until it is mended: 0. Else the failures, from 1.
fn outage(breaker: DeadLetterBreaker) -> (Stage, Arc<AtomicUsize>, Seen) {
    let (broken, seen) = (Arc::new(AtomicUsize::new(1)), Seen::default());
    let stage = Stage::with_breaker(breaker, 4, |desk| {
        let (broken, seen) = (Arc::clone(&broken), Arc::clone(&seen));
        let handler = move |record: Record| {
            let (broken, seen) = (Arc::clone(&broken), Arc::clone(&seen));
            async move {
                if broken.load(SeqCst) > 0 {
                    broken.fetch_add(1, SeqCst);
                    return Err(Failure::reject("no database"));
                }
                let key = String::from_utf8(record.payload().to_vec())?;
                seen.lock().unwrap().push((key, record.offset()));
                Ok(())
            }
        };
        Arc::new(Work { desk, handler })
    });
    (stage, broken, seen)
}

async fn held(stage: &Stage, records: usize) {
    let held = async {
        while stage.stats().held_dead_letters != records {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), held).await.expect("other records are held");
}

#[tokio::test]
async fn what_an_outage_held_is_tried_one_at_a_time_and_goes_on_in_order_after_it() {
    let (mut stage, broken, seen) = outage(DeadLetterBreaker::new(1, 1));
    stage.read(keys(0..10).chain(keys(0..10)));
    held(&stage, 10).await;
    let now = Instant::now();
    assert_eq!(broken.load(SeqCst), 1 + 10, "their keys stand still");
    stage.serve(now + Duration::from_secs(1));
    stage.serve(now + Duration::from_secs(7));
    held(&stage, 9).await;
    held(&stage, 10).await;
    assert_eq!(broken.load(SeqCst), 1 + 10 + 1);
    broken.store(0, SeqCst);
    stage.serve(now + Duration::from_mins(1));
    stage.finished(20).await;
    let seen = seen.lock().unwrap();
    for key in keys(0..10) {
        let of_key: Vec<_> = seen.iter().filter(|(of, _)| *of == key).map(|(_, offset)| *offset).collect();
        assert!(of_key.len() == 2 && of_key.is_sorted(), "{key}: {of_key:?}");
    }
    assert_eq!(stage.stats().dead_letters, 0);
}

/// As in a drain, in which the poll thread starts no slots.
#[tokio::test]
async fn what_was_held_is_handled_side_by_side_although_nobody_but_slots_starts_slots() {
    let (gate, running, broken) =
        (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let mut stage = Stage::with_breaker(DeadLetterBreaker::new(1, 1), 4, |desk| {
        let (gate, running, broken) = (Arc::clone(&gate), Arc::clone(&running), Arc::clone(&broken));
        let handler = move |record: Record| {
            let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
            let (broken, first) = (broken.load(SeqCst) > 0, record.offset() == 0);
            async move {
                if broken {
                    return Err(Failure::reject("no database"));
                }
                if !first {
                    running.fetch_add(1, SeqCst);
                    gate.acquire().await?.forget();
                }
                Ok(())
            }
        };
        Arc::new(Work { desk, handler })
    });
    stage.read(keys(0..10));
    held(&stage, 10).await;
    broken.store(0, SeqCst);
    // The slot is to take one record: those that it would give back start others too.
    stage.shared().lock().slots.waits();
    stage.serve(Instant::now() + Duration::from_secs(6));
    let all = async {
        while running.load(SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Before the one that waits is cancelled: its next attempt would start others too.
    tokio::time::timeout(Duration::from_secs(4), all).await.expect("slots were left free");
    gate.add_permits(10);
    stage.finished(10).await;
}

#[tokio::test]
async fn nobody_waits_for_held_records_and_they_leave_with_their_partition() {
    let (mut stage, ..) = outage(DeadLetterBreaker::new(1, 1));
    stage.read(keys(0..10));
    held(&stage, 10).await;
    let shared = stage.shared();
    let all = shared.lock().all();
    assert!(shared.wait_idle(&all, Instant::now()));
    let mut left = shared.lock();
    left.release(&all);
    assert_eq!((left.held_back(), left.budget.records(), left.lanes.stopped()), (0, 0, 0));
}

#[tokio::test]
async fn a_breaker_whose_held_records_left_closes_and_a_single_bad_record_is_no_outage() {
    let (mut stage, broken, _) = outage(DeadLetterBreaker::new(2, 101));
    stage.read(keys(0..2));
    held(&stage, 1).await;
    stage.reassign();
    stage.serve(Instant::now() + Duration::from_secs(6));
    broken.store(0, SeqCst);
    stage.read(keys(0..1));
    stage.finished(1).await;
    broken.store(1, SeqCst);
    stage.read(keys(0..1));
    while stage.stats().processing_errors < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.stats().held_dead_letters, 0);
}
