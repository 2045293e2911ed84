//! What the reader makes of the three topics, before any claim is judged.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::order::{Notification, Order};

/// One record as it lies in a topic. The timestamp is the broker's (`LogAppendTime`), not a service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub at: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

impl Record {
    fn key(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }
}

/// The three topics, each in partition and offset order.
#[derive(Debug, Clone, Default)]
pub struct Topics {
    pub orders: Vec<Record>,
    pub notifications: Vec<Record>,
    pub dead_letters: Vec<Record>,
}

/// An order and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedOrder {
    pub order: Order,
    pub partition: i32,
    pub offset: i64,
    pub at: i64,
}

/// One handling of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handling {
    pub order_id: String,
    pub pod: String,
    pub at: i64,
}

/// The topics, understood.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Distinct orders by id; the first record of an id counts.
    pub orders: HashMap<String, PlacedOrder>,
    /// Order numbers that each source placed.
    pub numbers: BTreeMap<String, Vec<u64>>,
    /// Records of `orders` that are no order: (key, value).
    pub poison: Vec<(String, Vec<u8>)>,
    /// Records of an order id that was in the topic already.
    pub repeated_orders: usize,
    /// The handlings of each key in the order in which they were written.
    pub handlings: BTreeMap<String, Vec<Handling>>,
    /// Records of `notifications` that name no order, or an order under another key.
    pub strange_notifications: usize,
    /// (key, value) of the dead letters.
    pub dead_letters: Vec<(String, Vec<u8>)>,
}

impl Ledger {
    /// Reads the topics. Nothing is dropped in silence: what cannot be understood is counted.
    pub fn new(topics: &Topics) -> Self {
        let mut ledger = Self::default();
        for record in &topics.orders {
            ledger.order(record);
        }
        for record in &topics.notifications {
            ledger.notification(record);
        }
        ledger.dead_letters = topics.dead_letters.iter().map(|r| (r.key(), r.value.clone())).collect();
        ledger
    }

    fn order(&mut self, record: &Record) {
        let Ok(order) = serde_json::from_slice::<Order>(&record.value) else {
            self.poison.push((record.key(), record.value.clone()));
            return;
        };
        if self.orders.contains_key(&order.id) {
            self.repeated_orders += 1;
            return;
        }
        self.numbers.entry(order.source.clone()).or_default().push(order.number);
        let placed = PlacedOrder { order, partition: record.partition, offset: record.offset, at: record.at };
        self.orders.insert(placed.order.id.clone(), placed);
    }

    fn notification(&mut self, record: &Record) {
        let known = serde_json::from_slice::<Notification>(&record.value).ok().filter(|notification| {
            self.orders.get(&notification.order_id).is_some_and(|placed| placed.order.customer == record.key())
        });
        match known {
            Some(Notification { order_id, pod }) => {
                self.handlings.entry(record.key()).or_default().push(Handling { order_id, pod, at: record.at });
            }
            None => self.strange_notifications += 1,
        }
    }

    /// Distinct ids of orders that were handled at least once.
    pub fn handled(&self) -> HashSet<&str> {
        self.handlings.values().flatten().map(|handling| handling.order_id.as_str()).collect()
    }

    /// For each handled order, its first handling.
    pub fn first_handlings(&self) -> HashMap<&str, &Handling> {
        let mut first = HashMap::new();
        for handling in self.handlings.values().flatten() {
            first.entry(handling.order_id.as_str()).or_insert(handling);
        }
        first
    }

    /// Handlings beyond the first of an order: allowed by at-least-once, shown apart.
    pub fn repeats(&self) -> usize {
        self.handlings.values().map(Vec::len).sum::<usize>() - self.handled().len()
    }
}
