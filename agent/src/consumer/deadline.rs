//! Handlers that run for too long are ended.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Ends what runs for longer than a limit, by dropping it. A slot has one for all its records, and its timer is moved only when it
/// goes off: a timer for each record would cost more than most handlers do.
#[derive(Debug, Default)]
pub(super) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// `None`: it did not end within the limit.
    pub(super) async fn within<F: Future>(&mut self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let deadline = Instant::now() + limit;
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            while timer.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_future_has_the_whole_limit() {
        let mut deadline = Deadline::default();
        let limit = Duration::from_secs(10);
        for (seconds, ends) in [(9, true), (9, true), (11, false), (9, true), (1, true), (99, false), (99, false)] {
            let began = Instant::now();
            let ended = deadline.within(limit, sleep(Duration::from_secs(seconds))).await;
            assert_eq!((ended.is_some(), began.elapsed().as_secs()), (ends, seconds.min(10)), "{seconds} s");
        }
        assert_eq!(deadline.within(Duration::from_secs(12), sleep(Duration::from_secs(11))).await, Some(()));
    }
}
