//! What producers and consumers have in common in their status: revisions, and the clients that run them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many clients are connected, and how many run the newest revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clients {
    /// Clients with an open stream to the operator.
    pub connected: i32,
    /// Of these, those that run the current revision.
    pub applied: i32,
    /// Of these, those that refused the newest revision.
    pub rejected: i32,
    /// Up to five of those that differ, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub deviating: Vec<Deviation>,
}

/// A client that does not run what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// The pod.
    pub pod: String,
    /// The revision that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Why, in the client's own words.
    pub message: String,
}
