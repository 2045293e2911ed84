//! Faults that a test builds into a *running service*, to see that the reader notices. For tests only: `MQ_DEMO_TEST_FAULT`.
//!
//! The reader knows nothing of this module.

use std::fmt;
use std::str::FromStr;

/// The variable of the services' environment that names a fault.
pub const VARIABLE: &str = "MQ_DEMO_TEST_FAULT";

/// What a service does wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Order service: uses up a number without placing the order.
    LoseOrder,
    /// Order service: runs on the settings in its code and never listens to the operator.
    IgnorePush,
    /// Notification service: says that an order is handled without writing its notification.
    DropNotification,
    /// Notification service: writes the notifications of two orders of one customer in the wrong order.
    SwapTwo,
    /// Notification service: takes what is no order for handled.
    SwallowPoison,
    /// Notification service: rejects a good order.
    RejectGood,
    /// Notification service: works 20 s on every order of one customer.
    Stall,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LoseOrder,
        Self::IgnorePush,
        Self::DropNotification,
        Self::SwapTwo,
        Self::SwallowPoison,
        Self::RejectGood,
        Self::Stall,
    ];

    /// The name in the variable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LoseOrder => "lose-order",
            Self::IgnorePush => "ignore-push",
            Self::DropNotification => "drop-notification",
            Self::SwapTwo => "swap-two",
            Self::SwallowPoison => "swallow-poison",
            Self::RejectGood => "reject-good",
            Self::Stall => "stall",
        }
    }

    /// The fault that this process was started with.
    ///
    /// # Errors
    /// The variable names no fault: a typing error must not become a healthy run.
    pub fn from_env() -> Result<Option<Self>, UnknownFault> {
        match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => name.parse().map(Some),
            _ => Ok(None),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no fault.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}={name} names no fault; there are {}", Fault::ALL.map(Fault::name).join(", "))]
pub struct UnknownFault {
    name: String,
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| UnknownFault { name: name.to_owned() })
    }
}
