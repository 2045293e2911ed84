//! `/config/mq/<kind>.<name>.json`: the ConfigMap that the operator keeps, mounted into the pod, or files of the service's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::body;
use mq_protocol::limits::MAX_BODY_BYTES;
use mq_protocol::message::ClientRef;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::{Source, Value};

/// How soon a folder that could not be watched is looked at again, and how late a lost event is noticed at most.
const RESCAN: Duration = Duration::from_secs(30);

/// The folder of configuration files. The folder is watched and not the files: a ConfigMap is replaced by swapping a link beside
/// them.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFiles {
    folder: PathBuf,
}

impl ConfigFiles {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file of one client; `None` if there is none. An unreadable one is reported in the log and counts as none.
    pub(crate) fn read(&self, client: &ClientRef) -> Option<Value> {
        let path = self.folder.join(client.file_name());
        match read(&path) {
            Ok(value) => value,
            Err(problem) => {
                tracing::warn!(%client, path = %path.display(), problem, "a configuration file is not used");
                None
            }
        }
    }

    /// Calls `changed` whenever something in the folder may have changed. Never returns.
    pub(crate) async fn watch(self, changed: impl Fn()) {
        let event = Arc::new(Notify::new());
        let mut watcher: Option<RecommendedWatcher> = None;
        loop {
            if watcher.is_none() {
                watcher = self.watcher(&event);
            }
            // Waking up for nothing costs a few reads; missing a change costs a pod that differs from the others.
            let _ = tokio::time::timeout(RESCAN, event.notified()).await;
            changed();
        }
    }

    fn watcher(&self, event: &Arc<Notify>) -> Option<RecommendedWatcher> {
        let event = Arc::clone(event);
        let mut watcher = notify::recommended_watcher(move |_| event.notify_one())
            .inspect_err(|error| tracing::warn!(%error, "the system cannot watch files; they are read every {} s", RESCAN.as_secs()))
            .ok()?;
        // A folder that does not exist is the normal case of a pod without the mount.
        watcher.watch(&self.folder, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }
}

fn read(path: &Path) -> Result<Option<Value>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > MAX_BODY_BYTES as u64 {
        return Err(format!("it has {length} bytes, more than the {MAX_BODY_BYTES} of any configuration"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    // The same configuration has the same hash, however the file is laid out.
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| format!("it is not JSON: {error}"))?;
    let encoded = body::encode(&json).map_err(|error| error.to_string())?;
    Ok(Some(Value::new(Source::File, 0, encoded.hash, encoded.json)))
}

#[cfg(test)]
mod tests {
    use mq_protocol::message::Kind;

    use super::*;

    #[test]
    fn layout_does_not_change_the_hash_and_garbage_is_no_value() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConfigFiles::new(folder.path().to_owned());
        let client = ClientRef::new(Kind::Producer, "orders");
        assert_eq!(files.read(&client), None);
        std::fs::write(folder.path().join("producer.orders.json"), "{ \"b\": 1,\n \"a\": 2 }").unwrap();
        let value = files.read(&client).unwrap();
        assert_eq!(value.body, r#"{"a":2,"b":1}"#);
        assert_eq!(value.version.hash, body::hash(&value.body));
        std::fs::write(folder.path().join("producer.orders.json"), "{").unwrap();
        assert_eq!(files.read(&client), None);
    }

    #[tokio::test]
    async fn a_swapped_link_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["one", "two"] {
            std::fs::create_dir(folder.path().join(version)).unwrap();
            std::fs::write(
                folder.path().join(version).join("producer.orders.json"),
                format!("{{\"v\":\"{version}\"}}"),
            )
            .unwrap();
        }
        std::os::unix::fs::symlink("one", folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/producer.orders.json", folder.path().join("producer.orders.json")).unwrap();
        let files = ConfigFiles::new(folder.path().to_owned());
        let client = ClientRef::new(Kind::Producer, "orders");
        assert_eq!(files.read(&client).unwrap().body, r#"{"v":"one"}"#);

        let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
        let watched = files.clone();
        let watch = tokio::spawn(watched.watch(move || {
            let _ = seen.send(());
        }));
        // The watcher may not stand yet: swap until it is noticed.
        let noticed = async {
            loop {
                std::os::unix::fs::symlink("two", folder.path().join("..data_tmp")).unwrap();
                std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
                if tokio::time::timeout(Duration::from_millis(100), events.recv()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
        assert_eq!(files.read(&client).unwrap().body, r#"{"v":"two"}"#);
        watch.abort();
    }
}
