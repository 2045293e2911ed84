use std::{sync::Arc, time::Duration};

use kafka_protocol::messages::{CreateTopicsRequest, MetadataRequest};
use tokio::sync::Notify;

use super::*;
use crate::fake::{API_VERSIONS, Body, FakeBroker, METADATA, RECENT, Wire, metadata, options, response};

async fn connect(broker: &FakeBroker) -> Connection {
    Connection::open(&broker.address, Arc::new(options())).await.unwrap()
}

/// A broker that negotiates and then runs the script.
async fn broker<F>(script: impl Fn(Wire) -> F + Copy + Send + Sync + 'static) -> FakeBroker
where
    F: Future<Output = ()> + Send + 'static,
{
    FakeBroker::start(move |_, mut wire| async move {
        wire.negotiate(RECENT).await;
        script(wire).await;
    })
    .await
}

async fn ask(connection: &Connection) -> Result<Option<i32>, ErrorKind> {
    let answer = connection.request(&MetadataRequest::default()).await;
    answer.map(|metadata| metadata.brokers.first().map(|b| b.node_id.0)).map_err(|error| error.kind)
}

async fn until_closed(connection: &Connection) {
    let closed = async {
        while connection.is_open() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the connection is closed");
}

#[tokio::test]
async fn a_frame_may_come_byte_by_byte_or_two_at_once() {
    let broker = broker(async |mut wire| {
        let first = wire.receive().await.unwrap();
        for byte in response(first.id, &metadata(&[(1, 1)], 1, &[])) {
            wire.raw(&[byte]).await;
            tokio::task::yield_now().await;
        }
        let (second, third) = (wire.receive().await.unwrap(), wire.receive().await.unwrap());
        let both = [second, third].map(|r| response(r.id, &metadata(&[(r.id, 1)], 1, &[])));
        wire.raw(&both.concat()).await;
        wire.swallow().await;
    })
    .await;
    let connection = connect(&broker).await;
    assert_eq!(ask(&connection).await, Ok(Some(1)));
    assert_eq!(tokio::join!(ask(&connection), ask(&connection)), (Ok(Some(2)), Ok(Some(3))));
}

#[tokio::test]
async fn requests_share_the_connection_and_answers_are_matched_by_id() {
    let broker = broker(async |mut wire| {
        let mut requests = Vec::new();
        for _ in 0..5 {
            requests.push(wire.receive().await.unwrap());
        }
        // Nothing is answered before all five are here, so this passes only if they are in flight together.
        for request in requests.into_iter().rev() {
            wire.answer(request.id, &metadata(&[(request.id, 1)], 1, &[])).await;
        }
        wire.swallow().await;
    })
    .await;
    let connection = connect(&broker).await;
    let answers = futures::future::join_all((0..5).map(|_| ask(&connection))).await;
    assert_eq!(answers, (1..=5).map(|id| Ok(Some(id))).collect::<Vec<_>>());
    assert_eq!(broker.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_closes_the_connection() {
    let broker = broker(async |mut wire| {
        let request = wire.receive().await.unwrap();
        wire.answer(request.id + 1, &metadata(&[], 1, &[])).await;
        wire.swallow().await;
    })
    .await;
    let connection = connect(&broker).await;
    assert!(matches!(ask(&connection).await, Err(ErrorKind::Malformed(_))));
    until_closed(&connection).await;
    assert!(matches!(ask(&connection).await, Err(ErrorKind::NotSent(_))));
}

#[tokio::test]
async fn a_broker_that_goes_away_within_an_answer_is_a_lost_connection() {
    let broker = broker(async |mut wire| {
        let request = wire.receive().await.unwrap();
        let whole = response(request.id, &metadata(&[(1, 1)], 1, &[]));
        wire.raw(&whole[..whole.len() / 2]).await;
    })
    .await;
    let connection = connect(&broker).await;
    let error = connection.request(&MetadataRequest::default()).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Closed(_)), "{error}");
    assert!(error.is_retryable() && error.outcome_unknown());
    assert!(error.to_string().starts_with(&format!("Metadata at {}: connection lost", broker.address)), "{error}");
}

#[tokio::test]
async fn an_idle_connection_that_the_broker_closes_refuses_requests_unsent() {
    let broker = broker(async |wire| drop(wire)).await;
    let connection = connect(&broker).await;
    until_closed(&connection).await;
    let error = connection.request(&MetadataRequest::default()).await.unwrap_err();
    assert!(!error.outcome_unknown(), "{error}");
}

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up_with_all_its_requests() {
    let broker = broker(async |mut wire| wire.swallow().await).await;
    let short = Options { request_timeout: Duration::from_millis(200), ..options() };
    let connection = Connection::open(&broker.address, Arc::new(short)).await.unwrap();
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask(&connection).await
    };
    let (first, late) = tokio::join!(ask(&connection), late);
    assert_eq!(first, Err(ErrorKind::Timeout(Duration::from_millis(200))));
    assert!(
        matches!(late, Err(ErrorKind::Closed(_))),
        "answers come in order, so this one cannot come either: {late:?}"
    );
    assert!(!connection.is_open());
}

#[tokio::test]
async fn an_abandoned_request_takes_its_answer_with_it() {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, gone) = (Arc::clone(&arrived), Arc::clone(&go_on));
    let broker = FakeBroker::start(move |_, mut wire| {
        let (seen, gone) = (Arc::clone(&seen), Arc::clone(&gone));
        async move {
            wire.negotiate(RECENT).await;
            let abandoned = wire.receive().await.unwrap();
            seen.notify_one();
            gone.notified().await;
            wire.answer(abandoned.id, &metadata(&[(1, 1)], 1, &[])).await;
            let next = wire.receive().await.unwrap();
            wire.answer(next.id, &metadata(&[(2, 1)], 1, &[])).await;
            wire.swallow().await;
        }
    })
    .await;
    let connection = connect(&broker).await;
    tokio::select! {
        _ = ask(&connection) => panic!("nothing was answered yet"),
        () = arrived.notified() => {}
    }
    go_on.notify_one();
    assert_eq!(ask(&connection).await, Ok(Some(2)), "neither the answer of the first nor a closed connection");
}

#[tokio::test]
async fn callers_that_give_up_early_do_not_keep_a_dead_connection() {
    let broker = broker(async |mut wire| wire.swallow().await).await;
    let short = Options { request_timeout: Duration::from_millis(200), ..options() };
    let connection = Connection::open(&broker.address, Arc::new(short)).await.unwrap();
    tokio::time::timeout(Duration::from_millis(50), ask(&connection)).await.unwrap_err();
    until_closed(&connection).await;
}

#[tokio::test]
async fn a_version_that_both_speak_is_chosen_or_the_error_says_what_is_offered() {
    let broker = FakeBroker::start(|_, mut wire| async move {
        wire.negotiate(&[(METADATA, 0, 9)]).await;
        wire.swallow().await;
    })
    .await;
    let connection = connect(&broker).await;
    assert_eq!(
        ask(&connection).await,
        Err(ErrorKind::UnsupportedApi { oldest: 10, newest: 13, offered: Some((0, 9)) })
    );
    let error = connection.request(&CreateTopicsRequest::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnsupportedApi { oldest: 7, newest: 7, offered: None });
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("does not offer this request"), "{error}");
    assert!(connection.is_open(), "other requests may well fit");

    for (newest, expected) in [(10, 10), (13, 13), (99, 13)] {
        let broker = FakeBroker::start(move |_, mut wire| async move {
            wire.negotiate(&[(METADATA, 3, newest)]).await;
            wire.swallow().await;
        })
        .await;
        assert_eq!(connect(&broker).await.version::<MetadataRequest>().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_broker_before_kafka_2_4_is_unsupported_rather_than_malformed() {
    let broker = FakeBroker::start(|_, mut wire| async move {
        let request = wire.receive().await.unwrap();
        assert_eq!(request.key, API_VERSIONS);
        // Version 0: error code, then a 32-bit count.
        let body = [&request.id.to_be_bytes()[..], &35_i16.to_be_bytes(), &0_i32.to_be_bytes()].concat();
        wire.raw(&[&10_i32.to_be_bytes()[..], &body].concat()).await;
        wire.swallow().await;
    })
    .await;
    let error = Connection::open(&broker.address, Arc::new(options())).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::UnsupportedApi { .. }), "{error}");
}

#[tokio::test]
async fn a_length_out_of_bounds_closes_the_connection() {
    for length in [-1, 0, 3, 1024 * 1024 + 1, i32::MAX] {
        let broker = FakeBroker::start(move |_, mut wire| async move {
            wire.negotiate(RECENT).await;
            wire.receive().await;
            wire.raw(&length.to_be_bytes()).await;
            wire.swallow().await;
        })
        .await;
        let connection = connect(&broker).await;
        let error = ask(&connection).await.unwrap_err();
        assert!(matches!(&error, ErrorKind::Malformed(why) if why.contains(&length.to_string())), "{error}");
        until_closed(&connection).await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_the_answer_closes_the_connection() {
    let bodies = [Body::default(), Body(vec![0xff; 64]), metadata(&[(1, 1)], 1, &[]).tags()];
    for body in bodies {
        let broker = FakeBroker::start(move |_, mut wire| {
            let body = body.clone();
            async move {
                wire.negotiate(RECENT).await;
                let request = wire.receive().await.unwrap();
                wire.answer(request.id, &body).await;
                wire.swallow().await;
            }
        })
        .await;
        let connection = connect(&broker).await;
        assert!(matches!(ask(&connection).await, Err(ErrorKind::Malformed(_))));
        until_closed(&connection).await;
    }
}

#[tokio::test]
async fn something_that_is_not_kafka_is_named_so() {
    let web = FakeBroker::start(|_, mut wire| async move {
        wire.receive().await;
        wire.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let error = Connection::open(&web.address, Arc::new(options())).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::NotKafka(_)), "{error}");
}

#[tokio::test]
async fn connecting_is_bounded_and_names_the_address() {
    let silent = FakeBroker::start(|_, mut wire| async move { wire.swallow().await }).await;
    let short = Options { connect_timeout: Duration::from_millis(200), ..options() };
    let error = Connection::open(&silent.address, Arc::new(short)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConnectTimeout(Duration::from_millis(200)));

    let address = silent.address.clone();
    drop(silent);
    let refused = async {
        loop {
            let error = Connection::open(&address, Arc::new(options())).await.unwrap_err();
            // The listener closes a moment after its task was told to.
            if matches!(error.kind, ErrorKind::Connect(_)) {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert!(error.to_string().starts_with(&format!("connect at {address}: cannot connect")), "{error}");
}
