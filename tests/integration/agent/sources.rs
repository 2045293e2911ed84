//! Where the configuration comes from when the operator is there, is not there, comes back, or says nothing.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mq_agent::testing::Configurations;
use mq_agent::{Agent, Config, ConfigBody, ConfigOutcome, Env, Error, Message, Options};
use mq_protocol::message::{ClientRef, FromAgent, FromServer, Kind};
use mq_testkit::{TestEnv, wait_until};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::fake_operator::FakeOperator;
use super::{PATIENCE, consumer_body, consumer_settings, producer_body, producer_settings};

#[tokio::test]
async fn without_an_operator_files_configure_and_reconfigure() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (run, config) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let topic = kafka.unique("files");
    kafka.create_topic(&topic, 1).await?;
    let file = config.path().join("producer.p.json");
    std::fs::write(&file, producer_body(kafka.bootstrap(), &producer_settings("{}")?)?)?;
    // The code's brokers lead nowhere: if the message arrives, the file was taken.
    let code = Config::for_env(Env::Production).brokers(["127.0.0.1:1"]);
    let agent = Agent::connect_with(Options::in_folders(run.path(), config.path()).config(code)).await;
    let producer = agent.producer("p").await?;
    producer.send_sync(Message::to(&topic).payload("1")).await?;
    std::fs::write(&file, producer_body(kafka.bootstrap(), &producer_settings(r#"{"lingerMs": 3}"#)?)?)?;
    wait_until("the edited file is applied", PATIENCE, async || {
        ensure!(producer.stats().recreated == 1, "not yet");
        Ok(())
    })
    .await?;
    std::fs::write(&file, "not JSON")?;
    std::fs::remove_file(&file)?;
    producer.send_sync(Message::to(&topic).payload("2")).await?;
    Ok(())
}

#[tokio::test]
async fn code_alone_is_enough_and_without_any_source_the_client_waits() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (run, config) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let topic = kafka.unique("code");
    kafka.create_topic(&topic, 1).await?;
    let folders = Options::in_folders(run.path(), config.path());
    let none = Agent::connect_with(folders.clone()).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), none.producer("p")).await.is_err());
    let code = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    let agent = Agent::connect_with(folders.config(code)).await;
    agent.producer("p").await?.send_sync(Message::to(&topic).payload("1")).await?;
    assert!(matches!(agent.producer("../p").await, Err(Error::InvalidName { .. })));
    agent.drain(Duration::from_secs(5)).await;
    assert!(matches!(agent.producer("q").await, Err(Error::Closed)));
    Ok(())
}

#[tokio::test]
async fn the_last_good_value_survives_a_restart_without_the_operator() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let state = tempfile::tempdir()?;
    let topic = kafka.unique("lastgood");
    kafka.create_topic(&topic, 1).await?;
    let body = producer_body(kafka.bootstrap(), &producer_settings("{}")?)?;
    let operator = FakeOperator::start().await?;
    let version = operator.push(Kind::Producer, "p", 4, &body);
    let code = Config::for_env(Env::Production).brokers(["127.0.0.1:1"]);
    let options = operator.options().config(code).state_folder(Some(state.path().to_owned()));
    let agent = Agent::connect_with(options).await;
    agent.producer("p").await?;
    operator.acknowledged(&version).await?;
    drop((agent, operator));

    // The same pod later: no operator, and code that leads nowhere.
    let (run, config) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let code = Config::for_env(Env::Production).brokers(["127.0.0.1:1"]);
    let folders = Options::in_folders(run.path(), config.path()).config(code);
    let agent = Agent::connect_with(folders.state_folder(Some(state.path().to_owned()))).await;
    agent.producer("p").await?.send_sync(Message::to(&topic).payload("1")).await?;
    Ok(())
}

/// Something accepts the connection and never says a word: the start must not hang on it.
#[tokio::test]
async fn a_black_hole_in_place_of_the_operator_delays_the_start_only_by_the_patience() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (run, config) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let hole = TcpListener::bind("127.0.0.1:0").await?;
    std::fs::write(run.path().join("endpoint"), format!("https://127.0.0.1:{}", hole.local_addr()?.port()))?;
    std::fs::write(run.path().join("token"), "token")?;
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(run.path().join("ca.crt"), authority.cert.pem())?;
    let code = Config::for_env(Env::Production).brokers([kafka.bootstrap()]);
    let options = Options::in_folders(run.path(), config.path()).config(code).patience(Duration::from_secs(1));
    let agent = Agent::connect_with(options).await;
    let began = Instant::now();
    agent.producer("p").await?;
    let took = began.elapsed();
    ensure!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "it took {took:?}");
    Ok(())
}

#[tokio::test]
async fn after_a_broken_stream_the_agent_says_what_it_holds_and_is_not_disturbed() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let version = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let agent = Agent::connect_with(operator.options()).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&version).await?;
    operator.forget_heard();
    operator.hang_up();
    // The new stream asks with what is held, hears that it is up to date, and answers that again: a new leader has to know.
    operator.acknowledged(&version).await?;
    let client = ClientRef::new(Kind::Producer, "p");
    let heard = operator.heard();
    assert!(matches!(heard.first(), Some(FromAgent::Hello { library, .. }) if library == "mq-agent"), "{heard:?}");
    assert!(heard.contains(&FromAgent::Subscribe { client: client.clone(), held: Some(version) }), "{heard:?}");
    assert_eq!(producer.stats().recreated, 0);

    let opened = operator.streams_opened();
    operator.say(&FromServer::Heartbeat(vec![(client, 99)]));
    wait_until("a stream that hides a revision is left", PATIENCE, async || {
        ensure!(operator.streams_opened() > opened, "still {opened}");
        Ok(())
    })
    .await?;
    let opened = operator.streams_opened();
    operator.say(&FromServer::Reconnect { after: Duration::from_millis(10) });
    wait_until("the agent moves when it is told to", PATIENCE, async || {
        ensure!(operator.streams_opened() > opened, "still {opened}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_deleted_object_returns_the_client_to_its_code() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let version = operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let code = Config::for_env(Env::Development).brokers([kafka.bootstrap()]);
    let agent = Agent::connect_with(operator.options().config(code)).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&version).await?;
    assert_eq!(producer.stats().recreated, 0);
    operator.say(&FromServer::Tombstone(ClientRef::new(Kind::Producer, "p")));
    wait_until("the client runs from code again", PATIENCE, async || {
        ensure!(producer.stats().recreated == 1, "not yet");
        Ok(())
    })
    .await
}

/// The service's own source goes before files and code, and gives way to the operator.
#[tokio::test]
async fn a_source_of_the_service_stands_between_the_files_and_the_operator() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let (run, files) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let client = ClientRef::new(Kind::Producer, "p");
    // Of a value that is taken, `lingerMs` says whose it is.
    let body = |linger| producer_body(kafka.bootstrap(), &producer_settings(&format!(r#"{{"lingerMs": {linger}}}"#))?);
    std::fs::write(files.path().join(client.file_name()), body(1)?)?;
    let source = Configurations::default();
    let own = ConfigBody::from_json(&body(2)?)?;
    source.push_body(&client, own.clone());

    let agent = Agent::connect_with(Options::in_folders(run.path(), files.path()).source(source.clone())).await;
    agent.producer("p").await?;
    let ConfigOutcome::Applied { effective, .. } = source.outcome(&client, &own).await else { bail!("not applied") };
    assert_eq!(effective["lingerMs"], "2");
    drop(agent);

    let version = operator.push(Kind::Producer, "p", 1, &body(3)?);
    let source = Configurations::default();
    source.push_body(&client, own.clone());
    let agent = Agent::connect_with(operator.options().source(source.clone())).await;
    let producer = agent.producer("p").await?;
    operator.acknowledged(&version).await?;
    source.push_body(&client, ConfigBody::from_json(&body(4)?)?);
    operator.say(&FromServer::Tombstone(client.clone()));
    wait_until("the source takes over from the object that is gone", PATIENCE, async || {
        ensure!(producer.stats().recreated == 1, "not yet");
        Ok(())
    })
    .await?;
    let outcome = source.outcome(&client, &ConfigBody::from_json(&body(4)?)?).await;
    assert!(matches!(outcome, ConfigOutcome::Applied { .. }), "{outcome:?}");
    Ok(())
}

/// What the service closed runs nothing, and must not count as a client that runs the newest configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_client_is_no_longer_subscribed() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let operator = FakeOperator::start().await?;
    let topic = kafka.unique("closed");
    kafka.create_topic(&topic, 1).await?;
    operator.push(Kind::Producer, "p", 1, &producer_body(kafka.bootstrap(), &producer_settings("{}")?)?);
    let body = consumer_body(kafka.bootstrap(), &topic, &topic, &consumer_settings("{}")?)?;
    operator.push(Kind::Consumer, "c", 1, &body);
    operator.push(Kind::Consumer, "idle", 1, &body);
    let agent = Agent::connect_with(operator.options()).await;
    let (producer, consumer, idle) =
        (agent.producer("p").await?, agent.consumer("c").await?, agent.consumer("idle").await?);
    let subscription = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.subscribe(|_| async { Ok(()) }).await }
    });
    wait_until("the consumer is subscribed", PATIENCE, async || Ok(consumer.commit().await?)).await?;
    producer.close(PATIENCE).await?;
    consumer.close(PATIENCE).await;
    idle.close(PATIENCE).await;
    subscription.await??;
    wait_until("the operator hears of all three", PATIENCE, async || {
        for client in [(Kind::Producer, "p"), (Kind::Consumer, "c"), (Kind::Consumer, "idle")] {
            let client = ClientRef::new(client.0, client.1);
            ensure!(operator.heard().contains(&FromAgent::Unsubscribe(client.clone())), "not of {client}");
        }
        Ok(())
    })
    .await?;
    // The name is free for a new one.
    agent.producer("p").await?.send_sync(Message::to(&topic).payload("1")).await?;
    Ok(())
}
