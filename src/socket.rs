//! Sockets by TCP, or at a path of this machine: where one is, what accepts there, and a connection ([`stream`]).
//!
//! Invariant: a path is taken over only from a process that has died, and its file is removed only by who made it.

mod stream;

pub use stream::{Detached, ReadHalf, Stream, WriteHalf};

use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// How the address of a Unix socket begins.
const UNIX: &str = "unix:";

/// Where a socket is: `127.0.0.1:3000`, `[::1]:3000` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// An address and a port.
    Tcp(SocketAddr),
    /// An absolute path of this machine.
    Unix(PathBuf),
}

/// A text that says no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

impl FromStr for SocketPlace {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.strip_prefix(UNIX) {
            None => text.parse().map(Self::Tcp).map_err(|_| NoPlace),
            Some(path) if path.starts_with('/') && !path.ends_with('/') => {
                Ok(Self::Unix(PathBuf::from(path)))
            }
            Some(_) => Err(NoPlace),
        }
    }
}

impl Display for SocketPlace {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
        }
    }
}

impl SocketPlace {
    /// What clients are given to ask there: `http://address` or `unix:/path`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(_) => self.to_string(),
        }
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// What accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path, whose file goes with it.
    Unix(UnixListener, SocketFile),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Listens at `place`. Port 0 takes a free one.
    ///
    /// # Errors
    /// The system's; or that somebody listens at a path, or that what is there is no socket.
    pub async fn bind(place: &SocketPlace) -> io::Result<Self> {
        match place {
            SocketPlace::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            SocketPlace::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        remove_left_behind(path).await?;
                        UnixListener::bind(path)?
                    }
                    bound => bound?,
                };
                Ok(Self::Unix(listener, SocketFile::new(path)?))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn place(&self) -> io::Result<SocketPlace> {
        match self {
            Self::Tcp(listener) => Ok(SocketPlace::Tcp(listener.local_addr()?)),
            Self::Unix(_, file) => Ok(SocketPlace::Unix(file.path.clone())),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Removes the file of a socket on which nobody listens any more: a process that was killed leaves it.
async fn remove_left_behind(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        let what = "something is there that is no socket";
        return Err(io::Error::new(ErrorKind::AlreadyExists, what));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // A queue of connections that is full is somebody's, too.
        _ => Err(io::Error::new(
            ErrorKind::AddrInUse,
            "another process listens there",
        )),
    }
}

/// The file of a socket, which is removed with this, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    made: Made,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            made: made(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if made(&self.path).is_ok_and(|made| made == self.made) {
            // One that stays is taken over by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What tells a file from all others: its file system, its number in that, and when it got that number, which another had before.
type Made = (u64, u64, Option<SystemTime>);

fn made(path: &Path) -> io::Result<Made> {
    let metadata = std::fs::symlink_metadata(path)?;
    let created = metadata.created();
    Ok((metadata.dev(), metadata.ino(), created.ok()))
}

#[cfg(test)]
mod tests;
