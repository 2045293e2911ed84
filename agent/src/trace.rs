//! The trace identity that travels with messages: the `X-Trace-ID` header, and W3C's `traceparent` and `tracestate`.
//!
//! A task-local value is the truth, because a `tracing` span cannot be read back without a layer that the service would have to
//! install. The consumer restores it around the handler and the producer reads it, so a chain of services needs no code for it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::message::Header;

/// The record header that carries the trace id.
pub const TRACE_HEADER: &str = "X-Trace-ID";
/// W3C Trace Context: which span of which trace the record comes from. Its form on Kafka is the HTTP header's.
const TRACEPARENT: &str = "traceparent";
/// What tracing vendors add to it.
const TRACESTATE: &str = "tracestate";
/// The most of it that W3C asks everybody to pass on.
const MAX_TRACESTATE: usize = 512;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// A trace id, as received or as the service chose it. Cheap to clone.
///
/// ```
/// # tokio_test();
/// # fn tokio_test() { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use mq_agent::TraceId;
///
/// let seen = TraceId::new("4bf92f35").scope(async { TraceId::current() }).await;
/// assert_eq!(seen, Some(TraceId::new("4bf92f35")));
/// assert_eq!(TraceId::current(), None);
/// # }) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceId(Arc<str>);

impl TraceId {
    /// A trace id from text of the service's own choice.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(Arc::from(id.as_ref()))
    }

    /// A new random trace id.
    ///
    /// ```
    /// assert_ne!(mq_agent::TraceId::random(), mq_agent::TraceId::random());
    /// ```
    pub fn random() -> Self {
        Self::new(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The trace id of the running task, if it is inside [`TraceId::scope`] or inside a handler whose record carried one.
    ///
    /// A task spawned inside the scope does not inherit it: wrap its future in `scope` again.
    pub fn current() -> Option<Self> {
        TraceContext::current()?.id
    }

    /// Runs `future` with this id as the current one. Every message that it sends carries the id, unless the message has one.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
    /// use mq_agent::{Message, TraceId};
    ///
    /// let request = TraceId::new("4bf92f35");
    /// request.scope(producer.send_sync(Message::to("orders").payload("{}"))).await?; // carries X-Trace-ID: 4bf92f35
    /// # Ok(()) }
    /// ```
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        TraceContext { id: Some(self), ..TraceContext::default() }.scope(future).await
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Everything that records say about their trace. Cheap to clone.
///
/// The handler of a record runs inside the record's context, and what it sends carries the context on. A service that makes spans of
/// its own sets theirs around what it sends:
///
/// ```
/// use mq_agent::TraceContext;
///
/// let context = TraceContext::default().with_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert_eq!(context.trace_id().map(|id| id.to_string()).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
/// assert_eq!(context.traceparent(), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
/// // context.scope(async { producer.send(…).await }).await
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    id: Option<TraceId>,
    parent: Option<Arc<str>>,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// The context of the running task; see [`TraceId::current`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `future` in this context. A message that it sends carries what it does not carry already.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Takes a W3C `traceparent`. The trace id becomes the one in it, unless there is one already. Text that is not of W3C's form is
    /// left out, as W3C asks.
    ///
    /// ```
    /// use mq_agent::TraceContext;
    ///
    /// let context = TraceContext::default().with_traceparent("no traceparent");
    /// assert_eq!(context.traceparent(), None);
    /// ```
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        if let Some(id) = trace_id_of(traceparent) {
            self.id = self.id.or_else(|| Some(TraceId::new(id)));
            self.parent = Some(Arc::from(traceparent));
        }
        self
    }

    /// Takes a W3C `tracestate`; it travels only beside a `traceparent`.
    ///
    /// ```
    /// use mq_agent::TraceContext;
    ///
    /// let context = TraceContext::default()
    ///     .with_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    ///     .with_tracestate("vendor=1");
    /// assert_eq!(context.tracestate(), Some("vendor=1"));
    /// ```
    #[must_use]
    pub fn with_tracestate(mut self, tracestate: &str) -> Self {
        let fits = tracestate.len() <= MAX_TRACESTATE && tracestate.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        self.state = fits.then(|| Arc::from(tracestate));
        self
    }

    /// The trace id: that of `X-Trace-ID`, else that of `traceparent`.
    pub fn trace_id(&self) -> Option<&TraceId> {
        self.id.as_ref()
    }

    /// The W3C `traceparent`.
    pub fn traceparent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// The W3C `tracestate`.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// What these headers say; of several headers of one name the last that can be read. `None`: nothing.
    pub(crate) fn read<'a>(
        headers: &(impl DoubleEndedIterator<Item = (&'a str, Option<&'a [u8]>)> + Clone),
    ) -> Option<Self> {
        let texts = |name: &'static str| {
            let named = headers.clone().rev().filter(move |header| header.0 == name);
            named.filter_map(|header| std::str::from_utf8(header.1?).ok())
        };
        let mut context = Self { id: texts(TRACE_HEADER).next().map(TraceId::new), ..Self::default() };
        if let Some(parent) = texts(TRACEPARENT).find(|parent| trace_id_of(parent).is_some()) {
            context = context.with_traceparent(parent);
            if let Some(state) = texts(TRACESTATE).next() {
                context = context.with_tracestate(state);
            }
        }
        (context != Self::default()).then_some(context)
    }

    /// What the headers do not say themselves, with `call`, which runs once. The sender's own choice stays, and nothing is there twice.
    pub(crate) fn missing_now<T>(headers: &[Header], call: impl Fn(&Missing<'_>) -> T) -> T {
        CURRENT.try_with(|context| call(&context.missing(headers))).unwrap_or_else(|_| call(&Missing::default()))
    }

    pub(crate) fn missing(&self, headers: &[Header]) -> Missing<'_> {
        let not_there = |name: &str| headers.iter().all(|header| header.name != name);
        let id = self.id.as_ref().filter(|_| not_there(TRACE_HEADER)).map(|id| (TRACE_HEADER, id.as_str()));
        let parent = self.traceparent().filter(|_| not_there(TRACEPARENT)).map(|parent| (TRACEPARENT, parent));
        let state =
            parent.and_then(|_| self.tracestate()).filter(|_| not_there(TRACESTATE)).map(|state| (TRACESTATE, state));
        [id, parent, state]
    }
}

/// Headers with their values that are to be added to those of a message.
pub(crate) type Missing<'a> = [Option<(&'static str, &'a str)>; 3];

/// The trace id of a `traceparent`: `version-trace-span-flags`, lower-case hex, neither id all zeros. Later versions may be longer.
fn trace_id_of(traceparent: &str) -> Option<&str> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length: usize| hex(part, length) && part.bytes().any(|byte| byte != b'0');
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let ends = version != "00" || parts.next().is_none();
    let valid = hex(version, 2) && version != "ff" && id(trace, 32) && id(span, 16) && hex(flags, 2) && ends;
    valid.then_some(trace)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn header(name: &str, value: &str) -> Header {
        Header { name: name.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
    }

    fn write(context: &TraceContext, headers: &mut Vec<Header>) {
        let missing = context.missing(headers);
        headers.extend(missing.into_iter().flatten().map(|(name, value)| header(name, value)));
    }

    fn read(headers: &[Header]) -> Option<TraceContext> {
        TraceContext::read(&headers.iter().map(|header| (header.name.as_str(), header.value.as_deref())))
    }

    #[test]
    fn only_what_w3c_allows_is_a_traceparent() {
        assert_eq!(trace_id_of(PARENT), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert!(trace_id_of("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(trace_id_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_context_goes_through_a_record_unchanged() {
        let context = TraceContext::default().with_traceparent(PARENT).with_tracestate("vendor=1");
        let mut headers = vec![header("other", "1")];
        write(&context, &mut headers);
        assert_eq!(read(&headers), Some(context));
    }

    #[test]
    fn the_last_header_that_can_be_read_counts_and_unreadable_ones_do_no_harm() {
        let older = "00-11111111111111111111111111111111-00f067aa0ba902b7-01";
        let headers = [older, PARENT, "nonsense"].map(|value| header(TRACEPARENT, value));
        assert_eq!(read(&headers).unwrap().traceparent(), Some(PARENT));
        assert_eq!(read(&[header(TRACEPARENT, "nonsense")]), None);
        assert_eq!(read(&[Header { name: TRACE_HEADER.to_owned(), value: None }]), None);
        let without_parent = read(&[header(TRACE_HEADER, "7"), header(TRACESTATE, "vendor=1")]).unwrap();
        assert_eq!((without_parent.trace_id().unwrap().as_str(), without_parent.tracestate()), ("7", None));
    }

    #[test]
    fn what_the_sender_chose_stays_and_nothing_is_there_twice() {
        let context = TraceContext::default().with_traceparent(PARENT);
        let mut headers = vec![header(TRACE_HEADER, "mine")];
        write(&context, &mut headers);
        write(&context, &mut headers);
        assert_eq!(headers, [header(TRACE_HEADER, "mine"), header(TRACEPARENT, PARENT)]);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(names in prop::collection::vec(0_usize..4, 0..6), values in prop::collection::vec(any::<Option<Vec<u8>>>(), 6)) {
            let names = names.into_iter().map(|name| [TRACE_HEADER, TRACEPARENT, TRACESTATE, "x"][name]);
            let headers: Vec<_> = names.zip(values).map(|(name, value)| Header { name: name.to_owned(), value: value.map(Bytes::from) }).collect();
            read(&headers);
        }
    }
}
