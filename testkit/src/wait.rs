//! Waiting for conditions, never for time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

const POLL: Duration = Duration::from_millis(100);

/// Calls `check` every 100 ms until it returns `Ok`, and returns that value.
///
/// An `Err` means "not yet, because …"; the last one is part of the message when `timeout` passes. A call that hangs is cut off
/// at the deadline.
///
/// # Errors
/// When `timeout` passes first: what was awaited, for how long, and the last reason.
pub async fn wait_until<T>(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut last = anyhow!("the first check did not return");
    while Instant::now() < deadline {
        match timeout_at(deadline, check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(not_yet)) => last = not_yet,
            Err(_elapsed) => break,
        }
        sleep(POLL).await;
    }
    Err(last.context(format!("waited {timeout:?} in vain until {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_the_value_once_the_check_passes() {
        let mut calls = 0;
        let check = async || {
            calls += 1;
            anyhow::ensure!(calls == 3, "call {calls}");
            Ok(calls)
        };
        assert_eq!(wait_until("the third call", Duration::from_secs(1), check).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_was_awaited_and_the_last_reason() {
        let failure = wait_until("pigs fly", Duration::from_secs(1), async || Err::<(), _>(anyhow!("no wings")))
            .await
            .unwrap_err();
        assert_eq!(format!("{failure:#}"), "waited 1s in vain until pigs fly: no wings");
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_off_a_check_that_hangs() {
        let failure =
            wait_until("an answer", Duration::from_secs(1), async || std::future::pending::<Result<()>>().await);
        assert!(format!("{:#}", failure.await.unwrap_err()).contains("did not return"));
    }
}
