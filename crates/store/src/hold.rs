//! Exclusive use of a data directory by one process, and detection of a directory that was
//! replaced.
//!
//! Invariant: while a [`Hold`] lives, no other process obtains one for the same directory, even if
//! the `LOCK` file is deleted. After a successful [`Hold::look`], the path leads to the `LOCK` file
//! of this directory, which is locked.
//!
//! Two objects are locked: the file `LOCK`, which earlier releases lock too, and the directory
//! itself, which cannot be removed from itself. Some network file systems do not lock directories.
//! There, a second process that finds no `LOCK` can open the directory, and the first process
//! detects that: it looks up `LOCK` and the directory by their paths. They are missing if the
//! directory or one of its parents was moved, deleted or unmounted, and are different if another
//! directory or another `LOCK` has replaced them. Device and inode numbers identify them. Some file
//! systems change these numbers while a file is open; so if they differ, a nonce decides: the
//! process writes it to its own `LOCK` and reads it back by the path.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::StoreError;
use super::folder::Folder;
use super::vfs::{FileId, Files};

/// The name of the lock file.
pub(super) const LOCK: &str = "LOCK";

/// Maximum age of the last check while nothing is committed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum age of a check that the next append may rely on. Within this time, no other process can
/// start, open the directory and acknowledge data.
const FRESH_MAX: Duration = Duration::from_millis(10);

/// Size of the nonce, in bytes. `LOCK` contains one after a check that the numbers did not decide.
const NONCE_BYTES: usize = 16;

/// The result of the last check.
#[derive(Debug)]
struct Looked {
    lock: FileId,
    folder: FileId,
    at: Instant,
}

/// The lock of one process on a data directory.
#[derive(Debug)]
pub(super) struct Hold {
    lock: File,
    /// `None` if the file system does not lock directories.
    _folder: Option<File>,
    /// The paths at which the directory and its `LOCK` must be found.
    path: PathBuf,
    lock_path: PathBuf,
    looked: Mutex<Looked>,
}

impl Hold {
    /// Locks the directory for this process.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Displaced`] when the path
    /// already refers to another directory, and [`StoreError::Io`].
    pub(super) fn take(folder: &Folder) -> Result<Self, StoreError> {
        let path = folder.folder().to_owned();
        let lock_path = path.join(LOCK);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let lock = folder.open_file_at(LOCK, flags);
        let lock = lock.map_err(failed("open", &lock_path))?;
        locked(lock.try_lock(), &path, &lock_path)?;
        let itself = lock_itself(folder, File::try_lock)?;
        let of_lock = lock.metadata().map_err(failed("check", &lock_path))?;
        let of_folder = folder.metadata().map_err(failed("check", &path))?;
        let hold = Self {
            lock,
            _folder: itself,
            path,
            lock_path,
            looked: Mutex::new(Looked {
                lock: FileId::of(&of_lock),
                folder: FileId::of(&of_folder),
                at: Instant::now(),
            }),
        };
        hold.look()?;
        Ok(hold)
    }

    /// Checks that the paths still lead to this `LOCK` and to this directory. It takes about a
    /// microsecond if the system has the paths in its cache.
    ///
    /// # Errors
    /// [`StoreError::Displaced`] when they do not.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        let mut looked = self.looked.lock();
        self.look_at(&self.lock_path, &mut looked.lock)?;
        self.look_at(&self.path, &mut looked.folder)?;
        looked.at = Instant::now();
        Ok(())
    }

    /// Does the same as [`look`](Self::look) if the hold still lives.
    pub(super) fn look_if_held(hold: &Weak<Self>) -> Result<(), StoreError> {
        hold.upgrade().map_or(Ok(()), |hold| hold.look())
    }

    /// Does the same as [`look`](Self::look) if the hold still lives and its last check is older
    /// than [`FRESH_MAX`].
    pub(super) fn look_if_stale(hold: &Weak<Self>) -> Result<(), StoreError> {
        hold.upgrade()
            .filter(|hold| hold.looked.lock().at.elapsed() >= FRESH_MAX)
            .map_or(Ok(()), |hold| hold.look())
    }

    /// Whether the last check is at least [`LOOK_INTERVAL`] old.
    pub(super) fn is_look_due(&self) -> bool {
        self.looked.lock().at.elapsed() >= LOOK_INTERVAL
    }

    fn look_at(&self, place: &Path, known: &mut FileId) -> Result<(), StoreError> {
        let found = fs::metadata(place);
        let is_known = |metadata: &fs::Metadata| FileId::of(metadata) == *known;
        if !found.as_ref().is_ok_and(is_known) {
            *known = self.prove(found)?;
        }
        Ok(())
    }

    /// Handles a path that is missing or has another identity than before. Returns the new identity
    /// if only the numbers have changed.
    #[cold]
    fn prove(&self, found: io::Result<fs::Metadata>) -> Result<FileId, StoreError> {
        let proven = found.and_then(|found| Ok((FileId::of(&found), self.shows_nonce()?)));
        let what = match proven {
            Ok((id, true)) => return Ok(id),
            Ok((_, false)) => "another directory, or another LOCK file, has replaced it".to_owned(),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    "the directory, one of its parents, or its LOCK file was moved or deleted"
                        .to_owned()
                }
                _ => format!("the directory could not be checked ({error})"),
            },
        };
        let path = self.path.clone();
        Err(StoreError::Displaced { path, what })
    }

    /// Whether the path leads to a file that contains the nonce written to our `LOCK` and has only
    /// one name. A copy does not contain the nonce; the link count detects a directory of hard
    /// links to our files.
    fn shows_nonce(&self) -> io::Result<bool> {
        let found = fs::metadata(&self.lock_path)?;
        if !found.is_file() || found.nlink() != 1 {
            return Ok(false);
        }
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        self.lock.write_all_at(&nonce, 0)?;
        self.lock.sync_data()?;
        let mut shown = [0; NONCE_BYTES];
        match File::open(&self.lock_path)?.read_exact_at(&mut shown, 0) {
            Ok(()) => Ok(shown == nonce),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Prevents a [`Hold`] of the directory while it lives, as far as that is possible without writing.
#[derive(Debug)]
pub(super) struct SharedHold {
    _lock: Option<File>,
    _folder: Option<File>,
}

impl SharedHold {
    /// Locks the directory for reading, shared with other readers. It creates and writes nothing.
    /// It ignores a missing `LOCK` (a copy may have none), missing permission to read it, and a
    /// file system without locks.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process has the directory, and [`StoreError::Io`].
    pub(super) fn take(folder: &Folder) -> Result<Self, StoreError> {
        let path = folder.folder();
        let lock_path = path.join(LOCK);
        let lock = match folder.open_file_at(LOCK, OFlags::RDONLY) {
            Ok(lock) => match lock.try_lock_shared() {
                Err(TryLockError::Error(error)) if is_not_lockable(&error) => None,
                done => locked(done, path, &lock_path).map(|()| Some(lock))?,
            },
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => None,
                _ => return Err(failed("open", &lock_path)(error)),
            },
        };
        Ok(Self {
            _lock: lock,
            _folder: lock_itself(folder, File::try_lock_shared)?,
        })
    }
}

/// Locks the directory itself; `None` if the file system does not support that.
fn lock_itself(
    folder: &Folder,
    lock: fn(&File) -> Result<(), TryLockError>,
) -> Result<Option<File>, StoreError> {
    let path = folder.folder();
    let itself = folder.again().map_err(failed("open", path))?;
    match lock(&itself) {
        Err(TryLockError::Error(error)) if is_not_lockable(&error) => Ok(None),
        done => locked(done, path, path).map(|()| Some(itself)),
    }
}

/// Whether the error means that the file system does not support this lock.
fn is_not_lockable(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS)
    )
}

fn locked(done: Result<(), TryLockError>, folder: &Path, what: &Path) -> Result<(), StoreError> {
    done.map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse {
            path: folder.to_owned(),
        },
        TryLockError::Error(source) => failed("lock", what)(source),
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
