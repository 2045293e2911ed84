//! Noticing that mounted files were replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How soon a folder that could not be watched is looked at again, and how late a lost event is noticed at most.
const RESCAN: Duration = Duration::from_secs(30);
/// Files that are written one after the other are looked at once.
const SETTLE: Duration = Duration::from_millis(50);

/// Calls `changed` now and whenever something in one of the folders may have changed. Never returns.
pub(crate) async fn watch(folders: Vec<PathBuf>, changed: impl Fn()) {
    let event = Arc::new(Notify::new());
    loop {
        // Anew each time: a folder can be replaced as a whole, and its watch goes with it. Before the look, so that no change falls
        // between the two.
        let _watcher = watcher(&folders, &event);
        changed();
        // Waking up for nothing costs a few reads; missing a change costs a pod that differs from the others.
        if tokio::time::timeout(RESCAN, event.notified()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn watcher(folders: &[PathBuf], event: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let event = Arc::clone(event);
    let told = move |found: notify::Result<notify::Event>| {
        // Looking at the files is itself an event.
        if !found.is_ok_and(|found| found.kind.is_access()) {
            event.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told)
        .inspect_err(
            |error| tracing::warn!(%error, "the system cannot watch files; they are read every {} s", RESCAN.as_secs()),
        )
        .ok()?;
    for folder in folders {
        // A folder that does not exist is the normal case of a pod without the mount.
        let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
    }
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kubelet does it: the state is a folder, and a link to it is replaced. In a projected volume the folder that is looked
    /// at is a link through that link.
    #[tokio::test]
    async fn a_swapped_link_is_noticed_more_than_once() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path().to_owned();
        let swap = |state: &str| {
            std::fs::create_dir_all(root.join(state).join("credentials")).unwrap();
            std::fs::write(root.join(state).join("credentials/username"), state).unwrap();
            std::os::unix::fs::symlink(state, root.join("..data_tmp")).unwrap();
            std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        swap("one");
        let folder = root.join("credentials");
        std::os::unix::fs::symlink("..data/credentials", &folder).unwrap();

        let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
        let looked_at = folder.join("username");
        let watch = tokio::spawn(watch(vec![folder, root.clone()], move || {
            let _ = seen.send(std::fs::read_to_string(&looked_at).unwrap());
        }));
        for state in ["one", "two", "three"] {
            swap(state);
            let noticed = async { while events.recv().await.unwrap() != state {} };
            tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
            let older = root.join(if state == "three" { "two" } else { "none" });
            let _ = std::fs::remove_dir_all(older);
        }
        watch.abort();
    }
}
