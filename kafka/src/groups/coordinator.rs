//! Requests about many groups, one per coordinator.

use std::collections::BTreeMap;

use futures::future::join_all;
use kafka_protocol::{messages::FindCoordinatorRequest, protocol::StrBytes};

use super::GroupError;
use crate::{Client, Error, ErrorKind, api::Api, client::ATTEMPTS, view::Coordinator};

/// Groups per request about which nothing was answered yet; bounds the answer (12 partitions with the largest commit metadata of
/// 4 KiB each are 48 KiB a group).
const MAX_NEW: usize = 1_000;

/// Groups per request; bounds the request, and how long the broker is busy with it.
const MAX_GROUPS: usize = 10_000;

/// Kafka's number for "this key is a group".
const GROUP: i8 = 0;

pub(super) type Results<V> = BTreeMap<String, Result<V, GroupError>>;

type Answers<V> = Vec<(String, Result<V, GroupError>)>;

impl Client {
    /// Asks each group's coordinator, all coordinators at the same time: one request for as many groups as have an `expected` length
    /// of the answer and fit into it, and one per 1,000 others. Coordinators are remembered; groups that have moved are looked
    /// up and asked again. An answer that cannot be read is asked for in halves: what it is about one group costs no other one.
    pub(super) async fn ask_coordinators<A: Api, V>(
        &self,
        groups: impl IntoIterator<Item = String>,
        expected: impl Fn(&Coordinator) -> Option<usize>,
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
            let mut batches = self.route(&open, &expected, &mut answered).await;
            while !batches.is_empty() {
                let ask =
                    async |(node, batch): (i32, Vec<String>)| (node, self.at_node(node, &request(&batch)).await, batch);
                let asked = join_all(std::mem::take(&mut batches).into_iter().map(ask)).await;
                let unreadable = asked.iter().any(|(_, outcome, _)| outcome.as_ref().is_err_and(is_unreadable));
                for (node, outcome, mut batch) in asked {
                    match outcome {
                        Err(error) if is_unreadable(&error) && batch.len() > 1 => {
                            let half = batch.split_off(batch.len() / 2);
                            batches.extend([(node, batch), (node, half)]);
                        }
                        // The connection ended with the other answer, not for the sake of this one.
                        Err(error) if unreadable && was_cut_off(&error) => batches.push((node, batch)),
                        outcome => collect(&batch, outcome.map(&answers), &mut answered),
                    }
                }
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

    /// The groups of each request, with the broker to send it to; groups without a coordinator get their error in `failed`.
    async fn route<V>(
        &self,
        groups: &[String],
        expected: impl Fn(&Coordinator) -> Option<usize>,
        failed: &mut Results<V>,
    ) -> Vec<(i32, Vec<String>)> {
        let unknown: Vec<String> = {
            let view = self.view();
            groups.iter().filter(|group| !view.coordinators.contains_key(*group)).cloned().collect()
        };
        for batch in unknown.chunks(MAX_NEW) {
            self.find_coordinators(batch, failed).await;
        }
        let view = self.view();
        let mut routes: BTreeMap<i32, Vec<(String, Option<usize>)>> = BTreeMap::new();
        for group in groups {
            if let Some(coordinator) = view.coordinators.get(group) {
                routes.entry(coordinator.node).or_default().push((group.clone(), expected(coordinator)));
            }
        }
        // Half of it: answers may be longer than they were.
        let room = self.options().max_response_bytes / 2;
        let batches = |(node, groups)| batches(groups, room).into_iter().map(move |batch| (node, batch));
        routes.into_iter().flat_map(batches).collect()
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
                    view.coordinators.insert(group, Coordinator { node, committed: None });
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

/// Requests for groups with the expected lengths of their answers. New groups are asked for apart from the others, which shall not
/// suffer from what is not known of them.
fn batches(groups: Vec<(String, Option<usize>)>, room: usize) -> Vec<Vec<String>> {
    let (known, new): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, length)| length.is_some());
    let mut batches: Vec<Vec<String>> = Vec::new();
    let mut left = 0;
    for (group, length) in known {
        let length = length.unwrap_or_default();
        if let Some(batch) = batches.last_mut().filter(|batch| length <= left && batch.len() < MAX_GROUPS) {
            batch.push(group);
        } else {
            batches.push(vec![group]);
            left = room;
        }
        left = left.saturating_sub(length);
    }
    let new: Vec<String> = new.into_iter().map(|(group, _)| group).collect();
    batches.extend(new.chunks(MAX_NEW).map(<[String]>::to_vec));
    batches
}

/// Whether the answer came and is too long, or has something in it that is not as the protocol wants it.
fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Malformed(_))
}

fn was_cut_off(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Closed(_) | ErrorKind::NotSent(_))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(groups: impl IntoIterator<Item = Option<usize>>, room: usize) -> Vec<usize> {
        let named = groups.into_iter().enumerate().map(|(n, length)| (n.to_string(), length)).collect();
        batches(named, room).iter().map(Vec::len).collect()
    }

    #[test]
    fn as_many_groups_as_their_answer_has_room_for() {
        const ROOM: usize = 32 << 20;
        assert_eq!(lengths(vec![Some(250); 3_000], ROOM), [3_000]);
        assert_eq!(lengths(vec![Some(48 << 10); 3_000], ROOM), [682, 682, 682, 682, 272], "as long as they get");
        assert_eq!(lengths(vec![Some(1); 25_000], ROOM), [10_000, 10_000, 5_000]);
        assert_eq!(lengths(vec![None; 2_500], ROOM), [1_000, 1_000, 500], "nothing is known of them");
        let mixed = (0..300).map(|n| (n % 3 > 0).then_some(250));
        assert_eq!(lengths(mixed, ROOM), [200, 100], "those who are known are not asked for with new ones");
        assert_eq!(lengths([Some(5), Some(200), Some(5)], 100), [1, 1, 1], "one that is too long is asked for alone");
    }
}
