//! What the operator proves itself with at Kafka: Secrets of its own namespace, each watched alone by its name, so that no other Secret
//! enters the process and the chart can grant them one by one.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use mq_core::{condition::Verdict, effect::ObjectKey, reason::Reason};
use tokio_util::task::AbortOnDropHandle;

use crate::reconcile::Waker;

/// What a Secret says. Equal values need no new connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// User and password.
    pub(crate) user: Option<(String, String)>,
    /// Certificate and key, PEM.
    pub(crate) certificate: Option<(String, String)>,
}

// Passwords and keys stay out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, certificate) = (self.user.is_some(), self.certificate.is_some());
        f.debug_struct("Credentials").field("user", &user).field("certificate", &certificate).finish()
    }
}

type Data = BTreeMap<String, ByteString>;

/// What the watch of a Secret has seen.
#[derive(Clone)]
enum Seen {
    Nothing,
    Absent,
    Unreadable(String),
    Data(Data),
}

/// The Secrets of all `MqCluster`s.
pub(crate) struct Secrets {
    client: Client,
    namespace: String,
    /// Wakes `MqCluster`s.
    waker: Waker,
    watched: Mutex<HashMap<ObjectKey, Watched>>,
}

struct Watched {
    secret: String,
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Secrets {
    pub(crate) fn new(client: Client, namespace: String, waker: Waker) -> Self {
        Self { client, namespace, waker, watched: Mutex::default() }
    }

    /// The credentials in the Secret that a cluster names; nothing before the Secret was looked for. From then on the cluster is woken
    /// whenever the Secret changes.
    ///
    /// # Errors
    /// The Secret is missing or its data are no credentials: for the status of the cluster.
    pub(crate) fn get(&self, cluster: &ObjectKey, secret: Option<&str>) -> Result<Option<Credentials>, Verdict> {
        let Some(name) = secret else {
            self.forget(cluster);
            return Ok(Some(Credentials::default()));
        };
        let seen = {
            let mut watched = lock(&self.watched);
            if watched.get(cluster).is_none_or(|watched| watched.secret != name) {
                watched.insert(cluster.clone(), self.watch(cluster, name));
            }
            watched.get(cluster).map_or(Seen::Nothing, |watched| lock(&watched.seen).clone())
        };
        let place = format!("{}/{name}", self.namespace);
        let missing = |message| Verdict::stalled(Reason::CredentialsNotFound, message);
        match seen {
            Seen::Nothing => Ok(None),
            Seen::Absent => Err(missing(format!("there is no Secret {place}; create it, or correct spec.admin"))),
            Seen::Unreadable(why) => Err(missing(format!("the Secret {place} cannot be read: {why}"))),
            Seen::Data(data) => read(&data)
                .map(Some)
                .map_err(|why| Verdict::stalled(Reason::CredentialsInvalid, format!("the Secret {place} {why}"))),
        }
    }

    pub(crate) fn forget(&self, cluster: &ObjectKey) {
        lock(&self.watched).remove(cluster);
    }

    fn watch(&self, cluster: &ObjectKey, name: &str) -> Watched {
        let seen = Arc::new(Mutex::new(Seen::Nothing));
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut changes = watch_object(api, name).default_backoff().boxed();
        let (note, waker, cluster, secret) = (Arc::clone(&seen), self.waker.clone(), cluster.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                let now = match change {
                    Ok(Some(secret)) => Seen::Data(secret.data.unwrap_or_default()),
                    Ok(None) => Seen::Absent,
                    Err(error) => {
                        tracing::warn!(%error, secret, "watch failed; it is taken up again");
                        // What was read before is not less true for that.
                        if matches!(*lock(&note), Seen::Data(_)) {
                            continue;
                        }
                        Seen::Unreadable(error.to_string())
                    }
                };
                *lock(&note) = now;
                waker.wake(cluster.clone());
            }
        });
        Watched { secret: name.to_owned(), seen, _task: AbortOnDropHandle::new(task) }
    }
}

/// Reads the data of a Secret.
fn read(data: &Data) -> Result<Credentials, String> {
    let text = |key: &str| {
        let bytes = data.get(key).map(|bytes| bytes.0.as_slice());
        let text = bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| format!("has a {key} that is not UTF-8")));
        // An editor ends the file with a line break, and no password does.
        Ok::<_, String>(text.transpose()?.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()))
    };
    let pair = |one: &str, other: &str| match (text(one)?, text(other)?) {
        (None, None) => Ok(None),
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (Some(_), None) => Err(format!("has {one} and no {other}")),
        (None, Some(_)) => Err(format!("has {other} and no {one}")),
    };
    Ok(Credentials { user: pair("username", "password")?, certificate: pair("tls.crt", "tls.key")? })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &[u8])]) -> Data {
        entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec()))).collect()
    }

    #[test]
    fn pairs_are_whole_text_and_never_shown() {
        let user = read(&data(&[("username", b"alice"), ("password", b"hunter2\n"), ("other", b"\xff")])).unwrap();
        assert_eq!(user.user, Some(("alice".into(), "hunter2".into())), "a line break at the end does not count");
        assert_eq!(user.certificate, None);
        assert!(!format!("{user:?}").contains("hunter2"));
        let refused = [
            (data(&[("username", b"alice")]), "has username and no password"),
            (data(&[("tls.key", b"key")]), "has tls.key and no tls.crt"),
            (data(&[("username", b"alice"), ("password", b"\xff")]), "has a password that is not UTF-8"),
        ];
        for (data, words) in refused {
            assert_eq!(read(&data).unwrap_err(), words);
        }
    }
}
