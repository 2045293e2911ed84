use super::*;
use crate::limits::{MAX_ERROR_BYTES, MAX_HOT_KEYS, MAX_KEY_BYTES};
use proptest::prelude::*;
use prost::Message as _;

fn orders() -> ClientRef {
    ClientRef::new(Kind::Producer, "orders")
}

fn version() -> Version {
    Version { revision: 7, hash: "0f".repeat(32) }
}

fn standing() -> Standing {
    let ms = Duration::from_millis;
    Standing {
        poll: PollTime { idle: ms(1_000), full: ms(200), draining: ms(30) },
        oldest: Some(InHand { topic: "orders".into(), partition: 3, offset: 17, age: ms(61_000) }),
        hot_keys: vec![
            HotKey {
                topic: "orders".into(),
                partition: 3,
                key: Some(Bytes::from_static(b"\xff\0user 42")),
                records: 40,
            },
            HotKey { topic: "orders".into(), partition: 4, key: None, records: 9 },
        ],
        breaker: Some(OpenBreaker { open: ms(5_000), held: 60, error: "no database".into() }),
    }
}

#[test]
fn every_message_of_an_agent_arrives_as_it_was_sent() {
    for message in [
        FromAgent::Hello { library: "mq-agent".into(), version: "0.1.0".into() },
        FromAgent::Subscribe { client: orders(), held: Some(version()) },
        FromAgent::Subscribe { client: ClientRef::new(Kind::Consumer, "a.b-1"), held: None },
        FromAgent::Unsubscribe(orders()),
        FromAgent::Ack {
            client: orders(),
            version: version(),
            effective: [("lingerMs".to_owned(), "5".to_owned())].into(),
            not_applied: vec!["warp".into()],
        },
        FromAgent::Nack {
            client: orders(),
            version: version(),
            reason: NackReason::ProbeFailed,
            detail: "no broker".into(),
        },
        FromAgent::Health {
            client: ClientRef::new(Kind::Consumer, "notifications"),
            health: Health {
                period: Duration::from_millis(3_001),
                busy: Duration::from_millis(1_500),
                handled: 120,
                outstanding: 7,
                standing: Some(standing()),
            },
        },
        FromAgent::Health { client: orders(), health: Health::default() },
    ] {
        let bytes = wire::AgentMessage::from(message.clone()).encode_to_vec();
        let read = FromAgent::try_from(wire::AgentMessage::decode(bytes.as_slice()).unwrap());
        assert_eq!(read, Ok(message));
    }
}

#[test]
fn every_message_of_the_server_arrives_as_it_was_sent() {
    for message in [
        FromServer::Config { client: orders(), version: version(), body: Bytes::from_static(b"{}") },
        FromServer::UpToDate { client: orders(), revision: 7 },
        FromServer::Tombstone(orders()),
        FromServer::NotReady { client: orders(), detail: "each revision was rejected".into() },
        FromServer::Heartbeat(vec![(orders(), 7)]),
        FromServer::Reconnect { after: Duration::from_millis(250) },
    ] {
        let bytes = wire::ServerMessage::from(message.clone()).encode_to_vec();
        let read = FromServer::try_from(wire::ServerMessage::decode(bytes.as_slice()).unwrap());
        assert_eq!(read, Ok(message));
    }
}

#[test]
fn what_is_no_message_is_a_typed_error() {
    use wire::agent_message::Message as M;
    let read = |message| FromAgent::try_from(wire::AgentMessage { message: Some(message) });
    assert_eq!(FromAgent::try_from(wire::AgentMessage { message: None }), Err(MessageError::Unknown));
    let subscribe = |kind, name: &str| M::Subscribe(wire::Subscribe { kind, name: name.into(), held: None });
    assert_eq!(read(subscribe(0, "orders")), Err(MessageError::Kind(0)));
    assert_eq!(read(subscribe(9, "orders")), Err(MessageError::Kind(9)));
    for name in ["", "Orders", "../orders", "-a", "a.", &"a".repeat(254)] {
        assert!(matches!(read(subscribe(1, name)), Err(MessageError::Name(_))), "{name:?}");
    }
    let held = |revision, hash: &str| {
        let held = Some(wire::Held { revision, hash: hash.into() });
        read(M::Subscribe(wire::Subscribe { kind: 1, name: "orders".into(), held }))
    };
    assert!(matches!(held(1, "xyz"), Err(MessageError::Version { .. })));
    assert!(matches!(held(-1, &"0".repeat(64)), Err(MessageError::Version { .. })));
    let busy = wire::Health { kind: 2, name: "orders".into(), period_ms: 10, busy_ms: 11, ..wire::Health::default() };
    assert_eq!(read(M::Health(busy)), Err(MessageError::Busy { busy_ms: 11, period_ms: 10 }));
}

#[test]
fn agents_and_operators_of_the_version_before_understand_each_other() {
    /// `Health` as it was.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Before {
        #[prost(int32, tag = "1")]
        kind: i32,
        #[prost(string, tag = "2")]
        name: String,
        #[prost(uint32, tag = "3")]
        period_ms: u32,
        #[prost(uint32, tag = "4")]
        busy_ms: u32,
        #[prost(uint64, tag = "5")]
        handled: u64,
        #[prost(uint64, tag = "6")]
        outstanding: u64,
    }
    let (kind, name) = (2, "notifications".to_owned());
    let before = Before { kind, name, period_ms: 3_000, busy_ms: 1_500, handled: 9, outstanding: 7 };
    let old = wire::Health::decode(before.encode_to_vec().as_slice()).unwrap();
    let health = Health::check(old).unwrap();
    assert_eq!((health.outstanding, health.standing.clone()), (7, None), "what is not said is not known");
    let (kind, name) = (before.kind, before.name.clone());
    let health = Health { standing: Some(standing()), ..health };
    let new = wire::Health { kind, name, ..health.into() };
    assert_eq!(Before::decode(new.encode_to_vec().as_slice()), Ok(before));
}

#[test]
fn what_a_pod_says_of_keys_and_errors_is_bounded_on_both_sides() {
    let hot = |key: usize| HotKey {
        topic: "t".repeat(1_000),
        partition: 0,
        key: Some(Bytes::from(vec![7; key])),
        records: 1,
    };
    let large = Standing {
        hot_keys: (0..9).map(|_| hot(100_000)).collect(),
        breaker: Some(OpenBreaker { open: Duration::MAX, held: 1, error: "é".repeat(10_000) }),
        ..Standing::default()
    };
    let sent = wire::Standing::from(large.clone());
    assert!(sent.encoded_len() < MAX_ERROR_BYTES + MAX_HOT_KEYS * (MAX_KEY_BYTES + 1_100), "{}", sent.encoded_len());
    let mut foreign = sent;
    foreign.hot_keys = vec![wire::HotKey { key: Some(vec![7; 100_000].into()), ..wire::HotKey::default() }; 9];
    foreign.breaker = Some(wire::OpenBreaker { error: "é".repeat(10_000), ..wire::OpenBreaker::default() });
    let read = Standing::from(foreign);
    assert_eq!(
        (read.hot_keys.len(), read.hot_keys[0].key.as_ref().map(Bytes::len)),
        (MAX_HOT_KEYS, Some(MAX_KEY_BYTES))
    );
    let error = read.breaker.unwrap().error;
    assert!(error.len() <= MAX_ERROR_BYTES && error.chars().all(|c| c == 'é'));
}

#[test]
fn a_newer_nack_reason_is_still_a_nack() {
    assert_eq!(check_reason(99), NackReason::Other);
}

#[test]
fn file_names_go_both_ways() {
    let client = ClientRef::new(Kind::Consumer, "shop.notifications");
    assert_eq!(client.file_name(), "consumer.shop.notifications.json");
    assert_eq!(ClientRef::from_file_name(&client.file_name()), Some(client));
    for other in ["..data", "topic.orders.json", "producer.json", "producer..json", "producer.orders.yaml"] {
        assert_eq!(ClientRef::from_file_name(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        crate::fuzzing::messages(&bytes);
    }
}
