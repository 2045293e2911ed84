//! Whether the number of replicas follows from the rate and the capacity that were printed with it, and whether those two are true.

use std::collections::HashMap;

use super::claims::Promise;
use super::records::Ledger;
use super::timeline::{Decision, Timeline};

/// Rates are measured over windows of this length.
const WINDOW_MS: i64 = 5_000;
/// A decision looks at most this far back for the rate of arrival.
const LOOK_BACK_MS: i64 = 20_000;
/// How far a printed number may lie from what the topics show: they are measured over other windows.
const TOLERANCE: f64 = 0.35;

/// Judges the decision that led to the largest number of replicas.
pub(super) fn follows(ledger: &Ledger, timeline: &Timeline, promise: &Promise) -> Result<String, String> {
    let (_, steps) = timeline.replica_path();
    let Some(step) = steps.iter().filter(|step| step.to > step.from).max_by_key(|step| step.to) else {
        return Err("the replicas never went up".to_owned());
    };
    let Some(decision) = &step.decision else {
        return Err(format!("no decision seen for {} → {}", step.from, step.to));
    };
    let (Some(arrival), Some(capacity)) = (decision.arrival, decision.capacity) else {
        return Err(format!(
            "{} → {} was decided without a rate or a capacity: {}",
            step.from, step.to, decision.message
        ));
    };
    let shown = format!("{arrival:.0} orders/s at {capacity:.0} per pod → {}", step.to);
    enough_and_no_more(decision, arrival, capacity, step.to, promise).map_err(|why| format!("{shown}: {why}"))?;

    let arrivals: Vec<i64> = ledger.orders.values().map(|placed| placed.at).collect();
    let (least, most) = rates(&arrivals, step.at - LOOK_BACK_MS, step.at);
    if arrival < least * (1.0 - TOLERANCE) || arrival > most * (1.0 + TOLERANCE) {
        return Err(format!(
            "{shown}: the topic shows {least:.0} to {most:.0} orders/s in the {} s before",
            LOOK_BACK_MS / 1000
        ));
    }
    let best = best_pod_rate(ledger);
    if (capacity - best).abs() > best * TOLERANCE {
        return Err(format!("{shown}: the busiest pod handled {best:.0} a second"));
    }
    Ok(format!("{shown}; the topics show up to {most:.0} orders/s and {best:.0} by the busiest pod"))
}

/// `k` pods must carry the arrivals, and a useful count fewer must not have been enough with room to drain and to move.
fn enough_and_no_more(
    decision: &Decision,
    arrival: f64,
    capacity: f64,
    k: i32,
    promise: &Promise,
) -> Result<(), String> {
    if capacity <= 0.0 || arrival <= 0.0 {
        return Err("neither may be zero".to_owned());
    }
    let k = f64::from(k);
    if k * capacity < arrival {
        return Err("too few to carry the arrivals".to_owned());
    }
    // The largest need the model can ask for: change costs at most half of the objective, the backlog is drained in the rest.
    let half = promise.objective.as_secs_f64() / 2.0;
    let drain = (arrival + (decision.backlog.unwrap_or_default() + arrival * half) / half) / capacity;
    let need = drain.max(arrival / (0.7 * capacity)).ceil();
    let most = useful_counts(promise.partitions).into_iter().map(f64::from).find(|n| *n >= need);
    match most {
        Some(most) if k > most => Err(format!("more than the {most:.0} that they can ask for")),
        _ => Ok(()),
    }
}

/// The numbers of members at which partitions per member really fall.
fn useful_counts(partitions: i32) -> Vec<i32> {
    let per_member = |n: i32| (partitions + n - 1) / n;
    (1..=partitions).filter(|n| *n == 1 || per_member(*n) < per_member(n - 1)).collect()
}

/// The least and the most per second in any window that lies in `from..until`.
fn rates(at: &[i64], from: i64, until: i64) -> (f64, f64) {
    let mut at: Vec<i64> = at.iter().copied().filter(|at| (from..until).contains(at)).collect();
    at.sort_unstable();
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    let mut start = from;
    while start + WINDOW_MS <= until {
        let count = at.partition_point(|t| *t < start + WINDOW_MS) - at.partition_point(|t| *t < start);
        let rate = per_second(count);
        (least, most) = (least.min(rate), most.max(rate));
        start += 1_000;
    }
    (least, most)
}

fn best_pod_rate(ledger: &Ledger) -> f64 {
    let mut by_pod: HashMap<&str, Vec<i64>> = HashMap::new();
    for handling in ledger.handlings.values().flatten() {
        by_pod.entry(&handling.pod).or_default().push(handling.at);
    }
    by_pod
        .into_values()
        .filter_map(|at| {
            let (first, last) = (*at.iter().min()?, *at.iter().max()?);
            Some(rates(&at, first, last + 1).1)
        })
        .fold(0.0, f64::max)
}

fn per_second(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / (f64::from(u32::try_from(WINDOW_MS).unwrap_or(1)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::useful_counts;

    #[test]
    fn a_count_is_useful_where_partitions_per_member_fall() {
        assert_eq!(useful_counts(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!(useful_counts(1), [1]);
        assert_eq!(useful_counts(5), [1, 2, 3, 5]);
    }
}
