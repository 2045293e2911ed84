//! Carries effects out: one call per kind of change, one result per effect.

use super::observe::unanswered;
use crate::lease::NotLeader;
use mq_core::{
    condition::Verdict,
    effect::{Change, Effect},
    reason::Reason,
};
use mq_kafka::{Client, ConfigChange, ErrorKind, NewTopic, TopicError, TopicId};

/// An effect that was tried.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) effect: Effect,
    /// The id of a created topic, or what the failure means for the object.
    pub(super) result: Result<Option<String>, Verdict>,
}

/// Tries each effect once. Effects on one topic do not build on each other, and what fails is planned again by the next cycle.
pub(super) async fn execute(client: &Client, effects: Vec<Effect>) -> Vec<Done> {
    let mut batches = Batches::default();
    for effect in effects {
        batches.add(effect);
    }
    let mut done = batches.invalid;
    done.extend(run(batches.create, |topics| create(client, topics)).await);
    done.extend(run(batches.grow, |totals| grow(client, totals)).await);
    done.extend(run(batches.alter, |changes| alter(client, changes)).await);
    done.extend(run(batches.delete, |ids| delete(client, ids)).await);
    done
}

/// Effects by kind, each with what its request needs.
#[derive(Default)]
struct Batches {
    create: Vec<(Effect, NewTopic)>,
    grow: Vec<(Effect, (String, i32))>,
    alter: Vec<(Effect, (String, Vec<ConfigChange>))>,
    delete: Vec<(Effect, TopicId)>,
    invalid: Vec<Done>,
}

impl Batches {
    fn add(&mut self, effect: Effect) {
        match effect.change.clone() {
            Change::CreateTopic { topic, partitions, replication_factor, config } => {
                let replication_factor = replication_factor.unwrap_or(-1);
                self.create.push((effect, NewTopic { name: topic, partitions, replication_factor, configs: config }));
            }
            Change::GrowTopic { topic, partitions } => self.grow.push((effect, (topic, partitions))),
            Change::AlterTopicConfig { topic, set, reset } => {
                let set = set.into_iter().map(|(key, value)| ConfigChange::Set { key, value });
                let reset = reset.into_iter().map(|key| ConfigChange::Delete { key });
                self.alter.push((effect, (topic, set.chain(reset).collect())));
            }
            Change::DeleteTopic { id, .. } => match id.parse() {
                Ok(id) => self.delete.push((effect, id)),
                Err(error) => {
                    let result = Err(Verdict::stalled(Reason::InvalidSpec, format!("status.topicId: {error}")));
                    self.invalid.push(Done { effect, result });
                }
            },
        }
    }
}

type Results = Vec<Result<Option<String>, TopicError>>;

/// `request` gives one result per item, in order.
async fn run<T, F: Future<Output = Results>>(batch: Vec<(Effect, T)>, request: impl FnOnce(Vec<T>) -> F) -> Vec<Done> {
    let (effects, items): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    if effects.is_empty() {
        return vec![];
    }
    let results = request(items).await;
    let done = effects.into_iter().zip(results).map(|(effect, result)| {
        let result = result.map_err(|error| verdict(&effect, &error));
        Done { effect, result }
    });
    done.collect()
}

async fn create(client: &Client, topics: Vec<NewTopic>) -> Results {
    let mut results = client.create_topics(&topics, false).await;
    let id = |created: mq_kafka::CreatedTopic| created.id.map(|id| id.to_string());
    topics.iter().map(|topic| results.remove(&topic.name).unwrap_or(Err(TopicError::Absent)).map(id)).collect()
}

async fn grow(client: &Client, totals: Vec<(String, i32)>) -> Results {
    let mut results = client.create_partitions(&totals.iter().cloned().collect(), false).await;
    totals.iter().map(|(topic, _)| of(results.remove(topic))).collect()
}

async fn alter(client: &Client, changes: Vec<(String, Vec<ConfigChange>)>) -> Results {
    let topics: Vec<String> = changes.iter().map(|(topic, _)| topic.clone()).collect();
    let mut results = client.alter_configs(&changes.into_iter().collect(), false).await;
    topics.iter().map(|topic| of(results.remove(topic))).collect()
}

async fn delete(client: &Client, ids: Vec<TopicId>) -> Results {
    let mut results = client.delete_topics(ids.iter().copied()).await;
    ids.iter().map(|id| of(results.remove(id))).collect()
}

/// The client answers for each topic asked about.
fn of(result: Option<Result<(), TopicError>>) -> Result<Option<String>, TopicError> {
    result.unwrap_or(Err(TopicError::Absent)).map(|()| None)
}

/// What a failed change means for its object. Whatever it is, the next cycle looks again before it tries again.
fn verdict(effect: &Effect, error: &TopicError) -> Verdict {
    let message = format!("{} {}: {error}", effect.change.kind(), effect.message);
    match error {
        TopicError::PolicyViolation(_) | TopicError::Invalid(_) => Verdict::stalled(Reason::RefusedByKafka, message),
        TopicError::Unauthorized { .. } => Verdict::stalled(Reason::NotAuthorized, message),
        // The world is not as it was observed a moment ago.
        TopicError::Absent | TopicError::AlreadyExists => Verdict::reconciling(Reason::Progressing, message),
        TopicError::Request(error) if error.kind == ErrorKind::NotPermitted => {
            Verdict::unknown(Reason::Progressing, format!("{}: {NotLeader}", effect.message))
        }
        TopicError::Request(error) => Verdict::unknown(unanswered(error), message),
        other if other.is_retryable() => Verdict::unknown(Reason::ClusterUnreachable, message),
        _ => Verdict::stalled(Reason::RefusedByKafka, message),
    }
}
