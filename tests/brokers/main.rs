//! Suite of three brokers that fail, one test at a time. A real cluster on loopback, no root. What is sent is accounted for: all that
//! was acknowledged is in the log and handled, in the order of its keys.

#![forbid(unsafe_code)]

mod commits;
mod faults;
mod ledger;
mod network;
mod scene;
