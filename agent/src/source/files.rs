//! `/config/mq/<kind>.<name>.json`: the ConfigMap that the operator keeps, mounted into the pod, or files of the service's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mq_protocol::limits::MAX_BODY_BYTES;
use mq_protocol::message::ClientRef;
use tokio::sync::watch;

use super::{ConfigBody, ConfigSource};

/// The folder of configuration files, one for each client.
#[derive(Debug)]
pub(crate) struct ConfigFiles {
    folder: PathBuf,
    /// What was read last for the clients that were asked for.
    clients: Mutex<BTreeMap<ClientRef, watch::Sender<Option<ConfigBody>>>>,
}

impl ConfigFiles {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, clients: Mutex::default() }
    }

    /// Reads all files again that somebody listens to.
    pub(crate) fn refresh(&self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, sender| !sender.is_closed());
        for (client, sender) in &*clients {
            let value = self.read(client);
            sender.send_if_modified(|known| {
                let changed = *known != value;
                *known = value;
                changed
            });
        }
    }

    /// What has to be watched: a ConfigMap is replaced by swapping a link beside its files.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        vec![self.folder.clone()]
    }

    /// The file of one client; `None` if there is none. An unreadable one is reported in the log and counts as none.
    fn read(&self, client: &ClientRef) -> Option<ConfigBody> {
        let path = self.folder.join(client.file_name());
        match read(&path) {
            Ok(value) => value,
            Err(problem) => {
                tracing::warn!(%client, path = %path.display(), problem, "a configuration file is not used");
                None
            }
        }
    }
}

impl ConfigSource for ConfigFiles {
    fn watch(&self, client: &ClientRef) -> watch::Receiver<Option<ConfigBody>> {
        let value = self.read(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = clients.entry(client.clone()).or_insert_with(|| watch::Sender::new(None));
        sender.send_replace(value);
        sender.subscribe()
    }
}

fn read(path: &Path) -> Result<Option<ConfigBody>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > MAX_BODY_BYTES as u64 {
        return Err(format!("it has {length} bytes, more than the {MAX_BODY_BYTES} of any configuration"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    ConfigBody::from_json(&text).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use mq_protocol::message::Kind;

    use super::*;

    #[test]
    fn layout_is_no_change_and_garbage_is_no_value() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConfigFiles::new(folder.path().to_owned());
        let client = ClientRef::new(Kind::Producer, "orders");
        let mut told = files.watch(&client);
        assert_eq!(*told.borrow_and_update(), None);
        let write = |text: &str| {
            std::fs::write(folder.path().join("producer.orders.json"), text).unwrap();
            files.refresh();
        };
        write("{ \"b\": 1,\n \"a\": 2 }");
        assert_eq!(told.borrow_and_update().as_ref().map(ConfigBody::as_json), Some(r#"{"a":2,"b":1}"#));
        write(r#"{"a": 2, "b": 1}"#);
        assert!(!told.has_changed().unwrap());
        write("{");
        assert_eq!(*told.borrow_and_update(), None);
    }
}
