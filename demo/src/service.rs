//! What both services share: how they start, what they are called, what they are told.

use std::io::IsTerminal as _;
use std::path::Path;

use mq_agent::{Agent, Options};
use tokio::task::JoinHandle;

use crate::fault::Fault;

/// Where the ConfigMap with the load is mounted.
pub const LOAD_FOLDER: &str = "/etc/demo";
/// Shorter than the pod's grace period, so that what was begun is finished.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(20);

/// A service that is about to run.
#[derive(Debug)]
pub struct Service {
    /// The pod's name: who placed an order, who handled it.
    pub pod: String,
    pub fault: Option<Fault>,
    pub agent: Agent,
    /// Ends when SIGTERM came and everything begun is finished.
    pub drained: JoinHandle<()>,
}

impl Service {
    /// Starts log and agent.
    ///
    /// # Errors
    /// The fault variable names no fault.
    pub async fn start(concurrency: usize) -> anyhow::Result<Self> {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        logs.with_ansi(std::io::stderr().is_terminal()).init();
        let fault = Fault::from_env()?;
        if let Some(fault) = fault {
            tracing::warn!(%fault, "this process does something wrong on purpose");
        }
        let mut options = Options::in_pod().concurrency(concurrency);
        if fault == Some(Fault::IgnorePush) {
            options = options.keep(["lingerMs"]);
        }
        let agent = Agent::connect_with(options).await;
        let drained = agent.drain_on(mq_agent::sigterm(), DRAIN);
        let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "local".to_owned());
        Ok(Self { pod, fault, agent, drained })
    }
}

/// A variable of the environment, or the name without prefix that the manifests of the demo use.
pub fn topic(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// The folder of the load.
pub fn load_folder() -> &'static Path {
    Path::new(LOAD_FOLDER)
}
