//! Hooks around what is sent and handled.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use mq_agent::{Config, Consumer, Env, Failure, Handled, Hook, Message, Options, Producer, Record, Sent};
use mq_testkit::{TestEnv, wait_until};

use super::stage::subscribe;
use super::{DRAIN, PATIENCE};

/// Marks what is sent, keeps records of others from the handler, and writes down what it sees.
#[derive(Clone, Default)]
struct Audit(Arc<Mutex<Vec<String>>>);

impl Audit {
    fn count(&self, line: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|seen| seen.starts_with(line)).count()
    }
}

impl Hook for Audit {
    fn before_send(&self, _producer: &str, message: Message) -> Message {
        message.header("tenant", "7")
    }

    fn sent(&self, sent: &Sent<'_>) {
        let outcome = sent.outcome.as_ref().map_or_else(|_| "lost".to_owned(), |ack| format!("at {:?}", ack.offset));
        self.0.lock().unwrap().push(format!("sent {outcome} {}", sent.latency.is_zero()));
    }

    fn before_handle(&self, _consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
        let ours = record.header("tenant") == Some(b"7");
        if ours { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
    }

    fn handled(&self, handled: &Handled<'_>) {
        let outcome = handled.outcome.as_ref().map_or_else(Failure::message, |()| "ok");
        self.0.lock().unwrap().push(format!(
            "handled {} attempt {}: {outcome}",
            handled.group,
            handled.record.attempt()
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_see_and_change_what_is_sent_and_handled() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let (topic, group) = (kafka.unique("hooks"), kafka.unique("hooks"));
    kafka.create_topic(&topic, 1).await?;
    let (audit, config) = (Audit::default(), Config::for_env(Env::Development).brokers([kafka.bootstrap()]));
    let options = Options::default().hook(audit.clone());

    let producer = Producer::new(&config, &options).await?;
    kafka.produce(&topic, [("k", "of somebody else")]).await?;
    producer.send_sync(Message::to(&topic).key("k").payload("1")).await?;
    producer.send_sync(Message::to(&topic).key("k").payload(vec![0; 2_000_000])).await.unwrap_err();
    producer.close(DRAIN).await?;
    producer.send(Message::to(&topic)).await.unwrap_err();
    assert_eq!((audit.count("sent at Some(1) false"), audit.count("sent lost")), (1, 2), "{:?}", audit.0);

    let consumer = Consumer::new(&config, &group, [&topic], &options).await?;
    let payloads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let subscription = subscribe(&consumer, {
        let payloads = Arc::clone(&payloads);
        move |record| {
            payloads.lock().unwrap().push(record.payload().to_vec());
            let first = record.attempt() == 1;
            async move {
                assert!(!first, "a bug of the service");
                Ok(())
            }
        }
    });
    wait_until("both records are done", PATIENCE, async || {
        let stats = consumer.stats();
        ensure!(stats.messages_consumed == 2, "{stats:?}");
        Ok(())
    })
    .await?;
    consumer.close(DRAIN).await;
    subscription.await??;
    assert_eq!(*payloads.lock().unwrap(), [b"1", b"1"], "that of somebody else must not reach the handler");
    let handled = |attempt: u32, outcome: &str| audit.count(&format!("handled {group} attempt {attempt}: {outcome}"));
    let counts = [handled(1, "ok"), handled(1, "the handler panicked: a bug of the service"), handled(2, "ok")];
    assert_eq!(counts, [1, 1, 1], "{:?}", audit.0);
    Ok(())
}
