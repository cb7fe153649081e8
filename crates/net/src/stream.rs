//! A TCP or Unix connection: whole, split into halves, or detached from its runtime.
//!
//! Invariant: both kinds of connection behave alike, except for the transport.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::SocketPlace;

/// Calls a method that both kinds of sockets have.
macro_rules! either {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Self::Tcp($socket) => $call,
            Self::Unix($socket) => $call,
        }
    };
}

/// A connection of a runtime.
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection to a Unix socket.
    Unix(UnixStream),
}

/// A connection that is detached from its runtime.
#[derive(Debug)]
pub enum Detached {
    /// A TCP connection.
    Tcp(std::net::TcpStream),
    /// A connection to a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Connects to `place`, with `TCP_NODELAY`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn connect(place: &SocketPlace) -> io::Result<Self> {
        let stream = match place {
            SocketPlace::Tcp(address) => Self::Tcp(TcpStream::connect(address).await?),
            SocketPlace::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
        };
        stream.set_nodelay()?;
        Ok(stream)
    }

    /// Sets `TCP_NODELAY`: written data is sent immediately. Small complete messages would only be
    /// delayed until a packet is full.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Sets the time without acknowledgement of sent data after which the system closes the
    /// connection (`TCP_USER_TIMEOUT` on Linux, tcp(7)). It has no effect on Unix sockets, where no
    /// data is in flight.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_untaken_timeout(&self, timeout: Duration) -> io::Result<()> {
        if let Self::Tcp(stream) = self {
            let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
        }
        Ok(())
    }

    /// Whether the system itself closes a connection to a peer that does not accept data.
    #[must_use]
    pub fn is_given_up_by_the_system(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Splits the connection into its two directions.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    /// Reads the available data without waiting.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::WouldBlock`] when no data is available.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    /// Removes the connection from this runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Self::Unix(stream) => stream.into_std().map(Detached::Unix),
        }
    }
}

impl Detached {
    /// Adds the connection to the current runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// The reading half of a connection.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedReadHalf),
    /// Of a connection to a Unix socket.
    Unix(unix::OwnedReadHalf),
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), half => Pin::new(half).poll_read(context, buffer))
    }
}

/// The writing half of a connection. It can be shared, because no method needs exclusive access.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedWriteHalf),
    /// Of a connection to a Unix socket.
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Waits until the socket is ready for `interest`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, half => half.ready(interest).await)
    }

    /// Polls whether the socket is writable.
    ///
    /// # Errors
    /// The system's error.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, half => half.as_ref().poll_write_ready(context))
    }

    /// Writes as much as the socket's buffer can hold, without waiting.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::WouldBlock`] when the buffer is full.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, half => half.try_write(bytes))
    }

    /// Does the same as [`Self::try_write`] for several slices.
    ///
    /// # Errors
    /// The same as those of [`Self::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, half => half.try_write_vectored(slices))
    }

    /// Shuts down the writing direction.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown(&self) -> io::Result<()> {
        let shut = match self {
            Self::Tcp(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
            Self::Unix(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
        };
        Ok(shut?)
    }
}
