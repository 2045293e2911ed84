//! How many orders wait, counted in the topics themselves: status tells the lag at most once a minute.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::summary::Scene;
use crate::summary::topics;

/// Counts every second until dropped.
#[derive(Debug)]
pub(super) struct Backlog(pub(super) watch::Receiver<Option<i64>>);

impl Backlog {
    pub(super) fn start(scene: &Scene) -> Self {
        let (sender, receiver) = watch::channel(None);
        let (brokers, names) = (scene.brokers.clone(), scene.topics.clone());
        tokio::spawn(async move {
            while !sender.is_closed() {
                let (brokers, names) = (brokers.clone(), names.clone());
                let count = move || {
                    // Orders last: one that arrives meanwhile counts as waiting.
                    let dead = topics::count(&brokers, &names.dead_letters)?;
                    let handled = topics::count(&brokers, &names.notifications)?;
                    anyhow::Ok(topics::count(&brokers, &names.orders)? - handled - dead)
                };
                let waiting = tokio::task::spawn_blocking(count).await.ok().and_then(Result::ok);
                sender.send_replace(waiting);
                sleep(Duration::from_secs(1)).await;
            }
        });
        Self(receiver)
    }

    /// Orders that are neither handled nor rejected; `None` while the broker does not say.
    pub(super) fn waiting(&self) -> Option<i64> {
        *self.0.borrow()
    }
}
