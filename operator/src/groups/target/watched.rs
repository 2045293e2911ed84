//! The workloads of one kind: looked up, listed, watched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use futures::StreamExt;
use kube::{
    Api, Client, Error,
    core::{ApiResource, DynamicObject, GroupVersionKind, discovery::Scope},
    discovery::pinned_kind,
    error::DiscoveryError,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use mq_core::reason::Reason;
use mq_crds::TargetRef;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::lock;
use super::{
    Deployed, NoTarget, Refused,
    seen::{Layout, Scaled, Seen},
};

/// Pause before a kind that is not there, or may not be seen, is looked up again.
const AGAIN: Duration = Duration::from_secs(5);
/// A kind that no group names any more is watched for so long.
const UNUSED: Duration = Duration::from_mins(10);
/// Longest wait for `/scale`: a cycle waits for it.
const ANSWER: Duration = Duration::from_secs(3);

/// Namespace and name.
type Name = (String, String);

/// A kind, and the workloads of it that the operator may see.
#[derive(Debug)]
pub(super) struct Watched {
    kind: GroupVersionKind,
    layout: Layout,
    state: RwLock<State>,
    asked: Mutex<Instant>,
}

#[derive(Debug)]
enum State {
    NotListed,
    Refused(Refused),
    Listed(Arc<ApiResource>, HashMap<Name, Seen>),
}

impl Watched {
    pub(super) fn new(kind: GroupVersionKind) -> Self {
        Self {
            layout: Layout::of(&kind),
            kind,
            state: RwLock::new(State::NotListed),
            asked: Mutex::new(Instant::now()),
        }
    }

    /// The workload as it is now.
    pub(super) async fn look(
        &self,
        client: &Client,
        namespace: &str,
        target: &TargetRef,
    ) -> Result<Deployed, NoTarget> {
        let (resource, seen) = self.find(namespace, &target.name)?;
        let scaled = if let Some(scaled) = seen.scaled() {
            scaled
        } else {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &*resource);
            let scaled = ask(&api, &resource, &target.name).await.map_err(NoTarget::Refused)?;
            self.remember(namespace, &target.name, &scaled);
            scaled
        };
        Ok(Deployed { uid: seen.uid.clone(), version: scaled.version.clone(), target: seen.target(&scaled), resource })
    }

    fn find(&self, namespace: &str, name: &str) -> Result<(Arc<ApiResource>, Seen), NoTarget> {
        *lock(&self.asked) = Instant::now();
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::NotListed => Err(NoTarget::NotListed),
            State::Refused(refused) => Err(NoTarget::Refused(refused.clone())),
            State::Listed(resource, known) => {
                let missing = || {
                    let kind = &self.kind.kind;
                    let message = format!("there is no {kind} {name}; create it or correct spec.scaling.targetRef");
                    NoTarget::Refused(Refused::new(Reason::TargetNotFound, message))
                };
                let seen = known.get(&(namespace.to_owned(), name.to_owned())).ok_or_else(missing)?;
                Ok((Arc::clone(resource), seen.clone()))
            }
        }
    }

    fn remember(&self, namespace: &str, name: &str, scaled: &Scaled) {
        if let State::Listed(_, known) = &mut *self.write()
            && let Some(seen) = known.get_mut(&(namespace.to_owned(), name.to_owned()))
        {
            seen.remember(scaled.clone());
        }
    }

    /// Watches until nobody has asked for long. A kind that is not there is waited for.
    pub(super) async fn run(self: Arc<Self>, client: Client, namespace: Option<String>) {
        tokio::select! {
            () = self.follow(client, namespace) => {}
            () = self.unused() => {}
        }
    }

    /// Returns once nobody has asked for [`UNUSED`].
    async fn unused(&self) {
        loop {
            let until = *lock(&self.asked) + UNUSED;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    async fn follow(&self, client: Client, namespace: Option<String>) {
        loop {
            match discover(&client, &self.kind).await {
                Ok(resource) => {
                    let api = match &namespace {
                        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                        None => Api::all_with(client.clone(), &resource),
                    };
                    self.watch(api, Arc::new(resource)).await;
                }
                Err(NoTarget::Refused(refused)) => *self.write() = State::Refused(refused),
                Err(NoTarget::NotListed) => {}
            }
            sleep(AGAIN).await;
        }
    }

    /// Ends when the kind is no longer served, or may not be seen: a watch that starts again would not list it anew.
    async fn watch(&self, api: Api<DynamicObject>, resource: Arc<ApiResource>) {
        let mut listing = HashMap::new();
        let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => self.note(&mut listing, &object),
                Ok(Event::InitDone) => {
                    *self.write() = State::Listed(Arc::clone(&resource), std::mem::take(&mut listing));
                }
                Ok(Event::Apply(object)) => {
                    if let State::Listed(_, known) = &mut *self.write() {
                        self.note(known, &object);
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let State::Listed(_, known) = &mut *self.write() {
                        known.remove(&name_of(&object));
                    }
                }
                Err(error) => {
                    let kind = &self.kind.kind;
                    tracing::warn!(%error, kind, "watch failed; it is taken up again");
                    match refusal(&error) {
                        Some(403) => {
                            let refused = Refused::forbidden(&resource, "", &["get", "list", "watch"]);
                            *self.write() = State::Refused(refused);
                            return;
                        }
                        Some(404) => return,
                        _ => {}
                    }
                }
            }
        }
    }

    fn note(&self, known: &mut HashMap<Name, Seen>, object: &DynamicObject) {
        if object.metadata.deletion_timestamp.is_some() {
            known.remove(&name_of(object));
        } else {
            known.insert(name_of(object), self.layout.read(object));
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(object: &DynamicObject) -> Name {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// How the API server names the kind, if it can be scaled.
async fn discover(client: &Client, kind: &GroupVersionKind) -> Result<ApiResource, NoTarget> {
    let (name, version) = (&kind.kind, kind.api_version());
    let missing = || {
        let message = format!("there is no kind {name} in {version}; install it or correct spec.scaling.targetRef");
        NoTarget::Refused(Refused::new(Reason::TargetNotFound, message))
    };
    match pinned_kind(client, kind).await {
        Ok((resource, served)) => {
            let scaled = served.subresources.iter().any(|(subresource, _)| subresource.plural == "scale");
            if scaled && served.scope == Scope::Namespaced {
                return Ok(resource);
            }
            let why = if scaled { "it belongs to no namespace" } else { "it has no subresource scale" };
            let message = format!("a {name} of {version} cannot be scaled: {why}; name another workload");
            Err(NoTarget::Refused(Refused::new(Reason::TargetNotScalable, message)))
        }
        Err(Error::Discovery(DiscoveryError::MissingKind(_))) => Err(missing()),
        Err(Error::Api(status)) if status.is_not_found() => Err(missing()),
        Err(error) => {
            tracing::warn!(%error, kind = name, "kind not looked up; it is tried again");
            Err(NoTarget::NotListed)
        }
    }
}

/// The code with which the API server refused.
pub(super) fn refusal(error: &watcher::Error) -> Option<u16> {
    let (watcher::Error::InitialListFailed(error)
    | watcher::Error::WatchStartFailed(error)
    | watcher::Error::WatchFailed(error)) = error
    else {
        return None;
    };
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

async fn ask(api: &Api<DynamicObject>, resource: &ApiResource, name: &str) -> Result<Scaled, Refused> {
    let unavailable = |why: String| {
        let kind = &resource.kind;
        Refused::new(Reason::KubernetesUnavailable, format!("cannot read the scale of {kind} {name}: {why}"))
    };
    match tokio::time::timeout(ANSWER, api.get_scale(name)).await {
        Ok(Ok(scale)) => Ok(Scaled::of(&scale)),
        Ok(Err(Error::Api(status))) if status.is_forbidden() => {
            Err(Refused::forbidden(resource, "/scale", &["get", "patch"]))
        }
        // The API server takes it for a mistake of its own.
        Ok(Err(Error::Api(status))) if status.message.contains("the spec replicas field") => {
            let (kind, message) = (&resource.kind, &status.message);
            let message = format!("the scale of {kind} {name} says no number of replicas: {message}; set that field");
            Err(Refused::new(Reason::TargetNotScalable, message))
        }
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable(format!("no answer within {ANSWER:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers with an empty list, and forbids to watch it.
    async fn forbids_to_watch(listener: TcpListener) {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8_192];
            let read = connection.read(&mut request).await.unwrap();
            let watches = String::from_utf8_lossy(&request[..read]).contains("watch=true");
            let (code, body) = if watches {
                let (reason, message) = ("Forbidden", "no");
                (403, json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": 403}))
            } else {
                (200, json!({"kind": "DeploymentList", "metadata": {"resourceVersion": "7"}, "items": []}))
            };
            let (body, head) = (body.to_string(), "connection: close\r\ncontent-type: application/json");
            let answer = format!("HTTP/1.1 {code} -\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_may_not_be_watched_is_listed_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let server = tokio::spawn(forbids_to_watch(listener));
        let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
        let resource = ApiResource::from_gvk(&kind);
        let watched = Watched::new(kind);
        let watch = watched.watch(Api::all_with(client, &resource), Arc::new(resource));
        tokio::time::timeout(Duration::from_secs(10), watch).await.expect("a watch that goes on never lists again");
        let found = watched.find("shop", "worker").unwrap_err();
        assert!(matches!(&found, NoTarget::Refused(why) if why.reason == Reason::TargetForbidden), "{found:?}");
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_nobody_asks_for_is_let_go() {
        let watched = Watched::new(GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let began = Instant::now();
        let asks = async {
            for _ in 0..3 {
                sleep(UNUSED / 2).await;
                assert_eq!(watched.find("shop", "worker").unwrap_err(), NoTarget::NotListed);
            }
        };
        tokio::join!(asks, watched.unused());
        assert_eq!((Instant::now() - began).as_secs(), (UNUSED / 2 * 5).as_secs(), "counted from the last question");
    }
}
