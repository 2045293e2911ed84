//! The gate between senders and the client that takes their messages: closed while one client is exchanged for another.

use std::sync::Arc;

use tokio::sync::{RwLock, RwLockReadGuard};

/// Senders pass the gate side by side; an exchange closes it, waits until those inside have left, and opens it again on the new
/// client or on the old one. The lock is fair, so an exchange does not starve under load and senders keep their order.
#[derive(Debug)]
pub(crate) struct Gate<C> {
    current: RwLock<Option<Arc<C>>>,
}

/// Why the client was not exchanged; the old one goes on.
#[derive(Debug)]
pub(crate) enum NotExchanged<E> {
    /// The old client could not be emptied.
    NotEmptied(E),
    /// The gate was shut for good.
    Shut,
}

impl<C> Gate<C> {
    pub(crate) fn open_on(client: C) -> Self {
        Self { current: RwLock::new(Some(Arc::new(client))) }
    }

    /// Passes the gate. While the guard lives, the client is not exchanged: hand the message over and leave.
    pub(crate) async fn pass(&self) -> RwLockReadGuard<'_, Option<Arc<C>>> {
        self.current.read().await
    }

    /// The client at this moment; `None` once shut.
    pub(crate) async fn current(&self) -> Option<Arc<C>> {
        self.current.read().await.clone()
    }

    /// Closes the gate, lets `empty` finish everything that the old client holds, and opens on `new`. If the old client cannot be
    /// emptied, opens on the old one: it still holds messages, and those of a key must not be overtaken. Returns the old client.
    pub(crate) async fn exchange<E>(
        &self,
        new: Arc<C>,
        empty: impl AsyncFnOnce(&Arc<C>) -> Result<(), E>,
    ) -> Result<Arc<C>, NotExchanged<E>> {
        let mut current = self.current.write().await;
        let Some(old) = current.as_mut() else {
            return Err(NotExchanged::Shut);
        };
        match empty(old).await {
            Ok(()) => Ok(std::mem::replace(old, new)),
            Err(error) => Err(NotExchanged::NotEmptied(error)),
        }
    }

    /// Whether the gate was shut for good. While it is being exchanged it is not.
    pub(crate) fn is_shut(&self) -> bool {
        self.current.try_read().is_ok_and(|current| current.is_none())
    }

    /// Shuts the gate for good and returns the client, the first time.
    pub(crate) async fn shut(&self) -> Option<Arc<C>> {
        self.current.write().await.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A client that keeps what it was given until it is emptied into the log of what the broker has.
    #[derive(Debug)]
    struct Fake {
        held: Mutex<Vec<(u8, u32)>>,
        log: Arc<Mutex<Vec<(u8, u32)>>>,
    }

    impl Fake {
        fn new(log: &Arc<Mutex<Vec<(u8, u32)>>>) -> Self {
            Self { held: Mutex::default(), log: Arc::clone(log) }
        }

        /// Delivers all but the last `keep` messages.
        fn deliver(&self, keep: usize) {
            let mut held = self.held.lock().unwrap();
            let end = held.len().saturating_sub(keep);
            self.log.lock().unwrap().extend(held.drain(..end));
        }
    }

    async fn send(gate: &Gate<Fake>, message: (u8, u32)) {
        let client = gate.pass().await;
        client.as_ref().unwrap().held.lock().unwrap().push(message);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Exchanges that succeed and fail, in the middle of sends: every message reaches the log once, keys in their order.
        #[test]
        fn nothing_is_lost_or_reordered(exchanges in prop::collection::vec((any::<bool>(), 0_usize..4, 0_u64..5), 1..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let log = runtime.block_on(async {
                let log = Arc::default();
                let gate = Arc::new(Gate::open_on(Fake::new(&log)));
                let senders: Vec<_> = (0_u8..3)
                    .map(|key| {
                        let gate = Arc::clone(&gate);
                        tokio::spawn(async move {
                            for number in 0..40 {
                                send(&gate, (key, number)).await;
                                tokio::time::sleep(Duration::from_millis(u64::from(key))).await;
                            }
                        })
                    })
                    .collect();
                for (succeeds, keep, pause) in exchanges {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    let outcome = gate
                        .exchange(Arc::new(Fake::new(&log)), async |old: &Arc<Fake>| {
                            old.deliver(if succeeds { 0 } else { keep });
                            tokio::time::sleep(Duration::from_millis(3)).await;
                            if succeeds { Ok(()) } else { Err("not in time") }
                        })
                        .await;
                    assert_eq!(outcome.is_ok(), succeeds);
                }
                for sender in senders {
                    sender.await.unwrap();
                }
                gate.shut().await.unwrap().deliver(0);
                log
            });
            let log = log.lock().unwrap();
            let mut next: HashMap<u8, u32> = HashMap::new();
            for (key, number) in log.iter() {
                let expected = next.entry(*key).or_default();
                prop_assert_eq!(*number, *expected);
                *expected += 1;
            }
            prop_assert_eq!(log.len(), 3 * 40);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn senders_wait_while_the_gate_is_closed() {
        let log = Arc::default();
        let gate = Arc::new(Gate::open_on(Fake::new(&log)));
        let (closed, reached) = tokio::sync::oneshot::channel();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let exchange = tokio::spawn({
            let (gate, new) = (Arc::clone(&gate), Arc::new(Fake::new(&log)));
            async move {
                gate.exchange(new, async |_: &Arc<Fake>| {
                    let _ = closed.send(());
                    released.await
                })
                .await
                .is_ok()
            }
        });
        reached.await.unwrap();
        assert!(tokio::time::timeout(Duration::from_mins(1), gate.pass()).await.is_err());
        release.send(()).unwrap();
        assert!(exchange.await.unwrap());
        send(&gate, (0, 0)).await;
    }

    #[tokio::test]
    async fn a_shut_gate_stays_shut() {
        let log = Arc::default();
        let gate = Gate::open_on(Fake::new(&log));
        assert!(gate.shut().await.is_some());
        assert!(gate.pass().await.is_none());
        assert!(matches!(
            gate.exchange(Arc::new(Fake::new(&log)), async |_: &Arc<Fake>| Ok::<(), ()>(())).await,
            Err(NotExchanged::Shut)
        ));
    }
}
