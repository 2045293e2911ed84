//! Credentials change while records flow: none is lost, none overtakes another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_agent::{Agent, Config, Consumer, Options, Producer, SaslMechanism, SecurityProtocol};
use mq_testkit::{Broker, TestEnv, wait_until};
use tempfile::TempDir;

use super::producer::{Load, check_topic};
use super::security::{config, write};
use super::stage::{Log, Subscription, subscribe};
use super::{DRAIN, PATIENCE, check_handled};

/// A connection of SCRAM-SHA-512 lives no longer than 5 s without a new proof.
const LOGIN_LIFE: Duration = Duration::from_secs(6);
const KEYS: usize = 4;
/// Slow enough for the consumer to keep up.
const PAUSE: Duration = Duration::from_millis(250);

/// Records that flow from a producer to a consumer of one agent.
struct Flow {
    kafka: Broker,
    topic: String,
    folder: TempDir,
    agent: Agent,
    producer: Producer,
    consumer: Consumer,
    load: Load,
    log: Log,
    subscription: Subscription,
}

impl Flow {
    async fn start(kafka: Broker, config: Config, files: &[(&str, &str)]) -> Result<Self> {
        let topic = kafka.unique("rotation");
        kafka.create_topic(&topic, 3).await?;
        let folder = tempfile::tempdir()?;
        write(&folder.path().join("credentials"), files)?;
        let options = Options::in_folders(folder.path(), Path::new("/nonexistent"));
        let agent = Agent::connect_with(options.config(config.group("c", &topic, [&topic]))).await;
        let (producer, consumer) = (agent.producer("p").await?, agent.consumer("c").await?);
        let log = Log::default();
        let handled = log.clone();
        let subscription = subscribe(&consumer, move |record| {
            handled.add(&record);
            async { Ok(()) }
        });
        let load = Load::start(&producer, &topic, KEYS, PAUSE);
        let flow = Self { kafka, topic, folder, agent, producer, consumer, load, log, subscription };
        flow.goes_on().await?;
        Ok(flow)
    }

    fn mount(&self, files: &[(&str, &str)]) -> Result<()> {
        write(&self.folder.path().join("credentials"), files)
    }

    /// More is acknowledged and handled than now.
    async fn goes_on(&self) -> Result<()> {
        let (sent, handled) = (self.producer.stats().messages_sent, self.log.len());
        wait_until("records flow", PATIENCE, async || {
            ensure!(
                self.producer.stats().messages_sent > sent + 500,
                "{} are acknowledged",
                self.producer.stats().messages_sent
            );
            ensure!(self.log.len() > handled + 500, "{} are handled", self.log.len());
            Ok(())
        })
        .await
    }

    /// Everything that was acknowledged is in the topic and was handled, in the order of its key.
    async fn end(self) -> Result<()> {
        let sent = self.load.stop().await?;
        check_topic(&self.kafka, &self.topic, &sent).await?;
        let all: u32 = sent.iter().sum();
        self.log.wait_len(usize::try_from(all)?).await?;
        self.consumer.close(DRAIN).await;
        self.subscription.await??;
        let handled = self.log.entries();
        for (key, count) in sent.iter().enumerate() {
            let key = format!("k{key}");
            let of_key: Vec<_> = handled.iter().filter(|(found, _)| *found == key).cloned().collect();
            check_handled(&of_key, 1, usize::try_from(*count)?)?;
        }
        self.agent.drain(DRAIN).await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_taken_by_the_running_clients() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?.clone();
    let user = kafka.unique("user");
    kafka.set_scram_password(&user, "one").await?;
    let mut config = config(&secure, &secure.sasl_ssl, SecurityProtocol::SaslSsl)?;
    config.sasl_mechanism = Some(SaslMechanism::ScramSha512);
    let flow = Flow::start(kafka, config, &[("username", &user), ("password", "one")]).await?;

    // Nobody knows this one: what works stays in use, also when connections must prove themselves again.
    flow.mount(&[("password", "mistyped")])?;
    tokio::time::sleep(LOGIN_LIFE).await;
    flow.goes_on().await?;

    flow.kafka.set_scram_password(&user, "two").await?;
    flow.mount(&[("password", "two")])?;
    tokio::time::sleep(LOGIN_LIFE).await;
    flow.goes_on().await?;
    assert_eq!(flow.producer.stats().recreated, 0);
    flow.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_exchanges_the_clients() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let secure = kafka.secure()?.clone();
    let config = config(&secure, &secure.mutual_tls, SecurityProtocol::Ssl)?;
    let (one, two) = ("client", "client-2");
    let pem = |client: &str| {
        Ok::<_, anyhow::Error>([secure.pem(&format!("{client}.crt"))?, secure.pem(&format!("{client}.key"))?])
    };
    let [certificate, key] = pem(one)?;
    let flow = Flow::start(kafka, config, &[("tls.crt", &certificate), ("tls.key", &key)]).await?;
    for (rotation, client) in [(1, two), (2, one)] {
        let [certificate, key] = pem(client)?;
        flow.mount(&[("tls.crt", &certificate)])?;
        flow.goes_on().await?;
        assert_eq!(flow.producer.stats().recreated, rotation - 1, "a certificate without its key was taken");
        flow.mount(&[("tls.key", &key)])?;
        wait_until("the producer has another client", PATIENCE, async || {
            let recreated = flow.producer.stats().recreated;
            ensure!(recreated == rotation, "{recreated} times");
            Ok(())
        })
        .await?;
        flow.goes_on().await?;
    }
    flow.end().await
}
