//! Sockets by TCP, or at a path of this machine: where one is, what accepts there, and a connection
//! ([`Stream`]).
//!
//! Invariant: a path has one holder, who alone listens there, removes its file, and takes it over
//! from one that has died.

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

/// How the address of a Unix socket begins.
const UNIX: &str = "unix:";

/// What the name of the file that is locked ends in, behind that of the socket.
const LOCK_SUFFIX: &str = ".lock";

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
    /// At a path, which is given up first: as long as its file is there, somebody listens.
    Unix(HeldPath, UnixListener),
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
                let mut held = HeldPath::hold(path)?;
                remove_left_behind(path).await?;
                let listener = UnixListener::bind(path)?;
                held.is_bound = true;
                Ok(Self::Unix(held, listener))
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
            Self::Unix(held, _) => Ok(SocketPlace::Unix(held.path.clone())),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(_, listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// The right to listen at a path, to take it over and to remove its file: a lock on a file beside
/// it. The system takes it back from a process that dies, and to connect can't tell who is about to
/// listen from who has died.
#[derive(Debug)]
pub struct HeldPath {
    path: PathBuf,
    /// Whether what is there is ours.
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
            // Whoever held it may have removed it meanwhile: then it locks nothing.
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
        // What stays is taken over by the next start.
        if self.is_bound {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Whether an open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether there is a socket at `path`; none if there is nothing.
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

/// Removes the file of a socket on which nobody listens any more: a process that was killed leaves
/// it. To be called by who holds the path; another program may listen there all the same.
async fn remove_left_behind(path: &Path) -> io::Result<()> {
    match is_socket(path)? {
        None => return Ok(()),
        Some(true) => {}
        Some(false) => {
            let what = "something is there that is no socket";
            return Err(io::Error::new(ErrorKind::AlreadyExists, what));
        }
    }
    let gone = match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // A queue of connections that is full is somebody's, too.
        _ => Err(is_taken()),
    };
    match gone {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        gone => gone,
    }
}

#[cfg(test)]
mod tests;
