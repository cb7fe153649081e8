//! A connection's bytes: what is noted of them as they pass.
//!
//! Invariant: a connection that is closed after an answer has its client read that first, as far as
//! the client comes to it in time; and one whose client takes nothing ends. Every answer but one
//! says who gives it: to bytes that are no request, which the server answers by itself, the body of
//! a problem is added here.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::access::AccessLimits;
use super::unparsed;
use headcount_net::{ReadHalf, Stream, WriteHalf};

/// How long a client that is not done sending is listened to after its answer, so that it comes to
/// read that (RFC 9112 §9.6).
const LINGER_MAX: Duration = Duration::from_secs(30);

/// How much is read at once of what nobody wants.
const UNWANTED_BYTES: usize = 16 * 1024;

/// On which terms the connections of a listener are served.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Who may ask.
    pub access: AccessLimits,
    /// Whether names of other hosts may not lead here: it listens on a loopback address.
    pub is_local: bool,
    /// Whether it is there for probes alone.
    pub only_probes: bool,
}

/// What is special about one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionOptions {
    /// Whether it is one of those that are kept for probes.
    pub only_probes: bool,
    /// How long its client may not make room for more of an answer, where the system does not see
    /// to that: a socket of either kind has room again only once a good part was taken, so a slow
    /// client of TCP is left to the system.
    pub untaken_timeout: Option<Duration>,
}

/// What the two ends of a connection's use share.
pub(super) struct Connection {
    pub write: WriteHalf,
    pub terms: Arc<Terms>,
    pub options: ConnectionOptions,
    /// The `Host` that its first request was let in by, which the next ones mostly have too. A
    /// copy: the header is a piece of the connection's buffer.
    pub host: OnceLock<Box<[u8]>>,
    /// Whether it is closed while its client is still sending: what comes is read and dropped.
    pub lingers: AtomicBool,
    /// Whether a request is being answered.
    pub answering: AtomicBool,
    /// Whether bytes have come since the last request began.
    pub has_begun: AtomicBool,
    /// Whether bytes of an answer wait for the client to take them.
    pub write_waits: AtomicBool,
}

/// A connection's bytes, for the server.
pub(super) struct Bytes {
    pub read: ReadHalf,
    connection: Arc<Connection>,
    lingering: Option<Pin<Box<Sleep>>>,
    /// While bytes of an answer wait: until when.
    untaken: Option<Pin<Box<Sleep>>>,
    /// What is written instead of an answer that the server gave by itself.
    instead: Option<Instead>,
}

struct Instead {
    bytes: Vec<u8>,
    written: usize,
}

impl Connection {
    /// The bytes of `stream`, and what is noted of them.
    pub(crate) fn open(
        stream: Stream,
        terms: Arc<Terms>,
        options: ConnectionOptions,
    ) -> (Arc<Self>, Bytes) {
        let (read, write) = stream.into_split();
        let connection = Arc::new(Self {
            write,
            terms,
            options,
            host: OnceLock::new(),
            lingers: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            write_waits: AtomicBool::new(false),
        });
        let bytes = Bytes {
            read,
            connection: Arc::clone(&connection),
            lingering: None,
            untaken: None,
            instead: None,
        };
        (connection, bytes)
    }
}

impl Bytes {
    /// Reads and drops what comes, until the client ends its side, resets the connection, or has
    /// had its time.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut unwanted = [MaybeUninit::uninit(); UNWANTED_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut unwanted);
            match Pin::new(&mut self.read).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        match &mut self.lingering {
            Some(time) => time.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }

    /// Writes by `write`, which tries to, once that is possible.
    fn poll_write_by(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&WriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let socket = &self.connection.write;
        let waits = |waits| self.connection.write_waits.store(waits, Ordering::Relaxed);
        loop {
            if socket.poll_write_ready(context)?.is_pending() {
                waits(true);
                let Some(timeout) = self.connection.options.untaken_timeout else {
                    return Poll::Pending;
                };
                let untaken = self.untaken.get_or_insert_with(|| Box::pin(sleep(timeout)));
                return untaken
                    .as_mut()
                    .poll(context)
                    .map(|()| Err(ErrorKind::TimedOut.into()));
            }
            match write(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => {
                    waits(false);
                    self.untaken = None;
                    return Poll::Ready(written);
                }
            }
        }
    }

    /// Writes what stands instead of `bytes`, all of it, and then says that those are written.
    fn poll_write_instead(
        &mut self,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        while let Some(mut instead) = self.instead.take() {
            let rest = &instead.bytes[instead.written..];
            if rest.is_empty() {
                break;
            }
            let written = self.poll_write_by(context, |socket| socket.try_write(rest));
            instead.written += match written {
                Poll::Ready(Ok(written)) => written,
                _ => 0,
            };
            self.instead = Some(instead);
            ready!(written)?;
        }
        Poll::Ready(Ok(bytes))
    }

    /// Whether something else stands for what is to be written.
    fn is_replaced(&mut self, slices: &[IoSlice<'_>]) -> bool {
        if self.instead.is_none() {
            let Some(bytes) = unparsed::answer(slices) else {
                return false;
            };
            self.instead = Some(Instead { bytes, written: 0 });
            // Whoever sent that may be sending still.
            self.connection.lingers.store(true, Ordering::Relaxed);
        }
        true
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.read).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.connection.has_begun.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_replaced(slices) {
            let bytes = slices.iter().map(|slice| slice.len()).sum();
            return this.poll_write_instead(context, bytes);
        }
        this.poll_write_by(context, |socket| match slices {
            [bytes] => socket.try_write(bytes),
            slices => socket.try_write_vectored(slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            self.connection.write.shutdown()?;
            if !self.connection.lingers.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.lingering = Some(Box::pin(sleep(LINGER_MAX)));
        }
        self.poll_linger(context).map(Ok)
    }
}
