//! Hooks: the service's own code around every message that is sent and every record that is handled.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;

use crate::error::{Failure, SendError};
use crate::guard::{guarded, words};
use crate::message::{Ack, Message};
use crate::record::Record;

/// Code that runs around every message and every record of the clients, for what all of them have in common: headers, audit, metrics of
/// one's own. Registered with [`Options::hook`](crate::Options::hook); several are called in the order in which they were registered.
///
/// Every method has a default that does nothing. All of them run on threads and tasks that carry the messages: they must be quick and
/// never block. A panic in one is logged, and the message or record goes on as if that hook were not there. Dead letters, which the
/// library sends itself, are not shown.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use mq_agent::{Failure, Handled, Hook, Message, Options, Record, Sent};
///
/// struct Tenant;
///
/// impl Hook for Tenant {
///     fn before_send(&self, _producer: &str, message: Message) -> Message {
///         message.header("tenant", "7")
///     }
///
///     fn sent(&self, sent: &Sent<'_>) {
///         if let Err(error) = sent.outcome {
///             eprintln!("{} lost a message after {:?}: {error}", sent.producer, sent.latency);
///         }
///     }
///
///     fn before_handle(&self, _consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
///         match record.header("tenant") {
///             Some(b"7") => ControlFlow::Continue(()),
///             _ => ControlFlow::Break(Ok(())), // not ours: done without the handler
///         }
///     }
///
///     fn handled(&self, handled: &Handled<'_>) {
///         println!("{:?} after {:?}", handled.outcome, handled.duration);
///     }
/// }
///
/// let options = Options::in_pod().hook(Tenant);
/// ```
pub trait Hook: Send + Sync {
    /// Sees a message before it is sent, and may send another one in its place. It runs inside of `send`. The trace headers are added
    /// afterwards, where the message has none.
    fn before_send(&self, producer: &str, message: Message) -> Message {
        let _ = producer;
        message
    }

    /// What became of a message: acknowledged, or not and why. It runs before the one who sent it is told, for acknowledgements on the
    /// client's own thread. A `send` whose future is dropped before the message was taken has no outcome.
    fn sent(&self, sent: &Sent<'_>) {
        let _ = sent;
    }

    /// Sees a record before its handler; of a batch each of its records. [`ControlFlow::Break`] ends the attempt with that outcome:
    /// neither later hooks nor the handler see the record, and a handler of batches gets those that are left. A [`Failure`] there is
    /// what one of the handler would be.
    fn before_handle(&self, consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
        let _ = (consumer, record);
        ControlFlow::Continue(())
    }

    /// What came of one attempt to handle a record, by the handler or a hook. Called of the hooks that saw it before.
    fn handled(&self, handled: &Handled<'_>) {
        let _ = handled;
    }
}

/// What became of one message.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sent<'a> {
    /// The producer's name.
    pub producer: &'a str,
    /// The topic it was for.
    pub topic: &'a str,
    /// Where it is, or why it is not there.
    pub outcome: &'a Result<Ack, SendError>,
    /// From the `send` call to the outcome.
    pub latency: Duration,
}

/// What came of one attempt to handle a record.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled<'a> {
    /// The consumer's name.
    pub consumer: &'a str,
    /// Its group id in Kafka.
    pub group: &'a str,
    /// The record.
    pub record: &'a Record,
    /// What the handler, or a hook before it, said. A panic of the handler is a failure that says so.
    pub outcome: &'a Result<(), Failure>,
    /// From the first hook to the outcome; of a batch, that of all of it.
    pub duration: Duration,
    /// How many records the handler had at once: 1 but for [`Consumer::subscribe_batch`](crate::Consumer::subscribe_batch).
    pub batch: usize,
}

/// The hooks of a process. Without any, nothing is called, cloned or measured.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<[Arc<dyn Hook>]>);

impl fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Hooks").field(&self.0.len()).finish()
    }
}

const WHAT: &str = "a Hook";

impl Hooks {
    pub(crate) fn add(&mut self, hook: impl Hook + 'static) {
        self.0 = self.0.iter().cloned().chain(std::iter::once(Arc::new(hook) as _)).collect();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn before_send(&self, producer: &str, message: Message) -> Message {
        self.0.iter().fold(message, |message, hook| {
            let untouched = message.clone();
            guarded(WHAT, || hook.before_send(producer, message)).unwrap_or(untouched)
        })
    }

    pub(crate) fn sent(&self, producer: &str, topic: &str, since: Instant, outcome: &Result<Ack, SendError>) {
        let sent = Sent { producer, topic, outcome, latency: since.elapsed() };
        for hook in &*self.0 {
            guarded(WHAT, || hook.sent(&sent));
        }
    }

    /// One attempt: the hooks, and the handler unless one of them ends it.
    pub(crate) async fn handle(
        &self,
        consumer: &str,
        group: &str,
        record: &Record,
        handler: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let (called, stopped) = self.before_handle(consumer, record);
        let ended = match stopped {
            Some(outcome) => Ok(outcome),
            None => AssertUnwindSafe(handler).catch_unwind().await,
        };
        let outcome = ended.unwrap_or_else(|panic| Err(panicked(&*panic)));
        self.handled(
            called,
            &Handled { consumer, group, record, outcome: &outcome, duration: began.elapsed(), batch: 1 },
        );
        outcome
    }

    /// How many of the hooks were called, and the outcome if the last one of these ended the attempt.
    pub(crate) fn before_handle(&self, consumer: &str, record: &Record) -> (usize, Option<Result<(), Failure>>) {
        let mut called = 0;
        let stopped = self.0.iter().find_map(|hook| {
            called += 1;
            guarded(WHAT, || hook.before_handle(consumer, record))?.break_value()
        });
        (called, stopped)
    }

    /// Tells the hooks that were called before.
    pub(crate) fn handled(&self, called: usize, attempt: &Handled<'_>) {
        for hook in &self.0[..called] {
            guarded(WHAT, || hook.handled(attempt));
        }
    }
}

/// What a panic of the handler counts as.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Failure {
    Failure::retry(format!("the handler panicked: {}", words(panic)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes down what it is told, under its name; breaks the attempt or panics if it is told to.
    struct Spy {
        name: &'static str,
        log: Arc<Mutex<Vec<String>>>,
        flow: fn() -> ControlFlow<Result<(), Failure>>,
    }

    impl Spy {
        fn log(&self, line: impl fmt::Display) {
            self.log.lock().unwrap().push(format!("{} {line}", self.name));
        }
    }

    impl Hook for Spy {
        fn before_send(&self, producer: &str, message: Message) -> Message {
            self.log(format_args!("before_send {producer}"));
            let message = message.header("seen", self.name);
            assert!((self.flow)() == ControlFlow::Continue(()), "a bug of the service");
            message
        }

        fn before_handle(&self, consumer: &str, record: &Record) -> ControlFlow<Result<(), Failure>> {
            self.log(format_args!("before_handle {consumer} {}", record.offset()));
            (self.flow)()
        }

        fn handled(&self, handled: &Handled<'_>) {
            let said = handled.outcome.as_ref().map_or_else(Failure::message, |()| "ok");
            self.log(format_args!("handled {} {said}", handled.group));
        }
    }

    type Flow = fn() -> ControlFlow<Result<(), Failure>>;

    fn spies(flows: [Flow; 3]) -> (Hooks, Arc<Mutex<Vec<String>>>) {
        let (mut hooks, log) = (Hooks::default(), Arc::default());
        for (name, flow) in ["a", "b", "c"].into_iter().zip(flows) {
            hooks.add(Spy { name, log: Arc::clone(&log), flow });
        }
        (hooks, log)
    }

    fn go_on() -> ControlFlow<Result<(), Failure>> {
        ControlFlow::Continue(())
    }

    fn breaks() -> ControlFlow<Result<(), Failure>> {
        ControlFlow::Break(Err(Failure::reject("not ours")))
    }

    fn bug() -> ControlFlow<Result<(), Failure>> {
        panic!("a bug of the service")
    }

    async fn handle(hooks: &Hooks, handler: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        hooks.handle("c", "g", &Record::of(Message::to("t"), 7), handler).await
    }

    #[tokio::test]
    async fn hooks_are_called_in_order_around_the_handler_and_a_panic_changes_nothing() {
        let (hooks, log) = spies([go_on, bug, go_on]);
        handle(&hooks, async { Ok(()) }).await.unwrap();
        let lines = std::mem::take(&mut *log.lock().unwrap());
        let befores = ["a", "b", "c"].map(|name| format!("{name} before_handle c 7"));
        let afters = ["a", "b", "c"].map(|name| format!("{name} handled g ok"));
        assert_eq!(lines, [befores, afters].concat());
        let sent = hooks.before_send("p", Message::to("t").header("mine", "1"));
        let names: Vec<_> = sent.headers().iter().map(|header| header.value.clone().unwrap()).collect();
        assert_eq!(names, ["1", "a", "c"], "what the broken hook did is undone");
    }

    #[tokio::test]
    async fn a_hook_can_end_the_attempt_in_place_of_the_handler() {
        let (hooks, log) = spies([go_on, breaks, go_on]);
        let outcome = handle(&hooks, async { panic!("the handler must not run") }).await;
        assert_eq!(outcome, Err(Failure::reject("not ours")));
        let lines = log.lock().unwrap().clone();
        assert_eq!(
            lines,
            ["a before_handle c 7", "b before_handle c 7", "a handled g not ours", "b handled g not ours"]
        );
    }

    #[tokio::test]
    async fn a_panic_of_the_handler_is_shown_as_the_failure_that_it_is() {
        let (hooks, log) = spies([go_on; 3]);
        let outcome = handle(&hooks, async { panic!("boom") }).await;
        assert_eq!(outcome, Err(Failure::retry("the handler panicked: boom")));
        assert_eq!(log.lock().unwrap().last().unwrap(), "c handled g the handler panicked: boom");
    }
}
