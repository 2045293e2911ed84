//! Load that is accounted for: what a producer was told of each message, what lies in the log, and what members of a group wrote
//! down, held against each other after any fault.

#![forbid(unsafe_code)]
#![expect(
    clippy::missing_errors_doc,
    reason = "tests end with any of them, and its words say what was being attempted"
)]

mod group;
mod ledger;
mod writer;

pub use group::{Group, Handled, Member};
pub use ledger::{Handling, Sent, Written, check_handled, check_written, repeated};
pub use writer::Writer;
