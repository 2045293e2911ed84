//! Who wrote what at the API server of a node, by its audit log.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The writes that are answered from one moment on: see [`Node::audit`](crate::Node::audit).
#[derive(Debug)]
pub struct Audit {
    log: PathBuf,
    from: u64,
}

/// One write: anything but reading. Questions in the form of a write, such as `tokenreviews`, count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `system:serviceaccount:NAMESPACE:NAME` for programs in pods.
    pub user: String,
    /// The pod whose token it was; `None` outside pods.
    pub pod: Option<String>,
    pub verb: String,
    /// With its subresource: `deployments/scale`.
    pub resource: String,
    /// Empty for what is cluster-wide.
    pub namespace: String,
    /// Empty if the API server chose it.
    pub name: String,
    /// What was sent, for our own kinds; `null` for all others.
    pub body: Value,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.pod.as_deref().unwrap_or(&self.user);
        write!(f, "{by}: {} {} {}/{}", self.verb, self.resource, self.namespace, self.name)?;
        if self.body.is_null() { Ok(()) } else { write!(f, " {}", self.body) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    request_object: Value,
    response_status: Status,
}

#[derive(Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    extra: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

impl Audit {
    /// From now on.
    pub(crate) fn begin(log: &Path) -> Result<Self> {
        let length = log.metadata().with_context(|| format!("looking at the audit log {}", log.display()))?.len();
        Ok(Self { log: log.to_owned(), from: length })
    }

    /// The accepted writes so far, in the order of their answers. The API server writes a line before it answers, so what a client knows
    /// to be done is here.
    ///
    /// # Errors
    /// The log cannot be read or is not what it should be.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let accepted = self.lines()?.into_iter().filter(|line| line.response_status.code < 300);
        Ok(accepted.map(Write::from).collect())
    }

    /// The writes so far with those that the API server refused.
    ///
    /// # Errors
    /// See [`Audit::writes`].
    pub fn attempts(&self) -> Result<Vec<Write>> {
        Ok(self.lines()?.into_iter().map(Write::from).collect())
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let attempt = || format!("reading the audit log {}", self.log.display());
        let mut text = String::new();
        let mut log = File::open(&self.log).with_context(attempt)?;
        log.seek(SeekFrom::Start(self.from)).with_context(attempt)?;
        log.read_to_string(&mut text).with_context(attempt)?;
        // The last line may still be being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line| serde_json::from_str::<Line>(line).with_context(attempt);
        whole.lines().map(parse).collect()
    }
}

impl From<Line> for Write {
    fn from(line: Line) -> Self {
        let Object { mut resource, subresource, namespace, name } = line.object_ref;
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        let pod = line.user.extra["authentication.kubernetes.io/pod-name"][0].as_str().map(str::to_owned);
        Self { user: line.user.username, pod, verb: line.verb, resource, namespace, name, body: line.request_object }
    }
}
