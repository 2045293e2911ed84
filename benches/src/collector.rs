//! The operator's collector beside KEDA's Kafka scalers and Java's `AdminClient`: the same groups of the same broker, each side a process
//! of its own with warm connections. Requests are counted by the broker.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mq_testkit::{Broker, TestEnv};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::process::Command;

use crate::peers::{Peers, Step, Stepper};
use crate::report::{Row, Section};

const TOPICS: usize = 100;
const PARTITIONS: i32 = 8;
/// Records of each partition; what a group has committed of them differs.
const RECORDS: usize = 10;
/// Two rounds of what is read in turns.
const CYCLES: usize = 24;
const STARTS: usize = 3;
const KEDA: &str = "KEDA 2.21 Kafka scalers, one per group, 16 at the same time";

/// What was measured of one side.
#[derive(Debug, Default)]
struct Side {
    milliseconds: Vec<f64>,
    requests: BTreeMap<String, u64>,
    /// What the broker took over them, in all cycles together.
    broker_milliseconds: f64,
}

impl Side {
    /// One more cycle, with what the broker counted meanwhile.
    async fn step(&mut self, kafka: &Broker, stepper: &mut Stepper, lag: u64) -> Result<()> {
        let (before, spent) = (kafka.all_requests().await?, kafka.request_times().await?);
        let Step { wall, result } = stepper.step().await?;
        ensure!(result == lag, "{result} is not the lag of {lag}: {stepper:?}");
        for (kind, count) in kafka.all_requests().await? {
            let new = count - before.get(&kind).copied().unwrap_or_default();
            if new > 0 && !BROKERS_OWN.contains(&kind.as_str()) {
                *self.requests.entry(kind).or_default() += new;
            }
        }
        let times = kafka.request_times().await?;
        self.broker_milliseconds += times.values().sum::<f64>() - spent.values().sum::<f64>();
        self.milliseconds.push(milliseconds(wall));
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    fn per_cycle(&self, requests: u64) -> f64 {
        requests as f64 / self.milliseconds.len().max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of cycles")]
    fn broker_time(&self) -> f64 {
        self.broker_milliseconds / self.milliseconds.len().max(1) as f64
    }

    fn all_requests(&self) -> f64 {
        self.per_cycle(self.requests.values().sum())
    }
}

/// What a broker that is its own controller asks itself.
const BROKERS_OWN: [&str; 4] = ["BrokerHeartbeat", "Fetch", "FetchSnapshot", "AllocateProducerIds"];

fn milliseconds(wall: Duration) -> f64 {
    wall.as_secs_f64() * 1_000.0
}

/// Groups of one size on one broker.
struct Scene<'a> {
    kafka: Broker,
    peers: &'a Peers,
    arguments: [String; 4],
    groups: usize,
    /// What all of them together have not committed.
    lag: u64,
}

impl<'a> Scene<'a> {
    async fn new(peers: &'a Peers, groups: usize) -> Result<Self> {
        eprintln!("mq: making {groups} groups");
        let kafka = TestEnv::kafka().await?;
        let prefix = kafka.unique("collector");
        let arguments = [kafka.bootstrap().to_owned(), prefix.clone(), TOPICS.to_string(), groups.to_string()];
        let mut prepare = peers.newest_java("AdminLag");
        prepare.args(&arguments).arg("prepare");
        let output = prepare.output().await.context("starting java")?;
        ensure!(output.status.success(), "making groups: {}", String::from_utf8_lossy(&output.stderr));
        fill(&kafka, &prefix).await?;
        let of = |group: usize| (0..8).map(|partition| RECORDS - (group + partition) % (RECORDS + 1)).sum::<usize>();
        let lag = u64::try_from((0..groups).map(of).sum::<usize>())?;
        Ok(Self { kafka, peers, arguments, groups, lag })
    }

    async fn start(&self, name: &'static str, mut command: Command) -> Result<(Stepper, f64)> {
        command.args(&self.arguments);
        let (stepper, first) = Stepper::start(name, command).await?;
        ensure!(first.result == self.lag, "{name}: {} is not the lag of {}", first.result, self.lag);
        Ok((stepper, milliseconds(first.wall)))
    }

    async fn ours(&self) -> Result<(Stepper, f64)> {
        let program = std::env::current_exe().context("where this program is")?.with_file_name("mq-bench-collector");
        self.start("the collector", Command::new(program)).await
    }

    async fn keda(&self) -> Result<(Stepper, f64)> {
        self.start("KEDA", self.peers.keda()).await
    }
}

/// `RECORDS` records for each partition.
async fn fill(kafka: &Broker, prefix: &str) -> Result<()> {
    let producer: FutureProducer = kafka.client_config().create()?;
    for topic in 0..TOPICS {
        let topic = format!("{prefix}-topic-{topic}");
        let mut deliveries = Vec::new();
        for partition in (0..PARTITIONS).flat_map(|partition| std::iter::repeat_n(partition, RECORDS)) {
            let record = FutureRecord::<(), _>::to(&topic).partition(partition).payload("x");
            deliveries.push(producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for delivery in try_join_all(deliveries).await? {
            delivery.map_err(|(error, _)| error)?;
        }
    }
    Ok(())
}

pub(crate) async fn run(shrink: usize, peers: &Peers) -> Result<Section> {
    let (mut rows, mut notes) = (Vec::new(), String::new());
    let scene = Scene::new(peers, 1_000 / shrink).await?;
    let keda_mib = thousand(&scene, &mut rows, &mut notes).await?;
    let scene = Scene::new(peers, 3_000 / shrink).await?;
    let mq_mib = three_thousand(&scene, &mut rows, &mut notes).await?;
    rows.push(Row::beside(
        "collector.memory_3000",
        "peak resident set of the collector with 3,000 groups; target: 64 MiB",
        "MiB",
        &[mq_mib],
        ("KEDA with 1,000 scalers", &[keda_mib]),
        1.0,
    ));
    Ok(Section { name: "collector", rows, notes })
}

/// Returns the memory of KEDA.
async fn thousand(scene: &Scene<'_>, rows: &mut Vec<Row>, notes: &mut String) -> Result<f64> {
    let (mut firsts, mut keda_firsts) = (Vec::new(), Vec::new());
    let mut pair = None;
    for run in 1..=STARTS {
        drop(pair.take());
        let (ours, first) = scene.ours().await?;
        let (keda, keda_first) = scene.keda().await?;
        eprintln!("mq: first cycle, run {run} of {STARTS}: {first:.0} ms beside {keda_first:.0} ms");
        firsts.push(first);
        keda_firsts.push(keda_first);
        pair = Some((ours, keda));
    }
    let (mut ours, mut keda) = pair.context("nothing was started")?;
    let (mut java, _) = scene.start("AdminClient", scene.peers.newest_java("AdminLag")).await?;
    let (mut mq, mut scalers, mut admin) = (Side::default(), Side::default(), Side::default());
    // Java compiles what runs often.
    for _ in 0..CYCLES {
        java.step().await?;
    }
    for cycle in 1..=CYCLES {
        mq.step(&scene.kafka, &mut ours, scene.lag).await?;
        scalers.step(&scene.kafka, &mut keda, scene.lag).await?;
        admin.step(&scene.kafka, &mut java, scene.lag).await?;
        progress(cycle, &[&mq, &scalers, &admin]);
    }
    rows.extend(of_cycles("1000", &mq, &scalers));
    rows.push(Row::beside(
        "collector.cycle_time_vs_admin_1000",
        "the same beside one batched listConsumerGroupOffsets and one listOffsets",
        "ms",
        &mq.milliseconds,
        ("Java AdminClient 4.3.1, warm", &admin.milliseconds),
        0.7,
    ));
    rows.push(Row::beside(
        "collector.first_cycle_1000",
        "from the start to the lag of every group",
        "ms",
        &firsts,
        ("KEDA, from the first NewKafkaScaler to the last metric", &keda_firsts),
        0.1,
    ));
    describe(notes, scene.groups, &[("mq", &mq), ("KEDA", &scalers), ("AdminClient", &admin)]);
    keda.peak_mib()
}

/// Returns our memory.
async fn three_thousand(scene: &Scene<'_>, rows: &mut Vec<Row>, notes: &mut String) -> Result<f64> {
    let (mut ours, _) = scene.ours().await?;
    let (mut keda, _) = scene.keda().await?;
    let (mut mq, mut scalers) = (Side::default(), Side::default());
    for cycle in 1..=CYCLES {
        mq.step(&scene.kafka, &mut ours, scene.lag).await?;
        // Half as often: the groups are many.
        if cycle.is_multiple_of(2) {
            scalers.step(&scene.kafka, &mut keda, scene.lag).await?;
        }
        progress(cycle, &[&mq, &scalers]);
    }
    rows.extend(of_cycles("3000", &mq, &scalers));
    describe(notes, scene.groups, &[("mq", &mq), ("KEDA", &scalers)]);
    ours.peak_mib()
}

fn progress(cycle: usize, sides: &[&Side]) {
    let last = sides.iter().filter_map(|side| side.milliseconds.last()).map(|last| format!("{last:.0} ms"));
    eprintln!("mq: cycle {cycle} of {CYCLES}: {}", last.collect::<Vec<_>>().join(" beside "));
}

fn of_cycles(groups: &str, mq: &Side, keda: &Side) -> [Row; 2] {
    [
        Row::beside(
            &format!("collector.requests_per_cycle_{groups}"),
            "requests of one cycle, counted by the one broker, mean of all cycles; target: 3",
            "requests",
            &[mq.all_requests()],
            (KEDA, &[keda.all_requests()]),
            1.0,
        ),
        Row::beside(
            &format!("collector.cycle_time_{groups}"),
            &format!("the lag of {groups} groups with 8 partitions each"),
            "ms",
            &mq.milliseconds,
            (KEDA, &keda.milliseconds),
            0.4,
        ),
    ]
}

/// What was asked for, by name.
fn describe(notes: &mut String, groups: usize, sides: &[(&str, &Side)]) {
    let _ = writeln!(
        notes,
        "\nRequests of one cycle with {groups} groups, and the time that the broker took over FindCoordinator, ListOffsets and OffsetFetch, on average of the cycles, from its JMX counters:\n"
    );
    for (name, side) in sides {
        let requests = side.requests.iter().map(|(kind, count)| format!("{kind} {:.2}", side.per_cycle(*count)));
        let requests = requests.collect::<Vec<_>>().join(", ");
        let _ = writeln!(notes, "- {name}: {requests}; {:.0} ms of the broker", side.broker_time());
    }
}
