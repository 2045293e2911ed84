//! Consumer groups: who is in them, and what they have committed. Each group has its own result.

mod committed;
mod coordinator;
mod describe;
mod error;
mod list;
mod membership;
mod users;

pub use committed::{CommittedOffset, GroupOffsets, TopicOffsets};
pub use describe::{Group, Member};
pub use error::GroupError;
pub use list::{GroupKind, GroupListing, GroupState, ListedGroup};
#[cfg(any(test, fuzzing))]
pub(crate) use membership::{assignment, subscription};
pub use users::TopicUsers;
