//! The last configuration from the operator that worked, kept on disk for a start without the operator.

use std::path::{Path, PathBuf};

use mq_protocol::body;
use mq_protocol::limits::MAX_BODY_BYTES;
use mq_protocol::message::{ClientRef, Version};
use serde::{Deserialize, Serialize};

use super::{Source, Value};

/// A folder of last good values. Off unless the service names a folder: many pods have none that outlives them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastGood {
    folder: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    revision: i64,
    hash: String,
    body: String,
}

impl LastGood {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Keeps a value that a client runs with. A failure is reported in the log: the client runs all the same.
    pub(crate) fn save(&self, client: &ClientRef, value: &Value) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = save(folder, client, value) {
            tracing::warn!(%client, folder = %folder.display(), %error, "the last good configuration could not be saved");
        }
    }

    /// Forgets the value: its object is gone.
    pub(crate) fn forget(&self, client: &ClientRef) {
        if let Some(folder) = &self.folder {
            // Usually there is none.
            let _ = std::fs::remove_file(folder.join(client.file_name()));
        }
    }

    /// What was saved, if it is whole.
    pub(crate) fn load(&self, client: &ClientRef) -> Option<Value> {
        let path = self.folder.as_ref()?.join(client.file_name());
        // Twice: the body is text inside of JSON.
        if std::fs::metadata(&path).ok()?.len() > 2 * MAX_BODY_BYTES as u64 {
            return None;
        }
        let Saved { revision, hash, body } = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (body::hash(body.as_bytes()) == hash).then(|| Value::new(Source::LastGood, revision, hash, body))
    }
}

/// Writes beside and renames, so that a crash leaves the old value or the new one.
fn save(folder: &Path, client: &ClientRef, value: &Value) -> std::io::Result<()> {
    let Version { revision, hash } = value.version.clone();
    let body = String::from_utf8_lossy(&value.body).into_owned();
    let text = serde_json::to_vec(&Saved { revision, hash, body })?;
    std::fs::create_dir_all(folder)?;
    let path = folder.join(client.file_name());
    let beside = folder.join(format!(".{}.new", client.file_name()));
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use mq_protocol::message::Kind;

    use super::*;

    #[test]
    fn a_saved_value_comes_back_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let last_good = LastGood::new(Some(folder.path().join("state")));
        let client = ClientRef::new(Kind::Consumer, "notifications");
        assert_eq!(last_good.load(&client), None);
        let body = r#"{"a":1}"#;
        last_good.save(&client, &Value::new(Source::Stream, 7, body::hash(body.as_bytes()), body));
        let loaded = last_good.load(&client).unwrap();
        assert_eq!((loaded.source, loaded.version.revision, &loaded.body[..]), (Source::LastGood, 7, body.as_bytes()));

        let path = folder.path().join("state/consumer.notifications.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("a\\\":1", "a\\\":2");
        std::fs::write(&path, text).unwrap();
        assert_eq!(last_good.load(&client), None);
        last_good.forget(&client);
        assert!(!path.exists());
    }

    #[test]
    fn it_is_off_by_default() {
        let client = ClientRef::new(Kind::Producer, "orders");
        let last_good = LastGood::default();
        last_good.save(&client, &Value::new(Source::Stream, 1, String::new(), "{}"));
        assert_eq!(last_good.load(&client), None);
    }
}
