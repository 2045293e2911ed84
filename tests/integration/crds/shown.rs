//! What users see of the kinds: defaults, columns, explanations, and a status before any operator has written one.

use super::*;

use kube::api::{Patch, PatchParams};

#[tokio::test]
async fn absent_fields_get_their_defaults_and_nulls_are_absent() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let topics = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let spec = json!({"cluster": "main", "partitions": 1, "topicName": null, "config": {"retention.ms": null}});
    let created = topics.would_create("defaults", &spec).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(
        created.data["spec"],
        json!({"cluster": "main", "partitions": 1, "config": {}, "adoption": "IfMatches", "reclaimPolicy": "Retain"})
    );

    let groups = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    let spec = json!({"cluster": "main", "topics": ["a"], "scaling": {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
        "objective": {"age": "15s", "lag": null}, "maxReplicas": 3, "scaleDown": {},
        "schedules": [{"start": "0 8 * * *", "end": "8h", "minReplicas": 2}],
    }});
    let created = groups.would_create("defaults", &spec).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(created.data["spec"]["scaling"]["minReplicas"], 1);
    assert_eq!(created.data["spec"]["scaling"]["scaleDown"]["window"], "5m");
    assert_eq!(created.data["spec"]["scaling"]["mode"], "Auto");
    assert_eq!(created.data["spec"]["scaling"]["schedules"][0]["timeZone"], "UTC");
    assert_eq!(created.data["spec"]["consumer"], json!({}));
    Ok(())
}

/// Every value that the API server may hand out must fit the types, or one object would be unreadable for the operator.
#[tokio::test]
async fn what_is_accepted_fits_the_types() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let producers = Kind::namespaced::<MqProducerConfig>(&control_plane, namespace.name())?;
    let spec = json!({"cluster": "main", "acks": -1, "compression": 3, "overrides": {"a": 1.0, "b": true, "c": "x"}});
    producers.create("typed", &spec, &PostParams::default()).await?.map_err(anyhow::Error::msg)?;
    let typed: Api<MqProducerConfig> = Api::namespaced(control_plane.client()?, namespace.name());
    let settings = typed.get("typed").await?.spec.settings;
    let resolved = settings.resolve(mq_core::presets::PRESET_VERSION)?;
    assert_eq!((resolved.acks.as_str(), resolved.compression.as_str()), ("all", "lz4"));
    assert_eq!(resolved.overrides.values().collect::<Vec<_>>(), ["1", "true", "x"]);
    Ok(())
}

#[tokio::test]
async fn a_new_object_is_pending_until_the_operator_writes_its_status() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqTopic>(&control_plane, namespace.name())?;
    let spec = json!({"cluster": "main", "partitions": 1});
    kind.create("pending", &spec, &PostParams::default()).await?.map_err(anyhow::Error::msg)?;
    let typed: Api<MqTopic> = Api::namespaced(control_plane.client()?, namespace.name());

    let conditions = typed.get("pending").await?.status.context("a new object has a status")?.conditions;
    let [ready] = conditions.as_slice() else { panic!("one condition expected: {conditions:?}") };
    assert_eq!((ready.type_.as_str(), ready.status.as_str(), ready.reason.as_str()), ("Ready", "Unknown", "Pending"));

    // As the operator does: server-side apply of the whole status. The default must not stay beside it.
    let status = json!({
        "apiVersion": "mq.infra-kit.io/v1alpha1",
        "kind": "MqTopic",
        "status": {"observedGeneration": 1, "conditions": [{
            "type": "Ready", "status": "True", "reason": "InSync", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    typed.patch_status("pending", &PatchParams::apply("operator").force(), &Patch::Apply(status)).await?;
    let conditions = typed.get("pending").await?.status.context("the status was written")?.conditions;
    let [ready] = conditions.as_slice() else { panic!("one condition expected: {conditions:?}") };
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "InSync"));
    Ok(())
}

#[tokio::test]
async fn columns_say_whether_it_is_well_and_why_not() -> Result<()> {
    let control_plane = installed().await?;
    let namespace = control_plane.namespace("crds").await?;
    let kind = Kind::namespaced::<MqConsumerGroup>(&control_plane, namespace.name())?;
    kind.create("shown", &json!({"cluster": "main", "topics": ["a"]}), &PostParams::default())
        .await?
        .map_err(anyhow::Error::msg)?;
    for name in ["mq", "mqg", "mqconsumergroup"] {
        let table = kubectl(&control_plane, &["-n", namespace.name(), "get", name]).await?;
        for part in ["READY", "REASON", "LAG", "LATE", "DESIRED", "REPLICAS", "AGE", "shown", "Unknown", "Pending"] {
            assert!(table.contains(part), "{part} is not in\n{table}");
        }
    }
    let wide = kubectl(&control_plane, &["-n", namespace.name(), "get", "mqg", "-o", "wide"]).await?;
    assert!(wide.contains("No operator has looked at this object yet"), "{wide}");
    for short in ["mqc", "mqt", "mqp"] {
        kubectl(&control_plane, &["-n", namespace.name(), "get", short]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_explains_the_fields() -> Result<()> {
    let control_plane = installed().await?;
    for (field, words) in [
        ("mqp.spec.lingerMs", "How long a message may wait for others to share its batch"),
        ("mqp.spec.acks", "How many replicas must have a message"),
        ("mqg.spec.consumer.sessionTimeoutMs", "Every preset: 30000"),
        ("mqg.spec.scaling.objective.age", "No message waits longer than this"),
        ("mqt.spec.reclaimPolicy", "Retain leaves it"),
        ("mqc.spec.namespaces", "The namespaces that may use this cluster"),
    ] {
        let text = kubectl(&control_plane, &["explain", field]).await?;
        let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(one_line.contains(words), "{field}: {text}");
    }
    Ok(())
}
