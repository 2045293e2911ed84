//! Sources of configuration beside the operator: the files of the pod, and what a service brings itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mq_protocol::body;
use mq_protocol::message::ClientRef;
use tokio::sync::watch;

use super::{ConfigFiles, Source, Value};
use crate::error::Error;
use crate::guard::guarded;

/// The whole configuration of one client, in the form of the files under `/config/mq/`: every setting with its final value, the
/// addresses of the brokers, and no credentials. It is JSON of at most 64 KiB; whether a client can run with it is found when it is
/// applied ([`ConfigOutcome`]).
///
/// [`Config::for_client`](crate::Config::for_client) makes one from settings in code. Two of equal content are equal, however their text
/// was laid out.
///
/// ```
/// use mq_agent::{ClientKind, ClientRef, Config};
///
/// let orders = ClientRef::new(ClientKind::Producer, "orders");
/// let body = Config::default().brokers(["kafka:9092"]).for_client(&orders)?;
/// assert!(body.is_some_and(|body| body.as_json().starts_with(r#"{"brokers":["kafka:9092"]"#)));
/// # Ok::<(), mq_agent::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigBody(body::Encoded);

impl ConfigBody {
    /// Reads JSON text.
    ///
    /// ```
    /// let body = mq_agent::ConfigBody::from_json(r#"{ "settings": {}, "brokers": ["kafka:9092"] }"#)?;
    /// assert_eq!(body.as_json(), r#"{"brokers":["kafka:9092"],"settings":{}}"#);
    /// assert!(mq_agent::ConfigBody::from_json("brokers: kafka").is_err());
    /// # Ok::<(), mq_agent::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is no JSON, or larger than a client accepts.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| Error::InvalidConfig { detail: format!("it is not JSON: {error}") })?;
        Self::encode(&json)
    }

    pub(crate) fn encode(body: &impl serde::Serialize) -> Result<Self, Error> {
        body::encode(body).map(Self).map_err(|error| Error::InvalidConfig { detail: error.to_string() })
    }

    /// The text in its one canonical form: keys sorted, no spaces.
    pub fn as_json(&self) -> &str {
        &self.0.json
    }
}

impl From<ConfigBody> for body::Encoded {
    fn from(value: ConfigBody) -> Self {
        value.0
    }
}

/// What became of a configuration.
///
/// ```
/// use mq_agent::ConfigOutcome;
///
/// fn say(outcome: &ConfigOutcome) {
///     match outcome {
///         ConfigOutcome::Applied { effective, .. } => println!("it runs with {effective:?}"),
///         ConfigOutcome::Rejected { detail } => eprintln!("refused: {detail}"),
///         ConfigOutcome::Postponed { detail } => eprintln!("not yet: {detail}"),
///         _ => {}
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigOutcome {
    /// The client runs with it.
    Applied {
        /// What the running client says that it runs with, by the names of the settings.
        effective: BTreeMap<String, String>,
        /// What differs from the configuration, and keys that this version does not know.
        not_applied: Vec<String>,
    },
    /// The client can never run with it, and goes on as before.
    Rejected {
        /// Which field is wrong and why, or what stood in the way.
        detail: String,
    },
    /// Nothing can be said now, for example because the brokers do not answer; it is tried again every 5 s.
    Postponed {
        /// What stands in the way.
        detail: String,
    },
}

/// Where the clients of an [`Agent`](crate::Agent) get their configuration from, beside the operator, the files of the pod and the code:
/// a database, another configuration service, a test. Set with [`Options::source`](crate::Options::source).
///
/// A source is taken whole, as any other, and stands between the files and the last good value of the operator: code < files < *source* <
/// last good < operator.
///
/// ```
/// use mq_agent::{ClientRef, ConfigOutcome, ConfigSource, ConfigBody, Options};
/// use tokio::sync::watch;
///
/// /// One value for every client.
/// struct Fixed(watch::Sender<Option<ConfigBody>>);
///
/// impl ConfigSource for Fixed {
///     fn watch(&self, _: &ClientRef) -> watch::Receiver<Option<ConfigBody>> {
///         self.0.subscribe()
///     }
///
///     fn outcome(&self, client: &ClientRef, _: &ConfigBody, outcome: &ConfigOutcome) {
///         println!("{client}: {outcome:?}");
///     }
/// }
///
/// let options = Options::in_pod().source(Fixed(watch::Sender::new(None)));
/// ```
pub trait ConfigSource: Send + Sync {
    /// The configuration of one client, now and from now on. Asked once for each client, when it is asked for by name; it must not block.
    ///
    /// `None`: this source has nothing to say, and a weaker one is taken. A client that runs already keeps what it has. Of several values
    /// in a short time only the last may be looked at. Dropping the sender leaves the last value as it is.
    fn watch(&self, client: &ClientRef) -> watch::Receiver<Option<ConfigBody>>;

    /// What became of a value of this source, each time that something became of it: a stronger source may hide it, and then nothing
    /// does. It must not block. A panic in it is logged.
    fn outcome(&self, client: &ClientRef, body: &ConfigBody, outcome: &ConfigOutcome) {
        let _ = (client, body, outcome);
    }
}

/// The sources of an agent that are asked per client, with the rank of each.
#[derive(Clone)]
pub(crate) struct Given {
    files: Arc<ConfigFiles>,
    own: Option<Arc<dyn ConfigSource>>,
}

impl fmt::Debug for Given {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Given").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Given {
    pub(crate) fn new(files: Arc<ConfigFiles>, own: Option<Arc<dyn ConfigSource>>) -> Self {
        Self { files, own }
    }

    /// What the sources say about one client; a source that panics says nothing.
    pub(crate) fn watch(&self, client: &ClientRef) -> Vec<Watched> {
        let files: Arc<dyn ConfigSource> = Arc::clone(&self.files) as _;
        let own = self.own.as_ref().map(|own| (Source::Own, Arc::clone(own)));
        let all = std::iter::once((Source::File, files)).chain(own);
        all.filter_map(|(rank, source)| {
            Some(Watched { rank, values: guarded("a ConfigSource", || source.watch(client))? })
        })
        .collect()
    }

    /// Tells the source of a value what became of it.
    pub(crate) fn outcome(&self, client: &ClientRef, value: &Value, outcome: &ConfigOutcome) {
        if let (Source::Own, Some(own)) = (value.source, &self.own) {
            let json = String::from_utf8_lossy(&value.body).into_owned();
            let given = ConfigBody(body::Encoded { json, hash: value.version.hash.clone() });
            guarded("a ConfigSource", || own.outcome(client, &given, outcome));
        }
    }
}

/// One source's word on one client.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) rank: Source,
    values: watch::Receiver<Option<ConfigBody>>,
}

impl Watched {
    /// The value that is there, seen from now on.
    pub(crate) fn now(&mut self) -> Option<Value> {
        self.values.borrow_and_update().clone().map(|value| Value::of(self.rank, value))
    }

    /// Hands on every later value. Never returns.
    pub(crate) async fn follow(mut self, give: impl Fn(Source, Option<Value>)) {
        while self.values.changed().await.is_ok() {
            let value = self.now();
            give(self.rank, value);
        }
        std::future::pending::<()>().await;
    }
}
