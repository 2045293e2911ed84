//! Lag of consumer groups from committed and end offsets alone.
//!
//! [`EndRing`] remembers end offsets, [`partition`] judges one partition, [`GroupTracker`] turns the readings of one cycle
//! into the lag of a group. What cannot be known is [`Unknown`] with its cause, never zero.

mod group;
pub mod partition;
mod ring;

pub use group::{Flow, GroupLag, GroupTracker, Late, Reading, Tail, TopicPartition, Unread, Watch};
pub use partition::{Oddity, PartitionLag, ResetPolicy, Unknown};
pub use ring::{CAPACITY, EndRing, Past};
