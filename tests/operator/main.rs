//! The operator as a process of its own, for tests that stop it.

#![forbid(unsafe_code)]

use std::io::Read as _;

use clap::Parser;
use mq_operator::Options;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    std::thread::spawn(end_with_parent);
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // One may be installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    let client = kube::Client::try_from(config)?;
    Ok(mq_operator::run(Options::parse(), client, CancellationToken::new()).await?)
}

/// The test holds the other end of the standard input.
fn end_with_parent() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}
