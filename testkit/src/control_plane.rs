//! The API server and a namespace per test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{unique, wait_until};

/// An API server, as its administrator.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    kubeconfig: PathBuf,
    bin: PathBuf,
    config: Config,
}

impl ControlPlane {
    pub(crate) async fn attach(kubeconfig: PathBuf, bin: &Path) -> Result<Self> {
        let attempt = || format!("reading the administrator's kubeconfig {}", kubeconfig.display());
        let parsed = Kubeconfig::read_from(&kubeconfig).with_context(attempt)?;
        let config =
            Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.with_context(attempt)?;
        Ok(Self { kubeconfig, bin: bin.to_owned(), config })
    }

    /// A new client with the administrator's rights. A client belongs to the runtime of the test that made it.
    ///
    /// # Errors
    /// The TLS set-up is refused.
    pub fn client(&self) -> Result<Client> {
        Client::try_from(self.config.clone()).context("making a client for the test API server")
    }

    /// Path of the administrator's kubeconfig, for programs.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl` as administrator.
    pub fn kubectl(&self) -> Command {
        self.program("kubectl")
    }

    /// `helm` as administrator.
    pub fn helm(&self) -> Command {
        self.program("helm")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", self.cache("programs")).stdin(Stdio::null());
        command
    }

    /// What makes a person's shell one of this cluster's administrator.
    pub fn exports(&self) -> String {
        let (kubeconfig, cache, bin) = (self.kubeconfig.display(), self.cache("shell"), self.bin.display());
        format!("export KUBECONFIG={kubeconfig} KUBECACHEDIR={} PATH={bin}:$PATH", cache.display())
    }

    /// Where a user's kubectl remembers which kinds there are. The usual place goes by the address, which the next run has again; and
    /// what Helm remembers is older than the kinds that it installs, so a person's shell has a place of its own.
    fn cache(&self, user: &str) -> PathBuf {
        self.kubeconfig.with_file_name(format!("kube-cache-{user}"))
    }

    /// Creates the namespace `<base>-<random>` and returns once pods may be created in it.
    ///
    /// # Errors
    /// The API server refuses, or its controllers do not provide the default `ServiceAccount` in time.
    pub async fn namespace(&self, base: &str) -> Result<Namespace> {
        let name = unique(base);
        let client = self.client()?;
        let object = NamespaceObject {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..NamespaceObject::default()
        };
        let attempt = || format!("creating the namespace {name}");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.with_context(attempt)?;
        let namespace = Namespace { name: name.clone(), control_plane: self.clone() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        let what = format!("namespace {name} has its default ServiceAccount");
        wait_until(&what, Duration::from_secs(30), async || Ok(accounts.get("default").await?)).await?;
        Ok(namespace)
    }
}

/// A namespace of one test. It is deleted, without waiting, when the value is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    control_plane: ControlPlane,
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    /// A process, because the test's runtime is about to end and would take a deletion of its own with it. Best effort: the
    /// whole API server goes when the run ends.
    fn drop(&mut self) {
        let _ignored = self
            .control_plane
            .kubectl()
            .args(["delete", "namespace", "--wait=false", &self.name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}
