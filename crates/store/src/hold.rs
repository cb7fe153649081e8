//! That one process has the folder, and that the folder is still what its path names.
//!
//! Invariant: while a [`Hold`] lives, no other process takes one of the same folder, whether or not
//! its `LOCK` is still there; and a [`Hold::look`] that succeeds says that whoever comes by the
//! path finds this folder's `LOCK`, locked.
//!
//! Two things are locked: the file `LOCK`, which earlier releases lock too, and the folder itself,
//! which can't be taken out of the folder. Some network file systems don't lock folders; there a
//! second process that finds no `LOCK` gets in, and the first one notices. It looks for `LOCK` and
//! for the folder, by their paths: they are not found where the folder, or one above it, was moved,
//! deleted or unmounted, and are others where another folder or another `LOCK` has taken the place.
//! The numbers of device and file tell. On some file systems they change while a file is open; so
//! where they differ, a random number that is written into our `LOCK` and read back by the path
//! decides.

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
use super::files::{FileId, Files};
use super::folder::Folder;

/// The file that is locked.
pub(super) const LOCK: &str = "LOCK";

/// How old the last look may be where nothing is committed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How old a look may be for the next append to rely on it: no other process starts, opens the
/// folder and has something acknowledged in so short a time.
const FRESH_MAX: Duration = Duration::from_millis(10);

/// Bytes of the random number that `LOCK` holds once it had to prove itself.
const NONCE_BYTES: usize = 16;

/// What the path named when it was looked at last.
#[derive(Debug)]
struct Looked {
    lock: FileId,
    folder: FileId,
    at: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hold {
    lock: File,
    /// None where the file system does not lock folders.
    _folder: Option<File>,
    /// Where the folder and its `LOCK` must be found.
    path: PathBuf,
    lock_path: PathBuf,
    looked: Mutex<Looked>,
}

impl Hold {
    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another one has it, [`StoreError::Displaced`] when the path names
    /// another folder already, and [`StoreError::Io`].
    pub(super) fn take(folder: &Folder) -> Result<Self, StoreError> {
        let path = folder.folder().to_owned();
        let lock_path = path.join(LOCK);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let lock = folder.open_file_at(LOCK, flags);
        let lock = lock.map_err(failed("open", &lock_path))?;
        locked(lock.try_lock(), &path, &lock_path)?;
        let itself = lock_itself(folder, File::try_lock)?;
        let of_lock = lock.metadata().map_err(failed("look at", &lock_path))?;
        let of_folder = folder.metadata().map_err(failed("look at", &path))?;
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

    /// Looks whether the path still leads here: to `LOCK`, and to the folder itself. It costs about
    /// a microsecond where the system has the path in memory.
    ///
    /// # Errors
    /// [`StoreError::Displaced`] when it does not.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        let mut looked = self.looked.lock();
        self.look_at(&self.lock_path, &mut looked.lock)?;
        self.look_at(&self.path, &mut looked.folder)?;
        looked.at = Instant::now();
        Ok(())
    }

    /// The same, where something is held.
    pub(super) fn look_if_held(hold: &Weak<Self>) -> Result<(), StoreError> {
        hold.upgrade().map_or(Ok(()), |hold| hold.look())
    }

    /// The same, if the last look is older than [`FRESH_MAX`].
    pub(super) fn look_if_stale(hold: &Weak<Self>) -> Result<(), StoreError> {
        hold.upgrade()
            .filter(|hold| hold.looked.lock().at.elapsed() >= FRESH_MAX)
            .map_or(Ok(()), |hold| hold.look())
    }

    /// Whether nobody has looked for as long as [`LOOK_INTERVAL`].
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

    /// Something else was found than before: says what it is from now on, if only its number has
    /// changed.
    #[cold]
    fn prove(&self, found: io::Result<fs::Metadata>) -> Result<FileId, StoreError> {
        let proven = found.and_then(|found| Ok((FileId::of(&found), self.shows_nonce()?)));
        let what = match proven {
            Ok((id, true)) => return Ok(id),
            Ok((_, false)) => "another folder, or another LOCK, has taken its place".to_owned(),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    "the folder, one above it, or its LOCK was moved or deleted".to_owned()
                }
                _ => format!("it could not be found any more ({error})"),
            },
        };
        let path = self.path.clone();
        Err(StoreError::Displaced { path, what })
    }

    /// Whether the path leads to a file that shows what is written into ours, and that has no other
    /// name: a copy does not show it, and a folder of links to our files is not ours.
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

/// Keeps a [`Hold`] of the folder away, as far as one who may only read can.
#[derive(Debug)]
pub(super) struct SharedHold {
    _lock: Option<File>,
    _folder: Option<File>,
}

impl SharedHold {
    /// Takes the folder for as many as only read it. It makes and writes nothing, and does without
    /// what is not there (a copy may have no `LOCK`), what it may not read, and what can't be
    /// locked.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process has the folder, and [`StoreError::Io`].
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

/// Locks the folder itself; none where that can't be done.
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

/// What a file system says that does not lock this.
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
