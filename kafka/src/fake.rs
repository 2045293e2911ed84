//! A broker for tests that does what a script says, down to the single byte.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::Options;

/// Listens on loopback and runs the script once per connection.
pub(crate) struct FakeBroker {
    pub(crate) address: String,
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    listener: JoinHandle<()>,
}

/// One accepted connection.
pub(crate) struct Wire {
    stream: TcpStream,
}

/// A request as it came in, header already read.
pub(crate) struct Received {
    pub(crate) key: i16,
    pub(crate) version: i16,
    pub(crate) id: i32,
}

pub(crate) const LIST_OFFSETS: i16 = 2;
pub(crate) const METADATA: i16 = 3;
pub(crate) const OFFSET_FETCH: i16 = 9;
pub(crate) const FIND_COORDINATOR: i16 = 10;
pub(crate) const API_VERSIONS: i16 = 18;
pub(crate) const CREATE_TOPICS: i16 = 19;

/// Key, oldest and newest version of what a recent broker offers.
pub(crate) const RECENT: &[(i16, i16, i16)] = &[
    (LIST_OFFSETS, 1, 9),
    (METADATA, 0, 12),
    (OFFSET_FETCH, 1, 9),
    (FIND_COORDINATOR, 0, 6),
    (API_VERSIONS, 0, 4),
    (CREATE_TOPICS, 2, 7),
];

pub(crate) fn options() -> Options {
    Options {
        connect_timeout: std::time::Duration::from_secs(5),
        request_timeout: std::time::Duration::from_secs(5),
        max_response_bytes: 1024 * 1024,
        ..Options::default()
    }
}

impl FakeBroker {
    /// The script gets the number of the connection, from 0, and the connection.
    pub(crate) async fn start<F>(script: impl Fn(usize, Wire) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(counter.fetch_add(1, Ordering::SeqCst), Wire { stream }));
            }
        });
        Self { address: format!("127.0.0.1:{port}"), port, connections, listener }
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Wire {
    /// The next request; `None` once the client has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Received> {
        let length = usize::try_from(self.stream.read_i32().await.ok()?).unwrap();
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await.ok()?;
        let short = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
        let id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        Some(Received { key: short(0), version: short(2), id })
    }

    /// Answers the `ApiVersions` request that opens every connection.
    pub(crate) async fn negotiate(&mut self, offered: &[(i16, i16, i16)]) {
        let Some(request) = self.receive().await else { return };
        assert_eq!((request.key, request.version), (API_VERSIONS, 3));
        let mut body = Body::default().short(0).length(offered.len());
        for (key, oldest, newest) in offered {
            body = body.short(*key).short(*oldest).short(*newest).tags();
        }
        // This one answer has no tags in its header, so that clients can read it before they know anything.
        let body = body.int(0).tags();
        self.raw(&framed(&[&request.id.to_be_bytes()[..], &body.0].concat())).await;
    }

    /// Answers one request.
    pub(crate) async fn answer(&mut self, id: i32, body: &Body) {
        self.raw(&response(id, body)).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // The client may have gone, as some tests want it.
        self.stream.write_all(bytes).await.ok();
        self.stream.flush().await.ok();
    }

    /// Reads and ignores everything until the client closes the connection.
    pub(crate) async fn swallow(&mut self) {
        while self.receive().await.is_some() {}
    }
}

/// A whole response with its length.
pub(crate) fn response(id: i32, body: &Body) -> Vec<u8> {
    framed(&[&id.to_be_bytes()[..], &[0], &body.0].concat())
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&i32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

/// The body of a response in a flexible version, written field by field.
#[derive(Default, Clone)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    fn with(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn byte(self, value: u8) -> Self {
        self.with(&[value])
    }

    pub(crate) fn short(self, value: i16) -> Self {
        self.with(&value.to_be_bytes())
    }

    pub(crate) fn int(self, value: i32) -> Self {
        self.with(&value.to_be_bytes())
    }

    pub(crate) fn long(self, value: i64) -> Self {
        self.with(&value.to_be_bytes())
    }

    /// Number of items of an array that follows; at most 126.
    pub(crate) fn length(self, items: usize) -> Self {
        self.byte(u8::try_from(items + 1).unwrap())
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.length(text.len()).with(text.as_bytes())
    }

    pub(crate) fn null(self) -> Self {
        self.byte(0)
    }

    /// No tagged fields: the end of every struct.
    pub(crate) fn tags(self) -> Self {
        self.byte(0)
    }
}

/// Metadata version 12: brokers by id and port, the controller, and topics with the leader of their one partition.
pub(crate) fn metadata(brokers: &[(i32, u16)], controller: i32, topics: &[(&str, i32)]) -> Body {
    let mut body = Body::default().int(0).length(brokers.len());
    for (id, port) in brokers {
        body = body.int(*id).text("127.0.0.1").int(i32::from(*port)).null().tags();
    }
    body = body.text("cluster").int(controller).length(topics.len());
    for (name, leader) in topics {
        body = body.short(0).text(name).with(&[7; 16]).byte(0).length(1);
        body = body.short(0).int(0).int(*leader).int(0).length(1).int(*leader).length(1).int(*leader).length(0).tags();
        body = body.int(i32::MIN).tags();
    }
    body.tags()
}

/// `CreateTopics` version 7: one topic with this error code.
pub(crate) fn created(name: &str, code: i16) -> Body {
    let body = Body::default().int(0).length(1).text(name).with(&[7; 16]).short(code).null();
    body.int(1).short(1).length(0).tags().tags()
}

/// `FindCoordinator` version 4 and later: one broker coordinates all these groups.
pub(crate) fn coordinators(groups: &[&str], node: i32, port: u16) -> Body {
    let mut body = Body::default().int(0).length(groups.len());
    for group in groups {
        body = body.text(group).int(node).text("127.0.0.1").int(i32::from(port)).short(0).null().tags();
    }
    body.tags()
}

/// `OffsetFetch` version 8 and later: each group's error code, and its offset for partition 0 of topic `t`.
pub(crate) fn offsets(groups: &[(&str, i16, i64)]) -> Body {
    let mut body = Body::default().int(0).length(groups.len());
    for (group, code, offset) in groups {
        body = body.text(group).length(1).text("t").length(1);
        body = body.int(0).long(*offset).int(-1).text("meta").short(0).tags().tags();
        body = body.short(*code).tags();
    }
    body.tags()
}

/// `ListOffsets` version 6 and later: error code and offset of partition 0 of topic `t`.
pub(crate) fn log_end(code: i16, offset: i64) -> Body {
    let body = Body::default().int(0).length(1).text("t").length(1);
    body.int(0).short(code).long(-1).long(offset).int(0).tags().tags().tags()
}
