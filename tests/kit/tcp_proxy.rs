//! A TCP relay between a node and what it speaks to, which can spoil the connection in every way.
//!
//! Invariant: it passes bytes unchanged and in order, or not at all.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::wait;

/// AMQP 0-9-1's `basic.ack`: from the broker, a publisher confirm.
pub const BASIC_ACK: &[u8] = &[0, 60, 0, 80];

/// AMQP 0-9-1's `basic.deliver`.
pub const BASIC_DELIVER: &[u8] = &[0, 60, 0, 60];

/// Relays have threads of their own: a test that blocks does not stop them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("relay")
        .enable_all()
        .build()
        .expect("a runtime")
});

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Pass,
    /// They wait, for as long as this is so; nobody is told.
    Stall,
    /// They are taken and lost: the sender sees them acknowledged by TCP. Only a cut may follow.
    Swallow,
}

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Open,
    /// New ones are reset at once.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ends {
    /// Connections opened before the `cut`th cut are reset.
    cut: u64,
    /// Connections opened before the `orphan`th orphaning have lost their client, and their server
    /// does not know.
    orphan: u64,
}

struct Shared {
    upstream: SocketAddr,
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    links: watch::Sender<Links>,
    ends: watch::Sender<Ends>,
    swallowed: Mutex<Vec<u8>>,
    /// What a client may not say before it is let go.
    held_at: Mutex<Option<Vec<u8>>>,
}

/// The direction of a pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Shared {
    fn flow(&self, way: Way) -> &watch::Sender<Flow> {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToClient => &self.to_client,
        }
    }

    /// Stalls what clients say if this is where they are to be held.
    fn hold(&self, bytes: &[u8]) {
        let mut held_at = self.held_at.lock();
        let is_here = |pattern: &Vec<u8>| bytes.windows(pattern.len()).any(|at| at == pattern);
        if held_at.as_ref().is_some_and(is_here) {
            *held_at = None;
            self.to_server.send_replace(Flow::Stall);
        }
    }
}

/// A relay. Dropping it cuts everything.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl TcpProxy {
    /// A relay to a port of this machine.
    pub fn to_port(port: u16) -> Self {
        Self::to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    pub fn to(upstream: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream,
            to_server: watch::Sender::new(Flow::Pass),
            to_client: watch::Sender::new(Flow::Pass),
            links: watch::Sender::new(Links::Open),
            ends: watch::Sender::new(Ends::default()),
            swallowed: Mutex::new(Vec::new()),
            held_at: Mutex::new(None),
        });
        let accepting = RUNTIME.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets both directions.
    pub fn flow(&self, to_server: Flow, to_client: Flow) {
        self.shared.to_server.send_replace(to_server);
        self.shared.to_client.send_replace(to_client);
    }

    /// Resets every connection; new ones pass.
    pub fn cut(&self) {
        self.shared.ends.send_modify(|ends| ends.cut += 1);
    }

    /// Resets every connection and every new one.
    pub fn down(&self) {
        self.shared.links.send_replace(Links::Refused);
        self.cut();
    }

    /// Stops a one-way or two-way stall, and lets new connections pass.
    pub fn up(&self) {
        self.flow(Flow::Pass, Flow::Pass);
        self.shared.links.send_replace(Links::Open);
    }

    /// Takes the client away from every connection without telling its server, as when a host dies.
    /// What the server sends is not read any more. New connections pass.
    pub fn orphan(&self) {
        self.shared.ends.send_modify(|ends| ends.orphan += 1);
    }

    /// Stalls what clients say as soon as one says `pattern` in one piece, which does not pass.
    /// [`up`](Self::up) lets it go.
    pub fn hold_at(&self, pattern: &[u8]) {
        *self.shared.held_at.lock() = Some(pattern.to_vec());
    }

    /// Waits until a client was stalled by [`hold_at`](Self::hold_at).
    pub async fn held(&self) {
        wait::until("a client to hold", async || {
            match *self.shared.to_server.borrow() {
                Flow::Stall => Ok(()),
                flow => Err(flow),
            }
        })
        .await;
    }

    /// Loses what the server says until it has said `pattern`, then resets the connections: the
    /// client never hears of what has happened.
    pub async fn swallow(&self, pattern: &[u8]) {
        self.shared.swallowed.lock().clear();
        self.shared.to_client.send_replace(Flow::Swallow);
        wait::until("bytes to swallow", async || {
            let swallowed = self.shared.swallowed.lock();
            match swallowed.windows(pattern.len()).any(|at| at == pattern) {
                true => Ok(()),
                false => Err(format!("{} bytes", swallowed.len())),
            }
        })
        .await;
        self.cut();
        self.shared.to_client.send_replace(Flow::Pass);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.down();
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        // Before anything else, so that a cut from now on is noticed.
        let ends = shared.ends.subscribe();
        let before = *ends.borrow();
        tokio::spawn(carry(client, Arc::clone(&shared), ends, before));
    }
}

async fn carry(
    mut client: TcpStream,
    shared: Arc<Shared>,
    mut ends: watch::Receiver<Ends>,
    before: Ends,
) {
    let refused = *shared.links.borrow() == Links::Refused;
    let server = match refused {
        true => None,
        false => TcpStream::connect(shared.upstream).await.ok(),
    };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let orphaned = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let forth = pump(from_client, to_server, &shared, Way::ToServer);
        let back = pump(from_server, to_client, &shared, Way::ToClient);
        tokio::select! {
            _ = async { tokio::try_join!(forth, back) } => false,
            ended = ends.wait_for(|now| *now != before) => {
                ended.is_ok_and(|now| now.cut == before.cut)
            }
        }
    };
    // A reset, whichever way it ended: a side that had ended already does not mind.
    let _ = client.set_zero_linger();
    drop(client);
    if orphaned {
        let _ = ends.wait_for(|now| now.cut != before.cut).await;
    }
    let _ = server.set_zero_linger();
}

/// Moves bytes until the end of the stream, then ends the other side's.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    way: Way,
) -> std::io::Result<()> {
    let mut flow = shared.flow(way).subscribe();
    let mut buffer = vec![0; 64 * 1024];
    let gone = |_| std::io::Error::other("the relay is gone");
    loop {
        flow.wait_for(|flow| *flow != Flow::Stall)
            .await
            .map_err(gone)?;
        let count = from.read(&mut buffer).await?;
        if way == Way::ToServer {
            shared.hold(&buffer[..count]);
        }
        // It may have changed while there was nothing to read.
        let now = *flow
            .wait_for(|flow| *flow != Flow::Stall)
            .await
            .map_err(gone)?;
        match (count, now) {
            (0, _) => return to.shutdown().await,
            (_, Flow::Swallow) => {
                if way == Way::ToClient {
                    shared.swallowed.lock().extend_from_slice(&buffer[..count]);
                }
            }
            _ => to.write_all(&buffer[..count]).await?,
        }
    }
}
