//! Payloads with a meaning: JSON, Protobuf, and the headers that say which.

#[cfg(any(feature = "json", feature = "protobuf"))]
use crate::error::Failure;
use crate::message::Message;
use crate::record::Record;

/// The header that says of what kind the payload is, as in HTTP.
pub const CONTENT_TYPE_HEADER: &str = "Content-Type";
/// The header that says which version of its schema the payload follows; the words are the services' own.
pub const VERSION_HEADER: &str = "Version";
/// The header that says what happened, for topics with events of several kinds; the words are the services' own.
pub const EVENT_TYPE_HEADER: &str = "Event-Type";
/// The header that says how often a message was tried before it was sent again, as decimal text.
pub const RETRY_COUNT_HEADER: &str = "Retry-Count";

impl Message {
    /// Sets `Content-Type`.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").content_type("text/plain").payload("7"));
    /// assert_eq!(record.content_type(), Some("text/plain"));
    /// ```
    pub fn content_type(self, content_type: impl AsRef<str>) -> Self {
        self.only_header(CONTENT_TYPE_HEADER, content_type.as_ref())
    }

    /// Sets `Version`, the version of the payload's schema.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").version("2"));
    /// assert_eq!(record.version(), Some("2"));
    /// ```
    pub fn version(self, version: impl AsRef<str>) -> Self {
        self.only_header(VERSION_HEADER, version.as_ref())
    }

    /// Sets `Event-Type`.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").event_type("placed"));
    /// assert_eq!(record.event_type(), Some("placed"));
    /// ```
    pub fn event_type(self, event_type: impl AsRef<str>) -> Self {
        self.only_header(EVENT_TYPE_HEADER, event_type.as_ref())
    }

    /// Sets `Retry-Count`, for a service that sends a record again instead of having it tried in its place:
    ///
    /// ```
    /// use mq_agent::{Failure, Producer, Record};
    ///
    /// async fn later(producer: &Producer, record: Record) -> Result<(), Failure> {
    ///     if record.retry_count() >= 3 {
    ///         return Err(Failure::reject("tried three times")); // the dead-letter topic
    ///     }
    ///     producer.send_sync(record.to_message().retry_count(record.retry_count() + 1)).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn retry_count(self, count: u32) -> Self {
        self.only_header(RETRY_COUNT_HEADER, &count.to_string())
    }

    /// The value as JSON, with its `Content-Type`.
    ///
    /// ```
    /// use mq_agent::Message;
    ///
    /// # fn main() -> Result<(), serde_json::Error> {
    /// let message = Message::to("orders").key("7").version("2").json(&[1, 2])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The value cannot be written as JSON, for example a map whose keys are no text.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(self, value: &T) -> Result<Self, serde_json::Error> {
        Ok(self.payload(serde_json::to_vec(value)?).content_type("application/json"))
    }

    /// The value as Protobuf, with its `Content-Type`.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let message = Message::to("orders").protobuf(&"a message of prost".to_owned());
    /// assert_eq!(testing::record(message).protobuf::<String>().as_deref(), Ok("a message of prost"));
    /// ```
    #[cfg(feature = "protobuf")]
    pub fn protobuf<M: prost::Message>(self, value: &M) -> Self {
        self.payload(value.encode_to_vec()).content_type("application/protobuf")
    }
}

impl Record {
    /// `Content-Type`, or what CloudEvents writes in its place.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").header("content-type", "text/plain")); // of CloudEvents
    /// assert_eq!(record.content_type(), Some("text/plain"));
    /// ```
    pub fn content_type(&self) -> Option<&str> {
        let mut named =
            self.headers().iter().rev().filter(|header| header.name.eq_ignore_ascii_case(CONTENT_TYPE_HEADER));
        std::str::from_utf8(named.next()?.value.as_deref()?).ok()
    }

    /// `Version`, the version of the payload's schema.
    ///
    /// ```
    /// use mq_agent::{Failure, Record};
    ///
    /// async fn handle(record: Record) -> Result<(), Failure> {
    ///     match record.version() {
    ///         Some("1") | None => Ok(()),
    ///         Some(version) => Err(Failure::reject(format!("version {version} is not known"))),
    ///     }
    /// }
    /// ```
    pub fn version(&self) -> Option<&str> {
        self.text(VERSION_HEADER)
    }

    /// `Event-Type`, what happened.
    ///
    /// ```
    /// use mq_agent::{Failure, Record};
    ///
    /// async fn handle(record: Record) -> Result<(), Failure> {
    ///     if record.event_type() == Some("placed") {
    ///         println!("an order was placed");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn event_type(&self) -> Option<&str> {
        self.text(EVENT_TYPE_HEADER)
    }

    /// How often it was tried before: what `Retry-Count` says, and the earlier attempts of this process. A header that is no number counts
    /// as none.
    ///
    /// ```
    /// use mq_agent::{Message, testing};
    ///
    /// let record = testing::record(Message::to("orders").retry_count(2));
    /// assert_eq!(record.retry_count(), 2);
    /// ```
    pub fn retry_count(&self) -> u32 {
        let sent = self.text(RETRY_COUNT_HEADER).and_then(|text| text.parse().ok()).unwrap_or(0_u32);
        sent.saturating_add(self.attempt().saturating_sub(1))
    }

    fn text(&self, header: &str) -> Option<&str> {
        std::str::from_utf8(self.header(header)?).ok()
    }

    /// The payload read as JSON. Made for `?` in a handler:
    ///
    /// ```
    /// use mq_agent::{Failure, Record};
    ///
    /// async fn handle(record: Record) -> Result<(), Failure> {
    ///     let totals: Vec<u32> = record.json()?;
    ///     println!("{totals:?}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Failure::reject`]: reading the same bytes again cannot help.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(self.payload()).map_err(|error| unreadable::<T>(self, "JSON", error))
    }

    /// The payload read as Protobuf. Made for `?` in a handler, as [`Record::json`].
    ///
    /// ```
    /// use mq_agent::{Failure, Record};
    ///
    /// async fn handle(record: Record) -> Result<(), Failure> {
    ///     let text: String = record.protobuf()?; // any message of prost
    ///     println!("{text}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Failure::reject`]: reading the same bytes again cannot help.
    #[cfg(feature = "protobuf")]
    pub fn protobuf<M: prost::Message + Default>(&self) -> Result<M, Failure> {
        M::decode(self.payload()).map_err(|error| unreadable::<M>(self, "Protobuf", error))
    }
}

#[cfg(any(feature = "json", feature = "protobuf"))]
fn unreadable<T>(record: &Record, form: &str, error: impl std::fmt::Display) -> Failure {
    let (length, wanted) = (record.payload().len(), std::any::type_name::<T>());
    let said = record.content_type().map_or_else(String::new, |said| format!(", its content type is {said:?}"));
    Failure::reject(format!("the payload of {length} bytes is no {form} of a {wanted}{said}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(any(feature = "json", feature = "protobuf"))]
    use crate::error::FailureKind;

    #[test]
    fn the_last_content_type_stands_alone() {
        let message = Message::to("t").content_type("text/plain").header("other", "1").content_type("text/html");
        let record = Record::of(message, 0);
        assert_eq!((record.content_type(), record.headers().len()), (Some("text/html"), 2));
        assert_eq!(Record::of(Message::to("t").header("content-type", "a/b"), 0).content_type(), Some("a/b"));
        assert_eq!(Record::of(Message::to("t").header("Content-Type", [0xff]), 0).content_type(), None);
    }

    #[test]
    fn tries_of_this_process_and_of_those_before_add_up() {
        let record = Record::of(Message::to("t").event_type("placed").retry_count(1).retry_count(2), 0);
        assert_eq!((record.event_type(), record.retry_count(), record.headers().len()), (Some("placed"), 2, 2));
        assert_eq!((record.clone().at_attempt(3).retry_count(), record.at_attempt(3).attempt()), (4, 3));
        for (header, count) in [("-1", 0), ("x", 0), ("4294967295", u32::MAX)] {
            let record = Record::of(Message::to("t").header(RETRY_COUNT_HEADER, header), 0);
            assert_eq!(record.at_attempt(2).retry_count(), u32::saturating_add(count, 1), "{header}");
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_comes_back_and_what_is_none_is_rejected_in_words() {
        let record = Record::of(Message::to("t").version("2").json(&vec![1, 2]).unwrap(), 0);
        assert_eq!((record.content_type(), record.version()), (Some("application/json"), Some("2")));
        assert_eq!(record.json::<Vec<u8>>(), Ok(vec![1, 2]));
        let failure = record.json::<String>().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Reject, "{failure:?}");
        assert!(
            failure.message.starts_with("the payload of 5 bytes is no JSON of a alloc::string::String"),
            "{failure:?}"
        );
    }

    #[cfg(feature = "protobuf")]
    #[test]
    fn protobuf_comes_back_and_what_is_none_is_rejected() {
        let record = Record::of(Message::to("t").protobuf(&"text".to_owned()), 0);
        assert_eq!(record.content_type(), Some("application/protobuf"));
        assert_eq!(record.protobuf::<String>(), Ok("text".to_owned()));
        let failure = Record::of(Message::to("t").payload("\u{1}\u{1}"), 0).protobuf::<String>().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Reject);
    }
}
