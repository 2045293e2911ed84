//! A broker: where it is, what it counted, and the faults one can put on it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{Secure, unique};

/// One broker of the running instance.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The launcher's name of it.
    name: String,
    bootstrap: String,
    metrics: String,
    secure: Option<Secure>,
    control: PathBuf,
}

impl Broker {
    pub(crate) fn attach(
        name: String,
        bootstrap: String,
        metrics: String,
        secure: Option<Secure>,
        control: PathBuf,
    ) -> Self {
        Self { name, bootstrap, metrics, secure, control }
    }

    /// `host:port` of its PLAINTEXT listener.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Its listeners with TLS and SASL.
    ///
    /// # Errors
    /// The broker of a node has none.
    pub fn secure(&self) -> Result<&Secure> {
        self.secure.as_ref().context("this broker has no listener with TLS or SASL; the one of TestEnv::kafka has")
    }

    /// A topic or group name that no other test uses.
    pub fn unique(&self, base: &str) -> String {
        unique(base)
    }

    /// Requests of this kind (`"OffsetFetch"`, `"AlterConfigs"`, …; all versions) that the broker served since it started.
    ///
    /// The count covers everybody, also other tests and the broker's own traffic: compare differences, and allow for others.
    ///
    /// # Errors
    /// The broker's metrics endpoint does not answer. A kind it never served counts as 0 because the broker itself leaves it out.
    pub async fn requests(&self, kind: &str) -> Result<u64> {
        Ok(self.all_requests().await?.get(kind).copied().unwrap_or_default())
    }

    /// The same for every kind that it ever served.
    ///
    /// # Errors
    /// See [`Self::requests`].
    pub async fn all_requests(&self) -> Result<BTreeMap<String, u64>> {
        let mut requests = BTreeMap::new();
        for (kind, value) in by_request(&self.metrics_page().await?, "kafka_requests_total") {
            *requests.entry(kind.to_owned()).or_default() += count(value)?;
        }
        ensure!(!requests.is_empty(), "{} shows no request counters at all", self.metrics);
        Ok(requests)
    }

    /// How many milliseconds it has spent on `FindCoordinator`, `ListOffsets` and `OffsetFetch`, from the whole request to the sent answer,
    /// since it started. Differences count, as with [`Self::requests`].
    ///
    /// # Errors
    /// See [`Self::requests`].
    pub async fn request_times(&self) -> Result<BTreeMap<String, f64>> {
        let page = self.metrics_page().await?;
        let mut counts: BTreeMap<_, _> = by_request(&page, "kafka_request_time_count").collect();
        let times = by_request(&page, "kafka_request_time_mean_ms").map(|(kind, mean)| {
            let count = counts.remove(kind).with_context(|| format!("no count of {kind}"))?;
            anyhow::Ok((kind.to_owned(), mean.parse::<f64>()? * count.parse::<f64>()?))
        });
        times.collect()
    }

    async fn metrics_page(&self) -> Result<String> {
        let attempt = || format!("asking {} for its request counters", self.metrics);
        http_get(&self.metrics).await.with_context(attempt)
    }

    /// Stops the broker in order and returns once it is gone. Its data stay.
    ///
    /// # Errors
    /// The launcher refuses, for example because the broker is already stopped; so in all of these.
    pub async fn stop(&self) -> Result<()> {
        self.control("stop").await
    }

    /// Starts it again, on the same address with the same data, and returns once it serves.
    ///
    /// # Errors
    /// See [`Self::stop`].
    pub async fn start(&self) -> Result<()> {
        self.control("start").await
    }

    /// Ends it without warning (SIGKILL).
    ///
    /// # Errors
    /// See [`Self::stop`].
    pub async fn kill(&self) -> Result<()> {
        self.control("kill").await
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// See [`Self::stop`].
    pub async fn pause(&self) -> Result<()> {
        self.control("pause").await
    }

    /// Undoes [`Self::pause`].
    ///
    /// # Errors
    /// See [`Self::stop`].
    pub async fn resume(&self) -> Result<()> {
        self.control("resume").await
    }

    async fn control(&self, action: &str) -> Result<()> {
        let request = format!("{} {action}\n", self.name);
        let attempt = || format!("asking the launcher on {} for `{}`", self.control.display(), request.trim());
        let mut socket = UnixStream::connect(&self.control).await.with_context(attempt)?;
        socket.write_all(request.as_bytes()).await.with_context(attempt)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.with_context(attempt)?;
        match answer.trim() {
            "ok" => Ok(()),
            refusal => bail!("{}: {refusal}", request.trim()),
        }
    }
}

/// Kind of request and value of the lines `metric{request="kind",…} value`.
fn by_request<'a>(page: &'a str, metric: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let lines = page.lines().filter_map(move |line| line.strip_prefix(metric)?.strip_prefix("{request=\""));
    lines.filter_map(|line| Some((line.split_once('"')?.0, line.rsplit_once(' ')?.1)))
}

/// A count stays far below 2^53, so its digits are exact.
fn count(value: &str) -> Result<u64> {
    value.strip_suffix(".0").unwrap_or(value).parse().with_context(|| format!("not a count: `{value}`"))
}

/// The body of a page of the launcher's own metrics endpoints: HTTP/1.0, so that it is neither chunked nor kept open.
async fn http_get(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("not an http:// address")?;
    let (host, path) = rest.split_once('/').context("the address has no path")?;
    let mut socket = TcpStream::connect(host).await?;
    socket.write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is `{status}`");
    Ok(body.to_owned())
}
