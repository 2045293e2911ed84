use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

use tokio::sync::Semaphore;

use super::super::stage::Stage;
use super::*;
use crate::hook::Hook;

/// Key and offset of each record, batch by batch.
type Seen = Arc<Mutex<Vec<Vec<(String, i64)>>>>;

fn stage<F>(
    batches: impl Into<Batches>,
    handler: impl Fn(Vec<Record>, Vec<(String, i64)>) -> F + Send + Sync + 'static,
) -> (Stage, Seen)
where
    F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
{
    hooked(batches, Hooks::default(), handler)
}

fn hooked<F>(
    batches: impl Into<Batches>,
    hooks: Hooks,
    handler: impl Fn(Vec<Record>, Vec<(String, i64)>) -> F + Send + Sync + 'static,
) -> (Stage, Seen)
where
    F: Future<Output = Result<(), BatchFailure>> + Send + 'static,
{
    let seen = Seen::default();
    let stage = Stage::new(1, |desk| {
        let seen = Arc::clone(&seen);
        let handler = move |records: Vec<Record>| {
            let text = |record: &Record| String::from_utf8(record.payload().to_vec()).unwrap();
            let batch: Vec<_> = records.iter().map(|record| (text(record), record.offset())).collect();
            seen.lock().unwrap().push(batch.clone());
            handler(records, batch)
        };
        Arc::new(Bulk::new(desk, batches.into(), hooks, handler))
    });
    (stage, seen)
}

fn keys(keys: &str) -> Vec<String> {
    keys.chars().map(String::from).collect()
}

fn offsets(seen: &Seen) -> Vec<Vec<i64>> {
    seen.lock().unwrap().iter().map(|batch| batch.iter().map(|(_, offset)| *offset).collect()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_what_is_ready_up_to_its_limit_and_keys_in_order() {
    let (mut stage, seen) = stage(4, |_, _| async { Ok(()) });
    stage.read(keys("abacab"));
    stage.finished(6).await;
    // All of a, then b; c and what came later of b are the next ones.
    assert_eq!(offsets(&seen), [vec![0, 2, 4, 1], vec![3, 5]]);
    let left = stage.shared().lock();
    assert_eq!((left.budget.records(), left.lanes.ready(), left.slots.used()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_records_of_a_batch_that_failed_come_again_alone() {
    let (mut stage, seen) = stage(10, |_, batch| async move {
        if batch.len() > 1 && batch.contains(&("b".to_owned(), 1)) {
            return Err(Failure::reject("one of them").into());
        }
        Ok(())
    });
    stage.read(keys("abc"));
    stage.finished(3).await;
    let mut all = offsets(&seen);
    assert_eq!(all.remove(0), [0, 1, 2]);
    all.sort();
    assert_eq!(all, [[0], [1], [2]]);
    assert_eq!((stage.stats().processing_errors, stage.stats().dead_letters), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_failed_in_a_batch_comes_again_with_the_later_ones_of_its_key() {
    let (mut stage, seen) = stage(10, |records, _| async move {
        let failed = records.iter().position(|record| record.offset() == 2 && record.attempt() == 1);
        failed.map_or(Ok(()), |at| Err(BatchFailure::of([(at, Failure::retry("not yet"))])))
    });
    stage.read(keys("abaabb"));
    stage.finished(6).await;
    assert_eq!(offsets(&seen), [vec![0, 2, 3, 1, 4, 5], vec![2], vec![3]]);
    assert_eq!(stage.stats().messages_consumed, 6);
}

#[tokio::test]
async fn rejects_scattered_over_a_batch_are_no_outage() {
    let (mut stage, seen) = stage(500, |records, _| async move {
        let bad = (0..records.len()).step_by(20).map(|at| (at, Failure::reject("bad")));
        Err(BatchFailure::of(bad))
    });
    stage.read((0..500).map(|number| format!("k{number}")));
    stage.finished(475).await;
    let stats = stage.stats();
    assert_eq!((offsets(&seen).len(), stats.processing_errors, stats.held_dead_letters), (1, 25, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_whatever_fails() {
    let gate = Arc::new(Semaphore::new(1));
    let handled: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    let (mut stage, _) = stage(7, {
        let handled = Arc::clone(&handled);
        move |records, batch| {
            let (gate, handled) = (Arc::clone(&gate), Arc::clone(&handled));
            async move {
                let alone = gate.try_acquire()?;
                let failed = records.iter().position(|record| record.attempt() == 1 && fastrand::u8(..) < 8);
                let upto = failed.unwrap_or(batch.len());
                for (at, (key, offset)) in batch.into_iter().enumerate() {
                    if at < upto {
                        handled.lock().unwrap().entry(key).or_default().push(offset);
                    }
                }
                tokio::task::yield_now().await;
                drop(alone);
                let failed = (upto..records.len()).map(|at| (at, Failure::retry("not yet")));
                if upto < records.len() { Err(BatchFailure::of(failed)) } else { Ok(()) }
            }
        }
    });
    for _ in 0..10 {
        stage.read((0..50).map(|_| format!("k{}", fastrand::u8(..20))));
    }
    stage.finished(500).await;
    let handled = handled.lock().unwrap();
    assert_eq!(handled.values().map(Vec::len).sum::<usize>(), 500);
    assert!(handled.values().all(|offsets| offsets.is_sorted()), "{handled:?}");
}

#[tokio::test]
async fn a_batch_is_handed_over_when_it_is_full_or_its_oldest_record_has_waited() {
    let wait = Duration::from_millis(200);
    let (mut stage, seen) = stage(Batches::of(4).max_wait(wait), |_, _| async { Ok(()) });
    let began = Instant::now();
    stage.read(keys("aa"));
    stage.serve(began);
    stage.read(keys("bcd"));
    stage.finished(4).await;
    assert!(began.elapsed() < wait, "the first batch was full");
    stage.finished(5).await;
    assert!(began.elapsed() >= wait);
    assert_eq!(offsets(&seen), [vec![0, 1, 2, 3], vec![4]]);
}

#[tokio::test(start_paused = true)]
async fn one_key_fills_a_batch() {
    let (mut stage, seen) = stage(Batches::of(4).max_wait(Duration::from_mins(1)), |_, _| async { Ok(()) });
    stage.read(keys("aaa"));
    stage.serve(Instant::now());
    assert!(offsets(&seen).is_empty());
    stage.read(keys("a"));
    stage.finished(4).await;
    assert_eq!(offsets(&seen), [vec![0, 1, 2, 3]]);
}

#[tokio::test]
async fn what_gathers_is_dropped_when_its_partition_leaves() {
    let (mut stage, seen) = stage(Batches::of(4).max_wait(Duration::from_mins(1)), |_, _| async { Ok(()) });
    stage.read(keys("abcde"));
    stage.finished(4).await;
    let shared = stage.shared();
    let all = shared.lock().all();
    shared.lock().wind_down(&all);
    assert!(shared.wait_idle(&all, Instant::now()), "nobody would take it");
    assert_eq!((offsets(&seen), shared.lock().budget.records()), (vec![vec![0, 1, 2, 3]], 0));
}

/// Keeps the records of one key from the handler, and writes down what came of each.
#[derive(Clone, Default)]
struct Audit(Arc<Mutex<Vec<String>>>);

impl Hook for Audit {
    fn before_handle(&self, _consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
        if record.key() == Some(b"b") { ControlFlow::Break(Ok(())) } else { ControlFlow::Continue(()) }
    }

    fn handled(&self, handled: &Handled<'_>) {
        let said = handled.outcome.as_ref().map_or_else(Failure::message, |()| "ok");
        self.0.lock().unwrap().push(format!("{} of {}: {said}", handled.record.offset(), handled.batch));
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_see_each_record_of_a_batch_and_may_keep_it_from_the_handler() {
    let (audit, mut hooks) = (Audit::default(), Hooks::default());
    hooks.add(audit.clone());
    let (mut stage, seen) = hooked(10, hooks, |records, _| async move {
        let failed = records.iter().position(|record| record.offset() == 3 && record.attempt() == 1);
        failed.map_or(Ok(()), |at| Err(BatchFailure::of([(at, Failure::retry("not yet"))])))
    });
    stage.read(keys("abcd"));
    stage.finished(4).await;
    assert_eq!(offsets(&seen), [vec![0, 2, 3], vec![3]]);
    let said = ["0 of 3: ok", "1 of 3: ok", "2 of 3: ok", "3 of 3: not yet", "3 of 1: ok"];
    assert_eq!(*audit.0.lock().unwrap(), said);
}
