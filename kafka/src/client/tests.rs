use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    GroupError, Isolation, NewTopic, OffsetSpec, PartitionError, Partitions, TopicError,
    fake::{
        Body, CREATE_TOPICS, FIND_COORDINATOR, FakeBroker, LIST_OFFSETS, METADATA, OFFSET_FETCH, RECENT, Wire,
        coordinators, created, log_end, metadata, offsets, options,
    },
};

const NOT_LEADER: i16 = 6;
const NOT_COORDINATOR: i16 = 16;
const NOT_CONTROLLER: i16 = 41;

fn topic() -> NewTopic {
    NewTopic { name: "t".to_owned(), partitions: 1, replication_factor: 1, configs: BTreeMap::new() }
}

/// What a broker of several was asked, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(u16, i16)>>>);

impl Log {
    fn count(&self, port: u16, key: i16) -> usize {
        self.0.lock().unwrap().iter().filter(|entry| **entry == (port, key)).count()
    }
}

/// A broker whose answer to each request is chosen by `answer`; `None` closes the connection.
async fn broker(log: &Log, answer: impl Fn(i16, usize) -> Option<Body> + Send + Sync + 'static) -> FakeBroker {
    let (log, answer) = (log.clone(), Arc::new(answer));
    let port = Arc::new(Mutex::new(0));
    let own_port = Arc::clone(&port);
    let fake = FakeBroker::start(move |_, mut wire: Wire| {
        let (log, answer, port) = (log.clone(), Arc::clone(&answer), Arc::clone(&own_port));
        async move {
            wire.negotiate(RECENT).await;
            while let Some(request) = wire.receive().await {
                let port = *port.lock().unwrap();
                let before = log.count(port, request.key);
                log.0.lock().unwrap().push((port, request.key));
                let Some(body) = answer(request.key, before) else { return };
                wire.answer(request.id, &body).await;
            }
        }
    })
    .await;
    *port.lock().unwrap() = fake.port;
    fake
}

#[tokio::test]
async fn the_next_bootstrap_address_is_tried_and_later_preferred() {
    let dead = FakeBroker::start(|_, wire| async move { drop(wire) }).await;
    let log = Log::default();
    let alive = broker(&log, |_, _| Some(metadata(&[], 1, &[]))).await;
    let client = Client::new([dead.address.clone(), alive.address.clone()], options());
    assert_eq!(client.describe_cluster().await.unwrap().id.as_deref(), Some("cluster"));
    let attempts = dead.connections();
    client.describe_cluster().await.unwrap();
    assert_eq!(dead.connections(), attempts, "the one that answered is asked first from now on");
    assert_eq!(alive.connections(), 1);
}

#[tokio::test]
async fn an_unreachable_cluster_is_one_error_that_names_every_address() {
    let dead = FakeBroker::start(|_, wire| async move { drop(wire) }).await;
    let other = FakeBroker::start(|_, wire| async move { drop(wire) }).await;
    let client = Client::new([dead.address.clone(), other.address.clone()], options());
    let error = client.describe_cluster().await.unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(&dead.address) && text.contains(&other.address), "{text}");
}

#[tokio::test]
async fn callers_share_one_connection() {
    let log = Log::default();
    let alive = broker(&log, |_, _| Some(metadata(&[], 1, &[]))).await;
    let client = Client::new([alive.address.clone()], options());
    let answers = futures::future::join_all((0..20).map(|_| client.describe_cluster())).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(alive.connections(), 1);
}

#[tokio::test]
async fn callers_share_one_failure_to_connect() {
    let silent = FakeBroker::start(|_, mut wire| async move { wire.swallow().await }).await;
    let short = Options { connect_timeout: Duration::from_millis(200), ..options() };
    let client = Client::new([silent.address.clone()], short);
    let all = futures::future::join_all((0..20).map(|_| client.describe_cluster()));
    let answers = tokio::time::timeout(Duration::from_secs(2), all).await.expect("not one timeout after the other");
    assert!(answers.iter().all(Result::is_err));
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn a_read_survives_a_connection_that_breaks_under_it() {
    let log = Log::default();
    let flaky = broker(&log, |_, before| (before > 0).then(|| metadata(&[], 1, &[]))).await;
    let client = Client::new([flaky.address.clone()], options());
    client.describe_cluster().await.unwrap();
    assert_eq!(flaky.connections(), 2);
}

#[tokio::test]
async fn a_change_is_not_sent_twice_when_its_answer_is_lost() {
    let log = Log::default();
    let port = Arc::new(Mutex::new(0));
    let own = Arc::clone(&port);
    let answer = move |key, _| (key == METADATA).then(|| metadata(&[(1, *own.lock().unwrap())], 1, &[]));
    let flaky = broker(&log, answer).await;
    *port.lock().unwrap() = flaky.port;
    let client = Client::new([flaky.address.clone()], options());
    let results = client.create_topics(&[topic()], false).await;
    let Err(TopicError::Request(error)) = &results["t"] else { panic!("{results:?}") };
    assert!(error.outcome_unknown() && error.is_retryable(), "{error}");
    assert_eq!(log.count(flaky.port, CREATE_TOPICS), 1);
}

#[tokio::test]
async fn a_change_follows_the_controller() {
    let log = Log::default();
    let ports = Arc::new(Mutex::new((0, 0)));
    let known = Arc::clone(&ports);
    let first = broker(&log, move |key, before| {
        let (a, b) = *known.lock().unwrap();
        Some(match key {
            // The controller moves after the first look.
            METADATA => metadata(&[(1, a), (2, b)], if before == 0 { 1 } else { 2 }, &[]),
            _ => created("t", NOT_CONTROLLER),
        })
    })
    .await;
    let second = broker(&log, |_, _| Some(created("t", 0))).await;
    *ports.lock().unwrap() = (first.port, second.port);
    let client = Client::new([first.address.clone()], options());
    let results = client.create_topics(&[topic()], false).await;
    assert!(results["t"].is_ok(), "{results:?}");
    assert_eq!(log.count(first.port, CREATE_TOPICS), 1);
    assert_eq!(log.count(second.port, CREATE_TOPICS), 1);
}

#[tokio::test]
async fn each_request_of_a_large_change_asks_whether_it_may_start() {
    let log = Log::default();
    let port = Arc::new(Mutex::new(0));
    let own = Arc::clone(&port);
    let alive = broker(&log, move |key, _| {
        Some(match key {
            METADATA => metadata(&[(1, *own.lock().unwrap())], 1, &[]),
            _ => created("a", 0),
        })
    })
    .await;
    *port.lock().unwrap() = alive.port;
    let permits = Mutex::new(1);
    let may_change = move || {
        let mut left = permits.lock().unwrap();
        *left -= 1;
        *left >= 0
    };
    let client = Client::new([alive.address.clone()], options()).with_gate(may_change);
    // More than one request carries.
    let topics = ["a", "b"].map(|name| NewTopic { name: name.to_owned(), partitions: 9_000, ..topic() });
    let results = client.create_topics(&topics, false).await;
    assert!(results["a"].is_ok(), "{results:?}");
    let Err(TopicError::Request(error)) = &results["b"] else { panic!("{results:?}") };
    assert!(error.kind == ErrorKind::NotPermitted && !error.outcome_unknown(), "{error}");
    assert_eq!(log.count(alive.port, CREATE_TOPICS), 1);
    assert!(client.describe_cluster().await.is_ok(), "reads go on");
}

#[tokio::test]
async fn offsets_follow_the_coordinator_and_then_need_one_request() {
    let log = Log::default();
    let port = Arc::new(Mutex::new(0));
    let own = Arc::clone(&port);
    let coordinator = broker(&log, move |key, before| {
        let port = *own.lock().unwrap();
        Some(match (key, before) {
            (METADATA, _) => metadata(&[(1, port)], 1, &[]),
            (FIND_COORDINATOR, 0) => coordinators(&["a", "b"], 1, port),
            (FIND_COORDINATOR, _) => coordinators(&["b"], 1, port),
            (OFFSET_FETCH, 0) => offsets(&[("a", 0, 5), ("b", NOT_COORDINATOR, -1)]),
            (OFFSET_FETCH, 1) => offsets(&[("b", 0, -1)]),
            _ => offsets(&[("a", 0, 6), ("b", 0, 1)]),
        })
    })
    .await;
    *port.lock().unwrap() = coordinator.port;
    let client = Client::new([coordinator.address.clone()], options());

    let first = client.committed_offsets(["a", "b"]).await;
    let a = first["a"].as_ref().unwrap().committed("t", 0).unwrap().unwrap();
    assert_eq!((a.offset, a.metadata.as_str(), a.leader_epoch), (5, "meta", None));
    assert_eq!(first["b"].as_ref().unwrap().committed("t", 0), Ok(None), "-1 is no commit, not an offset");
    assert_eq!(log.count(coordinator.port, FIND_COORDINATOR), 2);

    let second = client.committed_offsets(["a", "b"]).await;
    assert_eq!(second["b"].as_ref().unwrap().committed("t", 0).unwrap().unwrap().offset, 1);
    assert_eq!(log.count(coordinator.port, FIND_COORDINATOR), 2, "coordinators are remembered");
    assert_eq!(log.count(coordinator.port, OFFSET_FETCH), 3);
}

#[tokio::test]
async fn a_group_without_an_answer_is_an_error_of_its_own() {
    let log = Log::default();
    let port = Arc::new(Mutex::new(0));
    let own = Arc::clone(&port);
    let coordinator = broker(&log, move |key, _| {
        let port = *own.lock().unwrap();
        Some(match key {
            METADATA => metadata(&[(1, port)], 1, &[]),
            FIND_COORDINATOR => coordinators(&["a", "b"], 1, port),
            _ => offsets(&[("a", 0, 5)]),
        })
    })
    .await;
    *port.lock().unwrap() = coordinator.port;
    let client = Client::new([coordinator.address.clone()], options());
    let offsets = client.committed_offsets(["a", "b"]).await;
    assert!(offsets["a"].is_ok());
    assert!(matches!(&offsets["b"], Err(GroupError::Request(_))), "{:?}", offsets["b"]);
}

#[tokio::test]
async fn ends_follow_the_leader_and_a_lost_leader_is_not_an_offset() {
    let log = Log::default();
    let ports = Arc::new(Mutex::new((0, 0)));
    let known = Arc::clone(&ports);
    let first = broker(&log, move |key, before| {
        let (a, b) = *known.lock().unwrap();
        Some(match (key, before) {
            // The look that finds the brokers, then leader 1, then leader 2, then none.
            (METADATA, 0) => metadata(&[(1, a), (2, b)], 1, &[("t", 1)]),
            (METADATA, 1) => metadata(&[(1, a), (2, b)], 1, &[("t", 2)]),
            (METADATA, _) => metadata(&[(1, a), (2, b)], 1, &[("t", -1)]),
            _ => log_end(NOT_LEADER, -1),
        })
    })
    .await;
    let second =
        broker(&log, |_, before| Some(if before == 0 { log_end(0, 42) } else { log_end(NOT_LEADER, -1) })).await;
    *ports.lock().unwrap() = (first.port, second.port);
    let client = Client::new([first.address.clone()], options());
    let partitions = Partitions::from([("t".to_owned(), [0].into())]);
    let end = async || {
        client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await["t"][&0].clone()
    };

    assert_eq!(end().await, Ok(Some(42)));
    assert_eq!((log.count(first.port, LIST_OFFSETS), log.count(second.port, LIST_OFFSETS)), (1, 1));
    let lost = end().await;
    assert!(matches!(&lost, Err(PartitionError::Request(error)) if error.is_retryable()), "{lost:?}");
}
