//! `mq-demo run` is what `make demo` does on a local node; `mq-demo story` tells the same story on any cluster that has the
//! operator; `mq-demo summary` is the reader that checks it.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mq_demo::fault::Fault;
use mq_demo::install;
use mq_demo::story::{Setting, Stage, Step, Story};
use mq_demo::summary::claims::Expect;
use mq_demo::summary::observe::Observer;
use mq_demo::summary::{Scene, Summary};
use mq_testkit::TestEnv;

/// Exit codes: 0 = every claim holds, 1 = a claim is false, 2 = nothing could be said.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs the operator on the local node that `mq-cluster run --node` started, then tells the story there.
    Run(Telling),
    /// Tells the story on any cluster that has the operator, and lets the reader check it.
    Story(StoryArguments),
    /// Reads topics and API server, says what holds.
    Summary(SummaryArguments),
}

#[derive(Debug, clap::Args)]
struct Telling {
    #[arg(long, default_value = "shop")]
    namespace: String,
    /// Name of the `MqCluster` to declare.
    #[arg(long, default_value = "main")]
    cluster: String,
    /// In front of the names of topics and groups in Kafka.
    #[arg(long, default_value = "")]
    prefix: String,
    /// What happens, in the order of the story.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Step::ALL)]
    steps: Vec<Step>,
    /// For tests: builds a fault into the services.
    #[arg(long, hide = true)]
    test_fault: Option<Fault>,
    /// For tests: waits less.
    #[arg(long, hide = true)]
    brisk: bool,
    /// Where the reader writes its findings and everything it saw.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Afterwards leaves everything running, and says what to try.
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
}

#[derive(Debug, clap::Args)]
struct StoryArguments {
    #[command(flatten)]
    telling: Telling,
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Kafka, as pods and this program reach it.
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    order_image: String,
    #[arg(long)]
    notification_image: String,
    #[arg(long, default_value = "IfNotPresent")]
    pull_policy: String,
}

#[derive(Debug, clap::Args)]
struct SummaryArguments {
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[arg(long, default_value = "shop")]
    namespace: String,
    /// Watches first, until its standard input ends. Without it only the topics are judged.
    #[arg(long)]
    watch: bool,
    /// What was announced; its absence is a false claim.
    #[arg(long, value_enum)]
    expect: Vec<Step>,
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only if one is there already
    let done = match Arguments::parse().command {
        Command::Run(telling) => run(telling).await,
        Command::Story(arguments) => {
            let exports = arguments.kubeconfig.as_ref().map(|path| format!("export KUBECONFIG={}", path.display()));
            story(arguments, exports).await
        }
        Command::Summary(arguments) => summary(arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("mq-demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let Some(path) = kubeconfig else {
        return kube::Client::try_default().await.context("cannot reach a cluster: set KUBECONFIG");
    };
    let attempt = || format!("cannot reach a cluster with {}", path.display());
    let read = kube::config::Kubeconfig::read_from(path).with_context(attempt)?;
    let config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await;
    kube::Client::try_from(config.with_context(attempt)?).with_context(attempt)
}

async fn run(telling: Telling) -> anyhow::Result<bool> {
    let node = TestEnv::node().await?;
    println!("helm install mq-operator charts/mq-operator --namespace {}", install::NAMESPACE);
    install::operator(&node)?;
    let image = |name: &str| node.image(name).map(str::to_owned);
    let arguments = StoryArguments {
        kubeconfig: Some(node.control_plane.kubeconfig().to_owned()),
        brokers: node.kafka.bootstrap().to_owned(),
        order_image: image("order-service")?,
        notification_image: image("notification-service")?,
        pull_policy: "Never".to_owned(),
        telling,
    };
    story(arguments, Some(node.control_plane.exports())).await
}

/// `exports` is what a person types before the commands of the end.
async fn story(arguments: StoryArguments, exports: Option<String>) -> anyhow::Result<bool> {
    let StoryArguments { telling, kubeconfig, brokers, order_image, notification_image, pull_policy } = arguments;
    let client = client(kubeconfig.as_deref()).await?;
    let setting = Setting {
        kubeconfig,
        namespace: telling.namespace.clone(),
        cluster: telling.cluster,
        brokers,
        prefix: telling.prefix,
        order_image,
        notification_image,
        pull_policy,
        fault: telling.test_fault,
    };
    let story = Story::prepare(Stage::new(client, setting), telling.steps, telling.brisk).await?;
    let holds = story.tell(telling.json.as_deref()).await?;
    if telling.keep {
        keep(exports, &telling.namespace);
    }
    Ok(holds)
}

fn keep(exports: Option<String>, namespace: &str) {
    let exports = exports.map(|exports| format!("  {exports}\n")).unwrap_or_default();
    println!(
        "\nEverything still runs (`make demo-down` ends it):\n\n{exports}  \
         kubectl get mq -n {namespace}         # what is declared, whether it is well, and if not, why\n  \
         kubectl -n {namespace} patch configmap demo-load --type merge -p '{{\"data\":{{\"ordersPerSecond\":\"100\"}}}}'\n  \
         kubectl -n {namespace} get deployment -w    # watch it grow, until Ctrl-C\n  \
         kubectl -n {namespace} patch mqp orders --type merge -p '{{\"spec\":{{\"compression\":\"zstd\"}}}}'\n  \
         kubectl -n {namespace} get mqp orders -o yaml    # what every pod runs with\n  \
         kubectl -n {namespace} events"
    );
}

async fn summary(arguments: SummaryArguments) -> anyhow::Result<bool> {
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let scene = Scene::read(&client, &arguments.namespace).await?;
    let observer = Observer::start(&client, &arguments.namespace);
    if arguments.watch {
        println!("watching");
        let end = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tokio::task::spawn_blocking(end).await?.context("cannot read standard input")?;
    }
    let timeline = observer.stop();
    let said = |step: Step| arguments.expect.contains(&step);
    let expect = Expect { edit: said(Step::Edit), load_step: said(Step::LoadStep), poison: said(Step::Poison) };
    let summary = Summary::of(&scene, &timeline, expect).await?;
    print!("{}", summary.human());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_vec_pretty(&summary.json(&timeline))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(summary.holds)
}
