//! File access of the store. The store accesses a disk only through the traits of this file, so
//! that tests can replace the disk with a simulated one.
//!
//! Invariant: a [`Files`] accesses only one directory. Every error names its file.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::bytes::Cursor;

/// Suffix of the name of a file that is not complete yet.
pub(crate) const TEMPORARY: &str = ".tmp";

/// An open file, with reads and writes at explicit offsets.
pub(crate) trait RawFile: Send + Sync {
    /// Reads `bytes.len()` bytes at `offset`. An error if the file has fewer.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. A gap before `offset` reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Allocates disk space for the first `bytes` bytes, and extends the file to that length. The
    /// content of the new part is unspecified.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes all previous writes (content and length) durable: they survive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
    /// The length of the file, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// The identity of the file.
    fn id(&self) -> io::Result<FileId>;
}

/// The identity of a file or directory. Two names have the same identity only if they name the same
/// file. Some file systems change it while the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

/// The files of one directory.
///
/// Contract: a created, renamed or removed name survives a crash only after
/// [`sync_dir`](Self::sync_dir). A rename is atomic: after a crash the name refers to the old file
/// or to the new one.
pub(crate) trait Files: Send + Sync + 'static {
    /// The path of the directory.
    fn folder(&self) -> &Path;
    /// Creates an empty file for reading and writing. Replaces a file of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn RawFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn RawFile>>;
    /// Renames a file. Replaces a file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The identity of the file of this name.
    fn id_of(&self, name: &str) -> io::Result<FileId>;
    /// Makes all previous changes of names durable: they survive a crash of the machine.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that the files of the directory may grow by; `None` when that is unknown. A quota may
    /// be smaller.
    fn room(&self) -> io::Result<Option<u64>>;
}

/// A directory that can have a parent and children.
///
/// Contract: the name of a created directory survives a crash only after [`settle`](Self::settle)
/// of that directory.
pub(crate) trait Nested: Sized {
    /// Opens the child directory of this name, if it exists.
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>>;
    /// Creates a child directory, unless the name exists.
    fn make(&self, name: &OsStr) -> io::Result<()>;
    /// Makes the name of this directory in its parent durable: it survives a crash of the machine.
    fn settle(&self) -> io::Result<()>;
}

/// Opens the directory at the path `names` below `start`. Creates the directories that are missing.
/// On return, the name of the last one survives a crash.
///
/// The function settles the name of each directory before it creates anything in that directory. So
/// a crash leaves at most one directory with a name that may be lost: the deepest one that exists.
/// The next call settles that one first.
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

/// Settles the name of a directory. Errors for want of permission or support are ignored unless
/// this process created the directory: it may be in a parent that this process cannot sync, for
/// example one of another user or of a read-only file system.
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
    /// The path of a file, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Calls [`Files::create`] and adds the path to its error.
    pub(crate) fn create_file(&self, name: &str) -> Result<DiskFile, StoreError> {
        match self.create(name) {
            Ok(raw) => Ok(self.disk_file(name, raw)),
            Err(source) => Err(self.failed_writing("create", name, source)),
        }
    }

    /// Calls [`Files::open`] and adds the path to its error.
    pub(crate) fn open_file(&self, name: &str) -> Result<DiskFile, StoreError> {
        match self.open(name) {
            Ok(raw) => Ok(self.disk_file(name, raw)),
            Err(source) => Err(self.failed("open", name, source)),
        }
    }

    /// Renames a file and makes the new name durable: [`Files::rename`], then [`Files::sync_dir`].
    pub(crate) fn settle_name(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.rename_file(from, to)?;
        self.sync_names()
    }

    /// Calls [`Files::rename`] and adds the path to its error.
    pub(crate) fn rename_file(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.rename(from, to)
            .map_err(|source| self.failed_writing("rename", from, source))
    }

    /// Calls [`Files::sync_dir`] and adds the path to its error.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        self.sync_dir()
            .map_err(|source| self.failed("sync directory", "", source))
    }

    /// Calls [`Files::list`] and adds the path to its error.
    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        self.list()
            .map_err(|source| self.failed("list", "", source))
    }

    /// Calls [`Files::remove`] and adds the path to its error.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        self.remove(name)
            .map_err(|source| self.failed("remove", name, source))
    }

    /// Calls [`Files::remove`] and adds the path to its error. A missing file is not an error.
    pub(crate) fn remove_if_there(&self, name: &str) -> Result<(), StoreError> {
        match self.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| self.failed("remove", name, source)),
        }
    }

    /// Calls [`Files::room`] and adds the path to its error.
    pub(crate) fn room_left(&self) -> Result<Option<u64>, StoreError> {
        self.room()
            .map_err(|source| self.failed("determine the free space of", "", source))
    }

    /// Returns an error if `name` does not refer to `file` any more, because writes to `file` could
    /// then not be found by that name. `known` is the identity that `file` had when it was opened.
    pub(crate) fn check_name(
        &self,
        name: &str,
        file: &DiskFile,
        known: FileId,
    ) -> Result<(), StoreError> {
        let is_same = match self.id_of(name) {
            Ok(found) if found == known => return Ok(()),
            // The file system may have changed the identity; the name then has the changed one,
            // too.
            Ok(_) => {
                let id = file.id()?;
                self.id_of(name).map(|found| found == id)
            }
            Err(error) => Err(error),
        };
        let what = match is_same {
            Ok(true) => return Ok(()),
            Ok(false) => "another file has replaced it",
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "the file was moved or deleted"
            }
            Err(source) => return Err(self.failed("check", name, source)),
        };
        Err(StoreError::Displaced {
            path: self.path(name),
            what: what.to_owned(),
        })
    }

    /// Replaces the content of the file `name` with `bytes`, atomically and durably: after a crash,
    /// the file has the old or the new content. Without room ([`StoreError::Full`]), it keeps the
    /// old content.
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
                // The temporary file takes little space. If it cannot be removed, the next call
                // replaces it.
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

/// An open file that adds its path to errors.
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

    /// Calls [`RawFile::allocate`] and adds the path to its error.
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

    /// The identity of the file.
    pub(crate) fn id(&self) -> Result<FileId, StoreError> {
        let id = self.raw.id();
        self.named("check", id)
    }

    /// Makes the error for content that is not what was written.
    pub(crate) fn damaged(&self, offset: u64, detail: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            offset,
            detail: detail.into(),
        }
    }

    /// Makes the error for a file of an unknown version.
    pub(crate) fn unknown_version(&self, found: u32, known: u32) -> StoreError {
        StoreError::Version {
            path: self.path.clone(),
            found,
            known,
        }
    }

    /// Checks how a file starts, given its first bytes or all of them: `magic`, then `version`
    /// (u32). `what` names the kind of file in the error, for example "a manifest".
    pub(crate) fn check_head<const N: usize>(
        &self,
        bytes: &[u8],
        magic: [u8; N],
        version: u32,
        what: &str,
    ) -> Result<(), StoreError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array() != Some(magic) {
            return Err(self.damaged(0, format!("not {what}: wrong magic bytes")));
        }
        match cursor.u32() {
            Some(found) if found == version => Ok(()),
            Some(found) => Err(self.unknown_version(found, version)),
            None => Err(self.damaged(bytes.len() as u64, "the file is too short")),
        }
    }

    /// Reads the whole file. A file that is longer than `bytes_max` is reported as damaged.
    pub(crate) fn read_all(&self, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let len = self.len()?;
        if len > bytes_max {
            return Err(self.damaged(bytes_max, "the file is too long"));
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
