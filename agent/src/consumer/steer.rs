//! What a running consumer is told: pause, resume, seek, commit.

use tokio::sync::oneshot;

use super::poll::{Command, SeekTo};
use super::{Consumer, Phase};
use crate::error::ConsumeError;

impl Consumer {
    /// Stops taking records in from these partitions, within 50 ms; those taken in already are still handled. It holds until
    /// [`Consumer::resume`], also for a partition that leaves and comes back. It pauses for this process: a member elsewhere that gets the
    /// partition reads it. A paused partition stays assigned, and its lag grows.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// consumer.pause([("orders", 0), ("orders", 1)]);
    /// // … until there is room for more of them
    /// consumer.resume([("orders", 0), ("orders", 1)]);
    /// # Ok(()) }
    /// ```
    pub fn pause<T: Into<String>>(&self, partitions: impl IntoIterator<Item = (T, i32)>) {
        let partitions = partitions.into_iter().map(|(topic, partition)| (topic.into(), partition));
        self.shared().lock().paused_by_service.extend(partitions);
    }

    /// Takes records in from these partitions again, where it left off. Up to a second passes before the first one comes.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = mq_agent::testing::Broker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let consumer = mq_agent::Consumer::new(&broker.config(), "g", ["orders"], &mq_agent::Options::default()).await?;
    /// consumer.pause([("orders", 0)]);
    /// consumer.resume([("orders", 0)]);
    /// # Ok(()) }
    /// ```
    pub fn resume<T: Into<String>>(&self, partitions: impl IntoIterator<Item = (T, i32)>) {
        let mut state = self.shared().lock();
        for (topic, partition) in partitions {
            state.paused_by_service.remove(&(topic.into(), partition));
        }
    }

    /// Goes on reading an assigned partition at `offset`. Running handlers of the partition are waited for, as when it moves to another
    /// member; records that wait for a slot are dropped. What is finished is committed first, and what is finished afterwards moves the
    /// committed offset there: until then a restart goes on where it was. An offset outside of the log goes where `autoOffsetReset` says.
    ///
    /// Not from inside a handler of the same partition: the two would wait for each other until the wait is given up.
    ///
    /// ```no_run
    /// # async fn example(consumer: mq_agent::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// consumer.seek("orders", 0, 0).await?; // all of partition 0 once more
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConsumeError::Seek`] when the partition is not assigned to this consumer, when the offset is negative, or when librdkafka
    /// cannot go there; reading goes on as before. [`ConsumeError::Closed`] if the consumer is not running.
    pub async fn seek(&self, topic: &str, partition: i32, offset: i64) -> Result<(), ConsumeError> {
        if offset < 0 {
            return Err(self.not_sought(format!("{offset} is no offset: the first one is 0")));
        }
        self.tell_to_seek(topic, SeekTo::Offset(partition, offset)).await
    }

    /// Goes on reading every assigned partition of `topic` at the first record of this time or later, in milliseconds since the Unix
    /// epoch, or at the end if there is none. Every member of the group has to do it for its own partitions. Otherwise as
    /// [`Consumer::seek`].
    ///
    /// ```no_run
    /// # async fn example(consumer: mq_agent::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::{Duration, SystemTime};
    ///
    /// let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    /// let milliseconds = hour_ago.duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    /// consumer.seek_to_time("orders", i64::try_from(milliseconds)?).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::seek`], or when the broker does not say where that time is within 5 s. With several partitions those before the
    /// one that failed have moved; the error names it.
    pub async fn seek_to_time(&self, topic: &str, milliseconds: i64) -> Result<(), ConsumeError> {
        self.tell_to_seek(topic, SeekTo::Time(milliseconds)).await
    }

    /// Commits what is finished at this moment and waits for the broker's answer. Needed only with `enableAutoCommit: false`.
    ///
    /// Called inside a handler it does not include the record in that handler's hands: it is finished when the handler returns. It is
    /// answered in a drain and in a rebalance too. What is finished after the call is not waited for.
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
    ///
    /// let mut deliveries = consumer.stream();
    /// if let Some(delivered) = deliveries.next().await {
    ///     delivered?.acker.ack();
    /// }
    /// consumer.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConsumeError::Commit`] with the broker's words; [`ConsumeError::Closed`] if the consumer is not running.
    pub async fn commit(&self) -> Result<(), ConsumeError> {
        let (answer, answered) = oneshot::channel();
        {
            let phase = self.phase();
            let Phase::Running(_) = &*phase else { return Err(self.closed()) };
            self.0.shared.lock().wait_committed(answer);
        }
        self.0.shared.notify();
        match answered.await {
            Ok(outcome) => outcome.map_err(|detail| ConsumeError::Commit { name: self.name().to_owned(), detail }),
            Err(_) => Err(self.closed()),
        }
    }

    async fn tell_to_seek(&self, topic: &str, to: SeekTo) -> Result<(), ConsumeError> {
        let (done, outcome) = oneshot::channel();
        self.tell(Command::Seek(topic.to_owned(), to, done))?;
        match outcome.await {
            Ok(outcome) => outcome.map_err(|detail| self.not_sought(detail)),
            Err(_) => Err(self.closed()),
        }
    }

    fn not_sought(&self, detail: String) -> ConsumeError {
        ConsumeError::Seek { name: self.name().to_owned(), detail }
    }
}
