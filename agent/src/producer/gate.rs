//! The gate between senders and the client that takes their messages: closed while one client is exchanged for another.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// Senders pass the gate side by side; an exchange closes it, waits until those inside have left, and opens it again on the new
/// client or on the old one. Inside nothing waits, so a lock of the standard library will do, and costs a sender the least.
#[derive(Debug)]
pub(crate) struct Gate<C> {
    state: RwLock<State<C>>,
    /// Told when those who wait at the gate need not wait any more.
    moved: Notify,
    /// One exchange at a time.
    exchanging: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State<C> {
    /// `None` once whoever shut the gate has taken it.
    client: Option<Arc<C>>,
    closed: bool,
    shut: bool,
}

/// Why the client was not exchanged; the old one goes on.
#[derive(Debug)]
pub(crate) enum NotExchanged<E> {
    /// The old client could not be emptied.
    NotEmptied(E),
    /// The gate was shut for good.
    Shut,
}

/// Opens the gate again on the client in it, also if the exchange is given up in the middle.
struct Closed<'a, C>(&'a Gate<C>);

impl<C> Drop for Closed<'_, C> {
    fn drop(&mut self) {
        self.0.write().closed = false;
        self.0.moved.notify_waiters();
    }
}

impl<C> Gate<C> {
    pub(crate) fn open_on(client: C) -> Self {
        let state = RwLock::new(State { client: Some(Arc::new(client)), closed: false, shut: false });
        Self { state, moved: Notify::new(), exchanging: tokio::sync::Mutex::default() }
    }

    /// Passes the gate: hands the message over to the client, which is not exchanged meanwhile. `None` once shut.
    pub(crate) async fn pass<T>(&self, hand_over: impl FnOnce(&Arc<C>) -> T) -> Option<T> {
        loop {
            let moved = {
                let state = self.read();
                if state.shut {
                    return None;
                }
                if !state.closed {
                    return state.client.as_ref().map(hand_over);
                }
                // Made while the gate cannot move, so that nothing is missed.
                self.moved.notified()
            };
            moved.await;
        }
    }

    /// The client at this moment; `None` once shut.
    pub(crate) async fn current(&self) -> Option<Arc<C>> {
        self.pass(Arc::clone).await
    }

    /// Closes the gate, lets `empty` finish everything that the old client holds, and opens on `new`. If the old client cannot be
    /// emptied, opens on the old one: it still holds messages, and those of a key must not be overtaken. Returns the old client.
    pub(crate) async fn exchange<E>(
        &self,
        new: Arc<C>,
        empty: impl AsyncFnOnce(&Arc<C>) -> Result<(), E>,
    ) -> Result<Arc<C>, NotExchanged<E>> {
        let _alone = self.exchanging.lock().await;
        let (old, closed) = self.close().ok_or(NotExchanged::Shut)?;
        let emptied = empty(&old).await;
        if emptied.is_ok() {
            self.write().client = Some(new);
        }
        drop(closed);
        emptied.map(|()| old).map_err(NotExchanged::NotEmptied)
    }

    /// Whether the gate was shut for good.
    pub(crate) fn is_shut(&self) -> bool {
        self.read().shut
    }

    /// Shuts the gate for good, at once, and returns the client, the first time: after an exchange that is under way.
    pub(crate) async fn shut(&self) -> Option<Arc<C>> {
        self.write().shut = true;
        self.moved.notify_waiters();
        let _alone = self.exchanging.lock().await;
        self.write().client.take()
    }

    fn close(&self) -> Option<(Arc<C>, Closed<'_, C>)> {
        let mut state = self.write();
        let client = state.client.as_ref().filter(|_| !state.shut).map(Arc::clone)?;
        state.closed = true;
        Some((client, Closed(self)))
    }

    fn read(&self) -> RwLockReadGuard<'_, State<C>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<C>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
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
        gate.pass(|client| client.held.lock().unwrap().push(message)).await.unwrap();
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
        assert!(tokio::time::timeout(Duration::from_mins(1), gate.current()).await.is_err());
        release.send(()).unwrap();
        assert!(exchange.await.unwrap());
        send(&gate, (0, 0)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_is_given_up_leaves_the_old_client() {
        let log = Arc::default();
        let gate = Gate::open_on(Fake::new(&log));
        let forever = gate
            .exchange(Arc::new(Fake::new(&log)), async |_: &Arc<Fake>| std::future::pending::<Result<(), ()>>().await);
        let old = gate.current().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), forever).await.is_err());
        assert!(Arc::ptr_eq(&old, &gate.current().await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_passes_once_it_is_being_shut() {
        let log = Arc::default();
        let gate = Arc::new(Gate::open_on(Fake::new(&log)));
        let new = Arc::new(Fake::new(&log));
        let exchange = tokio::spawn({
            let (gate, new) = (Arc::clone(&gate), Arc::clone(&new));
            async move {
                let slow = async |_: &Arc<Fake>| {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Ok::<(), ()>(())
                };
                gate.exchange(new, slow).await.is_ok()
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let waits = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass(|_| ()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), gate.shut()).await.is_err(), "the exchange goes on");
        assert_eq!(waits.await.unwrap(), None);
        assert_eq!(gate.pass(|_| ()).await, None);
        assert!(Arc::ptr_eq(&gate.shut().await.unwrap(), &new), "what it was exchanged for is there to be closed");
        assert!(exchange.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_left_waiting() {
        let log = Arc::default();
        let gate = Arc::new(Gate::open_on(Fake::new(&log)));
        let senders: Vec<_> = (0..4_u8)
            .map(|key| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    for number in 0..5_000 {
                        send(&gate, (key, number)).await;
                    }
                })
            })
            .collect();
        while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
            let emptied = gate.exchange(Arc::new(Fake::new(&log)), async |old: &Arc<Fake>| {
                old.deliver(0);
                tokio::task::yield_now().await;
                Ok::<(), ()>(())
            });
            tokio::time::timeout(Duration::from_secs(20), emptied).await.expect("an exchange waits").unwrap();
        }
        gate.shut().await.unwrap().deliver(0);
        assert_eq!(log.lock().unwrap().len(), 4 * 5_000);
    }

    #[tokio::test]
    async fn a_shut_gate_stays_shut() {
        let log = Arc::default();
        let gate = Gate::open_on(Fake::new(&log));
        assert!(gate.shut().await.is_some());
        assert!(gate.current().await.is_none());
        assert!(matches!(
            gate.exchange(Arc::new(Fake::new(&log)), async |_: &Arc<Fake>| Ok::<(), ()>(())).await,
            Err(NotExchanged::Shut)
        ));
    }
}
