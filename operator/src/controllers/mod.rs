//! What differs between the kinds.

pub(crate) mod cluster;
pub(crate) mod topic;
