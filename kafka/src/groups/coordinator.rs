//! Requests about many groups, one per coordinator.

use std::collections::BTreeMap;

use futures::future::join_all;
use kafka_protocol::{messages::FindCoordinatorRequest, protocol::StrBytes};

use super::GroupError;
use crate::{Client, Error, ErrorKind, api::Api, client::ATTEMPTS};

/// Groups per request; bounds the answer (12 partitions with the largest commit metadata of 4 KiB each are 48 KiB a group).
const MAX_GROUPS: usize = 1_000;

/// Kafka's number for "this key is a group".
const GROUP: i8 = 0;

pub(super) type Results<V> = BTreeMap<String, Result<V, GroupError>>;

type Answers<V> = Vec<(String, Result<V, GroupError>)>;

impl Client {
    /// Asks each group's coordinator: one request per coordinator and 1,000 groups, all coordinators at the same time.
    /// Coordinators are remembered; groups that have moved are looked up and asked again.
    pub(super) async fn ask_coordinators<A: Api, V>(
        &self,
        groups: impl IntoIterator<Item = String>,
        request: impl Fn(&[String]) -> A,
        answers: impl Fn(A::Response) -> Answers<V>,
    ) -> Results<V> {
        let mut results = BTreeMap::new();
        let mut open: Vec<String> = groups.into_iter().collect();
        open.sort_unstable();
        open.dedup();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.options().backoff(attempt)).await;
            }
            let mut answered = BTreeMap::new();
            let routes = self.route(&open, &mut answered).await;
            let batches =
                routes.iter().flat_map(|(node, groups)| groups.chunks(MAX_GROUPS).map(move |batch| (*node, batch)));
            let asked = batches.map(async |(node, batch)| (batch, self.at_node(node, &request(batch)).await));
            for (batch, outcome) in join_all(asked).await {
                collect(batch, outcome.map(&answers), &mut answered);
            }
            self.forget_coordinators(&answered);
            open.retain(|group| matches!(answered.get(group), Some(Err(error)) if error.coordinator_moved()));
            results.extend(answered);
            if open.is_empty() {
                break;
            }
        }
        results
    }

    /// Sorts groups by coordinator; those without one get their error in `failed`.
    async fn route<V>(&self, groups: &[String], failed: &mut Results<V>) -> BTreeMap<i32, Vec<String>> {
        let unknown: Vec<String> = {
            let view = self.view();
            groups.iter().filter(|group| !view.coordinators.contains_key(*group)).cloned().collect()
        };
        for batch in unknown.chunks(MAX_GROUPS) {
            self.find_coordinators(batch, failed).await;
        }
        let view = self.view();
        let mut routes: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for group in groups {
            if let Some(node) = view.coordinators.get(group) {
                routes.entry(*node).or_default().push(group.clone());
            }
        }
        routes
    }

    async fn find_coordinators<V>(&self, groups: &[String], failed: &mut Results<V>) {
        let keys = groups.iter().map(|group| StrBytes::from_string(group.clone())).collect();
        let request = FindCoordinatorRequest::default().with_key_type(GROUP).with_coordinator_keys(keys);
        let outcome = self.any(&request).await.map(|response| {
            let found = response.coordinators.into_iter().map(|c| {
                (c.key.to_string(), GroupError::check(c.error_code, c.error_message.as_deref()).map(|()| c.node_id.0))
            });
            found.collect()
        });
        let mut found = BTreeMap::new();
        collect(groups, outcome, &mut found);
        let mut view = self.view();
        for (group, coordinator) in found {
            match coordinator {
                Ok(node) => {
                    view.coordinators.insert(group, node);
                }
                Err(error) => {
                    failed.insert(group, Err(error));
                }
            }
        }
    }

    fn forget_coordinators<V>(&self, results: &Results<V>) {
        let lost = |r: &Result<V, GroupError>| match r {
            Err(GroupError::Request(_)) => true,
            Err(error) => error.coordinator_moved(),
            Ok(_) => false,
        };
        let mut view = self.view();
        for (group, _) in results.iter().filter(|(_, result)| lost(result)) {
            view.coordinators.remove(group);
        }
    }
}

/// One result per group asked for, whatever the broker answered.
fn collect<V>(groups: &[String], outcome: Result<Answers<V>, Error>, into: &mut Results<V>) {
    let missing = match outcome {
        Ok(answers) => {
            into.extend(answers);
            Error::new("request", "coordinator", ErrorKind::Malformed("no answer for this group".to_owned()))
        }
        Err(error) => error,
    };
    for group in groups {
        into.entry(group.clone()).or_insert_with(|| Err(missing.clone().into()));
    }
}
