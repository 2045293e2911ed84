//! The rules of the API server, of `mq-core` and of librdkafka are three texts about one thing: on generated objects they must
//! answer the same, or an object would be accepted and then not carried out, or refused without need.

use futures::{StreamExt, TryStreamExt, stream};
use mq_core::{
    knobs::{Domain, KNOBS, Knob, Side},
    presets::PRESET_VERSION,
    resolve::{ResolvedConsumer, ResolvedProducer},
    settings::{ConsumerSettings, ProducerSettings},
    topic,
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rdkafka::{
    ClientConfig, config::RDKafkaLogLevel, consumer::BaseConsumer, error::KafkaResult, producer::BaseProducer,
};

use super::*;

/// Generated objects per kind; each costs the API server one dry run.
const CASES: usize = 150;

/// The same objects at every run, so that a failure can be repeated.
fn generate(strategy: &impl Strategy<Value = Value>) -> Vec<Value> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..CASES).filter_map(|_| strategy.new_tree(&mut runner).ok()).map(|tree| tree.current()).collect()
}

/// The values at, next to and far from the bounds of each setting of the table.
fn integer(knob: &Knob) -> BoxedStrategy<Value> {
    let Domain::Integer { min, max, .. } = knob.domain else { unreachable!("{} is a number", knob.name) };
    let inside = (min..=max).prop_map(Value::from);
    let edges =
        select(vec![json!(min), json!(max), json!(min - 1), json!(max + 1), json!(i64::MAX), json!("7"), json!(1.5)]);
    prop_oneof![3 => inside, 1 => edges].boxed()
}

fn word(good: &'static [&'static str], bad: Vec<Value>) -> BoxedStrategy<Value> {
    prop_oneof![3 => select(good).prop_map(Value::from), 1 => select(bad)].boxed()
}

fn overrides() -> BoxedStrategy<Value> {
    let value = prop_oneof![
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        Just(json!(0.5)),
    ];
    // `core` alone knows which names are refused, so names are free ones here.
    prop::collection::btree_map("x\\.[a-z]{1,4}", value, 0..3).prop_map(|map| json!(map)).boxed()
}

/// An object with some of the fields, each with or without.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    fields.into_iter().fold(Just(json!({})).boxed(), |object, (name, value)| {
        (object, prop::option::weighted(0.4, value))
            .prop_map(move |(mut object, value)| {
                if let Some(value) = value {
                    object[name] = value;
                }
                object
            })
            .boxed()
    })
}

fn preset() -> BoxedStrategy<Value> {
    word(&["development", "staging", "production"], vec![json!("prod"), json!(1)])
}

/// Asks the API server about all `specs` and compares with `expected`; both answers must occur, or nothing was compared.
async fn agree(kind: &Kind, specs: Vec<Value>, expected: impl Fn(&Value) -> Result<(), String>) -> Result<()> {
    let answers: Vec<_> = stream::iter(specs)
        .map(async |spec| anyhow::Ok((kind.would_create("generated", &spec).await?, spec)))
        .buffer_unordered(8)
        .try_collect()
        .await?;
    let (mut accepted, mut refused) = (0, 0);
    for (answer, spec) in answers {
        match (answer, expected(&spec)) {
            (Ok(_), Ok(())) => accepted += 1,
            (Err(_), Err(_)) => refused += 1,
            (Ok(_), Err(why)) => bail!("the API server accepts what core refuses ({why}): {spec}"),
            (Err(why), Ok(())) => bail!("core accepts what the API server refuses ({why}): {spec}"),
        }
    }
    ensure!(accepted > CASES / 10 && refused > CASES / 10, "one-sided: {accepted} accepted, {refused} refused");
    Ok(())
}

fn producers() -> BoxedStrategy<Value> {
    use mq_core::knobs::{BATCH_SIZE, LINGER_MS, RETRY_MAX};
    let numbers = |range: std::ops::Range<i64>| range.map(Value::from).collect::<Vec<_>>();
    object(vec![
        ("preset", preset()),
        (
            "acks",
            prop_oneof![select(numbers(-2..4)), word(&["all", "-1", "0", "1"], vec![json!("ALL"), json!("")])].boxed(),
        ),
        ("retryMax", integer(&RETRY_MAX)),
        ("batchSize", integer(&BATCH_SIZE)),
        ("lingerMs", integer(&LINGER_MS)),
        ("compression", prop_oneof![select(numbers(-1..6)), word(&["none", "lz4", "2"], vec![json!("lzma")])].boxed()),
        ("overrides", overrides()),
    ])
}

fn consumers() -> BoxedStrategy<Value> {
    use mq_core::knobs::{AUTO_COMMIT_INTERVAL_MS, MAX_POLL_INTERVAL_MS, MAX_POLL_RECORDS, SESSION_TIMEOUT_MS};
    // Close to each other and to the defaults, so that the rule between the two is met from both sides.
    let near = || select(vec![6_000, 29_999, 30_000, 30_001, 299_999, 300_000, 300_001]).prop_map(Value::from);
    object(vec![
        ("preset", preset()),
        ("autoOffsetReset", word(&["earliest", "latest"], vec![json!("none"), json!(1)])),
        ("enableAutoCommit", select(vec![json!(true), json!(false), json!(false), json!("no")]).boxed()),
        ("autoCommitIntervalMs", integer(&AUTO_COMMIT_INTERVAL_MS)),
        ("sessionTimeoutMs", prop_oneof![2 => near(), 1 => integer(&SESSION_TIMEOUT_MS)].boxed()),
        ("maxPollRecords", integer(&MAX_POLL_RECORDS)),
        ("maxPollIntervalMs", prop_oneof![2 => near(), 1 => integer(&MAX_POLL_INTERVAL_MS)].boxed()),
        ("overrides", overrides()),
    ])
}

fn producer(settings: &Value) -> Result<ResolvedProducer, String> {
    let settings: ProducerSettings = serde_json::from_value(settings.clone()).map_err(|error| error.to_string())?;
    settings.resolve(PRESET_VERSION).map_err(|violations| violations.to_string())
}

fn consumer(settings: &Value) -> Result<ResolvedConsumer, String> {
    let settings: ConsumerSettings = serde_json::from_value(settings.clone()).map_err(|error| error.to_string())?;
    settings.resolve(PRESET_VERSION).map_err(|violations| violations.to_string())
}

/// Every bound of the table, from both sides; the generated settings would meet each of them too rarely.
#[tokio::test]
async fn about_each_bound_of_the_table() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let producers = Kind::namespaced::<MqProducerConfig>(&control_plane, namespace.name())?;
    let groups = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    for knob in KNOBS {
        let Domain::Integer { min, max, .. } = knob.domain else { continue };
        for value in [min - 1, min, max, max + 1] {
            let (kind, spec) = match knob.side {
                Side::Producer => (&producers, json!({"cluster": "main", (knob.name): value})),
                Side::Consumer => {
                    // Wide apart, so that the rule between these two says nothing about the bound.
                    let mut consumer = json!({"sessionTimeoutMs": 6_000, "maxPollIntervalMs": 86_400_000});
                    consumer[knob.name] = json!(value);
                    (&groups, json!({"cluster": "main", "topics": ["a"], "consumer": consumer}))
                }
            };
            let answer = kind.would_create("bound", &spec).await?;
            if (min..=max).contains(&value) {
                accepted(answer, &spec)?;
            } else {
                refused(answer, &format!("{} in body should be", knob.name), &spec)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn about_producer_settings() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqProducerConfig>(&control_plane, namespace.name())?;
    let specs = generate(&producers().prop_map(|mut spec| {
        spec["cluster"] = json!("main");
        spec
    }));
    agree(&kind, specs, |spec| producer(spec).map(drop)).await
}

#[tokio::test]
async fn about_consumer_settings() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    let specs =
        generate(&consumers().prop_map(|settings| json!({"cluster": "main", "topics": ["a"], "consumer": settings})));
    agree(&kind, specs, |spec| consumer(&spec["consumer"]).map(drop)).await
}

/// What `core` lets through, librdkafka must not refuse: a client would Nack a revision that nobody could have known to be bad.
#[test]
fn librdkafka_takes_what_core_resolves() -> Result<()> {
    let config = |properties: Vec<(String, String)>| {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Emerg).set("group.id", "agreement");
        config.extend(properties);
        config
    };
    let mut taken = 0;
    for settings in generate(&producers()) {
        // Generated overrides are names that no client knows.
        let Ok(mut resolved) = producer(&settings) else { continue };
        resolved.overrides.clear();
        let mut config = config(resolved.to_librdkafka());
        config.remove("group.id");
        let client: KafkaResult<BaseProducer> = config.create();
        client.with_context(|| format!("producer {settings}"))?;
        taken += 1;
    }
    for settings in generate(&consumers()) {
        let Ok(mut resolved) = consumer(&settings) else { continue };
        resolved.overrides.clear();
        let client: KafkaResult<BaseConsumer> = config(resolved.to_librdkafka()).create();
        client.with_context(|| format!("consumer {settings}"))?;
        taken += 1;
    }
    ensure!(taken > CASES / 5, "only {taken} of the generated settings resolved");
    Ok(())
}

#[tokio::test]
async fn about_topic_names() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let name = prop_oneof![
        "[a-zA-Z0-9._-]{1,30}",
        "[._-]{1,3}",
        "[ -~]{0,12}",
        "\\PC{1,6}",
        (246_usize..253).prop_map(|length| "x".repeat(length)),
    ];
    let specs = generate(&name.prop_map(|name| json!({"cluster": "main", "partitions": 1, "topicName": name})));
    agree(&kind, specs, |spec| topic::check_name(spec["topicName"].as_str().unwrap_or_default())).await
}

/// Updates of a topic: the identity stays, the partitions never shrink, and nothing else is held back.
#[tokio::test]
async fn about_updates_of_a_topic() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let spec = object(vec![
        ("topicName", select(vec![json!("a"), json!("b")]).boxed()),
        ("replicationFactor", (1_i32..4).prop_map(Value::from).boxed()),
        ("config", overrides()),
        ("reclaimPolicy", select(vec![json!("Retain"), json!("Delete")]).boxed()),
    ]);
    let spec =
        (spec, select(vec!["main", "main", "main", "other"]), 1_i32..4).prop_map(|(mut spec, cluster, partitions)| {
            spec["cluster"] = json!(cluster);
            spec["partitions"] = json!(partitions);
            spec
        });
    let fits = |spec: &Value| serde_json::from_value::<mq_crds::MqTopicSpec>(spec.clone()).is_ok();
    let specs: Vec<_> = generate(&spec).into_iter().filter(fits).collect();
    let (mut accepted, mut refused) = (0, 0);
    for (index, pair) in specs.windows(2).take(60).enumerate() {
        let [old, new] = pair else { continue };
        let created = kind.create(&format!("update-{index}"), old, &PostParams::default()).await?;
        let existing = created.map_err(anyhow::Error::msg)?;
        let allowed = old["cluster"] == new["cluster"]
            && old["topicName"] == new["topicName"]
            && old["partitions"].as_i64() <= new["partitions"].as_i64();
        let answer = kind.would_change(&existing, new).await?;
        assert_eq!(answer.is_ok(), allowed, "{old} → {new}: {answer:?}");
        if allowed { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 5 && refused > 5, "one-sided: {accepted} accepted, {refused} refused");
    Ok(())
}
