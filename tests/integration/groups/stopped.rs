//! A leader that is stopped (SIGSTOP) while it carries out a step, until after its Lease has run out.

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use mq_testkit::{Process, TestEnv, wait_until};
use tokio::{
    process::{Child, Command},
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    between::{between, serve},
    loaded::Loaded,
    scaling::lock,
    world::{SOON, World},
};

/// Requests of one operator that change something, as `PATCH /apis/…`.
type Writes = Arc<Mutex<Vec<String>>>;

fn noted(writes: &Writes) -> Vec<String> {
    writes.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn steps(writes: &Writes) -> usize {
    noted(writes).iter().filter(|write| write.ends_with("/scale")).count()
}

/// A client that notes what is written with it. After each step it calls `stepped` before the writer hears of it.
fn noting<A>(client: kube::Client, writes: &Writes, stepped: impl Fn() -> A + Clone + Send + 'static) -> kube::Client
where
    A: Future<Output = ()> + Send + 'static,
{
    let writes = Arc::clone(writes);
    between(client, move |client, request| {
        let (writes, stepped) = (Arc::clone(&writes), stepped.clone());
        async move {
            let write = (request.method() != "GET").then(|| format!("{} {}", request.method(), request.uri().path()));
            let answer = client.send(request).await?;
            let Some(write) = write else { return Ok(answer) };
            let is_step = write.ends_with("/scale");
            writes.lock().unwrap_or_else(PoisonError::into_inner).push(write);
            if is_step && answer.status().is_success() {
                stepped().await;
            }
            Ok(answer)
        }
    })
}

/// An operator as a process, which reaches the API server by this client alone.
async fn process(world: &World, url: &str, folder: &std::path::Path) -> Result<Child> {
    let kubeconfig = folder.join("kubeconfig");
    let content = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "between",
        "clusters": [{"name": "between", "cluster": {"server": url}}],
        "users": [{"name": "between", "user": {}}],
        "contexts": [{"name": "between", "context": {"cluster": "between", "user": "between"}}],
    });
    tokio::fs::write(&kubeconfig, content.to_string()).await?;
    let arguments = world.arguments()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq-stoppable-operator"));
    command.args(&arguments[1..]).env("KUBECONFIG", &kubeconfig).stdin(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("starting an operator")
}

async fn holder(world: &World) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), world.namespace.name());
    let spec = leases.get(&world.cluster).await?.spec.context("no spec")?;
    spec.holder_identity.context("nobody holds it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_in_a_step_up_writes_nothing_when_it_goes_on() -> Result<()> {
    let api = crate::crds::installed().await?.client()?;
    let (first, second) = (Writes::default(), Writes::default());
    let (scaled, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    // The answer to its step finds it stopped.
    let (told, waits) = (Arc::clone(&scaled), Arc::clone(&goes_on));
    let firsts = noting(api.clone(), &first, move || {
        let (told, waits) = (Arc::clone(&told), Arc::clone(&waits));
        async move {
            told.notify_one();
            waits.notified().await;
        }
    });
    // It hears late that it has lost: until then nothing but its own clock keeps it from writing.
    let late = Arc::new(AtomicBool::new(false));
    let is_late = Arc::clone(&late);
    let firsts = between(firsts, move |client, request| {
        let late = is_late.load(Ordering::Relaxed) && request.uri().path().contains("/leases/");
        async move {
            if late {
                sleep(Duration::from_secs(5)).await;
            }
            client.send(request).await
        }
    });
    let (url, _serving) = serve(firsts).await?;
    let seconds = noting(api, &second, async || {});
    let world = World::without_operator("stopped", seconds, TestEnv::kafka().await?, "6s").await?;
    let folder = tempfile::tempdir()?;
    let mut leader = process(&world, &url, folder.path()).await?;
    let mut loaded = Loaded::start(world, "stopped").await?;
    let first_holder = holder(&loaded.world).await?;
    loaded.world.start_again()?;

    timeout(SOON, scaled.notified()).await.context("no step up")?;
    let stopped = Process::with_id(leader.id().context("it has ended")?).pause()?;
    goes_on.notify_one();
    let since = SystemTime::now();
    loaded.until_it_grows().await?;
    wait_until("the other one leads", SOON, async || {
        let holder = holder(&loaded.world).await?;
        ensure!(holder != first_holder, "{holder} leads");
        Ok(())
    })
    .await?;
    loaded.has_what_it_needs(since).await?;

    let before = noted(&first);
    // To wait closes the standard input, whose end would end the process at once.
    let _input = leader.stdin.take();
    late.store(true, Ordering::Relaxed);
    drop(stopped);
    let ended = timeout(Duration::from_secs(30), leader.wait()).await.context("the first one goes on for ever")??;
    ensure!(!ended.success(), "nobody asked it to end, but {ended}");
    let after = noted(&first).split_off(before.len());
    // That it may not renew is how it learns that it has lost.
    let written: Vec<_> = after.iter().filter(|write| !write.contains("/leases/")).collect();
    ensure!(written.is_empty(), "{written:?}");
    let path = lock(&loaded.path).clone();
    ensure!(path.len() - 1 == steps(&first) + steps(&second), "{path:?}: {:?}, {:?}", noted(&first), noted(&second));
    ensure!(steps(&first) == 1, "{:?}", noted(&first));
    Ok(())
}
