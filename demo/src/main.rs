//! `mq-demo story` tells the story on a cluster that has the operator; `mq-demo summary` is the reader that checks it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mq_demo::fault::Fault;
use mq_demo::story::{Setting, Stage, Step, Story};
use mq_demo::summary::claims::Expect;
use mq_demo::summary::observe::Observer;
use mq_demo::summary::{Scene, Summary};

/// Exit codes: 0 = every claim holds, 1 = a claim is false, 2 = nothing could be said.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells the story and lets the reader check it.
    Story(StoryArguments),
    /// Reads topics and API server, says what holds.
    Summary(SummaryArguments),
}

#[derive(Debug, clap::Args)]
struct StoryArguments {
    #[arg(long, default_value = "shop")]
    namespace: String,
    /// Name of the MqCluster to declare.
    #[arg(long, default_value = "main")]
    cluster: String,
    /// Kafka, as pods and this program reach it.
    #[arg(long)]
    brokers: String,
    /// In front of the names of topics and groups in Kafka.
    #[arg(long, default_value = "")]
    prefix: String,
    #[arg(long)]
    order_image: String,
    #[arg(long)]
    notification_image: String,
    #[arg(long, default_value = "IfNotPresent")]
    pull_policy: String,
    /// What happens, in the order of the story.
    #[arg(long, value_enum, default_values_t = Step::ALL)]
    steps: Vec<Step>,
    /// For tests: builds a fault into the services.
    #[arg(long, hide = true)]
    test_fault: Option<Fault>,
    /// Where the reader writes its findings and everything it saw.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Afterwards leaves everything running until Ctrl-C.
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
}

#[derive(Debug, clap::Args)]
struct SummaryArguments {
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
        Command::Story(arguments) => story(arguments).await,
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

async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context("cannot reach a cluster: set KUBECONFIG")
}

async fn story(arguments: StoryArguments) -> anyhow::Result<bool> {
    let setting = Setting {
        namespace: arguments.namespace,
        cluster: arguments.cluster,
        brokers: arguments.brokers,
        prefix: arguments.prefix,
        order_image: arguments.order_image,
        notification_image: arguments.notification_image,
        pull_policy: arguments.pull_policy,
        fault: arguments.test_fault,
    };
    let story = Story::prepare(Stage::new(client().await?, setting), arguments.steps).await?;
    let holds = story.tell(arguments.json.as_deref()).await?;
    if arguments.keep {
        keep().await?;
    }
    Ok(holds)
}

async fn keep() -> anyhow::Result<()> {
    let kubeconfig = std::env::var("KUBECONFIG").unwrap_or_default();
    println!(
        "\nEverything still runs (Ctrl-C ends it). In another terminal:\n\n  \
         export KUBECONFIG={kubeconfig}\n  \
         kubectl get mq -n shop                       # what is declared and whether it is well\n  \
         kubectl -n shop patch configmap demo-load --type merge -p '{{\"data\":{{\"ordersPerSecond\":\"100\"}}}}'\n  \
         kubectl -n shop get deployment -w            # watch it grow\n  \
         kubectl -n shop patch mqp orders --type merge -p '{{\"spec\":{{\"compression\":\"zstd\"}}}}'\n  \
         kubectl -n shop get mqp orders -o yaml       # who runs on it\n  \
         kubectl -n shop get events --field-selector reportingController=mq-operator"
    );
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")
}

async fn summary(arguments: SummaryArguments) -> anyhow::Result<bool> {
    let client = client().await?;
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
