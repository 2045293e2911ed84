//! The chart on a real cluster: installed, asked, upgraded, taken away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_demo::install::{self, NAMESPACE, RELEASE};
use mq_testkit::{TestEnv, wait_until};
use serde_json::Value;

const KINDS: [&str; 4] = ["mqclusters", "mqconsumergroups", "mqproducerconfigs", "mqtopics"];

#[tokio::test]
async fn the_chart_is_sound_and_refuses_wrong_values() -> Result<()> {
    let node = TestEnv::node().await?;
    let helm = |arguments: &[&str]| install::run(node.control_plane.helm().args(arguments).arg(install::chart()));
    helm(&["lint", "--strict"])?;
    let refused = helm(&["template", RELEASE, "--kube-version", "1.34.0", "--set", "push.port=99999"]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("push.port") || format!("{refused:#}").contains("/push/port"),
        "{refused:#}"
    );
    let unknown = helm(&["template", RELEASE, "--kube-version", "1.34.0", "--set", "replicaCount=3"]).unwrap_err();
    assert!(format!("{unknown:#}").contains("replicaCount"), "{unknown:#}");
    let without =
        helm(&["template", RELEASE, "--kube-version", "1.34.0", "--set", "crds.install=false,rbac.aggregate=false"])?;
    assert!(!without.contains("CustomResourceDefinition") && !without.contains("aggregate-to"), "{without}");
    let marks = |values: &str| {
        let written = helm(&["template", RELEASE, "--kube-version", "1.34.0", "--set", values])?;
        anyhow::Ok(written.contains("resources: [pods]\n    verbs: [list, patch]"))
    };
    assert!(marks("rbac.podDeletionCost=true")? && !marks("rbac.podDeletionCost=false")?);
    Ok(())
}

#[tokio::test]
async fn uninstall_keeps_kinds_and_objects_and_a_new_install_takes_them_up() -> Result<()> {
    let node = TestEnv::node().await?;
    let kubectl = |arguments: &[&str]| install::run(node.control_plane.kubectl().args(arguments));
    install::operator(&node)?;
    let probe = mq_testkit::unique("kept");
    let object = format!(
        "{{apiVersion: mq.infra-kit.io/v1alpha1, kind: MqCluster, metadata: {{name: {probe}}}, \
         spec: {{brokers: [\"{}\"], securityProtocol: PLAINTEXT}}}}",
        node.kafka.bootstrap()
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), object)?;
    kubectl(&["apply", "-f", &file.path().to_string_lossy()])?;

    install::run(node.control_plane.helm().args(["uninstall", RELEASE, "-n", NAMESPACE, "--wait"]))?;
    for kind in KINDS {
        kubectl(&["get", "crd", &format!("{kind}.mq.infra-kit.io")])?;
    }
    kubectl(&["get", "mqcluster", &probe])?;
    let left =
        kubectl(&["get", "clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/name=mq-operator", "-o", "name"])?;
    assert_eq!(left, "", "cluster-wide rights stayed behind");

    install::operator(&node)?;
    wait_until("the new operator looks after the old object", Duration::from_secs(30), async || {
        let found: Value = serde_json::from_str(&kubectl(&["get", "mqcluster", &probe, "-o", "json"])?)?;
        let conditions = found["status"]["conditions"].as_array().context("no status yet")?;
        ensure!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{conditions:?}");
        Ok(())
    })
    .await?;
    kubectl(&["delete", "mqcluster", &probe]).map(drop)
}

/// What else scales a target is seen in every namespace; pods can be changed only by who asked for it.
#[tokio::test]
async fn the_operator_may_do_what_scaling_takes_and_no_more() -> Result<()> {
    let node = TestEnv::node().await?;
    install::operator(&node)?;
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}");
    let may = |verb: &str, resource: &str| {
        let mut kubectl = node.control_plane.kubectl();
        install::run(kubectl.args(["auth", "can-i", verb, resource, "-n", "default", &account])).is_ok()
    };
    let autoscalers = "horizontalpodautoscalers.autoscaling";
    for (verb, resource) in [("list", autoscalers), ("watch", autoscalers), ("get", "deployments.apps")] {
        assert!(may(verb, resource), "it may not {verb} {resource}");
    }
    for (verb, resource) in [
        ("patch", autoscalers),
        ("delete", "pods"),
        ("patch", "pods"),
        ("patch", "deployments.apps"),
        ("list", "secrets"),
    ] {
        assert!(!may(verb, resource), "it may {verb} {resource}");
    }
    Ok(())
}

/// Whoever may edit Deployments in a namespace may edit topics there, and not the clusters of the platform.
#[tokio::test]
async fn builtin_roles_cover_the_namespaced_kinds() -> Result<()> {
    let node = TestEnv::node().await?;
    install::operator(&node)?;
    let namespace = node.control_plane.namespace("roles").await?;
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = node.control_plane.kubectl();
        install::run(kubectl.args(["-n", namespace.name()]).args(arguments))
    };
    for (role, user) in [("edit", "writer"), ("view", "reader")] {
        kubectl(&["create", "rolebinding", user, &format!("--clusterrole={role}"), &format!("--user={user}")])?;
    }
    let may = |user: &str, verb: &str, resource: &str| {
        kubectl(&["auth", "can-i", verb, &format!("{resource}.mq.infra-kit.io"), "--as", user]).is_ok()
    };
    wait_until("the aggregated rules are there", Duration::from_secs(20), async || {
        ensure!(may("writer", "create", "mqtopics") && may("reader", "list", "mqconsumergroups"), "not yet");
        Ok(())
    })
    .await?;
    assert!(!may("reader", "create", "mqtopics"), "a viewer may create topics");
    assert!(!may("writer", "create", "mqclusters"), "an editor may create clusters");
    let status = ["auth", "can-i", "patch", "mqtopics.mq.infra-kit.io", "--subresource=status", "--as=writer"];
    assert!(kubectl(&status).is_err(), "an editor may write status");
    Ok(())
}
