//! The demo's story told to its end, sound and with faults: the reader must tell them apart.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mq_demo::fault::Fault;
use mq_demo::summary::ACKNOWLEDGED_WITHIN;
use mq_demo::summary::claims::name;
use mq_testkit::wait_until;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep;

use crate::operator::{leader, scale};
use crate::shop::{Shop, mq_demo};

/// What the reader said about one story.
struct Told {
    shown: String,
    /// Names of the false claims.
    wrong: Vec<String>,
}

/// Tells a story in a shop; fails if it cannot be told to its end.
async fn tell(shop: &Shop, steps: &str, fault: Option<Fault>) -> Result<Told> {
    let setting = shop.stage.setting();
    let findings = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(mq_demo()?);
    command.args([
        "story",
        "--brisk",
        "--steps",
        steps,
        "--namespace",
        &setting.namespace,
        "--cluster",
        &setting.cluster,
    ]);
    command.args(["--brokers", &setting.brokers, "--prefix", &setting.prefix, "--pull-policy", &setting.pull_policy]);
    command.args(["--order-image", &setting.order_image, "--notification-image", &setting.notification_image]);
    command.arg("--json").arg(findings.path()).arg("--kubeconfig").arg(shop.node.control_plane.kubeconfig());
    if let Some(fault) = fault {
        command.args(["--test-fault", fault.name()]);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run mq-demo")?;
    let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = std::fs::read(findings.path())?;
    let said: Value = serde_json::from_slice(&said).with_context(|| format!("no findings of the reader: {shown}"))?;
    let claims = said["claims"].as_array().context("the findings list no claims")?;
    let wrong: Vec<String> =
        claims.iter().filter(|c| c["holds"] == false).filter_map(|c| c["name"].as_str().map(str::to_owned)).collect();
    ensure!(
        output.status.code() == Some(i32::from(!wrong.is_empty())),
        "exit {}, but {wrong:?}: {shown}",
        output.status
    );
    Ok(Told { shown, wrong })
}

#[tokio::test]
async fn consumers_scale_out_and_in() -> Result<()> {
    let shop = Shop::open("scales", None).await?;
    let told = tell(&shop, "load-step", None).await?;
    assert!(told.wrong.is_empty(), "{:?} in:\n{}", told.wrong, told.shown);
    Ok(())
}

/// The same where nobody said what a pod can do: the operator learns it from how busy the pods say that they are, and the reader
/// compares it with what the busiest pod really handled.
#[tokio::test]
async fn consumers_scale_out_and_in_without_a_stated_capacity() -> Result<()> {
    let shop = Shop::open("unstated", None).await?;
    let unstated = r#"{"spec":{"scaling":{"capacityPerReplica":null}}}"#;
    let forget = wait_until("the group is there", Duration::from_mins(1), async || {
        shop.kubectl(&["patch", "mqconsumergroup/notifications", "--type=merge", "-p", unstated])
    });
    let (forgotten, told) = tokio::join!(forget, tell(&shop, "load-step", None));
    let told = told.and_then(|told| forgotten.map(|_| told))?;
    let group = shop.kubectl(&["get", "mqconsumergroup/notifications", "-o", "jsonpath={.spec.scaling}"])?;
    assert!(!group.contains("capacityPerReplica"), "{group}");
    assert!(told.wrong.is_empty(), "{:?} in:\n{}", told.wrong, told.shown);
    println!("{}", told.shown);
    Ok(())
}

/// Each claim is broken once by a fault in a running service, the whole world else being sound; the reader has no way to know.
#[tokio::test]
async fn demo_summary_detects_faults() -> Result<()> {
    let stories: [(Option<Fault>, &[&str]); 7] = [
        (None, &[]),
        (Some(Fault::LoseOrder), &[name::NUMBERS]),
        (Some(Fault::DropNotification), &[name::LOST]),
        (Some(Fault::SwapTwo), &[name::ORDER]),
        (Some(Fault::SwallowPoison), &[name::DEAD_LETTERS]),
        (Some(Fault::RejectGood), &[name::LOST, name::DEAD_LETTERS]),
        (Some(Fault::IgnorePush), &[name::EDIT]),
    ];
    let run = async |fault: Option<Fault>, wrong: &[&str]| -> Result<()> {
        let shop = Shop::open(fault.map_or("sound", Fault::name), None).await?;
        let told = tell(&shop, "edit,poison", fault).await?;
        ensure!(
            told.wrong == wrong,
            "fault {fault:?}: expected {wrong:?} to be false, not {:?}, in:\n{}",
            told.wrong,
            told.shown
        );
        Ok(())
    };
    try_join_all(stories.map(|(fault, wrong)| run(fault, wrong))).await.map(drop)
}

/// The claim about the edit, broken by an operator that hangs meanwhile.
#[tokio::test]
async fn demo_summary_detects_an_operator_that_hangs() -> Result<()> {
    let shop = Shop::open("hangs", None).await?;
    let fault = async {
        shop.connected().await?;
        let stopped = shop.node.process(&leader(&shop.node).await?)?.pause()?;
        wait_until("the edit is there", Duration::from_secs(30), async || {
            let object = shop.stage.get("MqProducerConfig", "orders").await?.context("it is gone")?;
            ensure!(object.metadata.generation == Some(2), "generation {:?}", object.metadata.generation);
            Ok(())
        })
        .await?;
        sleep(ACKNOWLEDGED_WITHIN).await;
        drop(stopped);
        anyhow::Ok(())
    };
    let (put, told) = tokio::join!(fault, tell(&shop, "edit", None));
    put?;
    let told = told?;
    assert_eq!(told.wrong, [name::EDIT], "in:\n{}", told.shown);
    Ok(())
}

/// The claims about scaling, broken by an operator that is gone before the load rises.
#[tokio::test]
#[ignore = "long: a load step that one pod has to bear alone"]
async fn demo_summary_detects_an_operator_that_is_gone() -> Result<()> {
    let shop = Shop::open("gone", None).await?;
    let fault = async {
        shop.connected().await?;
        scale(&shop.node, 0)
    };
    let (put, told) = tokio::join!(fault, tell(&shop, "load-step", None));
    scale(&shop.node, 1)?;
    put?;
    let told = told?;
    for broken in [name::PATH, name::SIZE, name::OBJECTIVE] {
        assert!(told.wrong.iter().any(|wrong| wrong == broken), "{:?} in:\n{}", told.wrong, told.shown);
    }
    Ok(())
}

/// The claims about scaling, broken by a handler that is slow for one customer, a capacity that is not true, and a person who scales.
#[tokio::test]
#[ignore = "long: three load steps, one after the other because each needs the processors"]
async fn demo_summary_detects_faults_of_scaling() -> Result<()> {
    let shop = Shop::open("stall", None).await?;
    let told = tell(&shop, "load-step", Some(Fault::Stall)).await?;
    assert!(told.wrong.iter().any(|wrong| wrong == name::OBJECTIVE), "{:?} in:\n{}", told.wrong, told.shown);

    for (base, kind, patch, broken) in [
        ("liar", "mqconsumergroup/notifications", r#"{"spec":{"scaling":{"capacityPerReplica":45}}}"#, name::SIZE),
        ("by-hand", "deployment/notification-service", r#"{"spec":{"replicas":2}}"#, name::PATH),
    ] {
        let shop = Shop::open(base, None).await?;
        let meddle = wait_until("somebody meddles", Duration::from_mins(1), async || {
            shop.kubectl(&["get", "deployment/notification-service"])?;
            shop.patch(kind, patch)
        });
        let (meddled, told) = tokio::join!(meddle, tell(&shop, "load-step", None));
        let told = told.and_then(|told| meddled.map(|_| told))?;
        assert!(told.wrong.iter().any(|wrong| wrong == broken), "{base}: {:?} in:\n{}", told.wrong, told.shown);
    }
    Ok(())
}
