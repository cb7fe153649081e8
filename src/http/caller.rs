//! The client at the other end of a connection: whether it still wants the answer to its read.
//!
//! Invariant: who watches a client reads nothing of what it sends. A read whose client has reset the connection goes on no
//! longer, one whose client has ended its side no longer than [`HALF_CLOSED_MAX`], and is answered then with what is known.
//!
//! The server does not look at a connection while a request is being answered, and allows a client to end its side
//! after its request. So a client that has gone shows only here, and to wait for what nobody will take costs memory,
//! a connection, and a place among the reads that wait.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use futures_util::FutureExt;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::sleep;

use super::error::Problem;
use crate::coordinator::{Read, ReadError, ReadOptions};

/// How long a read may wait after its client has ended its side: one that has closed its socket looks the same.
pub(super) const HALF_CLOSED_MAX: Duration = Duration::from_secs(1);

/// A connection's client; cheap to clone. The default is one that never goes.
#[derive(Clone, Default)]
pub(super) struct Caller(Option<Arc<OwnedWriteHalf>>);

/// A connection's bytes, for the server.
pub(super) struct Bytes {
    read: OwnedReadHalf,
    write: Arc<OwnedWriteHalf>,
}

/// How a client has closed its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// It sends nothing more, and may take an answer.
    ItsSide,
    /// It takes nothing either.
    Both,
}

/// The client of a connection, and its bytes.
pub(super) fn split(stream: TcpStream) -> (Caller, Bytes) {
    let (read, write) = stream.into_split();
    let write = Arc::new(write);
    (Caller(Some(Arc::clone(&write))), Bytes { read, write })
}

impl Caller {
    /// Resolves once the client has closed its connection in one way or the other.
    async fn closed(&self) -> Closed {
        if let Some(socket) = &self.0 {
            // That the client has ended its side comes with either of the interests to read; this one leaves out that
            // bytes have come, of which a client may send any number for later requests.
            match socket.ready(Interest::PRIORITY | Interest::ERROR).await {
                Ok(ready) if !ready.is_error() && ready.is_read_closed() => return Closed::ItsSide,
                Ok(ready) if !ready.is_error() => {}
                Ok(_) | Err(_) => return Closed::Both,
            }
        }
        std::future::pending().await
    }

    /// Resolves once the client takes no answer any more.
    async fn reset(&self) {
        match &self.0 {
            // An error says that it watches no longer.
            Some(socket) => drop(socket.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// Resolves, with how the connection is then, once a client that has ended its side has had all the time that it may.
    async fn has_been_heard(&self) -> Closed {
        tokio::select! {
            () = sleep(HALF_CLOSED_MAX) => Closed::ItsSide,
            () = self.reset() => Closed::Both,
        }
    }

    /// The outcome of `work`, unless the client has gone before: half closed is gone after a while.
    ///
    /// # Errors
    /// When it has gone; nobody will see the problem.
    pub async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        let gone = async {
            if self.closed().await == Closed::ItsSide {
                self.has_been_heard().await;
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = gone => Err(Problem::client_gone()),
        }
    }

    /// The answer to a read, as long as the client wants it: once it has ended its side for a while, `read` is done anew
    /// without waiting.
    ///
    /// # Errors
    /// Those of `read`; or when the client has gone, and nobody will see the problem.
    pub async fn read<T, F>(
        &self,
        options: ReadOptions,
        read: impl Fn(ReadOptions) -> F,
    ) -> Result<Read<T>, Problem>
    where
        F: Future<Output = Result<Read<T>, ReadError>>,
    {
        {
            let mut reading = pin!(read(options.clone()));
            // Mostly the answer is at hand, and nobody has to be watched.
            if let Some(answer) = reading.as_mut().now_or_never() {
                return Ok(answer?);
            }
            let mut closed = tokio::select! {
                biased;
                answer = &mut reading => return Ok(answer?),
                closed = self.closed() => closed,
            };
            if closed == Closed::ItsSide {
                closed = tokio::select! {
                    biased;
                    answer = &mut reading => return Ok(answer?),
                    // Boxed, since it is rare: otherwise every request would have to have room for it.
                    closed = Box::pin(self.has_been_heard()) => closed,
                };
            }
            if closed == Closed::Both {
                return Err(Problem::client_gone());
            }
        }
        let at_once = ReadOptions {
            timeout: Duration::ZERO,
            ..options
        };
        // Boxed as well.
        Ok(Box::pin(read(at_once)).await?)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

impl Bytes {
    /// Writes by `write`, which tries to, once that is possible.
    fn poll_write_by(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let socket: &TcpStream = (*self.write).as_ref();
        loop {
            ready!(socket.poll_write_ready(context))?;
            match write(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(context, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket: &TcpStream = (*self.write).as_ref();
        let ended = rustix::net::shutdown(socket, Shutdown::Write);
        Poll::Ready(ended.map_err(io::Error::from))
    }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
