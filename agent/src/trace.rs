//! The trace identity that travels in the `X-Trace-ID` header.
//!
//! A task-local value is the truth, because a `tracing` span cannot be read back without a layer that the service would have to
//! install. The consumer restores it around the handler and the producer reads it, so a chain of services needs no code for it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// The record header that carries the trace id.
pub const TRACE_HEADER: &str = "X-Trace-ID";

tokio::task_local! {
    static CURRENT: TraceId;
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
    pub fn random() -> Self {
        Self::new(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The trace id of the running task, if it is inside [`TraceId::scope`] or inside a handler whose record carried one.
    ///
    /// A task spawned inside the scope does not inherit it: wrap its future in `scope` again.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `future` with this id as the current one. Every message that it sends carries the id, unless the message has one.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
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
