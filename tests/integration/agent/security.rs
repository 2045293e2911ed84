//! Every way into a broker, and what is said when one is closed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use mq_agent::{Agent, Config, Consumer, Env, Message, Options, Producer, SaslMechanism, SecurityProtocol};
use mq_core::presets::PRESET_VERSION;
use mq_core::settings::{ConsumerSettings, ProducerSettings};
use mq_protocol::body::{Connection, ConsumerBody, DeadLetter, ProducerBody, encode};
use mq_protocol::message::{Kind, NackReason, Version};
use mq_testkit::{AUTHORIZING, Broker, Operation, OwnBroker, Resource, Secure, TestEnv, wait_until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::mpsc;

use super::fake_operator::FakeOperator;
use super::stage::{Log, subscribe};
use super::{DRAIN, PATIENCE, committed, connection, wait_committed};

const MECHANISMS: [SaslMechanism; 3] = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];

/// An authority that no broker knows, and a client's certificate by it: certificate of the authority, of the client, its key.
fn strangers() -> Result<[String; 3]> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let client = KeyPair::generate()?;
    let signed = CertificateParams::default().signed_by(&client, &Issuer::new(params, key))?;
    Ok([authority, signed.pem(), client.serialize_pem()])
}

pub(super) fn write(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    files.iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text)).context("writing credentials")
}

/// The development preset with this protocol, trusting the broker's authority.
pub(super) fn config(secure: &Secure, address: &str, protocol: SecurityProtocol) -> Result<Config> {
    let mut config = Config::for_env(Env::Development).brokers([address]);
    config.security_protocol = protocol;
    config.ca_bundle = protocol.has_tls().then(|| secure.pem("ca.crt")).transpose()?;
    Ok(config)
}

fn with_user(mut config: Config, secure: &Secure, mechanism: SaslMechanism) -> Config {
    let user = &secure.users[0];
    config.sasl_mechanism = Some(mechanism);
    config.sasl_username = Some(user.username.clone());
    config.sasl_password = Some(user.password.as_str().into());
    config
}

fn options(folder: &Path) -> Options {
    Options::in_folders(folder, folder)
}

/// A record goes in and comes out again.
async fn carries(kafka: &Broker, config: &Config, options: &Options) -> Result<()> {
    let topic = kafka.unique("secure");
    kafka.create_topic(&topic, 1).await?;
    let producer = Producer::new(config, options).await?;
    producer.send_sync(Message::to(&topic).key("k").payload("secret order")).await?;
    let consumer = Consumer::new(config, &topic, [&topic], options).await?;
    let (seen, mut records) = mpsc::unbounded_channel();
    let subscription = subscribe(&consumer, move |record| {
        let _ = seen.send(record.payload().to_vec());
        async { Ok(()) }
    });
    let record = tokio::time::timeout(PATIENCE, records.recv()).await.context("no record came")?;
    assert_eq!(record.as_deref(), Some(b"secret order".as_slice()));
    let shown = format!("{producer:?} {consumer:?} {config:?} {options:?}");
    assert!(!shown.contains("-secret") && !shown.contains("PRIVATE KEY"), "{shown}");
    consumer.close(DRAIN).await;
    subscription.await??;
    Ok(())
}

#[tokio::test]
async fn tls_without_sasl_carries_records_by_address_and_by_name() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let nowhere = options(Path::new("/nonexistent"));
    for address in [secure.ssl.clone(), secure.ssl.replace("127.0.0.1", "localhost")] {
        carries(&kafka, &config(secure, &address, SecurityProtocol::Ssl)?, &nowhere).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_carries_records_and_the_authority_may_lie_beside_it() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let folder = tempfile::tempdir()?;
    let files = [
        ("tls.crt", secure.pem("client.crt")?),
        ("tls.key", secure.pem("client.key")?),
        ("ca.crt", secure.pem("ca.crt")?),
    ];
    write(&folder.path().join("credentials"), &files.each_ref().map(|(name, text)| (*name, text.as_str())))?;
    let mut config = config(secure, &secure.mutual_tls, SecurityProtocol::Ssl)?;
    config.ca_bundle = None;
    carries(&kafka, &config, &options(folder.path())).await
}

#[tokio::test]
async fn every_mechanism_carries_records_without_tls() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let config = config(secure, &secure.sasl_plaintext, SecurityProtocol::SaslPlaintext)?;
    for mechanism in MECHANISMS {
        let config = with_user(config.clone(), secure, mechanism);
        carries(&kafka, &config, &options(Path::new("/nonexistent"))).await.with_context(|| mechanism.to_string())?;
    }
    Ok(())
}

#[tokio::test]
async fn every_mechanism_carries_records_inside_tls_with_the_users_of_files() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let folder = tempfile::tempdir()?;
    let user = &secure.users[1];
    write(&folder.path().join("credentials"), &[("username", &user.username), ("password", &user.password)])?;
    let config = config(secure, &secure.sasl_ssl, SecurityProtocol::SaslSsl)?;
    for mechanism in MECHANISMS {
        let mut config = config.clone();
        config.sasl_mechanism = Some(mechanism);
        carries(&kafka, &config, &options(folder.path())).await.with_context(|| mechanism.to_string())?;
    }
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_missing_are_named_with_the_places_to_put_them() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let mut config = config(secure, &secure.sasl_ssl, SecurityProtocol::SaslSsl)?;
    config.sasl_mechanism = Some(SaslMechanism::ScramSha512);
    let error = Producer::new(&config, &options(Path::new("/nonexistent"))).await.unwrap_err().to_string();
    let words = "securityProtocol is SASL_SSL and there is neither saslUsername nor /nonexistent/credentials/username";
    assert!(error.contains(words), "{error}");
    Ok(())
}

/// A service starts while it cannot log in; its messages tell why they were not delivered.
#[tokio::test]
async fn a_message_that_is_not_delivered_says_that_the_login_failed() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let mut config =
        with_user(config(secure, &secure.sasl_ssl, SecurityProtocol::SaslSsl)?, secure, SaslMechanism::ScramSha512);
    config.sasl_password = Some("wrong".into());
    config.producer = serde_json::from_str(r#"{"overrides": {"delivery.timeout.ms": "3000"}}"#)?;
    let producer = Producer::new(&config, &options(Path::new("/nonexistent"))).await?;
    let error = producer.send_sync(Message::to("orders").payload("x")).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("authentication failed"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_waits_for_its_secret_and_starts_when_it_is_mounted() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?;
    let topic = kafka.unique("late");
    kafka.create_topic(&topic, 1).await?;
    let folder = tempfile::tempdir()?;
    let mut config = config(secure, &secure.sasl_ssl, SecurityProtocol::SaslSsl)?;
    config.sasl_mechanism = Some(SaslMechanism::ScramSha256);
    let agent = Agent::connect_with(options(folder.path()).config(config)).await;
    let waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.producer("p").await }
    });
    let user = &secure.users[0];
    let files = [("username", user.username.as_str()), ("password", user.password.as_str())];
    write(&folder.path().join("credentials"), &files[..1])?;
    assert!(!waiting.is_finished());
    let mounted = Instant::now();
    write(&folder.path().join("credentials"), &files[1..])?;
    waiting.await??.send_sync(Message::to(&topic).payload("x")).await?;
    ensure!(mounted.elapsed() < Duration::from_secs(10), "noticed by chance, after {:?}", mounted.elapsed());
    agent.drain(DRAIN).await;
    Ok(())
}

/// librdkafka takes the record for read that it could not read. Nobody else may: neither what is committed nor what is read after a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_could_not_be_read_for_a_while_is_not_skipped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let own = OwnBroker::configured(folder.path(), AUTHORIZING).await?;
    let (kafka, secure) = (&own.kafka, own.kafka.secure()?);
    let topic = kafka.unique("denied");
    kafka.create_topic(&topic, 1).await?;
    let (user, of_topic) = (&secure.users[0].username, Resource::Topic(topic.clone()));
    kafka.grant(user, &Resource::Group(topic.clone()), Operation::Read).await?;
    for operation in [Operation::Describe, Operation::Read] {
        kafka.grant(user, &of_topic, operation).await?;
    }
    kafka.produce(&topic, [("k", "0"), ("k", "1")]).await?;

    let config = config(secure, &secure.sasl_plaintext, SecurityProtocol::SaslPlaintext)?;
    let mut config = with_user(config, secure, SaslMechanism::Plain);
    config.consumer.auto_commit_interval_ms = Some(100);
    let nowhere = options(Path::new("/nonexistent"));
    let consumer = Consumer::new(&config, &topic, [&topic], &nowhere).await?;
    let log = Log::default();
    let handled = log.clone();
    let subscription = subscribe(&consumer, move |record| {
        handled.add(&record);
        async { Ok(()) }
    });
    wait_committed(kafka, &topic, &topic, 2).await?;

    // A fetch that waits is not refused any more: it has to end first, and that takes half a second.
    let fails = async |record: &str| {
        let failed = consumer.stats().fetch_errors;
        kafka.revoke(user, &of_topic, Operation::Read).await?;
        wait_until("a fetch has failed", PATIENCE, async || {
            ensure!(consumer.stats().fetch_errors > failed, "none");
            Ok(())
        })
        .await?;
        kafka.produce(&topic, [("k", record)]).await?;
        // Some intervals of commits, and many turns of the poll thread.
        tokio::time::sleep(Duration::from_millis(500)).await;
        anyhow::Ok(())
    };
    fails("2").await?;
    ensure!(committed(kafka, &topic, &topic).await? == 2, "it is committed without having been read");
    consumer.pause([(&topic, 0)]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    consumer.resume([(&topic, 0)]);
    kafka.grant(user, &of_topic, Operation::Read).await?;
    kafka.produce(&topic, [("k", "3")]).await?;
    log.wait_len(4).await?;

    // librdkafka pauses and goes on by itself when somebody joins.
    fails("4").await?;
    let other = Consumer::new(&config, &topic, [&topic], &nowhere).await?;
    let joined = subscribe(&other, {
        let log = log.clone();
        move |record| {
            log.add(&record);
            async { Ok(()) }
        }
    });
    wait_until("it has joined", PATIENCE, async || {
        let client = mq_kafka::Client::new([kafka.bootstrap()], mq_kafka::Options::default());
        let group = client.describe_groups([&topic]).await.remove(&topic).context("asked for")??;
        ensure!(group.members.len() == 2 && group.state == mq_kafka::GroupState::Stable, "{group:?}");
        Ok(())
    })
    .await?;
    kafka.grant(user, &of_topic, Operation::Read).await?;
    kafka.produce(&topic, [("k", "5")]).await?;
    log.wait_len(6).await?;
    wait_committed(kafka, &topic, &topic, 6).await?;
    let numbers: Vec<_> = log.entries().into_iter().map(|(_, number)| number).collect();
    ensure!(numbers == [0, 1, 2, 3, 4, 5], "{numbers:?}");
    other.close(DRAIN).await;
    joined.await??;
    consumer.close(DRAIN).await;
    subscription.await??;
    own.end().await
}

/// Clients that run without protection are told another way in, one that is closed to them.
struct Closed {
    kafka: Broker,
    operator: FakeOperator,
    agent: Agent,
}

impl Closed {
    async fn new(code: Config) -> Result<Self> {
        let (kafka, operator) = (TestEnv::kafka().await?, FakeOperator::start().await?);
        let agent = Agent::connect_with(operator.options().config(code)).await;
        Ok(Self { kafka, operator, agent })
    }

    fn push(&self, kind: Kind, name: &str, revision: i64, connection: Connection) -> Result<Version> {
        let group = format!("group-{name}");
        let body = match kind {
            Kind::Producer => {
                encode(&ProducerBody { connection, settings: ProducerSettings::default().resolve(PRESET_VERSION)? })?
            }
            Kind::Consumer => encode(&ConsumerBody {
                connection,
                group_id: group.clone(),
                topics: vec![group.clone()],
                dead_letter: DeadLetter { topic: format!("{group}.dlq") },
                settings: ConsumerSettings::default().resolve(PRESET_VERSION)?,
            })?,
        };
        Ok(self.operator.push(kind, name, revision, &body.json))
    }

    /// Producer and consumer refuse the connection for this reason, with these words.
    async fn refuse(&self, name: &str, closed: Connection, reason: NackReason, words: &[&str]) -> Result<()> {
        for kind in [Kind::Producer, Kind::Consumer] {
            self.push(kind, name, 1, connection(self.kafka.bootstrap()))?;
        }
        let _running = (self.agent.producer(name).await?, self.agent.consumer(name).await?);
        for kind in [Kind::Producer, Kind::Consumer] {
            let refused = self.push(kind, name, 2, closed.clone())?;
            let (found, detail) = self.operator.rejected(&refused).await.with_context(|| format!("{name} {kind:?}"))?;
            ensure!(found == reason, "{name} {kind:?}: {found:?}: {detail}");
            ensure!(words.iter().all(|words| detail.contains(words)), "{name} {kind:?}: {detail}");
        }
        Ok(())
    }
}

fn closed(address: &str, protocol: SecurityProtocol, ca: &str, mechanism: Option<SaslMechanism>) -> Connection {
    Connection {
        security_protocol: protocol,
        ca_bundle: Some(ca.to_owned()),
        sasl_mechanism: mechanism,
        ..connection(address)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_way_is_refused_with_the_true_reason() -> Result<()> {
    let mut code = Config::default();
    (code.sasl_username, code.sasl_password) = (Some("alice".to_owned()), Some("wrong".into()));
    let stage = Closed::new(code).await?;
    let secure = stage.kafka.secure()?;
    let (ca, [strange, ..]) = (secure.pem("ca.crt")?, strangers()?);
    let port = secure.ssl.rsplit(':').next().unwrap_or_default();
    let (tls, sasl, probe) = (SecurityProtocol::Ssl, SecurityProtocol::SaslSsl, NackReason::ProbeFailed);
    // 127.1 leads to 127.0.0.1 and is no name of the broker.
    let wrong_name = format!("127.1:{port}");
    let login = |mechanism| closed(&secure.sasl_ssl, sasl, &ca, Some(mechanism));
    let outcomes = join_all([
        stage.refuse("scram", login(SaslMechanism::ScramSha512), probe, &["authentication failed"]),
        stage.refuse(
            "plain",
            login(SaslMechanism::Plain),
            probe,
            &["authentication failed", "Invalid username or password"],
        ),
        stage.refuse("wrong-ca", closed(&secure.ssl, tls, &strange, None), probe, &["TLS failed", "verif"]),
        stage.refuse("wrong-name", closed(&wrong_name, tls, &ca, None), probe, &["TLS failed", "verif"]),
        stage.refuse(
            "no-name",
            closed("no-such-host.invalid:9092", tls, &ca, None),
            probe,
            &["the name was not found"],
        ),
        stage.refuse(
            "no-certificate",
            closed(&secure.mutual_tls, tls, &ca, None),
            probe,
            &["TLS failed", "certificate"],
        ),
        stage.refuse("no-tls", connection(&secure.ssl), probe, &["the connection failed", "another securityProtocol"]),
    ]);
    let failed: Vec<String> =
        outcomes.await.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_strangers_and_a_missing_login_are_refused() -> Result<()> {
    let stage = Closed::new(Config::default()).await?;
    let secure = stage.kafka.secure()?;
    let ca = secure.pem("ca.crt")?;
    let sasl = closed(&secure.sasl_ssl, SecurityProtocol::SaslSsl, &ca, Some(SaslMechanism::Plain));
    stage.refuse("no-login", sasl, NackReason::Invalid, &["neither saslUsername nor", "credentials/username"]).await?;

    let [_, certificate, key] = strangers()?;
    write(&stage.operator.run_folder().join("credentials"), &[("tls.crt", &certificate), ("tls.key", &key)])?;
    let agent = Agent::connect_with(stage.operator.options()).await;
    let stage = Closed { agent, ..stage };
    let mutual = closed(&stage.kafka.secure()?.mutual_tls, SecurityProtocol::Ssl, &ca, None);
    stage.refuse("stranger", mutual, NackReason::ProbeFailed, &["TLS failed", "certificate"]).await
}
