//! What changes while a consumer runs: by a word to the poll thread, or by another Kafka consumer in its place.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use super::poll::{Command, Exchange};
use super::{Consumer, Limits, Phase, Prepared, Target};
use crate::credentials::Login;

impl Consumer {
    pub(crate) fn set_dead_letter_target(&self, target: Target) {
        self.0.dead_letters.set_target(target);
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.0.shared.set_limits(limits);
    }

    /// Goes on with these topics.
    pub(crate) async fn resubscribe(&self, new_topics: &[String]) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        match &mut *self.phase() {
            Phase::Idle { topics, .. } => {
                new_topics.clone_into(topics);
                return Ok(());
            }
            Phase::Running(commands) => drop(commands.send(Command::Subscribe(new_topics.to_owned(), done))),
            Phase::Closed => return Ok(()),
        }
        answer(outcome).await
    }

    /// User name and password of connections from now on.
    pub(crate) async fn log_in(&self, login: Login) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        match &*self.phase() {
            Phase::Idle { consumer, .. } => return consumer.log_in(&login).map_err(|error| error.to_string()),
            Phase::Running(commands) => drop(commands.send(Command::LogIn(login, done))),
            Phase::Closed => return Ok(()),
        }
        answer(outcome).await
    }

    /// Goes on with another Kafka consumer: drain in budget, commit, leave, join.
    pub(crate) async fn exchange(&self, new: Prepared, new_topics: &[String], budget: Duration) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let deadline = Instant::now() + budget;
        match &mut *self.phase() {
            Phase::Idle { topics, consumer } => {
                new_topics.clone_into(topics);
                std::mem::replace(&mut **consumer, new).discard();
                return Ok(());
            }
            Phase::Running(commands) => {
                let exchange = Exchange { consumer: new.0, topics: new_topics.to_owned(), deadline, done };
                drop(commands.send(Command::Exchange(Box::new(exchange))));
            }
            Phase::Closed => return Ok(()),
        }
        answer(outcome).await
    }
}

async fn answer(outcome: oneshot::Receiver<Result<(), KafkaError>>) -> Result<(), String> {
    match outcome.await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        // The consumer was closed meanwhile: there is nothing left to configure.
        Err(_) => Ok(()),
    }
}
