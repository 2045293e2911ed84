//! The operator on a local node, as anybody installs it: Helm and the chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use mq_testkit::Node;

/// The namespace of the operator.
pub const NAMESPACE: &str = "mq-system";
/// The release, and with this chart also the name of the Deployment.
pub const RELEASE: &str = "mq-operator";

/// The chart of this repository.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mq-operator")
}

/// Arguments that make the chart use an image that was imported into the node.
///
/// # Errors
/// The node has no image of the operator.
pub fn image_values(node: &Node) -> anyhow::Result<[String; 3]> {
    let image = node.image("mq-operator")?;
    let (repository, tag) = image.rsplit_once(':').with_context(|| format!("image {image} has no tag"))?;
    Ok([format!("image.repository={repository}"), format!("image.tag={tag}"), "image.pullPolicy=Never".to_owned()])
}

/// `helm upgrade --install --wait`: returns once the operator is ready.
///
/// # Errors
/// Helm's words.
pub fn operator(node: &Node) -> anyhow::Result<()> {
    let mut helm = node.control_plane.helm();
    helm.args(["upgrade", "--install", RELEASE]).arg(chart());
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "90s"]);
    for value in image_values(node)? {
        helm.args(["--set-string", &value]);
    }
    run(&mut helm).map(drop)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// It failed, with what it wrote to standard error.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    ensure!(output.status.success(), "{shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
