//! What can be scaled: anything with `/scale` that the operator may touch, for one group or for several.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use mq_crds::MqConsumerGroupStatus;
use mq_testkit::{unique, wait_until};
use serde_json::{Value, json};

use super::{
    bounds, condition, kubelet, reason, target,
    world::{SOON, World, until_scaled},
};

/// The workloads of a kind, by what `/scale` says.
fn workloads(world: &World, target: &Value, plural: &str) -> Api<DynamicObject> {
    let (version, kind) = (target["apiVersion"].as_str(), target["kind"].as_str());
    let (group, version) = version.and_then(|text| text.split_once('/')).unwrap_or_default();
    let kind = GroupVersionKind::gvk(group, version, kind.unwrap_or_default());
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    Api::namespaced_with(world.client.clone(), world.namespace.name(), &resource)
}

/// A kind of another operator: its number of replicas lies where only `/scale` knows.
async fn install_crews(world: &World) -> Result<()> {
    let crews = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crews.example.test"},
        "spec": {
            "group": "example.test", "scope": "Namespaced",
            "names": {"kind": "Crew", "plural": "crews", "singular": "crew"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
            }],
        },
    });
    let kinds: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let (name, params) = ("crews.example.test", PatchParams::apply("tests").force());
    kinds.patch(name, &params, &Patch::Apply(&crews)).await?;
    Ok(())
}

#[tokio::test]
async fn anything_with_scale_is_scaled_and_what_has_none_is_named() -> Result<()> {
    let world = World::new("kinds").await?;
    let topic = world.topic(4).await?;
    install_crews(&world).await?;
    let pods = json!({
        "metadata": {"labels": {"app": "worker"}},
        "spec": {"containers": [{"name": "worker", "image": "none"}], "terminationGracePeriodSeconds": 0},
    });
    let selector = json!({"matchLabels": {"app": "worker"}});
    let plain = json!({"replicas": 1, "selector": selector, "template": pods});
    let kinds = [
        (target("apps/v1", "StatefulSet"), "statefulsets", plain.clone()),
        (target("apps/v1", "ReplicaSet"), "replicasets", plain),
        (target("example.test/v1", "Crew"), "crews", json!({"size": 1})),
    ];
    for (target, plural, spec) in &kinds {
        let api = workloads(&world, target, plural);
        let object = json!({
            "apiVersion": target["apiVersion"], "kind": target["kind"], "metadata": {"name": "worker"}, "spec": spec,
        });
        wait_until("the workload is there", SOON, async || {
            api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await.map(drop)?;
            Ok(())
        })
        .await?;
        world.declare(&unique(plural), &topic, Some(bounds(target, 3, 4))).await?;
    }
    let sizeless = json!({
        "apiVersion": "example.test/v1", "kind": "Crew", "metadata": {"name": "sizeless"}, "spec": {},
    });
    let crews = workloads(&world, &kinds[2].0, "crews");
    crews.create(&PostParams::default(), &serde_json::from_value(sizeless)?).await?;
    for (name, target, words) in [
        ("sizeless", target("example.test/v1", "Crew"), ("TargetNotScalable", "says no number of replicas")),
        ("unscalable", target("apps/v1", "DaemonSet"), ("TargetNotScalable", "it has no subresource scale")),
        ("unknown", target("apps/v1", "Daemon"), ("TargetNotFound", "there is no kind Daemon in apps/v1")),
        ("nobody", target("apps/v1", "StatefulSet"), ("TargetNotFound", "there is no StatefulSet nobody; create it")),
    ] {
        let mut target = target;
        if ["nobody", "sizeless"].contains(&name) {
            target["name"] = name.into();
        }
        world.declare(name, &topic, Some(bounds(&target, 1, 2))).await?;
        let status = world.wait_for(name, "it is named", |s| reason(s) == words.0).await?;
        assert_eq!(condition(&status, "ScalingActive"), ("False", words.0));
        let said = status.scaling.context("a decision")?.message;
        assert!(said.contains(words.1), "{said}");
    }
    for (target, plural, _) in &kinds {
        until_scaled(&workloads(&world, target, plural), 3).await?;
    }
    Ok(())
}

/// The operator of this world has all rights but those on its target, which it is given one after the other.
#[tokio::test]
async fn a_right_that_is_missing_is_named_and_its_gift_is_noticed() -> Result<()> {
    let (control_plane, user) = (crate::crds::installed().await?, unique("limited"));
    let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(user.clone());
    let admin = control_plane.client()?;
    grant(
        &admin,
        &user,
        &json!([
            {"apiGroups": ["mq.infra-kit.io", "", "coordination.k8s.io", "events.k8s.io", "authentication.k8s.io"],
             "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ["*"]},
        ]),
    )
    .await?;
    let world = World::with_client("rights", Client::try_from(config)?).await?;
    let (topic, group) = (world.topic(1).await?, unique("rights"));
    let target = target("apps/v1", "StatefulSet");
    let api = workloads(&world, &target, "statefulsets");
    let object = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "worker"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "worker"}},
            "template": {
                "metadata": {"labels": {"app": "worker"}},
                "spec": {"containers": [{"name": "worker", "image": "none"}]},
            },
        },
    });
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    world.declare(&group, &topic, Some(bounds(&target, 3, 4))).await?;

    let lacks = async |rule: &str| {
        let words = format!(
            "its role lacks the rule {rule}; with the chart, add {{apiGroup: \"apps\", resource: statefulsets}}"
        );
        let status = world
            .wait_for(&group, &format!("it lacks {rule}"), |s| {
                s.scaling.as_ref().is_some_and(|s| s.reason == "TargetForbidden" && s.message.contains(&words))
            })
            .await?;
        assert_eq!(condition(&status, "ScalingActive"), ("False", "TargetForbidden"));
        anyhow::Ok(())
    };
    lacks(r#"{"apiGroups":["apps"],"resources":["statefulsets"],"verbs":["get","list","watch"]}"#).await?;
    grant(&admin, &user, &json!([{"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["*"]}])).await?;
    lacks(r#"{"apiGroups":["apps"],"resources":["statefulsets/scale"],"verbs":["get","patch"]}"#).await?;
    grant(&admin, &user, &json!([{"apiGroups": ["apps"], "resources": ["statefulsets/scale"], "verbs": ["*"]}]))
        .await?;
    until_scaled(&api, 3).await?;
    world.wait_for(&group, "it is well", |s| condition(s, "ScalingActive").0 == "True").await?;
    Ok(())
}

async fn grant(client: &Client, user: &str, rules: &Value) -> Result<()> {
    let name = unique(user);
    let role = json!({"metadata": {"name": name}, "rules": rules});
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    Api::<ClusterRole>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    Ok(())
}

#[tokio::test]
async fn of_several_groups_on_a_target_the_greatest_need_counts() -> Result<()> {
    let world = World::new("shared").await?;
    let topic = world.topic(6).await?;
    let deployment = target("apps/v1", "Deployment");
    let api = workloads(&world, &deployment, "deployments");
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    world.declare("large", &topic, Some(bounds(&deployment, 5, 6))).await?;
    until_scaled(&api, 5).await?;

    // Alone it would go down to two at once.
    world.declare("small", &topic, Some(bounds(&deployment, 1, 2))).await?;
    let small = world.wait_for("small", "it yields", |s| reason(s) == "AnotherGroupNeedsMore").await?;
    let said = small.scaling.context("a decision")?;
    assert_eq!((said.current, said.desired), (Some(5), Some(5)), "{}", said.message);
    assert!(said.message.starts_with("group large asks for 5 replicas, this one for 2"), "{}", said.message);
    assert_eq!(condition(&world.status("small").await?, "ScalingActive"), ("True", "AnotherGroupNeedsMore"));

    // What a group that is refused needs is not known: nothing is taken away.
    let wrong = json!([{"start": "0 8 * * *", "end": "61 8 * * *", "minReplicas": 2}]);
    world.edit("large", &json!({"spec": {"scaling": {"schedules": wrong}}})).await?;
    let ready = |s: &MqConsumerGroupStatus| condition(s, "Ready").1 == "InvalidSpec";
    world.wait_for("large", "it is refused", ready).await?;
    world.declare("third", &topic, Some(bounds(&deployment, 1, 2))).await?;
    let third = world.wait_for("third", "it yields", |s| reason(s) == "AnotherGroupNeedsMore").await?;
    let said = third.scaling.context("a decision")?.message;
    assert!(said.starts_with("what group large needs is not known, so it keeps its 5 replicas"), "{said}");
    world.groups().delete("third", &DeleteParams::default()).await?;

    let mended = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 3, "schedules": null}}});
    world.edit("large", &mended).await?;
    until_scaled(&api, 3).await?;
    let large = world.status("large").await?.scaling.context("a decision")?;
    world.groups().delete("large", &DeleteParams::default()).await?;
    until_scaled(&api, 2).await?;

    let small = world.wait_for("small", "its own step is told", |s| reason(s) == "AboveMaximum").await?;
    let reasons: BTreeSet<String> =
        small.scaling.iter().flat_map(|s| &s.history).map(|change| change.reason.clone()).collect();
    assert_eq!(reasons, ["AboveMaximum".to_owned()].into(), "the steps of the other group were not a person's");
    assert_ne!(large.reason, "ScaledByHand");
    Ok(())
}

#[tokio::test]
async fn what_an_autoscaler_scales_is_left_to_it_until_it_is_gone() -> Result<()> {
    let world = World::new("contested").await?;
    let topic = world.topic(4).await?;
    let deployment = target("apps/v1", "Deployment");
    let api = workloads(&world, &deployment, "deployments");
    kubelet::deploy(&world.client, world.namespace.name(), "worker", 1).await?;
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(world.client.clone(), world.namespace.name());
    let autoscaler = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 4, "scaleTargetRef": deployment}});
    autoscalers.create(&PostParams::default(), &serde_json::from_value(autoscaler)?).await?;

    world.declare("acts", &topic, Some(bounds(&deployment, 3, 4))).await?;
    let contested = world.wait_for("acts", "it is contested", |s| reason(s) == "ReplicasContested").await?;
    assert_eq!(condition(&contested, "ScalingActive"), ("False", "ReplicasContested"));
    assert_eq!(condition(&contested, "Ready"), ("False", "ReplicasContested"));
    let said = contested.scaling.context("a decision")?.message;
    assert!(said.starts_with("HorizontalPodAutoscaler web scales Deployment worker too; delete one of them"), "{said}");

    // One that only observes may do so beside it.
    let mut observes = bounds(&deployment, 2, 4);
    observes["mode"] = "Observe".into();
    world.declare("observes", &topic, Some(observes)).await?;
    world.wait_for("observes", "it says what it would do", |s| reason(s) == "BelowMinimum").await?;
    until_scaled(&api, 1).await?;

    autoscalers.delete("web", &DeleteParams::default()).await?;
    until_scaled(&api, 3).await?;
    world.wait_for("acts", "it is well", |s| condition(s, "ScalingActive").0 == "True").await?;
    Ok(())
}
