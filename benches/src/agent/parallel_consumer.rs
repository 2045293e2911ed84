//! Beside Confluent's Parallel Consumer: the same topic, the same order, the same waits; each side at its best number of slots.

use std::time::Duration;

use anyhow::{Context, Result};
use mq_testkit::Broker;

use super::consume::ours;
use crate::measure::{Cost, in_turn};
use crate::peers::Peers;
use crate::report::{Figure, Row};

/// Most first: what fewer slots can reach at most is then known to be less, or worth a trial.
const SLOTS: [usize; 4] = [5_000, 1_000, 100, 16];
/// A trial reads this part of the records.
const TRIAL: usize = 10;

struct Case {
    id: &'static str,
    text: &'static str,
    wait: Duration,
    target: f64,
}

const CASES: [Case; 3] = [
    Case { id: "agent.consume_vs_pc_empty", text: "empty handler", wait: Duration::ZERO, target: 8.0 },
    Case { id: "agent.consume_vs_pc_1ms", text: "the handler waits 1 ms", wait: Duration::from_millis(1), target: 4.0 },
    Case {
        id: "agent.consume_vs_pc_10ms",
        text: "the handler waits 10 ms",
        wait: Duration::from_millis(10),
        target: 4.0,
    },
];

pub(super) async fn run(kafka: &Broker, peers: &Peers, topic: &str, records: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for Case { id, text, wait, target } in CASES {
        let mq = async |records, slots| ours(kafka, topic, records, slots, wait).await;
        let peer = async |records: usize, slots: usize| {
            let (records, slots, wait) = (records.to_string(), slots.to_string(), wait.as_millis().to_string());
            peers.java("ParallelConsumer", &[kafka.bootstrap(), topic, &records, &slots, &wait]).await
        };
        let our_best = best(records / TRIAL, wait, &mq).await?;
        let their_best = best(records / TRIAL, wait, &peer).await?;
        let sides = in_turn(id, async || mq(records, our_best).await, async || peer(records, their_best).await).await?;
        let text = format!("key order, {text}, {our_best} slots");
        let peer = format!("Parallel Consumer 0.5.3.3, KEY, maxConcurrency {their_best}, warm JVM");
        rows.extend(
            Figure { id, text: &text, peer: &peer, records, wall_target: Some(target), cpu_target: None }.rows(&sides),
        );
    }
    Ok(rows)
}

/// The number of slots with which a trial is fastest.
async fn best(records: usize, wait: Duration, run: impl AsyncFn(usize, usize) -> Result<Cost>) -> Result<usize> {
    let mut best: Option<(Duration, usize)> = None;
    for slots in SLOTS {
        let least = wait * u32::try_from(records / slots)?;
        if best.is_some_and(|(wall, _)| least > wall) {
            continue;
        }
        let wall = run(records, slots).await?.wall;
        if best.is_none_or(|(fastest, _)| wall < fastest) {
            best = Some((wall, slots));
        }
    }
    Ok(best.context("no number of slots to try")?.1)
}
