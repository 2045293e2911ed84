//! Room in a full queue: who waits for it is told after a number of deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Of the messages in the queue, one in so many is delivered before somebody who waits is told, …
const PART: usize = 16;
/// … and at most this many. A full queue would otherwise cost two changes of threads for every message.
const MOST: usize = 512;
/// The queue is looked at again after this long in any case: it may be full of bytes, and the message to be sent a large one.
const AGAIN: Duration = Duration::from_millis(100);
const NOBODY: usize = usize::MAX;

#[derive(Debug)]
pub(crate) struct Space {
    /// Deliveries until those who wait are told.
    left: AtomicUsize,
    freed: Arc<Notify>,
}

impl Default for Space {
    fn default() -> Self {
        Self { left: AtomicUsize::new(NOBODY), freed: Arc::default() }
    }
}

impl Space {
    /// Completes after deliveries that follow this call, of a queue of so many messages.
    pub(crate) fn wait(&self, queued: usize) -> impl Future<Output = ()> + use<> {
        let freed = Arc::clone(&self.freed).notified_owned();
        self.left.fetch_min((queued / PART).clamp(1, MOST), SeqCst);
        async move {
            let _ = timeout(AGAIN, freed).await;
        }
    }

    /// A message left the queue.
    pub(crate) fn delivered(&self) {
        if self.left.load(SeqCst) != NOBODY && self.left.fetch_sub(1, SeqCst) <= 1 {
            self.left.store(NOBODY, SeqCst);
            self.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_are_told_after_a_part_of_the_queue() {
        let space = Space::default();
        space.delivered();
        let waiting = [space.wait(160), space.wait(1_000_000)];
        let began = Instant::now();
        for _ in 0..9 {
            space.delivered();
        }
        let mut all = Box::pin(futures::future::join_all(waiting));
        assert!(futures::poll!(&mut all).is_pending());
        space.delivered();
        all.await;
        assert_eq!(began.elapsed(), Duration::ZERO, "the smallest part counts, and for all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_does_not_move_is_looked_at_again() {
        let began = Instant::now();
        Space::default().wait(0).await;
        assert_eq!(began.elapsed(), AGAIN);
    }
}
