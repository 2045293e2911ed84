//! A broker whose disk is full.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Config, Message, Options, Producer, SendError};
use mq_testkit::{OwnBroker, wait_until};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Enough for a broker to start, and for a few hundred messages.
const SIZE: &str = "size=64m";
const MORE: &str = "remount,size=512m";
const MESSAGE: usize = 100_000;

/// A file system in memory.
struct Disk(TempDir);

impl Disk {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        mount(folder.path(), SIZE)?;
        Ok(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Now from the folders, and when the last file is closed altogether.
        let _status = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn mount(folder: &Path, options: &str) -> Result<()> {
    let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).output()?;
    ensure!(done.status.success(), "mount {}: {}", folder.display(), String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_sends_and_loses_nothing_that_was_acknowledged() -> Result<()> {
    let disk = Disk::new()?;
    let broker = OwnBroker::start(disk.0.path()).await?;
    let topic = broker.kafka.unique("full");
    broker.kafka.create_topic(&topic, 1).await?;
    let mut config = Config::default().brokers([broker.kafka.bootstrap()]);
    config.producer = serde_json::from_str(r#"{"compression": "none", "overrides": {"delivery.timeout.ms": "5000"}}"#)?;
    let producer = Producer::new(&config, &Options::default()).await?;
    let message = |number: usize| Message::to(&topic).key(number.to_string()).payload(vec![b'x'; MESSAGE]);

    let mut acknowledged = Vec::new();
    let failed = loop {
        let number = acknowledged.len();
        ensure!(number < 1_000, "a small disk takes {number} messages of {MESSAGE} bytes");
        match producer.send_sync(message(number)).await {
            Ok(ack) => acknowledged.push((ack.offset, number.to_string())),
            Err(error) => break error,
        }
    };
    println!("{} were acknowledged, then: {failed}", acknowledged.len());
    ensure!(matches!(failed, SendError::NotAcknowledged { .. }) && failed.is_retryable(), "{failed}");

    mount(disk.0.path(), MORE)?;
    wait_until("the broker, which gave up its disk, is gone", PATIENCE, async || {
        let asked = tokio::time::timeout(Duration::from_secs(1), broker.kafka.requests("Metadata")).await;
        ensure!(matches!(asked, Ok(Err(_))), "it still answers");
        Ok(())
    })
    .await?;
    broker.kafka.start().await?;
    let after = producer.send_sync(message(1_000)).await.context("the producer does not go on")?;
    acknowledged.push((after.offset, 1_000.to_string()));
    let log = broker.kafka.read_all(&topic).await?;
    for (offset, key) in acknowledged {
        let found = log.iter().find(|record| Some(record.offset) == offset);
        ensure!(found.and_then(mq_testkit::Record::key_str) == Some(key.as_str()), "{key} is not at {offset:?}");
    }
    broker.end().await
}
