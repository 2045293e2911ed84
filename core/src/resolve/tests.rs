use super::*;
use crate::{canonical, knobs::KNOBS, presets::PRESET_VERSION};
use proptest::prelude::*;

fn parse<T: serde::de::DeserializeOwned>(settings: serde_json::Value) -> T {
    serde_json::from_value(settings).unwrap()
}

fn producer(settings: serde_json::Value) -> Result<ResolvedProducer, Violations> {
    parse::<ProducerSettings>(settings).resolve(PRESET_VERSION)
}

fn consumer(settings: serde_json::Value) -> Result<ResolvedConsumer, Violations> {
    parse::<ConsumerSettings>(settings).resolve(PRESET_VERSION)
}

fn property<'a>(properties: &'a [(String, String)], name: &str) -> Option<&'a str> {
    properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A changed text here is a rolling change of every client in production: never edit one, add a preset version.
#[test]
fn what_was_released_never_changes() {
    let golden = [
        (
            canonical::to_json(&producer(serde_json::json!({})).unwrap()).unwrap(),
            r#"{"acks":"all","batchSize":65536,"compression":"lz4","lingerMs":10,"retryMax":10}"#,
            "cd4d2bbf736fc6b3a080fae032a1c0d47ae13d154455ad88bfc634bd80b27d4d",
        ),
        (
            canonical::to_json(&producer(serde_json::json!({"preset": "staging"})).unwrap()).unwrap(),
            r#"{"acks":"all","batchSize":65536,"compression":"lz4","lingerMs":10,"retryMax":5}"#,
            "b8e192df40c4c60ef36ec0a69eefcad7a46af9824f04a668faeb88d38a192cf1",
        ),
        (
            canonical::to_json(&producer(serde_json::json!({"preset": "development"})).unwrap()).unwrap(),
            r#"{"acks":"1","batchSize":16384,"compression":"none","lingerMs":0,"retryMax":3}"#,
            "2cded0b05211f2bd19eb209f9acf45762125b122516934e303af516f7511839f",
        ),
        (
            canonical::to_json(&producer(serde_json::json!({"lingerMs": 20, "overrides": {"debug": "all", "client.rack": "a", "log_level": 3, "socket.keepalive.enable": true}})).unwrap()).unwrap(),
            r#"{"acks":"all","batchSize":65536,"compression":"lz4","lingerMs":20,"overrides":{"client.rack":"a","debug":"all","log_level":"3","socket.keepalive.enable":"true"},"retryMax":10}"#,
            "bb4747d43a66e9e418fb527a2fdc9b5ba4dd204ab329869f389adac0c90fd3c1",
        ),
        (
            canonical::to_json(&consumer(serde_json::json!({})).unwrap()).unwrap(),
            r#"{"autoCommitIntervalMs":1000,"autoOffsetReset":"earliest","enableAutoCommit":true,"maxPollIntervalMs":300000,"maxPollRecords":500,"sessionTimeoutMs":30000}"#,
            "c556a6b04625e42c1d6c83e52ce00290dedd6bdc68314e2ca2e03b9357efc988",
        ),
        (
            canonical::to_json(&consumer(serde_json::json!({"preset": "development", "autoOffsetReset": "latest", "overrides": {"fetch.min.bytes": 10}})).unwrap()).unwrap(),
            r#"{"autoCommitIntervalMs":1000,"autoOffsetReset":"latest","enableAutoCommit":true,"maxPollIntervalMs":300000,"maxPollRecords":500,"overrides":{"fetch.min.bytes":"10"},"sessionTimeoutMs":30000}"#,
            "ccbd6ffb8342761695d473a8a7e3ffce9d60781fa4bcd459b7ac080779b8f8ed",
        ),
    ];
    for (text, expected, hash) in golden {
        assert_eq!(text, expected);
        assert_eq!(canonical::hash(&text), hash, "{text}");
    }
}

#[test]
fn each_field_set_wins_over_the_preset_and_reaches_librdkafka() {
    for (set, name, expected) in [
        (serde_json::json!({"acks": 1}), "acks", "1"),
        (serde_json::json!({"acks": -1}), "acks", "all"),
        (serde_json::json!({"retryMax": 7}), "message.send.max.retries", "7"),
        (serde_json::json!({"batchSize": 1024}), "batch.size", "1024"),
        (serde_json::json!({"lingerMs": 20}), "linger.ms", "20"),
        (serde_json::json!({"compression": 4}), "compression.type", "zstd"),
        (serde_json::json!({"overrides": {"socket.timeout.ms": 5000}}), "socket.timeout.ms", "5000"),
    ] {
        let properties = producer(set.clone()).unwrap().to_librdkafka();
        assert_eq!(property(&properties, name), Some(expected), "{set}");
    }
    for (set, name, expected) in [
        (serde_json::json!({"autoOffsetReset": "latest"}), "auto.offset.reset", "latest"),
        (serde_json::json!({"sessionTimeoutMs": 10000}), "session.timeout.ms", "10000"),
        (serde_json::json!({"maxPollIntervalMs": 60000}), "max.poll.interval.ms", "60000"),
        (serde_json::json!({"overrides": {"fetch.min.bytes": 10}}), "fetch.min.bytes", "10"),
    ] {
        let properties = consumer(set.clone()).unwrap().to_librdkafka();
        assert_eq!(property(&properties, name), Some(expected), "{set}");
    }
    let agent_only = consumer(serde_json::json!({
        "enableAutoCommit": false, "autoCommitIntervalMs": 250, "maxPollRecords": 9,
    }))
    .unwrap();
    assert_eq!(
        (agent_only.enable_auto_commit, agent_only.auto_commit_interval_ms, agent_only.max_poll_records),
        (false, 250, 9)
    );
}

#[test]
fn a_producer_is_idempotent_only_if_all_replicas_acknowledge_and_it_may_retry() {
    for (acks, retries, idempotent, in_flight) in [
        ("all", 1, "true", None),
        ("all", 0, "false", None),
        ("1", 3, "false", Some("1")),
        ("1", 0, "false", None),
        ("0", 3, "false", None),
    ] {
        let settings = serde_json::json!({"acks": acks, "retryMax": retries});
        let properties = producer(settings).unwrap().to_librdkafka();
        assert_eq!(property(&properties, "enable.idempotence"), Some(idempotent), "acks {acks}, {retries} retries");
        let found = property(&properties, "max.in.flight.requests.per.connection");
        assert_eq!(found, in_flight, "acks {acks}, {retries} retries: a retry must not overtake its successor");
    }
}

#[test]
fn requests_in_flight_may_be_overridden_where_no_retry_overtakes_its_successor() {
    for name in ["max.in.flight", "max.in.flight.requests.per.connection"] {
        let with = |acks: &str, retries: u32, value: &str| {
            producer(serde_json::json!({"acks": acks, "retryMax": retries, "overrides": {name: value}}))
        };
        for (acks, retries, value) in [("all", 3, "5"), ("1", 3, "1"), ("1", 0, "50"), ("0", 3, "50"), ("all", 0, "50")]
        {
            let properties = with(acks, retries, value).unwrap().to_librdkafka();
            let set: Vec<_> = properties.iter().filter(|(key, _)| key.starts_with("max.in.flight")).collect();
            assert_eq!(set, [&(name.to_owned(), value.to_owned())], "acks {acks}, {retries} retries");
        }
        for value in ["2", "0x5"] {
            let text = with("1", 3, value).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("set acks to all"), "{text}");
        }
        assert!(with("all", 3, "0x10").is_err());
    }
}

#[test]
fn consumers_never_commit_by_themselves_and_rebalance_cooperatively() {
    for auto in [true, false] {
        let properties = consumer(serde_json::json!({"enableAutoCommit": auto})).unwrap().to_librdkafka();
        assert_eq!(property(&properties, "enable.auto.commit"), Some("false"));
        assert_eq!(property(&properties, "enable.auto.offset.store"), Some("false"));
        assert_eq!(property(&properties, "partition.assignment.strategy"), Some("cooperative-sticky"));
    }
}

#[test]
fn three_heartbeats_fit_into_a_session() {
    for (session, heartbeat) in [(6_000, "1000"), (9_000, "1000"), (30_000, "1000")] {
        let properties = consumer(serde_json::json!({"sessionTimeoutMs": session})).unwrap().to_librdkafka();
        assert_eq!(property(&properties, "heartbeat.interval.ms"), Some(heartbeat));
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_how_to_mend_it() {
    let violations = producer(serde_json::json!({
        "lingerMs": 60_001,
        "batchSize": 0,
        "overrides": {"linger.ms": 3, "group.id": "x", "Not A Name": 1},
    }))
    .unwrap_err();
    let text = violations.to_string();
    for part in [
        "lingerMs is 60001; it must be from 0 to 60000 ms",
        "batchSize is 0; it must be from 1 to 2147483647 bytes",
        "overrides cannot contain linger.ms: set lingerMs instead",
        "overrides cannot contain group.id: group and subscription are fields of the MqConsumerGroup",
        "overrides cannot contain \"Not A Name\"",
    ] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
    assert_eq!(violations.as_slice().len(), 5);
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let text = consumer(serde_json::json!({"sessionTimeoutMs": 60_000, "maxPollIntervalMs": 30_000})).unwrap_err();
    assert!(text.to_string().contains("raise maxPollIntervalMs to at least sessionTimeoutMs"), "{text}");
    let text = consumer(serde_json::json!({"sessionTimeoutMs": 6_000, "overrides": {"heartbeat.interval.ms": 6_000}}));
    assert!(text.unwrap_err().to_string().contains("lower heartbeat.interval.ms"));
    assert!(consumer(serde_json::json!({"overrides": {"heartbeat.interval.ms": 10_000}})).is_ok());
    let text = producer(serde_json::json!({"lingerMs": 500, "overrides": {"message.timeout.ms": 400}})).unwrap_err();
    assert!(text.to_string().contains("lower lingerMs or raise message.timeout.ms"), "{text}");
    let text = producer(serde_json::json!({"overrides": {"max.in.flight": 6}})).unwrap_err();
    assert!(text.to_string().contains("at most 5"), "{text}");
    assert!(producer(serde_json::json!({"overrides": {"message.timeout.ms": 0}})).is_ok(), "0 means no timeout");
}

#[test]
fn a_newer_preset_version_is_refused_not_guessed() {
    let error = ProducerSettings::default().resolve(PRESET_VERSION + 1).unwrap_err();
    assert_eq!(error.as_slice(), [Violation::UnknownPresetVersion { version: PRESET_VERSION + 1 }]);
    assert!(ConsumerSettings::default().resolve(0).is_err());
}

#[test]
fn the_table_is_consistent() {
    for knob in KNOBS {
        let mut versions = knob.presets.iter().map(|values| values.version);
        assert_eq!(versions.next(), Some(1), "{}: version 1 must keep its values", knob.name);
        assert!(knob.presets.windows(2).all(|pair| pair[0].version < pair[1].version), "{}", knob.name);
        assert!(knob.presets.iter().all(|values| values.version <= PRESET_VERSION), "{}", knob.name);
        for preset in Preset::ALL {
            let value = knob.preset(preset, PRESET_VERSION).unwrap();
            let fits = match (knob.domain, value) {
                (Domain::Integer { min, max, .. }, Value::Integer(value)) => (min..=max).contains(&value),
                (Domain::Word { words, .. }, Value::Word(word)) => words.contains(&word),
                (Domain::Switch, Value::Switch(_)) => true,
                _ => false,
            };
            assert!(fits, "{} {preset}: {value} is not a value of it", knob.name);
        }
        assert!(knob.doc.ends_with('.'), "{}", knob.name);
    }
}

#[test]
fn a_wrong_body_of_a_revision_is_refused() {
    let mut body = ConsumerSettings::default().resolve(PRESET_VERSION).unwrap();
    assert_eq!(body.validate(), Ok(()));
    body.session_timeout_ms = 1;
    assert!(body.validate().is_err());
    let mut body = ProducerSettings::default().resolve(PRESET_VERSION).unwrap();
    body.overrides.insert("plugin.library.paths".into(), "/tmp/x.so".into());
    assert!(body.validate().is_err());
}

fn any_producer() -> impl Strategy<Value = ProducerSettings> {
    (
        prop::option::of(prop::sample::select(&Preset::ALL[..])),
        prop::option::of(prop::sample::select(vec![Acks::None, Acks::Leader, Acks::All])),
        prop::option::of(any::<i64>()),
        prop::option::of(-1_i64..100_000),
        prop::option::of(-1_i64..70_000),
        prop::collection::btree_map("[a-z.]{1,12}", any::<i64>().prop_map(ConfigValue::Integer), 0..4),
    )
        .prop_map(|(preset, acks, retry_max, batch_size, linger_ms, overrides)| ProducerSettings {
            preset,
            acks,
            retry_max,
            batch_size,
            linger_ms,
            compression: None,
            overrides,
        })
}

proptest! {
    #[test]
    fn what_resolves_is_valid_survives_json_and_does_not_depend_on_how_it_was_written(settings in any_producer()) {
        if let Ok(resolved) = settings.resolve(PRESET_VERSION) {
            prop_assert_eq!(resolved.validate(), Ok(()));
            let text = canonical::to_json(&resolved).unwrap();
            let again: ResolvedProducer = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&again, &resolved);
            // Writing every value out, without a preset, is the same configuration and so the same revision.
            let explicit: ProducerSettings = serde_json::from_str(&text).unwrap();
            let explicit = explicit.resolve(PRESET_VERSION).unwrap();
            prop_assert_eq!(canonical::to_json(&explicit).unwrap(), text);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,64}") {
        let _ = serde_json::from_str::<ProducerSettings>(&text);
        let _ = serde_json::from_value::<ConsumerSettings>(serde_json::json!({"autoOffsetReset": text}));
    }
}
