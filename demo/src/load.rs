//! What the services are told while they run: the files of a mounted ConfigMap, so that `kubectl edit` is the remote control.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch;

/// Orders that each pod of the order service places in a second.
pub const ORDERS_PER_SECOND: &str = "ordersPerSecond";
/// How long the notification service works on one order, in milliseconds.
pub const WORK_MS: &str = "workMs";

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Follows one file of the ConfigMap. A file that is missing or no number leaves the last value.
pub fn follow<T>(folder: &Path, name: &str, start: T) -> watch::Receiver<T>
where
    T: FromStr + PartialEq + Copy + Send + Sync + 'static,
{
    let path: PathBuf = folder.join(name);
    let (sender, receiver) = watch::channel(start);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Ok(text) = tokio::fs::read_to_string(&path).await
                && let Ok(value) = text.trim().parse()
            {
                sender.send_if_modified(|held| std::mem::replace(held, value) != value);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    receiver
}
