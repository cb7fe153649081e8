//! A connection by TCP or to a path, whole, in halves, or between two runtimes.
//!
//! Invariant: but for the path of a byte, both kinds behave alike.

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

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// To an address.
    Tcp(TcpStream),
    /// To a path.
    Unix(UnixStream),
}

/// A connection that belongs to no runtime for now.
#[derive(Debug)]
pub enum Detached {
    /// To an address.
    Tcp(std::net::TcpStream),
    /// To a path.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Connects, without waiting to fill packets.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(place: &SocketPlace) -> io::Result<Self> {
        let stream = match place {
            SocketPlace::Tcp(address) => Self::Tcp(TcpStream::connect(address).await?),
            SocketPlace::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
        };
        stream.set_nodelay()?;
        Ok(stream)
    }

    /// Sends what is written at once: what is small and whole is only delayed by waiting to fill a
    /// packet.
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Closes the connection once its peer has acknowledged no bytes for so long.
    /// (`TCP_USER_TIMEOUT` of Linux, tcp(7); on a path nothing is under way to a peer.)
    ///
    /// # Errors
    /// The system's.
    pub fn set_untaken_timeout(&self, timeout: Duration) -> io::Result<()> {
        if let Self::Tcp(stream) = self {
            let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
        }
        Ok(())
    }

    /// Whether the system itself gives up a peer that takes nothing.
    #[must_use]
    pub fn is_given_up_by_the_system(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Its two directions.
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

    /// Reads what is there, without waiting.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] when nothing is there.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    /// Takes it out of this runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Self::Unix(stream) => stream.into_std().map(Detached::Unix),
        }
    }
}

impl Detached {
    /// Takes it into this runtime.
    ///
    /// # Errors
    /// The system's.
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

/// What comes in on a connection.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of an address.
    Tcp(tcp::OwnedReadHalf),
    /// Of a path.
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

/// What goes out on a connection, which may be shared: nothing of it changes the socket.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of an address.
    Tcp(tcp::OwnedWriteHalf),
    /// Of a path.
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Waits until the socket is ready in one of the ways of `interest`.
    ///
    /// # Errors
    /// The system's.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, half => half.ready(interest).await)
    }

    /// Whether it can be written to.
    ///
    /// # Errors
    /// The system's.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, half => half.as_ref().poll_write_ready(context))
    }

    /// Writes what there is room for, without waiting.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] when there is no room.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, half => half.try_write(bytes))
    }

    /// The same of several slices.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, half => half.try_write_vectored(slices))
    }

    /// Sends nothing more.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self) -> io::Result<()> {
        let shut = match self {
            Self::Tcp(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
            Self::Unix(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
        };
        Ok(shut?)
    }
}
