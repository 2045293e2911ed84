//! What is committed beside the offset: which records beyond it are finished.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_agent::{Config, Consumer, Env, Failure, Message, Options, Producer};
use mq_testkit::{Broker, OwnBroker, TestEnv, wait_until};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::stage::{Log, Stage, subscribe, subscribe_log};
use super::{DRAIN, PATIENCE, create_topic, produce_numbered, wait_committed};

const SETTINGS: &str = r#"{"sessionTimeoutMs": 6000, "autoCommitIntervalMs": 100}"#;
const STUCK: &str = "stuck";

/// The offset that is committed for partition 0, with its metadata.
async fn committed(kafka: &Broker, group: &str, topic: &str) -> Result<(i64, String)> {
    let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
    let offsets = client.committed_offsets([group]).await.remove(group).context("no answer")??;
    let committed = offsets.partitions.get(topic).and_then(|partitions| partitions.get(&0)).context("no commit")?;
    let committed = committed.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((committed.offset, committed.metadata.clone()))
}

async fn topic_id(kafka: &Broker, topic: &str) -> Result<mq_kafka::TopicId> {
    let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
    Ok(client.describe_topics([topic]).await.remove(topic).context("no answer")??.id)
}

/// Members of a stage's group as processes.
struct Members {
    stage: Stage,
    folder: TempDir,
}

impl Members {
    fn start(&self, stuck: Option<&str>) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mq-member"));
        command.args(["--brokers", self.stage.kafka.bootstrap(), "--group", &self.stage.group]);
        command.args(["--topic", &self.stage.topic, "--settings", SETTINGS, "--concurrency", "4", "--work-ms", "0"]);
        command.arg("--log").arg(self.folder.path().join("handled"));
        if let Some(key) = stuck {
            command.args(["--stuck", key]);
        }
        command.stdin(Stdio::piped()).kill_on_drop(true).spawn().context("starting a member")
    }

    /// Key and number of what was handled, in order.
    fn handled(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.folder.path().join("handled"))?;
        let lines = text.lines().filter_map(|line| line.strip_suffix(';'));
        Ok(lines.map(|line| line.splitn(4, ' ').last().unwrap_or_default().to_owned()).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_leaves_only_its_stuck_record_to_the_next_one() -> Result<()> {
    let members = Members { stage: Stage::new("map", 1, SETTINGS).await?, folder: tempfile::tempdir()? };
    let Stage { kafka, topic, group, .. } = &members.stage;
    std::fs::File::create(members.folder.path().join("handled"))?;
    kafka.produce(topic, [(STUCK, "0")]).await?;
    produce_numbered(kafka, topic, 8, 75).await?;
    let mut first = members.start(Some(STUCK))?;
    // From offset 0 on one is left out, and 600 are finished: 599 more than one, in digits of five bits.
    let told = format!("mq1:{}:0:rB3S", topic_id(kafka, topic).await?);
    wait_until("it is committed what is finished beyond the stuck record", PATIENCE, async || {
        let committed = committed(kafka, group, topic).await?;
        ensure!(committed == (0, told.clone()), "{committed:?}, {} are handled", members.handled()?.len());
        Ok(())
    })
    .await?;
    first.kill().await?;
    let before = members.handled()?;
    assert_eq!(before.len(), 600);

    let _second = members.start(None)?;
    wait_committed(kafka, group, topic, 601).await?;
    assert_eq!(members.handled()?[600..], [format!("{STUCK} 0")], "what was finished came again");
    kafka.produce(topic, [(STUCK, "1")]).await?;
    wait_committed(kafka, group, topic, 602).await?;
    assert_eq!(members.handled()?.len(), 602);
    assert_eq!(self::committed(kafka, group, topic).await?, (602, String::new()));
    Ok(())
}

/// As a client that knows nothing of text commits: version 2 of the request, from outside of the group.
async fn commit_bytes(kafka: &Broker, group: &str, topic: &str, offset: i64, metadata: &[u8]) -> Result<()> {
    let mut request = Vec::new();
    let text = |request: &mut Vec<u8>, text: &[u8]| -> Result<()> {
        request.extend(i16::try_from(text.len())?.to_be_bytes());
        request.extend(text);
        Ok(())
    };
    request.extend([0, 8, 0, 2, 0, 0, 0, 1]);
    text(&mut request, b"foreign")?;
    text(&mut request, group.as_bytes())?;
    request.extend((-1_i32).to_be_bytes());
    text(&mut request, b"")?;
    request.extend((-1_i64).to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    text(&mut request, topic.as_bytes())?;
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(offset.to_be_bytes());
    text(&mut request, metadata)?;
    let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
    client.committed_offsets([group]).await.remove(group).context("no answer")??;
    // The first group of a broker waits for the topic that holds commits.
    wait_until("the broker takes the commit", PATIENCE, async || {
        let mut stream = TcpStream::connect(kafka.bootstrap()).await?;
        stream.write_all(&i32::try_from(request.len())?.to_be_bytes()).await?;
        stream.write_all(&request).await?;
        let mut answer = vec![0; usize::try_from(stream.read_i32().await?)?];
        stream.read_exact(&mut answer).await?;
        ensure!(answer.ends_with(&[0, 0]), "it refused it: {answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_committed_with_an_offset_is_ignored() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, copy) = (kafka.unique("foreign"), kafka.unique("foreign-copy"));
    create_topic(&kafka, &topic, 1, &[]).await?;
    create_topic(&kafka, &copy, 1, &[]).await?;
    produce_numbered(&kafka, &topic, 1, 10).await?;
    let (id, other) = (topic_id(&kafka, &topic).await?, topic_id(&kafka, &copy).await?);
    // The last one is right for its offset: 3 and 4 are left out, 5 to 8 are finished, and so are 50 that are not in the log.
    let cases: Vec<(Vec<u8>, &[u32])> = vec![
        (b"\xff\xfe\x00\xc3\x28".to_vec(), &[3, 4, 5, 6, 7, 8, 9]),
        (vec![b'x'; 4_000], &[3, 4, 5, 6, 7, 8, 9]),
        (format!("mq1:{id}:3:r\u{1}").into_bytes(), &[3, 4, 5, 6, 7, 8, 9]),
        (format!("mq2:{id}:3:rCD").into_bytes(), &[3, 4, 5, 6, 7, 8, 9]),
        (format!("mq1:{other}:3:rCD").into_bytes(), &[3, 4, 5, 6, 7, 8, 9]),
        (format!("mq1:{id}:2:rCD").into_bytes(), &[3, 4, 5, 6, 7, 8, 9]),
        (format!("mq1:{id}:3:rCDBxB").into_bytes(), &[3, 4, 9]),
    ];
    for (case, (metadata, expected)) in cases.into_iter().enumerate() {
        let group = kafka.unique("foreign");
        commit_bytes(&kafka, &group, &topic, 3, &metadata).await?;
        let config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
        let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
        let log = Log::default();
        let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
        wait_committed(&kafka, &group, &topic, 10).await?;
        consumer.close(DRAIN).await;
        subscription.await??;
        let mut numbers: Vec<u32> = log.entries().into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, expected, "case {case}");
    }
    Ok(())
}

/// The members and the topic stay; what the map says is of the topic that was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_is_void_for_a_topic_that_was_created_anew() -> Result<()> {
    let stage = Stage::new("map-anew", 1, SETTINGS).await?;
    let client = mq_kafka::Client::new([stage.kafka.bootstrap()], mq_kafka::Options::default());
    let old = topic_id(&stage.kafka, &stage.topic).await?;
    client.delete_topics([old]).await.remove(&old).context("no answer")??;
    wait_until("the topic is there again", PATIENCE, async || create_topic(&stage.kafka, &stage.topic, 1, &[]).await)
        .await?;
    produce_numbered(&stage.kafka, &stage.topic, 2, 5).await?;
    commit_bytes(&stage.kafka, &stage.group, &stage.topic, 0, format!("mq1:{old}:0:rBI").as_bytes()).await?;
    let (_agent, consumer) = stage.consumer(2).await?;
    let log = Log::default();
    let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    stage.wait_committed(10).await?;
    assert_eq!(log.len(), 10);
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

/// It refuses the whole commit. The prefix must not wait for what it does not take.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_no_map_is_given_the_offset_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let own = OwnBroker::configured(folder.path(), &["offset.metadata.max.bytes=16"]).await?;
    let (kafka, topic, group) = (&own.kafka, "no-map", "no-map");
    create_topic(kafka, topic, 1, &[]).await?;
    for stuck in ["stuck-0", "stuck-1"] {
        kafka.produce(topic, [(stuck, "0")]).await?;
        produce_numbered(kafka, topic, 8, 5).await?;
    }
    let mut config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    config.consumer = serde_json::from_str(SETTINGS)?;
    let consumer = Consumer::new(&config, group, [topic], &Options::default().concurrency(4)).await?;
    let (log, gates) = (Log::default(), Arc::new([Semaphore::new(0), Semaphore::new(0)]));
    let subscription = subscribe(&consumer, {
        let (log, gates) = (log.clone(), Arc::clone(&gates));
        move |record| {
            let (log, gates) = (log.clone(), Arc::clone(&gates));
            async move {
                let gate = match record.key() {
                    Some(b"stuck-0") => Some(&gates[0]),
                    Some(b"stuck-1") => Some(&gates[1]),
                    _ => None,
                };
                if let Some(gate) = gate {
                    gate.acquire().await.map_err(Failure::reject)?.forget();
                }
                log.add(&record);
                Ok(())
            }
        }
    });
    log.wait_len(80).await?;
    wait_until("a commit is refused", PATIENCE, async || {
        let stats = consumer.stats();
        ensure!(stats.commit_errors > 0, "{stats:?}");
        Ok(())
    })
    .await?;
    gates[0].add_permits(1);
    // Forty records are finished beyond it.
    wait_committed(kafka, group, topic, 41).await?;
    assert_eq!(committed(kafka, group, topic).await?, (41, String::new()));
    gates[1].add_permits(1);
    wait_committed(kafka, group, topic, 82).await?;
    assert_eq!((log.len(), consumer.stats().commit_errors), (82, 1), "once is enough to know");
    consumer.close(DRAIN).await;
    subscription.await??;
    own.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_of_transactions_leave_no_lag() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group) = (kafka.unique("markers"), kafka.unique("markers"));
    create_topic(&kafka, &topic, 1, &[]).await?;
    let mut config = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    config.consumer = serde_json::from_str(SETTINGS)?;
    let (plain, log) = (Producer::new(&config, &Options::default()).await?, Log::default());
    let transactional: BaseProducer = kafka.client_config().set("transactional.id", &topic).create()?;
    transactional.init_transactions(PATIENCE)?;
    let write = |numbers: std::ops::Range<u32>| -> Result<()> {
        transactional.begin_transaction()?;
        for number in numbers {
            let number = number.to_string();
            let record = BaseRecord::to(&topic).key("k").payload(&number);
            transactional.send(record).map_err(|(error, _)| error)?;
        }
        Ok(())
    };
    let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
    let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    write(0..3)?;
    transactional.commit_transaction(PATIENCE)?;
    wait_committed(&kafka, &group, &topic, 4).await?;
    write(100..102)?;
    transactional.flush(PATIENCE)?;
    transactional.abort_transaction(PATIENCE)?;
    wait_committed(&kafka, &group, &topic, 7).await?;
    consumer.close(DRAIN).await;
    subscription.await??;

    // Nobody reads while the next marker is written; the next member has nothing but the marker to go past.
    write(3..4)?;
    transactional.commit_transaction(PATIENCE)?;
    commit_bytes(&kafka, &group, &topic, 8, b"").await?;
    let consumer = Consumer::new(&config, &group, [&topic], &Options::default()).await?;
    let subscription = subscribe_log(&consumer, &log, Duration::ZERO);
    wait_committed(&kafka, &group, &topic, 9).await?;
    plain.send_sync(Message::to(&topic).key("k").payload("4")).await?;
    wait_committed(&kafka, &group, &topic, 10).await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    let numbers: Vec<u32> = log.entries().into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, [0, 1, 2, 4]);
    Ok(())
}
