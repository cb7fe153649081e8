//! Files: the only way in which the store touches a disk, so that tests can put a simulated one
//! under it.
//!
//! Invariant: a [`Files`] speaks of one folder; every error names the file it is about.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::bytes::Cursor;

/// What the end of a name says of a file that is still being made.
pub(crate) const TEMPORARY: &str = ".tmp";

/// An open file, read and written at given offsets.
pub(crate) trait RawFile: Send + Sync {
    /// Fills `bytes` from `offset`; fewer bytes than that are an error.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; a gap before it reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Takes room for `bytes` from the start, and makes it so long; what it holds does not matter.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes all writes so far (content and length) survive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
    /// The length, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Which file it is.
    fn id(&self) -> io::Result<FileId>;
}

/// Which file or folder something is: equal only for two names of the same one. On some file
/// systems it changes while the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

/// The files of one folder.
///
/// Contract: a name created, renamed or removed survives a crash only after
/// [`sync_dir`](Self::sync_dir); a rename is atomic: after a crash the name stands for the old file
/// or for the new one.
pub(crate) trait Files: Send + Sync + 'static {
    /// The folder.
    fn folder(&self) -> &Path;
    /// Makes an empty file for reading and writing, in place of any old one.
    fn create(&self, name: &str) -> io::Result<Box<dyn RawFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn RawFile>>;
    /// Gives a file a new name, in place of any file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names in the folder, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Which file the name stands for.
    fn id_of(&self, name: &str) -> io::Result<FileId>;
    /// Makes all changes of names so far survive a crash of the machine.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that files in it may take beyond what they have; none where that is not known. A quota
    /// may be less.
    fn room(&self) -> io::Result<Option<u64>>;
}

/// A folder that can be in another one, and have others in it.
///
/// Contract: the name of a folder that was made survives a crash only after
/// [`settle`](Self::settle), of the folder itself.
pub(crate) trait Nested: Sized {
    /// The folder of this name in it, if there is one.
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>>;
    /// Makes a folder in it, unless the name is taken.
    fn make(&self, name: &OsStr) -> io::Result<()>;
    /// Makes the name that it has in the folder above survive a crash of the machine.
    fn settle(&self) -> io::Result<()>;
}

/// Opens the folder that `names` lead to from `start`, and makes those that are missing. Its name
/// survives a crash.
///
/// Each folder's name is settled before anything is made in it: whoever dies between the two leaves
/// at most one folder whose name may get lost, the deepest that is there, and the next one who
/// comes begins with that.
pub(crate) fn enter_or_make<'n, N: Nested>(
    start: N,
    names: impl IntoIterator<Item = &'n OsStr>,
) -> io::Result<N> {
    let mut here = start;
    let mut is_made = false;
    for name in names {
        here = match here.enter(name)? {
            Some(there) => there,
            None => {
                settle(&here, is_made)?;
                here.make(name)?;
                is_made = true;
                here.enter(name)?.ok_or(io::ErrorKind::NotFound)?
            }
        };
    }
    settle(&here, is_made)?;
    Ok(here)
}

/// A folder that we have not made may be in one that we can't sync: another's, or one of a system
/// that is only read. Then its name is not ours to keep.
fn settle(folder: &impl Nested, is_made: bool) -> io::Result<()> {
    let not_ours = |kind| {
        use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
        matches!(
            kind,
            InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
        )
    };
    match folder.settle() {
        Err(error) if !is_made && not_ours(error.kind()) => Ok(()),
        settled => settled,
    }
}

impl dyn Files {
    /// The path of a name, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// [`Files::create`], its error named.
    pub(crate) fn create_file(&self, name: &str) -> Result<DiskFile, StoreError> {
        match self.create(name) {
            Ok(raw) => Ok(self.disk_file(name, raw)),
            Err(source) => Err(self.failed_writing("create", name, source)),
        }
    }

    /// [`Files::open`], its error named.
    pub(crate) fn open_file(&self, name: &str) -> Result<DiskFile, StoreError> {
        match self.open(name) {
            Ok(raw) => Ok(self.disk_file(name, raw)),
            Err(source) => Err(self.failed("open", name, source)),
        }
    }

    /// [`Files::rename`], then [`Files::sync_dir`]: the file has its name for good.
    pub(crate) fn settle_name(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.rename_file(from, to)?;
        self.sync_names()
    }

    /// [`Files::rename`], its error named.
    pub(crate) fn rename_file(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.rename(from, to)
            .map_err(|source| self.failed_writing("rename", from, source))
    }

    /// [`Files::sync_dir`], its error named.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        self.sync_dir()
            .map_err(|source| self.failed("sync folder", "", source))
    }

    /// [`Files::list`], its error named.
    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        self.list()
            .map_err(|source| self.failed("list", "", source))
    }

    /// [`Files::remove`], its error named.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        self.remove(name)
            .map_err(|source| self.failed("remove", name, source))
    }

    /// [`Files::remove`] of a file that may not be there, its error named.
    pub(crate) fn remove_if_there(&self, name: &str) -> Result<(), StoreError> {
        match self.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| self.failed("remove", name, source)),
        }
    }

    /// [`Files::room`], its error named.
    pub(crate) fn room_left(&self) -> Result<Option<u64>, StoreError> {
        self.room()
            .map_err(|source| self.failed("look for room in", "", source))
    }

    /// Refuses a name that does not stand for `file`, which was `known` when it was opened: what is
    /// written to the file is not found by the name.
    pub(crate) fn check_name(
        &self,
        name: &str,
        file: &DiskFile,
        known: FileId,
    ) -> Result<(), StoreError> {
        let is_same = match self.id_of(name) {
            Ok(found) if found == known => return Ok(()),
            // Its number may have changed; then that of the name has, too.
            Ok(_) => {
                let id = file.id()?;
                self.id_of(name).map(|found| found == id)
            }
            Err(error) => Err(error),
        };
        let what = match is_same {
            Ok(true) => return Ok(()),
            Ok(false) => "another file has taken its place",
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "the file was moved or deleted"
            }
            Err(source) => return Err(self.failed("look at", name, source)),
        };
        Err(StoreError::Displaced {
            path: self.path(name),
            what: what.to_owned(),
        })
    }

    /// Gives `name` the content `bytes`, at once and for good: after a crash it has the old content
    /// or the new. Without room for it ([`StoreError::Full`]) it has the old content.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = format!("{name}{TEMPORARY}");
        let make = || {
            let file = self.create_file(&temporary)?;
            file.write_at(bytes, 0)?;
            file.sync()?;
            self.settle_name(&temporary, name)
        };
        make().inspect_err(|error| {
            if error.is_full() {
                // The little that it took is not for it. Should it stay, the next one takes its
                // place.
                let _ = self.remove(&temporary);
            }
        })
    }

    fn disk_file(&self, name: &str, raw: Box<dyn RawFile>) -> DiskFile {
        let path = self.path(name);
        DiskFile { path, raw }
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::Io {
            action,
            path: self.path(name),
            source,
        }
    }

    fn failed_writing(&self, action: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::of_writing(action, self.path(name), source)
    }
}

/// An open file that names itself in errors.
pub(crate) struct DiskFile {
    path: PathBuf,
    raw: Box<dyn RawFile>,
}

impl DiskFile {
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let done = self.raw.read_at(bytes, offset);
        self.named("read", done)
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let done = self.raw.write_at(bytes, offset);
        done.map_err(|source| StoreError::of_writing("write", self.path.clone(), source))
    }

    /// [`RawFile::allocate`], its error named.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<(), StoreError> {
        let done = self.raw.allocate(bytes);
        done.map_err(|source| StoreError::of_writing("allocate", self.path.clone(), source))
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let done = self.raw.sync();
        self.named("sync", done)
    }

    pub(crate) fn len(&self) -> Result<u64, StoreError> {
        let len = self.raw.len();
        self.named("read the length of", len)
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> Result<FileId, StoreError> {
        let id = self.raw.id();
        self.named("look at", id)
    }

    /// An error that says the file is not as it was written.
    pub(crate) fn damaged(&self, offset: u64, detail: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            offset,
            detail: detail.into(),
        }
    }

    /// An error that says the file is of an unknown version.
    pub(crate) fn unknown_version(&self, found: u32, known: u32) -> StoreError {
        StoreError::Version {
            path: self.path.clone(),
            found,
            known,
        }
    }

    /// Checks how the bytes of the whole file start: with `magic`, and after that `version` (u32).
    /// `what` it is, such as "a manifest", is for the error.
    pub(crate) fn check_head<const N: usize>(
        &self,
        bytes: &[u8],
        magic: [u8; N],
        version: u32,
        what: &str,
    ) -> Result<(), StoreError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array() != Some(magic) {
            return Err(self.damaged(0, format!("it does not start as {what} does")));
        }
        match cursor.u32() {
            Some(found) if found == version => Ok(()),
            Some(found) => Err(self.unknown_version(found, version)),
            None => Err(self.damaged(bytes.len() as u64, "it ends too early")),
        }
    }

    /// The whole file; more than `bytes_max` of it is damage.
    pub(crate) fn read_all(&self, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let len = self.len()?;
        if len > bytes_max {
            return Err(self.damaged(bytes_max, "the file is longer than it can be"));
        }
        let mut bytes = vec![0; len as usize];
        self.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn named<T>(&self, action: &'static str, done: io::Result<T>) -> Result<T, StoreError> {
        done.map_err(|source| StoreError::Io {
            action,
            path: self.path.clone(),
            source,
        })
    }
}
