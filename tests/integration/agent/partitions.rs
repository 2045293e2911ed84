//! Which partition a key has: the one that it has for Java's producer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use mq_agent::{Config, Env, Message, Options, Producer};
use mq_testkit::TestEnv;
use tokio::io::AsyncWriteExt as _;

const COUNTS: [i32; 3] = [3, 16, 50];

/// Every length up to 64, so that each rest of a word of four bytes is among them, with bytes that Java takes for negative.
fn keys() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for length in 0..=64 {
        keys.push((0..length).map(|_| random.u8(..)).collect());
        keys.push(vec![0xff; length]);
        keys.push(vec![0; length]);
    }
    keys.extend(["7", "customer-42", "München", "注文", "🦀"].map(|key| key.as_bytes().to_vec()));
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What Java's own partitioner says of each key, for each of [`COUNTS`].
async fn partitions_of_java(keys: &[Vec<u8>]) -> Result<Vec<Vec<i32>>> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/agent/Partitions.java");
    let mut java = TestEnv::java(&program)?;
    java.args(COUNTS.map(|count| count.to_string()));
    let mut process = java.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting java")?;
    let mut lines = String::new();
    for key in keys {
        for byte in key {
            write!(lines, "{byte:02x}")?;
        }
        lines.push('\n');
    }
    let mut input = process.stdin.take().context("its input")?;
    input.write_all(lines.as_bytes()).await?;
    drop(input);
    let output = process.wait_with_output().await?;
    ensure!(output.status.success(), "java ended with {}; it needs a JDK, not only a JRE", output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(line.split(' ').map(str::parse).collect::<Result<_, _>>()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_the_partition_that_java_gives_it() -> Result<()> {
    let (kafka, keys) = (TestEnv::kafka().await?, keys());
    let java = partitions_of_java(&keys).await?;
    assert_eq!(java.len(), keys.len());
    let config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    let producer = Producer::new(&config, &Options::default()).await?;
    for (at, count) in COUNTS.into_iter().enumerate() {
        let topic = kafka.unique("partitions");
        kafka.create_topic(&topic, count).await?;
        for outcome in producer.send_batch(keys.iter().map(|key| Message::to(&topic).key(key))).await {
            outcome?;
        }
        let records = kafka.read_all(&topic).await?.into_iter();
        let found: BTreeMap<_, _> = records.map(|record| (record.key.unwrap_or_default(), record.partition)).collect();
        let expected: BTreeMap<_, _> = keys.iter().cloned().zip(java.iter().map(|partitions| partitions[at])).collect();
        assert_eq!(found, expected, "with {count} partitions");
    }
    Ok(())
}
