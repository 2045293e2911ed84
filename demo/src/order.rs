//! The records that travel through the demo: an order and the notification written for it.

use serde::{Deserialize, Serialize};

/// How many customers there are; a customer is the key of a record, so this is also the number of sequences whose order is checked.
pub const CUSTOMERS: u64 = 60;

/// One order, as the order service places it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// `<source>-<number>`: unique, so that a repeat can be told from a second order.
    pub id: String,
    /// The pod that placed it.
    pub source: String,
    /// Counts from 1 in each source without gaps, so that a missing order shows in the topic itself.
    pub number: u64,
    /// The key of the record.
    pub customer: String,
    /// In cents.
    pub amount: u32,
}

impl Order {
    /// The order that `source` places as its `number`-th.
    pub fn new(source: &str, number: u64) -> Self {
        Self {
            id: format!("{source}-{number}"),
            source: source.to_owned(),
            number,
            customer: format!("customer-{:02}", number % CUSTOMERS),
            amount: u32::try_from(100 + number * 37 % 9_900).unwrap_or(100),
        }
    }
}

/// What the notification service writes once it has handled an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The order that was handled.
    pub order_id: String,
    /// The pod that handled it.
    pub pod: String,
}
