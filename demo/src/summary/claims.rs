//! The claims: each is judged from the topics and the timeline alone, and says what it found in numbers.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::records::Ledger;
use super::sizing;
use super::timeline::Timeline;

/// The label `app` of the pods that place orders.
pub const ORDER_SERVICE: &str = "order-service";

/// Names of the claims.
pub mod name {
    pub const LOST: &str = "no order was lost";
    pub const NUMBERS: &str = "no order number is missing";
    pub const ORDER: &str = "each customer's orders were handled in order";
    pub const DEAD_LETTERS: &str = "poison, and nothing else, is in the dead-letter topic";
    pub const EDIT: &str = "every pod took the edit, none restarted";
    pub const PATH: &str = "the replicas went up and came back";
    pub const SIZE: &str = "their number follows from rate and capacity";
    pub const OBJECTIVE: &str = "the objective held at the higher load";
}

/// The end of a load step over which the objective must hold.
const STEADY: Duration = Duration::from_secs(10);

/// What the story says it will do. A claim about something that was announced and did not happen is false, not skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expect {
    pub edit: bool,
    pub load_step: bool,
    pub poison: bool,
}

/// What was promised, read from the objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    pub max_replicas: i32,
    pub min_replicas: i32,
    pub objective: Duration,
    pub partitions: i32,
    /// An edit must have reached every pod within this time.
    pub acknowledged_within: Duration,
}

/// One claim, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub name: &'static str,
    pub holds: bool,
    pub says: String,
}

impl Claim {
    fn new(name: &'static str, found: Result<String, String>) -> Self {
        let holds = found.is_ok();
        Self { name, holds, says: found.unwrap_or_else(|why| why) }
    }
}

/// Judges all claims that `expect` asks for.
pub fn judge(ledger: &Ledger, timeline: &Timeline, promise: &Promise, expect: Expect) -> Vec<Claim> {
    let mut claims = vec![
        Claim::new(name::LOST, none_lost(ledger)),
        Claim::new(name::NUMBERS, numbers_complete(ledger)),
        Claim::new(name::ORDER, in_order(ledger)),
        Claim::new(name::DEAD_LETTERS, dead_letters(ledger, expect.poison)),
    ];
    if expect.edit {
        claims.push(Claim::new(name::EDIT, edit_acknowledged(timeline, promise)));
    }
    if expect.load_step {
        claims.push(Claim::new(name::PATH, replica_path(timeline, promise)));
        claims.push(Claim::new(
            "their number follows from rate and capacity",
            sizing::follows(ledger, timeline, promise),
        ));
        claims.push(Claim::new(name::OBJECTIVE, objective_met(ledger, timeline, promise)));
    }
    claims
}

/// A few of many, for a sentence.
fn some<T: AsRef<str>>(items: &[T]) -> String {
    let shown: Vec<&str> = items.iter().take(3).map(AsRef::as_ref).collect();
    let more = if items.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn none_lost(ledger: &Ledger) -> Result<String, String> {
    let handled = ledger.handled();
    let mut lost: Vec<&str> = ledger.orders.keys().map(String::as_str).filter(|id| !handled.contains(id)).collect();
    lost.sort_unstable();
    let (orders, repeats) = (ledger.orders.len(), ledger.repeats());
    if ledger.strange_notifications > 0 {
        return Err(format!("{} notifications name no order of their key", ledger.strange_notifications));
    }
    match (orders, lost.as_slice()) {
        (0, _) => Err("there is no order in the topic".to_owned()),
        (_, []) => Ok(format!("{orders} orders, {} handled; {repeats} handled again", handled.len())),
        (_, lost) => Err(format!("{} of {orders} orders have no notification: {}", lost.len(), some(lost))),
    }
}

fn numbers_complete(ledger: &Ledger) -> Result<String, String> {
    let mut missing = Vec::new();
    for (source, numbers) in &ledger.numbers {
        let mut numbers = numbers.clone();
        numbers.sort_unstable();
        let mut next = 1;
        for number in numbers {
            missing.extend((next..number).map(|n| format!("{source}-{n}")));
            next = number + 1;
        }
    }
    if missing.is_empty() {
        let sources = ledger.numbers.len();
        return Ok(format!(
            "{sources} sources, each from 1 without a gap; {} repeated in the topic",
            ledger.repeated_orders
        ));
    }
    Err(format!("{} numbers were placed and are not in the topic: {}", missing.len(), some(&missing)))
}

fn in_order(ledger: &Ledger) -> Result<String, String> {
    let mut wrong = Vec::new();
    for (customer, handlings) in &ledger.handlings {
        let mut seen = HashSet::new();
        let mut last: Option<(i64, &String)> = None;
        for handling in handlings {
            let Some(placed) = ledger.orders.get(&handling.order_id) else { continue };
            if !seen.insert(&handling.order_id) {
                continue; // a repeat: only first handlings must ascend
            }
            if let Some((offset, id)) = last
                && placed.offset < offset
            {
                wrong.push(format!("{customer}: {} after {id}", handling.order_id));
            }
            last = Some((placed.offset, &handling.order_id));
        }
    }
    if wrong.is_empty() {
        return Ok(format!("{} customers", ledger.handlings.len()));
    }
    Err(format!("{} orders were handled too late: {}", wrong.len(), some(&wrong)))
}

fn dead_letters(ledger: &Ledger, expected: bool) -> Result<String, String> {
    let mut balance: BTreeMap<&(String, Vec<u8>), i64> = BTreeMap::new();
    for record in &ledger.poison {
        *balance.entry(record).or_default() += 1;
    }
    for record in &ledger.dead_letters {
        *balance.entry(record).or_default() -= 1;
    }
    let keys = |wanted: fn(i64) -> bool| -> Vec<&str> {
        balance.iter().filter(|(_, n)| wanted(**n)).map(|((key, _), _)| key.as_str()).collect()
    };
    let (absent, strange) = (keys(|n| n > 0), keys(|n| n < 0));
    if expected && ledger.poison.is_empty() {
        return Err("the story promised a poison message and none is in the topic".to_owned());
    }
    match (absent.as_slice(), strange.as_slice()) {
        ([], []) => Ok(format!("{} poison, {} dead letters", ledger.poison.len(), ledger.dead_letters.len())),
        (absent @ [_, ..], _) => Err(format!("poison that is in no dead letter: {}", some(absent))),
        (_, strange) => Err(format!("dead letters that are no poison, or twice there: {}", some(strange))),
    }
}

fn edit_acknowledged(timeline: &Timeline, promise: &Promise) -> Result<String, String> {
    let Some((at, generation, from, to)) = timeline.edit() else {
        return Err("the story promised an edit of lingerMs and none was seen".to_owned());
    };
    let show = |value: Option<i64>| value.map_or_else(|| "its preset".to_owned(), |ms| format!("{ms}"));
    let edit = format!("lingerMs {} → {}", show(from), show(to));
    let pods = timeline.pods_since(ORDER_SERVICE, at);
    let Some((done, uids)) = timeline.applied_by_all(ORDER_SERVICE, generation, to) else {
        return Err(format!("{edit}: never applied by all {} pods", pods.len()));
    };
    let latency = done - at;
    if let Some((uid, restarts)) = pods.iter().find(|(uid, restarts)| **restarts > 0 || !uids.contains(*uid)) {
        return Err(format!("{edit}: pod {uid} restarted ({restarts} times) or was replaced"));
    }
    if u128::try_from(latency).unwrap_or_default() > promise.acknowledged_within.as_millis() {
        return Err(format!("{edit}: all {} pods only after {latency} ms", uids.len()));
    }
    let uids: Vec<String> = uids.into_iter().collect();
    Ok(format!("{edit}: {} pods after {latency} ms ({})", uids.len(), uids.join(", ")))
}

fn replica_path(timeline: &Timeline, promise: &Promise) -> Result<String, String> {
    let (first, steps) = timeline.replica_path();
    let Some(first) = first else { return Err("the Deployment was never seen".to_owned()) };
    let mut path = vec![first];
    path.extend(steps.iter().map(|step| step.to));
    let shown = path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ");
    let most = path.iter().copied().max().unwrap_or(first);
    let top = path.iter().position(|n| *n == most).unwrap_or_default();
    if !(path[..=top].is_sorted() && path[top..].is_sorted_by(|a, b| a >= b)) {
        return Err(format!("{shown}: not once up and once down"));
    }
    if first != promise.min_replicas || path.last() != Some(&first) || most == first {
        return Err(format!("{shown}: not from {} up and back", promise.min_replicas));
    }
    if most >= promise.max_replicas {
        return Err(format!("{shown}: up to the maximum of {}", promise.max_replicas));
    }
    if let Some(step) = steps.iter().find(|step| step.decision.is_none()) {
        return Err(format!("{shown}: no decision seen for {} → {}", step.from, step.to));
    }
    let reasons: Vec<String> = steps
        .iter()
        .filter_map(|s| s.decision.as_ref().map(|d| format!("{} → {} {}", s.from, s.to, d.reason)))
        .collect();
    Ok(format!("{shown} ({})", reasons.join(", ")))
}

fn objective_met(ledger: &Ledger, timeline: &Timeline, promise: &Promise) -> Result<String, String> {
    let Some(step) = timeline.load_step() else {
        return Err("the story promised a load step and none was seen".to_owned());
    };
    let Some(until) = step.until else { return Err("the higher load never ended".to_owned()) };
    let first = ledger.first_handlings();
    let steady = until - i64::try_from(STEADY.as_millis()).unwrap_or_default();
    let ages = |from: i64| -> Vec<i64> {
        let placed = ledger.orders.values().filter(|placed| (from..until).contains(&placed.at));
        placed.map(|placed| first.get(placed.order.id.as_str()).map_or(i64::MAX, |h| h.at - placed.at)).collect()
    };
    let (worst_ever, last) = (ages(step.from).into_iter().max(), ages(steady.max(step.from)));
    let Some(worst) = last.iter().copied().max() else { return Err("no order at the higher load".to_owned()) };
    let (objective, count) = (promise.objective.as_millis(), last.len());
    let shown = |ms: i64| if ms == i64::MAX { "never handled".to_owned() } else { format!("{ms} ms") };
    if u128::try_from(worst).unwrap_or_default() > objective {
        return Err(format!(
            "of the last {count} orders the oldest was handled at {}, promised {objective} ms",
            shown(worst)
        ));
    }
    let worst_ever = worst_ever.map_or_else(String::new, |ms| format!("; oldest of the whole step {}", shown(ms)));
    Ok(format!("the last {count} orders of the step at most {worst} ms old, promised {objective} ms{worst_ever}"))
}
