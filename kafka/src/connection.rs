//! One connection to one broker.
//!
//! One task owns the socket. Callers hand it encoded requests and wait for their answer, so a caller may be dropped at any
//! moment without leaving half a frame on the wire or an answer that nobody expects: the task sends what it has taken, drops
//! an answer that is no longer wanted, and ends with the last [`Connection`] handle.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{ApiVersionsRequest, ApiVersionsResponse},
    protocol::StrBytes,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{TcpStream, lookup_host},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, pki_types::ServerName},
};

use crate::{Error, ErrorKind, Options, api::Api, frame, sasl};

/// What carries the bytes: a TCP stream, or anything wrapped around one.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// Requests that may wait for the task; a caller beyond that waits to hand its request over.
const QUEUE: usize = 64;
/// Encoded bytes above which the task takes no further request before some were written.
const WRITE_AHEAD: usize = 256 * 1024;

/// A connection whose versions are negotiated. Requests of several callers are in flight at once and matched by
/// correlation id; any breach of the protocol and any unanswered request close it.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: String,
    options: Arc<Options>,
    jobs: mpsc::Sender<Job>,
    /// API key → versions that the broker offers.
    offered: BTreeMap<i16, (i16, i16)>,
    /// When the login is so old that the broker is about to close the connection.
    expires: Option<Instant>,
}

#[derive(Debug)]
enum Job {
    Send(Request),
    Close(String),
}

#[derive(Debug)]
struct Request {
    name: &'static str,
    bytes: BytesMut,
    timeout: Duration,
    answer: oneshot::Sender<Result<Bytes, ErrorKind>>,
}

impl Connection {
    /// Connects by TCP, encrypts, negotiates and logs in, as the options say.
    ///
    /// # Errors
    /// Not reached, not negotiated or not let in within `connect_timeout`, or the peer does not speak Kafka.
    pub(crate) async fn open(peer: &str, options: Arc<Options>) -> Result<Self, Error> {
        let limit = options.connect_timeout;
        let connect = async {
            let failed =
                |kind: fn(String) -> ErrorKind| move |e: io::Error| Error::new("connect", peer, kind(e.to_string()));
            let addresses: Vec<_> = lookup_host(peer).await.map_err(failed(ErrorKind::Unresolved))?.collect();
            let stream = TcpStream::connect(&*addresses).await.map_err(failed(ErrorKind::Connect))?;
            stream.set_nodelay(true).map_err(failed(ErrorKind::Connect))?;
            let mut connection = match options.security.tls.clone() {
                None => Self::over(stream, peer, options).await?,
                Some(tls) => Self::over(encrypt(&tls, stream, peer).await?, peer, options).await?,
            };
            if let Some(sasl) = &connection.options.security.sasl {
                let since = Instant::now();
                let lifetime = sasl::login(&connection, sasl).await?;
                // Early enough for requests that are sent just before to be answered.
                connection.expires = lifetime.map(|lifetime| since + lifetime.mul_f64(0.8));
            }
            Ok(connection)
        };
        timeout(limit, connect)
            .await
            .unwrap_or_else(|_| Err(Error::new("connect", peer, ErrorKind::ConnectTimeout(limit))))
    }

    /// Negotiates over a stream that is already connected (and encrypted and authenticated, where that is wanted).
    pub(crate) async fn over<T: Transport>(transport: T, peer: &str, options: Arc<Options>) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Driver::new(transport, peer, options.max_response_bytes).run(queue));
        let mut connection = Self { peer: peer.to_owned(), options, jobs, offered: BTreeMap::new(), expires: None };
        connection.offered = connection.negotiate().await?;
        Ok(connection)
    }

    /// False once the task has ended (requests are then refused unsent) or the login is about to: what is under way is still answered,
    /// and what comes next logs in anew, with the credentials of then.
    pub(crate) fn is_open(&self) -> bool {
        !self.jobs.is_closed() && self.expires.is_none_or(|expires| Instant::now() < expires)
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The newest version that both sides speak.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedApi`] when there is none.
    pub(crate) fn version<A: Api>(&self) -> Result<i16, Error> {
        let offered = self.offered.get(&A::KEY).copied();
        offered
            .map(|(min, max)| (min.max(A::OLDEST), max.min(A::NEWEST)))
            .filter(|(oldest, newest)| oldest <= newest)
            .map(|(_, newest)| newest)
            .ok_or_else(|| {
                let kind = ErrorKind::UnsupportedApi { oldest: A::OLDEST, newest: A::NEWEST, offered };
                Error::new(A::NAME, &*self.peer, kind)
            })
    }

    /// Sends one request and waits for its answer. Dropping the future gives the answer up, not the connection.
    ///
    /// # Errors
    /// Transport errors, [`ErrorKind::UnsupportedApi`], [`ErrorKind::Malformed`] (which also closes the connection).
    /// Error codes inside the answer are the caller's to read.
    pub(crate) async fn request<A: Api>(&self, request: &A) -> Result<A::Response, Error> {
        let version = self.version::<A>()?;
        let failed = |kind| Error::new(A::NAME, &*self.peer, kind);
        let bytes = frame::encode(request, version, &self.options.client_id).map_err(failed)?;
        let frame = self.exchange(A::NAME, bytes, self.options.request_timeout).await.map_err(failed)?;
        match frame::decode(frame, version) {
            Ok(response) => Ok(response),
            Err(kind) => {
                self.close(kind.to_string()).await;
                Err(failed(kind))
            }
        }
    }

    pub(crate) async fn exchange(
        &self,
        name: &'static str,
        bytes: BytesMut,
        timeout: Duration,
    ) -> Result<Bytes, ErrorKind> {
        let (answer, answered) = oneshot::channel();
        let unsent = || ErrorKind::NotSent("the connection is closed".to_owned());
        self.jobs.send(Job::Send(Request { name, bytes, timeout, answer })).await.map_err(|_| unsent())?;
        // The task answers everything it has taken, so a dropped channel means that it never took the request.
        answered.await.unwrap_or_else(|_| Err(unsent()))
    }

    async fn close(&self, reason: String) {
        // Fails only when the connection is closed already.
        self.jobs.send(Job::Close(reason)).await.ok();
    }

    async fn negotiate(&self) -> Result<BTreeMap<i16, (i16, i16)>, Error> {
        type Request = ApiVersionsRequest;
        let failed = |kind| {
            let kind = match kind {
                ErrorKind::Malformed(why) => ErrorKind::NotKafka(why),
                ErrorKind::Closed(why) if self.options.security.tls.is_none() => {
                    ErrorKind::Closed(format!("{why} (a listener for TLS does this)"))
                }
                kind => kind,
            };
            Error::new(Request::NAME, &*self.peer, kind)
        };
        let request = Request::default()
            .with_client_software_name(StrBytes::from_static_str("mq"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let bytes = frame::encode(&request, Request::NEWEST, &self.options.client_id).map_err(failed)?;
        let answer = self.exchange(Request::NAME, bytes, self.options.connect_timeout).await.map_err(failed)?;
        // A broker older than Kafka 2.4 answers in version 0 with the error UNSUPPORTED_VERSION, whatever it was asked in.
        if answer.get(4..6) == Some(&ResponseError::UnsupportedVersion.code().to_be_bytes()) {
            let kind =
                ErrorKind::UnsupportedApi { oldest: Request::OLDEST, newest: Request::NEWEST, offered: Some((0, 2)) };
            return Err(failed(kind));
        }
        let response: ApiVersionsResponse = frame::decode(answer, Request::NEWEST).map_err(failed)?;
        if let Some(error) = crate::BrokerError::from_code(response.error_code, None) {
            return Err(failed(error.into()));
        }
        Ok(response.api_keys.into_iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect())
    }
}

/// The broker's certificate must name the host that was dialled.
async fn encrypt(tls: &TlsConnector, stream: TcpStream, peer: &str) -> Result<TlsStream<TcpStream>, Error> {
    let failed = |why: String| Error::new("TLS handshake", peer, ErrorKind::Tls(why));
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
    tls.connect(name, stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            failed(format!("{error}; check that the address is a listener of SSL or SASL_SSL"))
        }
        _ => failed(error.to_string()),
    })
}

/// The task that owns the socket.
struct Driver<T> {
    peer: String,
    reader: ReadHalf<T>,
    writer: WriteHalf<T>,
    max_response: usize,
    incoming: BytesMut,
    outgoing: BytesMut,
    in_flight: BTreeMap<i32, InFlight>,
    next_id: i32,
}

struct InFlight {
    name: &'static str,
    timeout: Duration,
    deadline: Instant,
    answer: oneshot::Sender<Result<Bytes, ErrorKind>>,
}

impl<T: Transport> Driver<T> {
    fn new(transport: T, peer: &str, max_response: usize) -> Self {
        let (reader, writer) = tokio::io::split(transport);
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        Self {
            peer: peer.to_owned(),
            reader,
            writer,
            max_response,
            incoming,
            outgoing,
            in_flight: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Runs until the connection breaks or every handle is gone; then everything in flight is answered with the reason.
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let reason = self.drive(&mut queue).await;
        tracing::debug!(broker = %self.peer, %reason, in_flight = self.in_flight.len(), "connection closed");
        drop(queue);
        for (n, waiting) in self.in_flight.into_values().enumerate() {
            let kind = match &reason {
                Closing::Timeout if waiting.deadline <= Instant::now() => ErrorKind::Timeout(waiting.timeout),
                // Kafka answers in order: it was meant for the first one.
                Closing::Malformed(kind) if n == 0 => kind.clone(),
                Closing::Tls(kind) => kind.clone(),
                reason => ErrorKind::Closed(reason.to_string()),
            };
            waiting.answer.send(Err(kind)).ok();
        }
    }

    async fn drive(&mut self, queue: &mut mpsc::Receiver<Job>) -> Closing {
        loop {
            let deadline = self.in_flight.values().map(|waiting| waiting.deadline).min();
            // Every branch is cancel-safe: partly read and partly written bytes stay in the two buffers.
            tokio::select! {
                read = self.reader.read_buf(&mut self.incoming) => {
                    match read {
                        Ok(0) => return Closing::Lost("closed by the broker".to_owned()),
                        Ok(_) => {}
                        Err(error) => return Closing::of(&error),
                    }
                    if let Err(kind) = self.dispatch() {
                        return Closing::Malformed(kind);
                    }
                }
                written = self.writer.write(&self.outgoing), if !self.outgoing.is_empty() => match written {
                    Ok(0) => return Closing::Lost("the socket takes no more bytes".to_owned()),
                    Ok(count) => self.outgoing.advance(count),
                    Err(error) => return Closing::of(&error),
                },
                job = queue.recv(), if self.outgoing.len() < WRITE_AHEAD => match job {
                    Some(Job::Send(request)) => self.take(request),
                    Some(Job::Close(reason)) => return Closing::Lost(reason),
                    None => return Closing::Unused,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return Closing::Timeout,
            }
        }
    }

    fn take(&mut self, mut request: Request) {
        if request.answer.is_closed() {
            return;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1) & i32::MAX;
        frame::set_correlation_id(&mut request.bytes, id);
        self.outgoing.extend_from_slice(&request.bytes);
        let Request { name, timeout, answer, .. } = request;
        self.in_flight.insert(id, InFlight { name, timeout, deadline: Instant::now() + timeout, answer });
    }

    fn dispatch(&mut self) -> Result<(), ErrorKind> {
        while let Some(frame) = frame::next(&mut self.incoming, self.max_response)? {
            let id = frame::correlation_id(&frame);
            let waiting = id.and_then(|id| self.in_flight.remove(&id)).ok_or_else(|| {
                let expected: Vec<_> =
                    self.in_flight.iter().map(|(id, waiting)| format!("{id} ({})", waiting.name)).collect();
                ErrorKind::Malformed(format!("answer to request {id:?}, in flight are [{}]", expected.join(", ")))
            })?;
            // The caller may have given up; its answer is of no use to anyone else.
            waiting.answer.send(Ok(frame)).ok();
        }
        Ok(())
    }
}

/// Why a connection ends.
#[derive(Debug)]
enum Closing {
    Lost(String),
    Malformed(ErrorKind),
    Tls(ErrorKind),
    Timeout,
    Unused,
}

impl Closing {
    fn of(error: &io::Error) -> Self {
        // With TLS 1.3 a broker refuses the client's certificate after the client has taken the connection for made.
        match error.get_ref().filter(|inner| inner.is::<rustls::Error>()) {
            Some(refused) => Self::Tls(ErrorKind::Tls(refused.to_string())),
            None => Self::Lost(error.to_string()),
        }
    }
}

impl std::fmt::Display for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(reason) => f.write_str(reason),
            Self::Malformed(kind) | Self::Tls(kind) => kind.fmt(f),
            Self::Timeout => f.write_str("an earlier request got no answer in time"),
            Self::Unused => f.write_str("no longer used"),
        }
    }
}

#[cfg(test)]
mod tests;
