//! An operator in this process, and pods that speak to it.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mq_crds::{MqCluster, MqProducerConfig, MqProducerConfigStatus};
use mq_operator::{Options, RunError};
use mq_protocol::{
    TOKEN_AUDIENCE,
    message::{ClientRef, FromAgent, FromServer, Kind, NackReason, Version},
    wire::{AgentMessage, ServerMessage, config_push_client::ConfigPushClient},
};
use mq_testkit::{ControlPlane, Namespace, unique, wait_until};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig},
};

/// Longest wait for anything that takes milliseconds.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// One operator for one cluster, a namespace that may use it, and one that may not.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) cluster: String,
    pub(super) namespace: Namespace,
    pub(super) stranger: Namespace,
    options: Options,
    operator: Option<(JoinHandle<Result<(), RunError>>, CancellationToken)>,
}

impl Rig {
    pub(super) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With further options of the operator.
    pub(super) async fn start_with(options: &[&str]) -> Result<Self> {
        // Of a test that fails, the log of its operator is shown.
        let filter = tracing_subscriber::EnvFilter::try_from_env("MQ_LOG").unwrap_or_else(|_| "info".into());
        let _first = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let control_plane = crate::crds::installed().await?;
        Self::start_on(&control_plane, options).await
    }

    async fn start_on(control_plane: &ControlPlane, more: &[&str]) -> Result<Self> {
        let client = control_plane.client()?;
        let namespace = control_plane.namespace("push").await?;
        let stranger = control_plane.namespace("stranger").await?;
        let cluster = unique("push");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (addr, endpoint) = (format!("127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
        let options = [
            "mq-operator".to_owned(),
            format!("--clusters={cluster}"),
            format!("--lease-name={cluster}"),
            format!("--lease-namespace={}", namespace.name()),
            "--lease-duration=6s".to_owned(),
            "--metrics-addr=127.0.0.1:0".to_owned(),
            format!("--push-addr={addr}"),
            format!("--push-endpoint={endpoint}"),
        ];
        let more = more.iter().map(|option| (*option).to_owned());
        let options = Options::try_parse_from(options.into_iter().chain(more))?;
        // Nothing here needs a broker, so none is there: configurations do not wait for Kafka.
        let declared = json!({
            "apiVersion": "mq.infra-kit.io/v1alpha1",
            "kind": "MqCluster",
            "metadata": {"name": cluster},
            "spec": {"brokers": ["127.0.0.1:1"], "namespaces": [{"name": namespace.name(), "topics": ["*"]}]},
        });
        let clusters: Api<MqCluster> = Api::all(client.clone());
        clusters.create(&PostParams::default(), &serde_json::from_value(declared)?).await?;
        let mut rig = Self { client, cluster, namespace, stranger, options, operator: None };
        rig.run_operator();
        Ok(rig)
    }

    pub(super) fn run_operator(&mut self) {
        let shutdown = CancellationToken::new();
        let run = mq_operator::run(self.options.clone(), self.client.clone(), shutdown.clone());
        let run = async {
            // Said at once: a test that waits for the operator would only tell what it waited for.
            run.await.inspect_err(|error| eprintln!("the operator ended: {error}"))
        };
        self.operator = Some((tokio::spawn(run), shutdown));
    }

    /// Ends the operator as SIGTERM does.
    pub(super) async fn stop_operator(&mut self) -> Result<()> {
        let (task, shutdown) = self.operator.take().context("the operator does not run")?;
        shutdown.cancel();
        timeout(SOON, task).await.context("the operator did not end in time")???;
        Ok(())
    }

    pub(super) fn producers(&self) -> Api<MqProducerConfig> {
        Api::namespaced(self.client.clone(), self.namespace.name())
    }

    /// Creates the producer `orders` with these settings, and returns once its first revision is in force.
    pub(super) async fn declare_orders(&self, settings: Value) -> Result<()> {
        let mut object = json!({
            "apiVersion": "mq.infra-kit.io/v1alpha1",
            "kind": "MqProducerConfig",
            "metadata": {"name": "orders"},
            "spec": settings,
        });
        object["spec"]["cluster"] = json!(self.cluster);
        self.producers().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        self.status("revision 1 is in force", |status| status.current_revision == Some(1)).await?;
        Ok(())
    }

    pub(super) async fn edit_orders(&self, settings: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": settings}));
        self.producers().patch("orders", &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Waits for a status of `orders`.
    pub(super) async fn status(
        &self,
        what: &str,
        check: impl Fn(&MqProducerConfigStatus) -> bool,
    ) -> Result<MqProducerConfigStatus> {
        let producers = self.producers();
        wait_until(what, SOON, async || {
            let status = producers.get("orders").await?.status.context("no status")?;
            ensure!(check(&status), "{status:?}");
            Ok(status)
        })
        .await
    }

    pub(super) async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace.name());
        Ok(maps.get(name).await?.data.unwrap_or_default())
    }

    /// A pod object with a token, as the kubelet would project it.
    pub(super) async fn pod(&self, namespace: &Namespace, audience: &str) -> Result<TestPod> {
        let namespace = namespace.name();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": unique("orders")},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        });
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        };
        let token = self.token(namespace, audience, Some(bound)).await?;
        Ok(TestPod { name: pod.name_any(), token })
    }

    pub(super) async fn token(
        &self,
        namespace: &str,
        audience: &str,
        bound: Option<BoundObjectReference>,
    ) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: bound,
            expiration_seconds: Some(3600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let issued = accounts.create_token_request("default", &PostParams::default(), &request).await?;
        Ok(issued.status.context("no token was issued")?.token)
    }

    /// A pod of the namespace that may use the cluster, connected and greeted.
    pub(super) async fn agent(&self) -> Result<Agent> {
        let pod = self.pod(&self.namespace, TOKEN_AUDIENCE).await?;
        self.connect(&pod).await
    }

    /// Opens a stream; waits for the server, but not for it to change its mind.
    pub(super) async fn connect(&self, pod: &TestPod) -> Result<Agent> {
        let (outbound, requests) = mpsc::channel(8);
        let stream = self.open(Some(&pod.token), requests).await?.map_err(|status| anyhow::anyhow!("{status}"))?;
        let agent = Agent { pod: pod.name.clone(), outbound, inbound: stream };
        agent.say(FromAgent::Hello { library: "test".into(), version: "0".into() }).await?;
        Ok(agent)
    }

    /// What the server says to a stream with this token.
    pub(super) async fn refusal(&self, token: Option<&str>) -> Result<Status> {
        let (_outbound, requests) = mpsc::channel(1);
        match self.open(token, requests).await? {
            Ok(_) => bail!("the server accepted the stream"),
            Err(status) => Ok(status),
        }
    }

    async fn open(
        &self,
        token: Option<&str>,
        requests: mpsc::Receiver<AgentMessage>,
    ) -> Result<Result<Streaming<ServerMessage>, Status>> {
        let channel = wait_until("the push server accepts connections", SOON, async || self.channel().await).await?;
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        let opened = timeout(SOON, ConfigPushClient::new(channel).stream(request)).await?;
        Ok(opened.map(tonic::Response::into_inner))
    }

    /// As an agent does it: with the endpoint and the authority of the ConfigMap.
    async fn channel(&self) -> Result<Channel> {
        let map = self.config_map("mq-agent").await?;
        let (endpoint, ca) = (map.get("endpoint").context("endpoint")?, map.get("ca.crt").context("ca.crt")?);
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        Ok(Channel::from_shared(endpoint.clone())?.tls_config(tls)?.connect().await?)
    }

    pub(super) async fn delete_orders(&self) -> Result<()> {
        self.producers().delete("orders", &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some((_, shutdown)) = &self.operator {
            shutdown.cancel();
        }
    }
}

pub(super) struct TestPod {
    name: String,
    pub(super) token: String,
}

/// The smallest agent: says what it is told to say.
pub(super) struct Agent {
    pub(super) pod: String,
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<ServerMessage>,
}

pub(super) fn orders() -> ClientRef {
    ClientRef::new(Kind::Producer, "orders")
}

impl Agent {
    pub(super) async fn say(&self, message: FromAgent) -> Result<()> {
        self.outbound.send(message.into()).await.context("the stream is closed")
    }

    pub(super) async fn subscribe(&self, held: Option<Version>) -> Result<()> {
        self.say(FromAgent::Subscribe { client: orders(), held }).await
    }

    /// The next message that is no heartbeat.
    pub(super) async fn hears(&mut self) -> Result<FromServer> {
        loop {
            let message = timeout(SOON, self.inbound.message()).await.context("heard nothing")??;
            match FromServer::try_from(message.context("the stream ended")?)? {
                FromServer::Heartbeat(_) => {}
                other => return Ok(other),
            }
        }
    }

    /// The next message, which must be a configuration.
    pub(super) async fn config(&mut self) -> Result<(Version, Value)> {
        match self.hears().await? {
            FromServer::Config { client, version, body } if client == orders() => {
                let decoded = mq_protocol::body::decode::<Value>(&body, &version.hash)?;
                Ok((version, decoded.body))
            }
            other => bail!("heard {other:?} instead of a configuration"),
        }
    }

    pub(super) async fn ack(&self, version: &Version, effective: &[(&str, &str)]) -> Result<()> {
        let effective = effective.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let version = version.clone();
        self.say(FromAgent::Ack { client: orders(), version, effective, not_applied: vec![] }).await
    }

    pub(super) async fn nack(&self, version: &Version, detail: &str) -> Result<()> {
        let (version, reason, detail) = (version.clone(), NackReason::ProbeFailed, detail.to_owned());
        self.say(FromAgent::Nack { client: orders(), version, reason, detail }).await
    }

    /// Hears nothing but heartbeats for as long as `other` takes, and a moment more.
    pub(super) async fn is_silent(&mut self, other: impl Future<Output = Result<()>>) -> Result<()> {
        other.await?;
        match timeout(Duration::from_millis(500), self.hears()).await {
            Err(_) => Ok(()),
            Ok(message) => bail!("heard {message:?}"),
        }
    }
}

/// How long `action` took.
pub(super) async fn timed<T>(action: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let started = Instant::now();
    let value = action.await?;
    Ok((value, started.elapsed()))
}
