use super::*;
use proptest::prelude::*;
use prost::Message as _;

fn orders() -> ClientRef {
    ClientRef::new(Kind::Producer, "orders")
}

fn version() -> Version {
    Version { revision: 7, hash: "0f".repeat(32) }
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
            },
        },
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
    let busy = wire::Health { kind: 2, name: "orders".into(), period_ms: 10, busy_ms: 11, handled: 1, outstanding: 0 };
    assert_eq!(read(M::Health(busy)), Err(MessageError::Busy { busy_ms: 11, period_ms: 10 }));
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
        if let Ok(message) = wire::AgentMessage::decode(bytes.as_slice()) {
            let _ = FromAgent::try_from(message);
        }
        if let Ok(message) = wire::ServerMessage::decode(bytes.as_slice()) {
            let _ = FromServer::try_from(message);
        }
    }
}
