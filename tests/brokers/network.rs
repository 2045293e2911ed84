//! A network that is cut for longer than every timeout, for some clients alone.

use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Config, ConsumeError, Consumer, Message, Options, Producer, SendError};
use mq_testkit::wait_until;

use super::scene::{KEYS, PARTITIONS, PATIENCE, Scene, Told, watched};

const DEADLINE: Duration = Duration::from_secs(5);
/// librdkafka looks for what is late once a second, and a busy machine takes its time.
const LATE: Duration = Duration::from_secs(3);
const SOON: &str = r#"{"overrides": {"delivery.timeout.ms": "5000", "socket.timeout.ms": "2000"}}"#;
const PATIENT: &str = r#"{"overrides": {"socket.timeout.ms": "2000", "request.timeout.ms": "2000"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_cut_off_fails_in_time_and_goes_on_after_it() -> Result<()> {
    let scene = Scene::new("cut-producer").await?;
    let link = scene.cluster.link().await?;
    let _member = scene.join()?;
    let writer = scene.write(link.bootstrap(), SOON).await?;
    writer.wait_more(10 * KEYS, PATIENCE).await?;
    link.cut();
    tokio::time::sleep(DEADLINE + LATE).await;
    link.mend();
    writer.wait_more(10 * KEYS, PATIENCE).await?;
    let Told { sent, written, .. } = scene.tell(writer).await?;
    ensure!(written.failed >= 10 * KEYS, "the cut was not felt: {written:?}");
    for sent in &sent {
        ensure!(sent.took < DEADLINE + LATE, "{} {} took {:?}", sent.key, sent.number, sent.took);
        if let Err(error) = &sent.outcome {
            ensure!(matches!(error, SendError::NotAcknowledged { .. }), "{error}");
        }
    }
    Ok(())
}

/// The brokers write what they are sent; the producer does not know and sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_and_not_answered_is_not_written_twice() -> Result<()> {
    let scene = Scene::new("mute-producer").await?;
    let link = scene.cluster.link().await?;
    let _member = scene.join()?;
    let writer = scene.write(link.bootstrap(), PATIENT).await?;
    writer.wait_more(10 * KEYS, PATIENCE).await?;
    link.mute();
    // Five requests may be unanswered for each broker, however few messages there are in each.
    wait_until("what nobody acknowledged is handled", PATIENCE, async || {
        let (handled, acknowledged) = (scene.group.handled()?.len(), writer.acknowledged());
        ensure!(handled > acknowledged + KEYS / 2, "{handled} are handled and {acknowledged} acknowledged");
        Ok(())
    })
    .await?;
    // Until it has given up its requests, and has sent them again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    link.mend();
    writer.wait_more(10 * KEYS, PATIENCE).await?;
    scene.tell_all(writer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_cut_off_loses_its_partitions_and_moves_nothing_back() -> Result<()> {
    let scene = Scene::new("cut-member").await?;
    let link = scene.cluster.link().await?;
    let members = [scene.join()?, scene.group.join(link.bootstrap())?];
    let writer = scene.write(&scene.cluster.bootstrap(), "{}").await?;
    watched!(scene, async {
        scene.flows(&writer, &members).await?;
        scene.commits().await?;
        link.cut();
        // It goes on with what it has in its hands, and cannot commit it.
        wait_until("the other member owns all partitions", PATIENCE, async || {
            let group = &scene.group.id;
            let found = scene.client.describe_groups([group]).await.remove(group);
            let Some(Ok(found)) = found else { anyhow::bail!("{found:?}") };
            let owned = found.members.iter().map(|member| {
                let assigned = member.assigned.as_ref()?.get(&scene.group.topic);
                Some(assigned.map_or(0, std::collections::BTreeSet::len))
            });
            let owned: Vec<_> = owned.collect();
            ensure!(owned == [Some(usize::try_from(PARTITIONS)?)], "{owned:?}");
            Ok(())
        })
        .await?;
        scene.commits().await?;
        scene.flows(&writer, &members[..1]).await?;
        link.mend();
        scene.flows(&writer, &members).await?;
        scene.tell_all(writer).await
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_off_is_told_and_the_next_one_succeeds() -> Result<()> {
    const RECORDS: i64 = 20;
    let scene = Scene::new("cut-commit").await?;
    let link = scene.cluster.link().await?;
    let mut config = Config::default().brokers([link.bootstrap()]);
    config.consumer =
        serde_json::from_str(r#"{"enableAutoCommit": false, "sessionTimeoutMs": 6000, "maxPollIntervalMs": 6000}"#)?;
    let consumer = Consumer::new(&config, &scene.group.id, [&scene.group.topic], &Options::default()).await?;
    let reading = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.subscribe(|_| async { Ok(()) }).await }
    });
    let producer = Producer::new(&Config::default().brokers([scene.cluster.bootstrap()]), &Options::default()).await?;
    let message = |number: i64| Message::to(&scene.group.topic).key(number.to_string()).payload("");
    for outcome in producer.send_batch((0..RECORDS).map(message).collect::<Vec<_>>()).await {
        outcome?;
    }
    wait_until("all records are handled", PATIENCE, async || {
        let handled = consumer.stats().messages_consumed;
        ensure!(i64::try_from(handled)? >= RECORDS, "{handled} are");
        Ok(())
    })
    .await?;
    link.cut();
    let began = tokio::time::Instant::now();
    let told = tokio::time::timeout(PATIENCE, consumer.commit()).await?.unwrap_err();
    println!("told after {:?}: {told}", began.elapsed());
    ensure!(matches!(&told, ConsumeError::Commit { detail, .. } if detail.contains("could not be reached")), "{told}");
    link.mend();
    // Its session has ended meanwhile, so its partitions come again, with what was not committed.
    wait_until("a commit succeeds", PATIENCE, async || {
        consumer.commit().await?;
        let committed = scene.group.committed(&scene.client).await?.values().sum::<i64>();
        ensure!(committed == RECORDS, "{committed} of {RECORDS} are committed");
        Ok(())
    })
    .await?;
    consumer.close(PATIENCE).await;
    reading.await??;
    Ok(())
}
