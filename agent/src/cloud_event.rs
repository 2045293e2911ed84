//! CloudEvents 1.0 in the binary mode of its Kafka binding: attributes are headers `ce_…`, the data are the payload.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::message::Message;
use crate::record::Record;

const SPEC_VERSION: &str = "1.0";
const PREFIX: &str = "ce_";
/// In this binding in lower case.
const CONTENT_TYPE: &str = "content-type";
/// Attributes with a place of their own.
const SPECVERSION: &str = "specversion";
const REQUIRED: [&str; 3] = ["id", "source", "type"];

/// The attributes of a CloudEvent.
///
/// ```
/// use mq_agent::{CloudEvent, Message};
///
/// # fn main() -> Result<(), mq_agent::CloudEventError> {
/// let event = CloudEvent::new("7", "/shop/orders", "com.example.order.placed")?.attribute("subject", "7")?;
/// let message = Message::to("orders").key("7").payload("{}").cloud_event(&event);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvent {
    attributes: BTreeMap<String, String>,
}

/// An event that CloudEvents does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloudEventError {
    /// A required attribute is missing or empty.
    #[error("the CloudEvents attribute {name} is missing or empty")]
    Missing {
        /// The attribute.
        name: &'static str,
    },
    /// The attribute's name has other characters than lower-case letters and digits, or is one that this library writes itself.
    #[error(
        "{name:?} cannot be a CloudEvents attribute: use lower-case letters and digits, and neither specversion nor datacontenttype"
    )]
    Name {
        /// The attribute.
        name: String,
    },
    /// The record follows a version of CloudEvents that this library does not know.
    #[error("the record is a CloudEvent of version {version:?}, this library reads {SPEC_VERSION}")]
    Version {
        /// The version.
        version: String,
    },
}

impl CloudEvent {
    /// An event with the three required attributes. `source` and `id` together name one event.
    ///
    /// ```
    /// use mq_agent::{CloudEvent, CloudEventError};
    ///
    /// assert!(CloudEvent::new("7", "/shop/orders", "placed").is_ok());
    /// assert_eq!(CloudEvent::new("", "/shop/orders", "placed"), Err(CloudEventError::Missing { name: "id" }));
    /// ```
    ///
    /// # Errors
    /// [`CloudEventError::Missing`] if one of them is empty.
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        r#type: impl Into<String>,
    ) -> Result<Self, CloudEventError> {
        let values = [id.into(), source.into(), r#type.into()];
        let attributes = REQUIRED.map(str::to_owned).into_iter().zip(values).collect();
        Self { attributes }.checked()
    }

    /// Sets an optional attribute (`subject`, `time`, `dataschema`) or an extension. The content type is the message's own,
    /// [`Message::content_type`].
    ///
    /// ```
    /// let event = mq_agent::CloudEvent::new("7", "/shop/orders", "placed")?.attribute("subject", "customer-7")?;
    /// assert_eq!(event.get("subject"), Some("customer-7"));
    /// # Ok::<(), mq_agent::CloudEventError>(())
    /// ```
    ///
    /// # Errors
    /// [`CloudEventError::Name`].
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, CloudEventError> {
        let name = name.into();
        let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || !letters || [SPECVERSION, "datacontenttype"].contains(&name.as_str()) {
            return Err(CloudEventError::Name { name });
        }
        self.attributes.insert(name, value.into());
        self.checked()
    }

    /// An attribute other than `specversion`.
    ///
    /// ```
    /// let event = mq_agent::CloudEvent::new("7", "/shop/orders", "placed")?;
    /// assert_eq!((event.get("id"), event.get("subject")), (Some("7"), None));
    /// # Ok::<(), mq_agent::CloudEventError>(())
    /// ```
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    fn checked(self) -> Result<Self, CloudEventError> {
        match REQUIRED.into_iter().find(|name| self.get(name).is_none_or(str::is_empty)) {
            Some(name) => Err(CloudEventError::Missing { name }),
            None => Ok(self),
        }
    }
}

impl Message {
    /// Makes the message a CloudEvent in binary mode: its attributes become headers, the payload stays as it is.
    ///
    /// ```
    /// use mq_agent::{CloudEvent, Message};
    ///
    /// let event = CloudEvent::new("7", "/shop/orders", "placed")?;
    /// let message = Message::to("orders").cloud_event(&event).content_type("application/json").payload("{}");
    /// # Ok::<(), mq_agent::CloudEventError>(())
    /// ```
    pub fn cloud_event(mut self, event: &CloudEvent) -> Self {
        self = self.only_header(&format!("{PREFIX}{SPECVERSION}"), SPEC_VERSION);
        for (name, value) in &event.attributes {
            self = self.only_header(&format!("{PREFIX}{name}"), value);
        }
        for header in &mut self.headers {
            if header.name.eq_ignore_ascii_case(CONTENT_TYPE) {
                CONTENT_TYPE.clone_into(&mut header.name);
            }
        }
        self
    }
}

impl Record {
    /// The attributes, if the record is a CloudEvent in binary mode; `None` if it says nothing of CloudEvents.
    ///
    /// ```
    /// use mq_agent::{Failure, Record};
    ///
    /// async fn handle(record: Record) -> Result<(), Failure> {
    ///     if let Some(event) = record.cloud_event().map_err(Failure::reject)? {
    ///         println!("{:?} from {:?}", event.get("type"), event.get("source"));
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`CloudEventError`] if it says that it is one and is not.
    pub fn cloud_event(&self) -> Result<Option<CloudEvent>, CloudEventError> {
        let attributes = self.headers().iter().filter_map(|header| {
            let value = std::str::from_utf8(header.value.as_deref()?).ok()?;
            Some((header.name.strip_prefix(PREFIX)?.to_owned(), value.to_owned()))
        });
        let mut attributes: BTreeMap<_, _> = attributes.collect();
        match attributes.remove(SPECVERSION) {
            None => Ok(None),
            Some(version) if version == SPEC_VERSION => CloudEvent { attributes }.checked().map(Some),
            Some(version) => Err(CloudEventError::Version { version }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_as_it_was() {
        let event = CloudEvent::new("7", "/shop", "placed").unwrap().attribute("subject", "x").unwrap();
        let message =
            Message::to("t").content_type("text/plain").payload("data").cloud_event(&event).cloud_event(&event);
        let record = Record::of(message, 0);
        assert_eq!(record.cloud_event(), Ok(Some(event)));
        let mut names: Vec<&str> = record.headers().iter().map(|header| header.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["ce_id", "ce_source", "ce_specversion", "ce_subject", "ce_type", "content-type"]);
        assert_eq!((record.content_type(), record.payload()), (Some("text/plain"), &b"data"[..]));
    }

    #[test]
    fn what_is_not_allowed_is_refused_in_words() {
        assert_eq!(CloudEvent::new("", "/s", "t"), Err(CloudEventError::Missing { name: "id" }));
        let event = CloudEvent::new("7", "/s", "t").unwrap();
        for name in ["", "Subject", "a_b", "specversion", "datacontenttype"] {
            assert!(matches!(event.clone().attribute(name, "x"), Err(CloudEventError::Name { .. })), "{name}");
        }
        assert!(event.attribute("source", "").is_err());
    }

    #[test]
    fn other_records_are_none_and_broken_ones_are_errors() {
        assert_eq!(Record::of(Message::to("t").header("ce_id", "7"), 0).cloud_event(), Ok(None));
        let later = Record::of(Message::to("t").header("ce_specversion", "2.0"), 0).cloud_event();
        assert_eq!(later, Err(CloudEventError::Version { version: "2.0".to_owned() }));
        let bare =
            Record::of(Message::to("t").header("ce_specversion", "1.0").header("ce_id", [0xff]), 0).cloud_event();
        assert_eq!(bare, Err(CloudEventError::Missing { name: "id" }));
    }
}
