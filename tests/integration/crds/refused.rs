//! Tables of what is accepted and what is refused, with the words that tell the user what to do.

use super::*;

/// `base` with the fields of `changes`; a null removes a field.
fn with(base: &Value, changes: &Value) -> Value {
    let mut merged = base.clone();
    if let (Value::Object(merged), Value::Object(changes)) = (&mut merged, changes) {
        for (key, value) in changes {
            if value.is_null() {
                merged.remove(key)
            } else {
                merged.insert(key.clone(), value.clone())
            };
        }
    }
    merged
}

/// Each change of `base` is refused with its words, and `base` itself is accepted.
async fn refuses(kind: &Kind, base: &Value, table: &[(Value, &str)]) -> Result<()> {
    accepted(kind.would_create("base", base).await?, base)?;
    for (changes, words) in table {
        let spec = with(base, changes);
        refused(kind.would_create("base", &spec).await?, words, &spec)?;
    }
    Ok(())
}

/// Each change of `base` is accepted.
async fn accepts(kind: &Kind, base: &Value, table: &[Value]) -> Result<()> {
    for changes in table {
        let spec = with(base, changes);
        accepted(kind.would_create("base", &spec).await?, &spec)?;
    }
    Ok(())
}

/// Each change of an object that exists with `base` is refused with its words, or accepted if there are none.
async fn changes(kind: &Kind, base: &Value, table: &[(Value, Option<&str>)]) -> Result<()> {
    let name = mq_testkit::unique("changes");
    let existing = accepted(kind.create(&name, base, &PostParams::default()).await?, base)?;
    for (changes, words) in table {
        let spec = with(base, changes);
        let answer = kind.would_change(&existing, &spec).await?;
        match words {
            Some(words) => refused(answer, words, &spec)?,
            None => drop(accepted(answer, &spec)?),
        }
    }
    Ok(())
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[tokio::test]
async fn clusters() -> Result<()> {
    let control_plane = installed().await?;
    let kind = Kind::cluster(&control_plane)?;
    let base = json!({"brokers": ["kafka:9192"]});
    let admin = json!({"credentialsSecretRef": {"name": "kafka"}});
    let many: Vec<_> = (0..65).map(|i| format!("kafka-{i}:9092")).collect();
    let crowd: Vec<_> = (0..1001).map(|i| json!({"name": format!("n{i}")})).collect();
    accepts(
        &kind,
        &base,
        &[
            json!({"brokers": ["[::1]:9092", "10.0.0.1:65535", "a.b-c_d:1"]}),
            json!({"namespaces": [{"name": "shop", "topics": ["orders", "notifications*", "*"]}, {"name": "ops"}]}),
            json!({"securityProtocol": "PLAINTEXT"}),
            json!({"securityProtocol": "SSL"}),
            json!({"securityProtocol": "SSL", "caBundle": PEM, "admin": {"credentialsSecretRef": {"name": "kafka"}}}),
            json!({"securityProtocol": "SASL_PLAINTEXT", "sasl": {"mechanism": "PLAIN"}, "admin": admin}),
            json!({"securityProtocol": "SASL_SSL", "sasl": {"mechanism": "SCRAM-SHA-512"}, "caBundle": PEM, "admin": admin}),
        ],
    )
    .await?;
    refuses(
        &kind,
        &base,
        &[
            (json!({"brokers": null}), "spec.brokers: Required value"),
            (json!({"brokers": []}), "should have at least 1 items"),
            (json!({"brokers": ["kafka"]}), "each broker must be host:port"),
            (json!({"brokers": ["kafka:0"]}), "each broker must be host:port"),
            (json!({"brokers": ["http://kafka:9092"]}), "each broker must be host:port"),
            (json!({"brokers": ["a:1,b:2"]}), "each broker must be host:port"),
            (json!({"brokers": ["a:1", "a:1"]}), "Duplicate value"),
            (json!({ "brokers": many }), "must have at most 64 items"),
            (
                json!({"securityProtocol": "TLS"}),
                "supported values: \"PLAINTEXT\", \"SSL\", \"SASL_PLAINTEXT\", \"SASL_SSL\"",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "admin": admin}),
                "sasl.mechanism is required with securityProtocol SASL",
            ),
            (json!({"securityProtocol": "SSL", "sasl": {"mechanism": "PLAIN"}}), "must not be set with others"),
            (json!({"sasl": {"mechanism": "PLAIN"}}), "must not be set with others"),
            (
                json!({"securityProtocol": "SASL_SSL", "sasl": {}, "admin": admin}),
                "spec.sasl.mechanism: Required value",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "sasl": {"mechanism": "GSSAPI"}, "admin": admin}),
                "\"SCRAM-SHA-256\"",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "sasl": {"mechanism": "PLAIN"}}),
                "admin.credentialsSecretRef is required",
            ),
            (json!({"admin": {"credentialsSecretRef": {"name": ""}}}), "should be at least 1 chars long"),
            (json!({ "caBundle": PEM }), "caBundle is for securityProtocol SSL and SASL_SSL only"),
            (json!({"securityProtocol": "SSL", "caBundle": "/etc/ca.crt"}), "certificates as PEM"),
            (json!({"securityProtocol": "SSL", "caBundle": PEM.repeat(2_000)}), "may not be more than 49152"),
            (json!({"namespaces": [{"name": "shop"}, {"name": "shop"}]}), "Duplicate value"),
            (json!({"namespaces": [{"name": "Shop"}]}), "namespaces[0].name"),
            (json!({"namespaces": [{"name": "s".repeat(64)}]}), "may not be more than 63"),
            (json!({"namespaces": [{"name": "shop", "topics": ["t".repeat(250)]}]}), "may not be more than 249"),
            (json!({"namespaces": [{"name": "shop", "topics": vec!["t"; 201]}]}), "must have at most 200 items"),
            (json!({ "namespaces": crowd }), "must have at most 1000 items"),
            (json!({"namespaces": [{"name": "shop", "topics": ["a*b"]}]}), "namespaces[0].topics[0]"),
        ],
    )
    .await
}

#[tokio::test]
async fn topics() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let base = json!({"cluster": "main", "partitions": 12, "replicationFactor": 1});
    let long = "x".repeat(250);
    let many: serde_json::Map<_, _> = (0..101).map(|i| (format!("key.{i}"), json!(i))).collect();
    accepts(
        &kind,
        &base,
        &[
            json!({"config": {"retention.ms": 3_600_000, "cleanup.policy": "compact,delete", "preallocate": false}}),
            json!({"replicationFactor": null}),
            json!({"topicName": "Orders.v1_a-b", "forceDelete": "Orders.v1_a-b"}),
            json!({"forceDelete": "base", "reclaimPolicy": "Delete", "adoption": "Always"}),
            json!({"partitions": 1}),
        ],
    )
    .await?;
    refuses(
        &kind,
        &base,
        &[
            (json!({"cluster": null}), "spec.cluster: Required value"),
            (json!({"cluster": ""}), "spec.cluster"),
            (json!({"cluster": "c".repeat(254)}), "may not be more than 253"),
            (json!({"partitions": null}), "spec.partitions: Required value"),
            (json!({"partitions": 0}), "greater than or equal to 1"),
            (json!({"partitions": 100_001}), "less than or equal to 100000"),
            (json!({"replicationFactor": 0}), "greater than or equal to 1"),
            (json!({"replicationFactor": 32_768}), "less than or equal to 32767"),
            (json!({"topicName": "a b"}), "topicName must have 1 to 249 characters"),
            (json!({"topicName": "."}), "topicName must have 1 to 249 characters"),
            (json!({"topicName": ".."}), "topicName must have 1 to 249 characters"),
            (json!({"topicName": "ü"}), "topicName must have 1 to 249 characters"),
            (json!({"topicName": long}), "may not be more than 249"),
            (json!({"topicName": "__consumer_offsets"}), "those topics belong to Kafka itself"),
            (json!({"forceDelete": ""}), "spec.forceDelete"),
            (json!({"forceDelete": long}), "may not be more than 249"),
            (json!({"forceDelete": "other"}), "forceDelete must repeat the Kafka name of the topic"),
            (json!({"topicName": "a", "forceDelete": "base"}), "forceDelete must repeat the Kafka name of the topic"),
            (json!({"reclaimPolicy": "Recycle"}), "supported values: \"Retain\", \"Delete\""),
            (json!({"adoption": "Maybe"}), "supported values: \"IfMatches\", \"Always\", \"Never\""),
            (json!({"config": {"a": 1.5}}), "should be a multiple of 1"),
            (json!({"config": {"a": {"b": 1}}}), "spec.config.a"),
            (json!({"config": {"a": [1]}}), "spec.config.a"),
            (json!({"config": {"a": "x".repeat(4097)}}), "may not be more than 4096"),
            (json!({ "config": many }), "must have at most 100"),
        ],
    )
    .await?;
    let long = format!("{}.{}", "a".repeat(150), "b".repeat(99));
    refused(kind.would_create(&long, &base).await?, "set spec.topicName", &base)?;
    let named = with(&base, &json!({"topicName": "short"}));
    accepted(kind.would_create(&long, &named).await?, &named)?;
    Ok(())
}

#[tokio::test]
async fn a_topic_keeps_its_identity_and_its_partitions() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let unnamed = json!({"cluster": "main", "partitions": 12});
    changes(
        &kind,
        &unnamed,
        &[
            (json!({"partitions": 12}), None),
            (json!({"partitions": 13}), None),
            (json!({"partitions": 11}), Some("partitions can only grow")),
            (json!({"cluster": "other"}), Some("cluster is immutable")),
            (json!({"topicName": "added"}), Some("topicName can be neither changed nor added nor removed later")),
            (json!({"replicationFactor": 3, "config": {"retention.ms": 1}, "reclaimPolicy": "Delete"}), None),
        ],
    )
    .await?;
    changes(
        &kind,
        &with(&unnamed, &json!({"topicName": "orders"})),
        &[
            (json!({"partitions": 24}), None),
            (json!({"topicName": "other"}), Some("topicName can be neither changed nor added nor removed later")),
            (json!({"topicName": null}), Some("topicName can be neither changed nor added nor removed later")),
        ],
    )
    .await
}

#[tokio::test]
async fn producer_configs() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqProducerConfig>(&control_plane, namespace.name())?;
    let base = json!({"cluster": "main", "preset": "production", "lingerMs": 20});
    let many: serde_json::Map<_, _> = (0..51).map(|i| (format!("key.{i}"), json!(i))).collect();
    let mut good: Vec<_> = [json!(0), json!(1), json!(-1), json!("0"), json!("1"), json!("-1"), json!("all")]
        .map(|acks| json!({"acks": acks}))
        .into();
    good.extend([json!(0), json!(4), json!("3"), json!("zstd")].map(|codec| json!({"compression": codec})));
    good.push(json!({"lingerMs": null, "preset": null}));
    good.push(json!({"overrides": {"socket.timeout.ms": 5000, "debug": "all", "socket.keepalive.enable": true}}));
    accepts(&kind, &base, &good).await?;
    refuses(
        &kind,
        &base,
        &[
            (json!({"cluster": null}), "spec.cluster: Required value"),
            (json!({"acks": 2}), "acks must be one of 0, 1, all"),
            // 48 is the code of '0': a schema that compares characters with numbers would take it.
            (json!({"acks": 48}), "acks must be one of 0, 1, all"),
            (json!({"acks": "ALL"}), "acks must be one of 0, 1, all"),
            (json!({"acks": true}), "spec.acks"),
            (json!({"compression": 5}), "compression must be one of none, gzip, snappy, lz4, zstd"),
            (json!({"compression": "brotli"}), "compression must be one of none, gzip, snappy, lz4, zstd"),
            (json!({"preset": "prod"}), "supported values: \"development\", \"staging\", \"production\""),
            (json!({"lingerMs": -1}), "greater than or equal to 0"),
            (json!({"lingerMs": 60_001}), "less than or equal to 60000"),
            (json!({"lingerMs": "10"}), "must be of type integer"),
            (json!({"lingerMs": 1.5}), "must be of type integer"),
            (json!({"batchSize": 0}), "greater than or equal to 1"),
            (json!({"retryMax": 2_147_483_648_i64}), "less than or equal to"),
            (json!({"cluster": "c".repeat(254)}), "may not be more than 253"),
            (json!({"overrides": {"a": 0.5}}), "should be a multiple of 1"),
            (json!({"overrides": {"a": {"b": 1}}}), "spec.overrides.a"),
            (json!({"overrides": {"a": [1]}}), "spec.overrides.a"),
            (json!({"overrides": {"a": "x".repeat(4097)}}), "may not be more than 4096"),
            (json!({ "overrides": many }), "must have at most 50"),
        ],
    )
    .await?;
    changes(&kind, &base, &[(json!({"cluster": "other"}), Some("cluster is immutable")), (json!({"acks": 1}), None)])
        .await
}

#[tokio::test]
async fn consumer_groups() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    let base = json!({"cluster": "main", "topics": ["orders"]});
    let many: Vec<_> = (0..101).map(|i| format!("topic-{i}")).collect();
    let overrides: serde_json::Map<_, _> = (0..51).map(|i| (format!("key.{i}"), json!(i))).collect();
    accepts(
        &kind,
        &base,
        &[
            json!({"groupId": "Some.Group_1", "deadLetter": {"topic": "somewhere"}}),
            json!({"groupId": "g".repeat(245)}),
            json!({"groupId": "g".repeat(249), "deadLetter": {"topic": "somewhere"}}),
            json!({"consumer": {"preset": "staging", "autoOffsetReset": "latest", "enableAutoCommit": false}}),
            json!({"consumer": {"sessionTimeoutMs": 300_000}}),
            json!({"topics": ["^orders", "refunds"]}),
            json!({"topics": [r"^orders\.(eu|us)$", "^[^a-z]{2,3}x*", "^a--b|c?$", "^[[:alpha:]_.-]+$", "^", "^()"]}),
        ],
    )
    .await?;
    refuses(
        &kind,
        &base,
        &[
            (json!({"topics": [r"^orders\d"]}), "a pattern of topics begins with ^ and consists of names"),
            (json!({"topics": ["^a+?"]}), "none of which follows another one"),
            (json!({"topics": ["^a{2}{3}"]}), "none of which follows another one"),
            (json!({"topics": ["^(?i)orders"]}), "a pattern of topics"),
            (json!({"topics": ["^a(*b)"]}), "a pattern of topics"),
            (json!({"topics": ["^*"]}), "a pattern of topics"),
            (json!({"topics": ["^a|^b"]}), "a pattern of topics"),
            (json!({"topics": ["^[a--b]"]}), "a pattern of topics"),
            (json!({"topics": ["^[a&&b]"]}), "a pattern of topics"),
            (json!({"topics": ["^[a-z0-9-_]+$"]}), "a dash in brackets is the first or last there"),
            (json!({"topics": ["^[[:word:]]+"]}), "a pattern of topics"),
            (json!({"topics": ["^orders$*"]}), "follows another one or $"),
            (json!({"topics": ["^a)"]}), "parentheses come in pairs"),
            (json!({"topics": ["^a b"]}), "a pattern of topics"),
            (json!({"topics": ["^a{1,256}"]}), "a pattern of topics"),
            (json!({"topics": [format!("^{}", "t".repeat(249))]}), "may not be more than 249"),
            (json!({"topics": null}), "spec.topics: Required value"),
            (json!({"topics": []}), "should have at least 1 items"),
            (json!({"topics": ["a b"]}), "each topic must have 1 to 249 characters"),
            (json!({"topics": [".."]}), "each topic must have 1 to 249 characters"),
            (json!({"topics": ["a", "a"]}), "Duplicate value"),
            (json!({ "topics": many }), "must have at most 100 items"),
            (json!({"groupId": "a b"}), "groupId must have 1 to 249 characters"),
            (json!({"cluster": "c".repeat(254)}), "may not be more than 253"),
            (json!({"topics": ["t".repeat(250)]}), "may not be more than 249"),
            (json!({"groupId": "g".repeat(250)}), "may not be more than 249"),
            (json!({"groupId": "g".repeat(246)}), "set spec.deadLetter.topic"),
            (json!({"deadLetter": {}}), "spec.deadLetter.topic: Required value"),
            (json!({"deadLetter": {"topic": "a b"}}), "deadLetter.topic must have 1 to 249 characters"),
            (json!({"deadLetter": {"topic": "t".repeat(250)}}), "may not be more than 249"),
            (json!({"deadLetter": {"topic": "orders"}}), "must not be one of topics"),
            (json!({"topics": ["base.dlq"]}), "must not be one of topics"),
            (json!({"consumer": {"autoOffsetReset": "none"}}), "supported values: \"earliest\", \"latest\""),
            (json!({"consumer": {"sessionTimeoutMs": 5_999}}), "greater than or equal to 6000"),
            (json!({"consumer": {"maxPollRecords": 0}}), "greater than or equal to 1"),
            (json!({"consumer": {"enableAutoCommit": "yes"}}), "must be of type boolean"),
            (json!({"consumer": {"preset": "prod"}}), "supported values: \"development\", \"staging\", \"production\""),
            (json!({"consumer": {"overrides": {"a": 0.5}}}), "should be a multiple of 1"),
            (json!({"consumer": {"overrides": {"a": {"b": 1}}}}), "spec.consumer.overrides.a"),
            (json!({"consumer": {"overrides": {"a": [1]}}}), "spec.consumer.overrides.a"),
            (json!({"consumer": {"overrides": {"a": "x".repeat(4097)}}}), "may not be more than 4096"),
            (json!({"consumer": {"overrides": overrides}}), "must have at most 50"),
            (json!({"consumer": {"sessionTimeoutMs": 300_001}}), "raise maxPollIntervalMs"),
            (json!({"consumer": {"maxPollIntervalMs": 29_999}}), "raise maxPollIntervalMs"),
        ],
    )
    .await?;
    changes(
        &kind,
        &base,
        &[
            (json!({"topics": ["other"]}), None),
            (json!({"cluster": "other"}), Some("cluster is immutable")),
            (json!({"groupId": "added"}), Some("groupId can be neither changed nor added nor removed later")),
        ],
    )
    .await?;
    changes(
        &kind,
        &with(&base, &json!({"groupId": "notifications"})),
        &[
            (json!({"groupId": "other"}), Some("groupId can be neither changed nor added nor removed later")),
            (json!({"groupId": null}), Some("groupId can be neither changed nor added nor removed later")),
        ],
    )
    .await
}

/// What the operator can see sets the bound: two looks and a commit.
#[tokio::test]
async fn an_age_that_could_not_be_seen_to_be_kept() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    let group = |every: u32, age: &str| {
        json!({
            "cluster": "main", "topics": ["orders"], "consumer": {"autoCommitIntervalMs": every},
            "scaling": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "notification-service"},
                "objective": {"age": age}, "maxReplicas": 12,
            },
        })
    };
    for (every, age) in [(5_001, "15s"), (1_000, "10999ms"), (60_000, "69s")] {
        let rare = group(every, age);
        let words = "age must be at least 10s and consumer.autoCommitIntervalMs together";
        refused(kind.would_create("rare", &rare).await?, words, &rare)?;
    }
    for (every, age) in [(5_000, "15s"), (1_000, "11s"), (60_000, "70s")] {
        let often = group(every, age);
        accepted(kind.would_create("often", &often).await?, &often)?;
    }
    Ok(())
}

#[tokio::test]
async fn scaling() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    let group = json!({"cluster": "main", "topics": ["orders"]});
    let scaling = json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "notification-service"},
        "objective": {"age": "15s"},
        "minReplicas": 1,
        "maxReplicas": 12,
    });
    let changed = |changes: Value| with(&group, &json!({"scaling": with(&scaling, &changes)}));
    let hours = json!({"start": "0 8 * * *", "end": "8h", "minReplicas": 2});
    let schedule = |changes: Value| json!({"schedules": [with(&hours, &changes)]});
    for changes in [
        json!({}),
        json!({"objective": {"lag": 10_000}}),
        json!({"objective": {"age": "168h"}}),
        json!({"objective": {"age": "11000ms"}}),
        json!({"scaleDown": {"window": "20s"}, "capacityPerReplica": 480}),
        json!({"scaleDown": {"disabled": true}}),
        json!({"scaleDown": {"maxStep": 2}, "mode": "Observe"}),
        json!({"mode": "Off"}),
        json!({"schedules": [
            {"start": "0 8 * * MON-FRI", "end": "0 20 * * MON-FRI", "timeZone": "Europe/Berlin", "minReplicas": 12},
            {"start": "*/5 0-8 L * *", "end": "90m", "minReplicas": 1},
        ]}),
        json!({"minReplicas": 12}),
        json!({"targetRef": {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "a"}}),
        json!({"targetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "a"}}),
        json!({"minReplicas": null, "maxReplicas": 1}),
    ] {
        let spec = changed(changes);
        accepted(kind.would_create("scaled", &spec).await?, &spec)?;
    }
    for (changes, words) in [
        (json!({"targetRef": null}), "spec.scaling.targetRef: Required value"),
        (json!({"objective": null}), "spec.scaling.objective: Required value"),
        (json!({"maxReplicas": null}), "spec.scaling.maxReplicas: Required value"),
        (json!({"objective": {}}), "objective must have exactly one of age and lag"),
        (json!({"objective": {"age": "15s", "lag": 1}}), "objective must have exactly one of age and lag"),
        (json!({"objective": {"lag": 0}}), "greater than or equal to 1"),
        (json!({"objective": {"age": "15"}}), "spec.scaling.objective.age in body should match"),
        (json!({"objective": {"age": "1.5s"}}), "spec.scaling.objective.age"),
        (json!({"objective": {"age": "-5s"}}), "spec.scaling.objective.age"),
        (json!({"objective": {"age": "00000000015s"}}), "may not be more than 11"),
        (json!({"scaleDown": {"window": "00000000015s"}}), "may not be more than 11"),
        (json!({"objective": {"age": "0s"}}), "objective.age must be from 10s to 168h"),
        (json!({"objective": {"age": "9999ms"}}), "objective.age must be from 10s to 168h"),
        (json!({"objective": {"age": "10s"}}), "age must be at least 10s and consumer.autoCommitIntervalMs together"),
        (json!({"objective": {"age": "169h"}}), "objective.age must be from 10s to 168h"),
        (json!({"objective": {"age": "9999999999h"}}), "spec.scaling.objective.age"),
        (json!({"scaleDown": {"window": "300"}}), "spec.scaling.scaleDown.window in body should match"),
        (json!({"scaleDown": {"window": "25h"}}), "scaleDown.window must be from 1s to 24h"),
        (json!({"mode": "Manual"}), "supported values: \"Auto\", \"Observe\", \"Off\""),
        (json!({"scaleDown": {"maxStep": 0}}), "maxStep in body should be greater than or equal to 1"),
        (schedule(json!({"start": "@daily"})), "start must be a cron expression of five fields"),
        (schedule(json!({"start": "0 0 8 * * *"})), "start must be a cron expression of five fields"),
        (schedule(json!({"start": null})), "schedules[0].start: Required value"),
        (schedule(json!({"end": "8"})), "end must be a cron expression of five fields or a length of time"),
        (schedule(json!({"end": null})), "schedules[0].end: Required value"),
        (schedule(json!({"minReplicas": 13})), "minReplicas of a schedule must not be more than maxReplicas"),
        (schedule(json!({"minReplicas": 0})), "greater than or equal to 1"),
        (json!({"minReplicas": 13}), "minReplicas must not be more than maxReplicas"),
        (json!({"minReplicas": 0}), "greater than or equal to 1"),
        (json!({"maxReplicas": 0}), "maxReplicas in body should be greater than or equal to 1"),
        (json!({"maxReplicas": 10_001}), "maxReplicas in body should be less than or equal to 10000"),
        (json!({"minReplicas": 10_001}), "minReplicas in body should be less than or equal to 10000"),
        (json!({"capacityPerReplica": 1_000_000_001}), "less than or equal to 1000000000"),
        (json!({"targetRef": {"apiVersion": "apps/v1", "kind": "", "name": "a"}}), "targetRef.kind in body should be"),
        (
            json!({"targetRef": {"apiVersion": "apps/v1", "kind": "deployments", "name": "a"}}),
            "targetRef.kind must be written as in the workload's manifest, such as Deployment",
        ),
        (
            json!({"targetRef": {"apiVersion": "apps", "kind": "Deployment", "name": "a"}}),
            "targetRef.apiVersion must be a group and a version, such as apps/v1",
        ),
        (
            json!({"targetRef": {"apiVersion": "apps/v1", "kind": "k".repeat(64), "name": "a"}}),
            "may not be more than 63",
        ),
        (
            json!({"targetRef": {"apiVersion": "apps/v1", "kind": "a", "name": "n".repeat(254)}}),
            "may not be more than 253",
        ),
        (json!({"targetRef": {"apiVersion": "v".repeat(254), "kind": "a", "name": "a"}}), "may not be more than 253"),
        (json!({"capacityPerReplica": 0}), "greater than or equal to 1"),
    ] {
        let spec = changed(changes);
        refused(kind.would_create("scaled", &spec).await?, words, &spec)?;
    }
    Ok(())
}
