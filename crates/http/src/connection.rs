//! The byte stream of a connection, and the state that it records as bytes pass.
//!
//! Invariant: a connection that is closed after a response gives its client a bounded time to read
//! that response first. A connection whose client reads nothing is closed. Every response of this
//! service has the header `Server`. The HTTP library responds on its own, without it, to bytes that
//! are not a request; the body of a problem is added to that response here.

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

/// How long input is read and dropped after the response to a client that is still sending, so that
/// the client gets to read the response (RFC 9112 §9.6).
const LINGER_MAX: Duration = Duration::from_secs(30);

/// Bytes of dropped input that are read at once.
const UNWANTED_BYTES: usize = 16 * 1024;

/// The terms under which the connections of a listener are served.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Which origins and host names are allowed.
    pub access: AccessLimits,
    /// Whether the listener has a loopback address. Then names of other hosts are rejected.
    pub is_local: bool,
    /// Whether the listener serves only probes.
    pub only_probes: bool,
}

/// The options of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionOptions {
    /// Whether the connection is reserved for probes.
    pub only_probes: bool,
    /// How long the socket may stay unwritable while a response is being written; `None` if the
    /// operating system enforces that timeout. A socket of either kind becomes writable again only
    /// after the client has read a large part, so slow TCP clients are left to the operating
    /// system.
    pub untaken_timeout: Option<Duration>,
}

/// The state that the byte stream and the `Caller` of a connection share.
pub(super) struct Connection {
    pub write: WriteHalf,
    pub terms: Arc<Terms>,
    pub options: ConnectionOptions,
    /// The header `Host` of the first request that passed the check. Most later requests have the
    /// same. It is a copy because the header refers to the buffer of the connection.
    pub host: OnceLock<Box<[u8]>>,
    /// Whether the connection is closed while its client is still sending: input is read and
    /// dropped.
    pub lingers: AtomicBool,
    /// Whether a request is being answered.
    pub answering: AtomicBool,
    /// Whether bytes have arrived since `answering` changed last.
    pub has_begun: AtomicBool,
    /// Whether bytes of a response wait for the client to read.
    pub write_waits: AtomicBool,
}

/// The byte stream of a connection that the HTTP library reads and writes.
pub(super) struct Bytes {
    pub read: ReadHalf,
    connection: Arc<Connection>,
    lingering: Option<Pin<Box<Sleep>>>,
    /// The timeout of a write; set while bytes of a response wait.
    untaken: Option<Pin<Box<Sleep>>>,
    /// The replacement of a response that the HTTP library generated.
    instead: Option<Instead>,
}

struct Instead {
    bytes: Vec<u8>,
    written: usize,
}

impl Connection {
    /// Splits `stream` into its shared state and its byte stream.
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
    /// Reads and drops input until the client closes its side, resets the connection, or
    /// [`LINGER_MAX`] has passed.
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

    /// Calls `write`, which does not block, whenever the socket is writable, until it succeeds or
    /// fails.
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

    /// Writes the whole replacement, and then reports that `bytes` bytes are written.
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

    /// Whether `slices` are a response that is replaced.
    fn is_replaced(&mut self, slices: &[IoSlice<'_>]) -> bool {
        if self.instead.is_none() {
            let Some(bytes) = unparsed::answer(slices) else {
                return false;
            };
            self.instead = Some(Instead { bytes, written: 0 });
            // The client may still be sending.
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
