//! Other forms of `subscribe`: a stream of records that are acknowledged by hand, and a handler that gets the metadata apart.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Consumer;
use crate::error::{ConsumeError, Failure};
use crate::message::Message;
use crate::record::{ConsumerMetadata, Record};

/// A record and the duty to say what became of it.
///
/// It holds a slot of the consumer until then, and later records of its key wait. Dropped without a word it counts as
/// [`Failure::retry`], and so does one that nobody acknowledges within `maxPollIntervalMs`: it comes again.
#[derive(Debug)]
#[must_use = "dropping it says that the record was not handled"]
pub struct Delivered {
    /// The record.
    pub record: Record,
    /// Where to say it; it may outlive the record and move to another task.
    pub acker: Acker,
}

/// Says what became of one record.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = mq_agent::testing::Broker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let producer = mq_agent::Producer::new(&broker.config(), &mq_agent::Options::default()).await?;
/// # producer.send_sync(mq_agent::Message::to("orders").key("7").payload("{}")).await?;
/// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
/// use futures::StreamExt as _;
/// use mq_agent::{Delivered, Failure};
///
/// let mut deliveries = consumer.stream();
/// while let Some(delivered) = deliveries.next().await {
///     let Delivered { record, acker } = delivered?;
///     match std::str::from_utf8(record.payload()) {
///         Ok(text) => {
///             println!("{text}");
///             acker.ack();
///         }
///         Err(error) => acker.fail(Failure::reject(error)), // to the dead-letter topic
///     }
/// #     break;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping it says that the record was not handled"]
pub struct Acker(oneshot::Sender<Result<(), Failure>>);

impl Acker {
    /// The record is done and may be committed, with the finished prefix of its partition. Waits for nothing: [`Consumer::commit`]
    /// does. After the partition has moved to another member it has no effect, and the record comes again there.
    pub fn ack(self) {
        self.settle(Ok(()));
    }

    /// The record was not handled: tried again (it comes again on the stream) or to the dead-letter topic, as for a handler.
    pub fn fail(self, failure: Failure) {
        self.settle(Err(failure));
    }

    fn settle(self, outcome: Result<(), Failure>) {
        // Nobody listens any more: the consumer was closed.
        let _ = self.0.send(outcome);
    }
}

/// The records of a consumer. Ends after [`Consumer::close`] or a drain; the last item is an error if the consumer could not go on.
/// Dropping it closes the consumer in the background: what was not acknowledged by then is read again by whoever gets the partition.
#[must_use = "a stream does nothing until it is polled"]
pub struct Deliveries {
    records: mpsc::Receiver<Delivered>,
    /// `None` after it ended.
    subscription: Option<BoxFuture<'static, Result<(), ConsumeError>>>,
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Deliveries").field("ended", &self.subscription.is_none()).finish_non_exhaustive()
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivered, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let ended = match self.subscription.as_mut().map(|subscription| subscription.as_mut().poll(context)) {
            Some(Poll::Ready(outcome)) => {
                self.subscription = None;
                outcome
            }
            Some(Poll::Pending) => {
                return match self.records.poll_recv(context) {
                    Poll::Ready(Some(delivered)) => Poll::Ready(Some(Ok(delivered))),
                    // Nothing will come; how it ended is about to be said.
                    Poll::Ready(None) | Poll::Pending => Poll::Pending,
                };
            }
            None => Ok(()),
        };
        Poll::Ready(ended.err().map(Err))
    }
}

impl Consumer {
    /// The records as a stream, each to be acknowledged by hand, in any order and on any task. Guarantees, slots and retries are those
    /// of [`Consumer::subscribe`]; at most `concurrency` records are out at a time.
    ///
    /// ```no_run
    /// # async fn example(consumer: mq_agent::Consumer) -> Result<(), mq_agent::ConsumeError> {
    /// use futures::StreamExt as _;
    ///
    /// let mut deliveries = consumer.stream();
    /// while let Some(delivered) = deliveries.next().await {
    ///     let delivered = delivered?;
    ///     println!("{:?}", delivered.record.key());
    ///     delivered.acker.ack();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stream(&self) -> Deliveries {
        let (sender, records) = mpsc::channel(1);
        let consumer = self.clone();
        let subscription = async move {
            let handler = move |record| {
                let sender = sender.clone();
                async move {
                    let (acker, outcome) = oneshot::channel();
                    let delivered = Delivered { record, acker: Acker(acker) };
                    sender.send(delivered).await.map_err(|_| Failure::abandoned())?;
                    match outcome.await {
                        Ok(outcome) => outcome,
                        Err(_) if sender.is_closed() => Err(Failure::abandoned()),
                        Err(_) => Err(Failure::retry("the record was dropped without an acknowledgement")),
                    }
                }
            };
            consumer.subscribe(handler).await
        };
        Deliveries { records, subscription: Some(subscription.boxed()) }
    }

    /// As [`Consumer::subscribe`], with the message as it was sent and where it was read apart.
    ///
    /// ```no_run
    /// # async fn example(consumer: mq_agent::Consumer) -> Result<(), mq_agent::ConsumeError> {
    /// consumer
    ///     .subscribe_with_metadata(|message, metadata| async move {
    ///         println!("{:?} at {} of {}", message.payload_bytes(), metadata.offset, metadata.partition);
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::subscribe`].
    pub async fn subscribe_with_metadata<H, F>(&self, handler: H) -> Result<(), ConsumeError>
    where
        H: Fn(Message, ConsumerMetadata) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.subscribe(move |record| handler(record.to_message(), record.metadata())).await
    }
}
