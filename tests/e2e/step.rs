//! A tenfold load on a group of 24 partitions: members with the agent, of which the simulated plant says what comes of it, and Java
//! consumers that know nothing of mq.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of minutes, and hundreds of messages"
)]

mod crowd;
mod told;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_core::scaling::{Mode, Objective, Policy};
use mq_simulation::{CYCLE, Ours, Plant, Run, drive};
use mq_testkit::wait_until;
use serde_json::json;
use tokio::time::sleep;

use crate::shop::Shop;
use crowd::{Crowd, PARTITIONS, WORKLOAD};
use told::Told;

/// Messages per second before, in and after the step: so few that pods wait for them, not for a processor.
const LOW: u32 = 6;
const HIGH: u32 = 10 * LOW;
const MOST: u32 = 24;
/// What a member does in a second.
const CAPACITY: u32 = 20;
const WINDOW: Duration = Duration::from_secs(20);
/// At the higher load, once it is mastered.
const HOLD: Duration = Duration::from_secs(30);
/// What the operator and the test measure of a pod is not the same number.
const MEASURED: [f64; 3] = [0.9, 1.0, 1.1];
const PATIENCE: Duration = Duration::from_mins(2);

/// What the members of a group are like.
struct Members {
    age: Duration,
    commit: Duration,
    agents: bool,
    /// They give all partitions away in a rebalance.
    eager: bool,
}

/// A group that promises what `members` can hold, without a stated capacity.
async fn declare(shop: &Shop, members: &Members) -> Result<()> {
    shop.stage.declare().await?;
    shop.patch("mqtopic/orders", &json!({"spec": {"partitions": PARTITIONS}}).to_string())?;
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let spec = json!({
        "consumer": {"autoCommitIntervalMs": members.commit.as_millis()},
        "scaling": {
            "objective": {"age": seconds(members.age)},
            "minReplicas": 1, "maxReplicas": MOST, "capacityPerReplica": null, "scaleDown": {"window": seconds(WINDOW)},
        },
    });
    shop.patch("mqconsumergroup/notifications", &json!({"spec": spec}).to_string())?;
    wait_until("the topic has its partitions", PATIENCE, async || {
        let status = shop.status("MqTopic", "orders").await?;
        ensure!(status["partitions"] == PARTITIONS, "{status}");
        Ok(())
    })
    .await?;
    shop.stage.declared().await
}

/// Tells the story of the step: up in one jump, down again, and what was promised in between.
async fn tell(shop: &Shop, members: &Members) -> Result<Told> {
    shop.kubectl(&["rollout", "status", "--timeout=60s", &format!("deployment/{WORKLOAD}")])?;
    let crowd = Crowd::start(shop, LOW)?;
    wait_until("one member keeps up", PATIENCE, async || {
        let status = shop.status("MqConsumerGroup", "notifications").await?;
        ensure!(status["scaling"]["reason"] == "WithinBand", "{}", status["scaling"]);
        Ok(())
    })
    .await?;
    // Nothing of what came before is in the window any more.
    sleep(WINDOW).await;
    crowd.load(HIGH);
    let grown = |told: &Told| told.settled().is_some();
    crowd.until(shop, "all members that were asked for have joined", PATIENCE, grown).await?;
    let drained = |told: &Told| told.now().is_some_and(|now| now.oldest < 2.0 + members.commit.as_secs_f64());
    crowd.until(shop, "the backlog is gone", PATIENCE, drained).await?;
    sleep(HOLD).await;
    crowd.load(LOW);
    let back = |told: &Told| told.now().is_some_and(|now| now.replicas == 1);
    crowd.until(shop, "one replica is asked for", PATIENCE, back).await?;
    sleep(WINDOW).await;
    crowd.end(shop).await
}

/// One jump up, steps down alone afterwards; what is promised holds again as soon as the backlog can be worked off, and from then on.
fn check(told: &Told, members: &Members) -> Result<()> {
    let path = told.path();
    let counts: Vec<u32> = path.iter().map(|(_, replicas)| *replicas).collect();
    let top = counts.iter().copied().max().context("nothing was changed")?;
    ensure!(counts.first() == Some(&top) && (3..=8).contains(&top), "not one jump to what is needed: {path:?}");
    ensure!(counts.is_sorted_by(|a, b| a > b) && counts.last() == Some(&1), "not down again: {path:?}");
    let settled = told.settled().context("never settled")?;
    // What was handled is seen when it is committed.
    let drained = settled + (members.age + members.commit).as_secs_f64();
    let late = told.breached(members.age).into_iter().find(|second| f64::from(*second) > drained);
    ensure!(late.is_none(), "settled after {settled:.0} s, broken at {late:?}; {path:?}");
    Ok(())
}

/// The same load in the plant, with what was measured: what a pod can do, how long it takes to start and to join. One run for each second
/// of a cycle at which the load may rise, and for what may have been measured.
fn simulate(told: &Told, members: &Members) -> Result<Vec<Run>> {
    let plant = Plant {
        partitions: PARTITIONS,
        capacity: told.capacity().context("no capacity was seen")?,
        start: told.start().context("no pod was started")?,
        rebalance: told.rebalance().context("nobody joined")?,
        agents: members.agents,
        eager: members.eager,
        ..Plant::default()
    };
    let policy = Policy {
        objective: Objective::Age(members.age),
        mode: Mode::Auto,
        min: 1,
        scheduled: None,
        max: MOST,
        capacity: None,
        window: WINDOW,
        keep: false,
        max_step: None,
        cycle: CYCLE,
        commit_interval: members.commit,
        paused: false,
    };
    let (high, low, seconds) = (told.high()?, told.low()?, told.seconds());
    eprintln!("plant: {plant:?}, {HIGH}/s from {high} s to {low} s of {seconds} s");
    let run = |(phase, times): (u32, f64)| {
        let plant = Plant { capacity: plant.capacity * times, ..plant.clone() };
        let load = |second: u32| f64::from(if (high + phase..low + phase).contains(&second) { HIGH } else { LOW });
        let mut run = drive(&plant, &mut Ours::new(policy), (members.age, members.commit), 1, seconds + phase, load);
        // What came before the real run began.
        run.pod_seconds -= f64::from(phase);
        run.breached.iter_mut().for_each(|second| *second = second.saturating_sub(phase));
        run
    };
    let runs: Vec<Run> = (0..5).flat_map(|phase| MEASURED.map(|times| (phase, times))).map(run).collect();
    eprintln!("replicas: {:?}, in the plant {:?}", told.path(), runs.iter().map(Run::counts).collect::<Vec<_>>());
    Ok(runs)
}

/// Whether the plant is right about the run: the changes and the final count, and within a quarter the rest.
fn compare(told: &Told, members: &Members, runs: &[Run]) -> Result<()> {
    let real: Vec<u32> = told.path().iter().map(|(_, replicas)| *replicas).collect();
    let simulated: Vec<Vec<u32>> = runs.iter().map(Run::counts).collect();
    let high = told.high()?;
    // What was handled is seen in the real run when it is committed.
    let seen = CYCLE + members.commit;
    let met_again = |breached: &[u32]| breached.last().map_or(0.0, |last| f64::from(last.saturating_sub(high) + 1));
    let breached = told.breached(members.age);
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let figures = [
        // Where the load rises within a cycle is chance: a cycle each way.
        ("seconds until the promise holds again", met_again(&breached), mean(&|run| met_again(&run.breached)), seen),
        ("seconds in breach", breached.len() as f64, mean(&|run| run.breached.len() as f64), seen),
        ("pod seconds", told.pod_seconds(), mean(&|run| run.pod_seconds), Duration::ZERO),
    ];
    for (name, real, plant, _) in &figures {
        eprintln!("{name}: {real:.0}, in the plant {plant:.0}");
    }
    ensure!(simulated.contains(&real), "{real:?} is none of what the plant says: {simulated:?}");
    for (name, real, plant, absolute) in figures {
        let off = (real - plant).abs();
        ensure!(
            off <= (0.25 * real.max(plant)).max(absolute.as_secs_f64()),
            "{name}: {real:.0}, in the plant {plant:.0}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a load step with the windows before and after it"]
async fn a_tenfold_load_is_met_in_one_jump_as_the_plant_says() -> Result<()> {
    let members = Members { age: Duration::from_secs(20), commit: Duration::from_secs(1), agents: true, eager: false };
    let shop = Shop::open("step", None).await?;
    declare(&shop, &members).await?;
    shop.stage.start_services().await?;
    // Four messages at a time.
    let work = json!({"data": {"workMs": (4_000 / CAPACITY).to_string()}});
    shop.patch("configmap/demo-load", &work.to_string())?;
    let told = tell(&shop, &members).await?;
    let runs = simulate(&told, &members)?;
    check(&told, &members)?;
    compare(&told, &members, &runs)
}

/// From committed offsets alone. The plant stands beside it for whoever reads the output: it hands out partitions evenly, and Kafka's Java
/// consumer works off all that it fetched of one before it turns to the next, so that its oldest messages are older.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a load step with the windows before and after it"]
async fn java_consumers_that_know_nothing_of_mq_are_scaled_in_one_jump_too() -> Result<()> {
    let members = Members { age: Duration::from_secs(30), commit: Duration::from_secs(5), agents: false, eager: true };
    let shop = Shop::open("java", None).await?;
    declare(&shop, &members).await?;
    let setting = shop.stage.setting();
    let (group, topic) = (format!("{}notifications", setting.prefix), format!("{}orders", setting.prefix));
    let wait = (1_000 / CAPACITY).to_string();
    let java = [
        "/java/bin/java",
        "-Xmx64m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        "/app/*:/app",
        "PlainConsumer",
        &setting.brokers,
        &group,
        &topic,
        &wait,
    ];
    let labels = json!({"app": WORKLOAD});
    let container = json!({
        "name": "consumer", "image": shop.node.image("plain-consumer")?, "imagePullPolicy": "Never", "command": java,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": WORKLOAD},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": false,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                },
            },
        },
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), deployment.to_string())?;
    shop.kubectl(&["apply", "-f", file.path().to_str().context("a path of text")?])?;
    let told = tell(&shop, &members).await?;
    simulate(&told, &members)?;
    check(&told, &members)
}
