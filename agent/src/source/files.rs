//! `/config/mq/<kind>.<name>.json`: the ConfigMap that the operator keeps, mounted into the pod, or files of the service's own.

use std::path::{Path, PathBuf};

use mq_protocol::body;
use mq_protocol::limits::MAX_BODY_BYTES;
use mq_protocol::message::ClientRef;

use super::{Source, Value};

/// The folder of configuration files.
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

    /// What has to be watched: a ConfigMap is replaced by swapping a link beside its files.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        vec![self.folder.clone()]
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
}
