//! A network between the brokers and some of their clients, which a test cuts: bytes stop, and nobody is told.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Which bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Requests reach the brokers, answers stay.
    Mute,
    Cut,
}

/// A network that clients reach the cluster by if they are given [`Link::bootstrap`]. It ends, with all its connections, when it is
/// dropped.
#[derive(Debug)]
pub struct Link {
    bootstrap: String,
    way: Arc<watch::Sender<Way>>,
    _listeners: JoinSet<()>,
}

impl Link {
    /// Listens at the first address of each pair and forwards to the second.
    pub(crate) async fn open(pairs: &[(String, String)]) -> Result<Self> {
        let way = Arc::new(watch::Sender::new(Way::Open));
        let mut listeners = JoinSet::new();
        for (from, to) in pairs {
            let listener = TcpListener::bind(from).await.with_context(|| format!("listening on {from}"))?;
            listeners.spawn(serve(listener, to.clone(), way.subscribe()));
        }
        let bootstrap = pairs.iter().map(|(from, _)| from.as_str()).collect::<Vec<_>>().join(",");
        Ok(Self { bootstrap, way, _listeners: listeners })
    }

    /// The addresses of all brokers on this network, separated by commas.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// From now on nothing passes. Connections stay open, as those of a network do that loses every packet; what was under way arrives
    /// after [`Link::mend`].
    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// From now on requests arrive and their answers do not, until [`Link::mend`].
    pub fn mute(&self) {
        self.way.send_replace(Way::Mute);
    }

    /// Everything passes again, first what was held back.
    pub fn mend(&self) {
        self.way.send_replace(Way::Open);
    }
}

async fn serve(listener: TcpListener, to: String, mut way: watch::Receiver<Way>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if way.wait_for(|way| *way != Way::Cut).await.is_err() {
            return;
        }
        while connections.try_join_next().is_some() {}
        let (to, way) = (to.clone(), way.clone());
        connections.spawn(async move {
            // The client sees the end of its connection, as it would if the broker were gone.
            let Ok(broker) = TcpStream::connect(to).await else { return };
            let ((from_client, to_client), (from_broker, to_broker)) = (client.into_split(), broker.into_split());
            let requests = carry(from_client, to_broker, way.clone(), |way| way != Way::Cut);
            let answers = carry(from_broker, to_client, way, |way| way == Way::Open);
            tokio::join!(requests, answers);
        });
    }
}

/// Carries bytes until the end, or an error, of one of the two.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    passes: impl Fn(Way) -> bool,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if way.wait_for(|way| passes(*way)).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    // The end does not pass a cut either.
    if way.wait_for(|way| passes(*way)).await.is_ok() {
        let _closed = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_a_cut_holds_back_arrives_after_it() -> Result<()> {
        let echo = TcpListener::bind("127.0.0.1:0").await?;
        let to = echo.local_addr()?.to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let free = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
        let link = Link::open(&[(free.clone(), to)]).await?;
        let mut client = TcpStream::connect(&free).await?;
        let mut answer = [0; 1];
        for fault in [None, Some(Link::cut as fn(&Link)), Some(Link::mute)] {
            if let Some(fault) = fault {
                fault(&link);
            }
            client.write_all(b"x").await?;
            if fault.is_some() {
                let early = timeout(Duration::from_millis(200), client.read(&mut answer)).await;
                assert!(early.is_err(), "an answer came through: {early:?}");
                link.mend();
            }
            timeout(Duration::from_secs(5), client.read_exact(&mut answer)).await??;
            assert_eq!(&answer, b"x");
        }
        Ok(())
    }
}
