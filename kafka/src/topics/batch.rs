//! Many items in few requests, one result per item.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;

use super::TopicError;
use crate::{Client, Error, ErrorKind, api::Api, client::ATTEMPTS};

/// Kafka's controller carries out a request as one batch of metadata records and refuses more than this (`PolicyViolation`).
const MAX_RECORDS: usize = 10_000;

/// Descriptions are limited by the size of their answer: some 40 config entries per topic.
const MAX_DESCRIBED: usize = 1_000;

/// One topic's part of a request.
#[derive(Debug, Clone)]
pub(super) struct Item<K, B> {
    pub(super) key: K,
    /// Metadata records that it becomes at the controller; 0 is counted as 1.
    pub(super) records: usize,
    pub(super) body: B,
}

pub(super) type Results<K, V> = BTreeMap<K, Result<V, TopicError>>;

impl Client {
    /// Changes items through the controller, as many per request as it accepts.
    pub(super) async fn change<A: Api, K: Ord + Clone, B: Clone, V>(
        &self,
        items: Vec<Item<K, B>>,
        request: impl Fn(Vec<B>) -> A,
        answers: impl Fn(A::Response) -> Vec<(K, Result<V, TopicError>)>,
    ) -> Results<K, V> {
        let mut results = BTreeMap::new();
        let mut open = items;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.options().backoff(attempt)).await;
            }
            let answered = self.in_batches(&open, MAX_RECORDS, To::Controller, &request, &answers).await;
            let moved = |r: &Result<V, TopicError>| matches!(r, Err(TopicError::Broker(error)) if error.code == ResponseError::NotController);
            open.retain(|item| answered.get(&item.key).is_some_and(moved));
            results.extend(answered);
            if open.is_empty() {
                break;
            }
            self.view().controller = None;
        }
        results
    }

    /// Asks any broker about items, some per request.
    pub(super) async fn ask<A: Api, K: Ord + Clone, B: Clone, V>(
        &self,
        items: Vec<Item<K, B>>,
        request: impl Fn(Vec<B>) -> A,
        answers: impl Fn(A::Response) -> Vec<(K, Result<V, TopicError>)>,
    ) -> Results<K, V> {
        self.in_batches(&items, MAX_DESCRIBED, To::Any, &request, &answers).await
    }

    async fn in_batches<A: Api, K: Ord + Clone, B: Clone, V>(
        &self,
        items: &[Item<K, B>],
        limit: usize,
        to: To,
        request: &impl Fn(Vec<B>) -> A,
        answers: &impl Fn(A::Response) -> Vec<(K, Result<V, TopicError>)>,
    ) -> Results<K, V> {
        let mut results = BTreeMap::new();
        for batch in split(items, limit) {
            let request = request(batch.iter().map(|item| item.body.clone()).collect());
            let answered = match to {
                To::Controller => self.at_controller(&request).await,
                To::Any => self.any(&request).await,
            };
            let failure = match answered {
                Ok(response) => {
                    results.extend(answers(response));
                    Error::new(A::NAME, "broker", ErrorKind::Malformed("no answer for this topic".to_owned()))
                }
                Err(error) => error,
            };
            for item in batch {
                results.entry(item.key.clone()).or_insert_with(|| Err(failure.clone().into()));
            }
        }
        results
    }
}

/// Who is asked. A value and not a closure: futures of async closures are not `Send` for every lifetime, as the operator's tasks
/// need them to be.
#[derive(Debug, Clone, Copy)]
enum To {
    Controller,
    Any,
}

/// Cuts items, in order, into batches of at most `limit` records. An item that is larger alone gets a batch alone, so that
/// the refusal is its own.
fn split<K, B>(items: &[Item<K, B>], limit: usize) -> Vec<&[Item<K, B>]> {
    let mut batches = Vec::new();
    let (mut start, mut records) = (0, 0_usize);
    for (index, item) in items.iter().enumerate() {
        let more = item.records.max(1);
        if index > start && records.saturating_add(more) > limit {
            batches.push(&items[start..index]);
            (start, records) = (index, 0);
        }
        records = records.saturating_add(more);
    }
    if start < items.len() {
        batches.push(&items[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_keep_every_item_in_order_and_respect_the_limit(sizes in prop::collection::vec(0_usize..12_000, 0..60)) {
            let items: Vec<_> = sizes.iter().enumerate().map(|(key, records)| Item { key, records: *records, body: () }).collect();
            let batches = split(&items, MAX_RECORDS);
            let keys: Vec<_> = batches.iter().flat_map(|b| b.iter().map(|i| i.key)).collect();
            prop_assert_eq!(keys, (0..sizes.len()).collect::<Vec<_>>());
            for batch in batches {
                let total: usize = batch.iter().map(|i| i.records.max(1)).sum();
                prop_assert!(total <= MAX_RECORDS || batch.len() == 1);
            }
        }
    }

    #[test]
    fn a_hundred_topics_of_101_partitions_take_two_requests() {
        let items: Vec<_> = (0..100).map(|key| Item { key, records: 102, body: () }).collect();
        assert_eq!(split(&items, MAX_RECORDS).iter().map(|b| b.len()).collect::<Vec<_>>(), [98, 2]);
    }
}
