//! Socket addresses, listeners and connections ([`Stream`]), over TCP or Unix sockets.
//!
//! Invariant: the path of a Unix socket has one owner. Only the owner listens there and removes the
//! socket file, and it may replace the file of a process that has died.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
)]

mod stream;

pub use stream::{Detached, ReadHalf, Stream, WriteHalf};

use std::fmt::{self, Display, Formatter};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Prefix of the address of a Unix socket.
const UNIX: &str = "unix:";

/// Suffix of the lock file's name, which begins with the name of the socket file.
const LOCK_SUFFIX: &str = ".lock";

/// The address of a socket: `127.0.0.1:3000`, `[::1]:3000` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// An absolute path on this machine.
    Unix(PathBuf),
}

/// The error for a text that is not a valid socket address.
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
    /// The URL for clients: `http://address` or `unix:/path`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(_) => self.to_string(),
        }
    }

    /// Whether only processes on this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix listener. The path is dropped first, so while the socket file exists, a listener is
    /// bound to it.
    Unix(HeldPath, UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Listens at `place`. Port 0 selects a free port.
    ///
    /// # Errors
    /// The system's error; or another process listens at the path, or the path exists and is not a
    /// socket.
    pub async fn bind(place: &SocketPlace) -> io::Result<Self> {
        match place {
            SocketPlace::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            SocketPlace::Unix(path) => {
                let mut held = HeldPath::hold(path)?;
                remove_left_behind(path).await?;
                let listener = UnixListener::bind(path)?;
                held.is_bound = true;
                Ok(Self::Unix(held, listener))
            }
        }
    }

    /// The address at which it listens.
    ///
    /// # Errors
    /// The system's error.
    pub fn place(&self) -> io::Result<SocketPlace> {
        match self {
            Self::Tcp(listener) => Ok(SocketPlace::Tcp(listener.local_addr()?)),
            Self::Unix(held, _) => Ok(SocketPlace::Unix(held.path.clone())),
        }
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// The system's error.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(_, listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Ownership of a socket path: the right to listen there and to replace or remove the socket file.
/// It is a lock on a file next to the socket. The system releases the lock when the process dies. A
/// connection attempt is not sufficient, because it cannot distinguish a process that is about to
/// listen from one that has died.
#[derive(Debug)]
pub struct HeldPath {
    path: PathBuf,
    /// Whether this process created the socket file.
    is_bound: bool,
    lock_path: PathBuf,
    _lock: File,
}

impl HeldPath {
    fn hold(path: &Path) -> io::Result<Self> {
        let mut lock_path = path.to_owned().into_os_string();
        lock_path.push(LOCK_SUFFIX);
        let lock_path = PathBuf::from(lock_path);
        let fault = |error: io::Error| {
            let what = format!("{}: {error}", lock_path.display());
            io::Error::new(error.kind(), what)
        };
        loop {
            let lock = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&lock_path)
                .map_err(fault)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(is_taken()),
                Err(TryLockError::Error(error)) => return Err(fault(error)),
            }
            // The previous owner may have removed the file after we opened it. A lock on it would
            // have no effect.
            if is_at(&lock, &lock_path).map_err(fault)? {
                return Ok(Self {
                    path: path.to_owned(),
                    is_bound: false,
                    lock_path,
                    _lock: lock,
                });
            }
        }
    }
}

impl Drop for HeldPath {
    fn drop(&mut self) {
        // If the removal fails, the next start replaces the file.
        if self.is_bound {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Whether `path` is the name of the open `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `path` is a socket; `None` if it does not exist.
fn is_socket(path: &Path) -> io::Result<Option<bool>> {
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(Some(there.file_type().is_socket())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_taken() -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, "another process listens there")
}

/// Removes the socket file that a killed process left behind. Requires ownership of the path. Fails
/// if another program, which does not use the lock, listens there.
async fn remove_left_behind(path: &Path) -> io::Result<()> {
    match is_socket(path)? {
        None => return Ok(()),
        Some(true) => {}
        Some(false) => {
            let what = "the path exists and is not a socket";
            return Err(io::Error::new(ErrorKind::AlreadyExists, what));
        }
    }
    let gone = match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // The backlog of a listener may be full; it still has an owner.
        _ => Err(is_taken()),
    };
    match gone {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        gone => gone,
    }
}

#[cfg(test)]
mod tests;
