//! Topics: what they are, and changing them. Each topic has its own result; one bad topic never fails the others.

mod batch;
mod change;
mod configs;
mod describe;
mod error;
mod id;

pub use change::{CreatedTopic, NewTopic};
pub use configs::{ConfigChange, ConfigEntry, ConfigSource};
pub use describe::{Broker, Cluster, Partition, Topic};
pub use error::TopicError;
pub use id::{InvalidTopicId, TopicId};
