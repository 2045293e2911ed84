//! Parses, sets up logging and TLS, and runs the operator.
#![forbid(unsafe_code)]

use std::io::IsTerminal;

use anyhow::Context;
use clap::Parser;
use mq_operator::{Options, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log {:?}", options.log))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    if options.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let mut config = kube::Config::infer().await.context("no kubeconfig and not in a pod")?;
    // The client's own retries would wait minutes inside one call, with the lease running out; the runner tries again itself.
    config.default_retry = false;
    let client = kube::Client::try_from(config).context("cannot make a Kubernetes client")?;
    let shutdown = CancellationToken::new();
    tokio::spawn(on_signal(shutdown.clone())?);
    run(options, client, shutdown).await?;
    Ok(())
}

/// SIGTERM and SIGINT ask for an orderly end; a second one ends at once.
fn on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(130);
            }
            tracing::info!("finishing");
            shutdown.cancel();
        }
    })
}
