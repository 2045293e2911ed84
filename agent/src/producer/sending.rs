//! From the gate to a client, and from a client that can send no more to the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::coop::consume_budget;

use super::client::{Client, Completion, NotTaken, Pending};
use super::gate::NotExchanged;
use super::{NotRecreated, Producer};
use crate::error::{Error, SendError};
use crate::message::Message;
use crate::trace::TraceContext;

/// Time between two clients that take over after fatal errors.
const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// How long a new client waits for the answers that a failed one still expects.
const RENEW_FLUSH: Duration = Duration::from_secs(5);

impl Producer {
    /// Hands a message over. The hooks are told of one that was not taken here, and of the others by the client.
    pub(super) async fn take(&self, message: Message, completion: Completion) -> Result<(), SendError> {
        let hooked = !self.0.hooks.is_empty();
        let since = (hooked || self.0.counters.measures_next()).then(Instant::now);
        let outcome = self.hand_over(&message, completion, since).await;
        if let (true, Some(since), Err(error)) = (hooked, since, &outcome) {
            self.0.hooks.sent(&self.0.name, &message.topic, since, &Err(error.clone()));
        }
        outcome
    }

    async fn hand_over(
        &self,
        message: &Message,
        completion: Completion,
        since: Option<Instant>,
    ) -> Result<(), SendError> {
        // Whoever sends in a loop lets others of his thread run now and then: the gate and the client have no reason to wait.
        consume_budget().await;
        let mut pending = Pending { completion, since };
        let mut space = None;
        loop {
            let handed_over = self.0.gate.pass(|client| {
                let headers = TraceContext::missing_now(&message.headers, |missing| message.with_headers(missing));
                client.send(message, headers, pending).err().map(|not_taken| (not_taken, Arc::clone(client)))
            });
            let handed_over = handed_over.await.ok_or_else(|| SendError::Closed { name: self.0.name.clone() })?;
            let Some((not_taken, client)) = handed_over else { return Ok(()) };
            pending = match not_taken {
                NotTaken::Refused(error) => return Err(error),
                NotTaken::QueueFull(pending) => {
                    match space.take() {
                        // It asks for room and tries again, so that no delivery in between is missed.
                        None => space = Some(client.space()),
                        Some(space) => {
                            drop(client);
                            space.await;
                        }
                    }
                    pending
                }
                NotTaken::Fatal(pending) => {
                    let topic = || message.topic.clone();
                    let fatal = |error: Error| SendError::Fatal { topic: topic(), detail: error.to_string() };
                    self.renew(&client).await.map_err(fatal)?;
                    pending
                }
            };
        }
    }

    /// Goes on with a new client of the same configuration in place of one that can send nothing any more.
    async fn renew(&self, broken: &Arc<Client>) -> Result<(), Error> {
        let mut renewed = self.0.renewed.lock().await;
        let is_broken = |client: &Arc<Client>| Arc::ptr_eq(client, broken);
        if !self.0.gate.current().await.as_ref().is_some_and(is_broken) {
            return Ok(());
        }
        // An error that comes again with each client must not make one per message.
        if let Some(last) = *renewed {
            tokio::time::sleep_until(last + RENEW_PAUSE).await;
        }
        let error = broken.fatal_error().unwrap_or_default();
        tracing::error!(producer = self.0.name, error, "the client failed for good; a new one takes over");
        *renewed = Some(tokio::time::Instant::now());
        let new = Arc::new(broken.again()?);
        let emptied = self.0.gate.exchange(new, async |old: &Arc<Client>| {
            if !is_broken(old) {
                return Err(());
            }
            // What is under way still gets its answer; what waited has failed.
            let _ = old.flush(RENEW_FLUSH).await;
            Ok(())
        });
        if emptied.await.is_ok() {
            self.0.counters.fatal();
        }
        *renewed = Some(tokio::time::Instant::now());
        Ok(())
    }

    /// Empties the running client behind the closed gate and goes on with `new`.
    pub(crate) async fn exchange(&self, new: Arc<Client>, budget: Duration) -> Result<(), NotRecreated> {
        match self.0.gate.exchange(new, async |old: &Arc<Client>| old.flush(budget).await).await {
            Ok(_old) => {
                self.0.counters.recreated();
                Ok(())
            }
            Err(NotExchanged::NotEmptied(waiting)) => Err(NotRecreated::NotDrained(waiting)),
            Err(NotExchanged::Shut) => Err(NotRecreated::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::hook::Hooks;

    /// No broker can be made to answer so; librdkafka and what follows from its error are real.
    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_fatal_error_a_new_client_takes_over() {
        let cluster = MockCluster::new(1).unwrap();
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied]);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("enable.idempotence", "true");
        let producer = Producer::with_client("p", &config, &Hooks::default()).unwrap();
        let lost = producer.send_sync(Message::to("t").payload("0")).await.unwrap_err();
        assert!(lost.is_retryable(), "{lost}");
        let deliveries = (1..9).map(|number: i32| producer.send_sync(Message::to("t").payload(number.to_string())));
        for delivery in futures::future::join_all(deliveries).await {
            delivery.unwrap();
        }
        let stats = producer.stats();
        assert_eq!((stats.fatal_errors, stats.messages_sent, stats.send_errors, stats.recreated), (1, 8, 1, 0));
    }

    /// Nor does that one make a new one for each message: the next one takes its time.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_took_over_and_fails_too_is_replaced_after_a_pause() {
        let cluster = MockCluster::new(1).unwrap();
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied, denied]);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("enable.idempotence", "true");
        let producer = Producer::with_client("p", &config, &Hooks::default()).unwrap();
        for number in 0..2 {
            let lost = producer.send_sync(Message::to("t").payload(number.to_string())).await.unwrap_err();
            assert!(lost.is_retryable(), "{lost}");
        }
        let began = Instant::now();
        let deliveries = (2..9).map(|number: i32| producer.send_sync(Message::to("t").payload(number.to_string())));
        for delivery in futures::future::join_all(deliveries).await {
            delivery.unwrap();
        }
        assert!(began.elapsed() > RENEW_PAUSE / 2, "after {:?}", began.elapsed());
        let stats = producer.stats();
        assert_eq!((stats.fatal_errors, stats.messages_sent, stats.send_errors, stats.recreated), (2, 7, 2, 0));
    }

    /// Whose queue has room, so that no send has anything to wait for.
    #[tokio::test]
    async fn others_of_its_thread_run_beside_a_sender_that_never_waits() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("message.timeout.ms", "100");
        let producer = Producer::with_client("p", &config, &Hooks::default()).unwrap();
        let beside = tokio::spawn(async {});
        for _ in 0..1_000 {
            producer.send_with(Message::to("t"), |_| {}).await.unwrap();
        }
        assert!(beside.is_finished());
    }
}
