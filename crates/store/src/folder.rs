//! An open directory of the operating system.
//!
//! Invariant: all file operations use the directory's descriptor, so they always affect the
//! directory that was opened, even if its path refers to another one now. The path is used only in
//! messages and to check whether it still refers to this directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, Mode, OFlags, fallocate, fstatvfs, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::vfs::{FileId, Files, Nested, RawFile, enter_or_make};

/// Only the owner has access to a data directory, because it contains the names of tenants.
const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Bytes per write of zeros, on file systems without `fallocate`.
const ZEROS_BYTES: usize = 256 * 1024;

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Folder {
    descriptor: File,
    /// The absolute path; see [`place`].
    path: PathBuf,
    access: Access,
}

/// The permitted operations in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads and changes.
    Full,
    /// Files are opened for reading only, and nothing is changed.
    ReadOnly,
}

impl Folder {
    /// Opens an existing directory.
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        Ok(Self {
            descriptor: open_folder(CWD, path)?,
            path: place(path)?,
            access,
        })
    }

    /// Opens a directory. Creates it and its parents where they are missing.
    pub(crate) fn open_or_make(path: &Path) -> io::Result<Self> {
        let absolute = place(path)?;
        for start in absolute.ancestors() {
            let found = match Self::open(start, Access::Full) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            let missing = absolute.strip_prefix(start).unwrap_or(Path::new(""));
            return enter_or_make(found, missing.iter());
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Opens the directory again. A lock on the returned file ends when that file is closed,
    /// even if this value is still in use.
    pub(crate) fn again(&self) -> io::Result<File> {
        open_folder(&self.descriptor, Path::new("."))
    }

    /// The metadata of the directory itself.
    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.descriptor.metadata()
    }

    /// Opens a file in the directory.
    pub(crate) fn open_file_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let open = || openat(&self.descriptor, name, flags, FILE_MODE);
        Ok(retry_on_intr(open)?.into())
    }

    fn check_access(&self) -> io::Result<()> {
        match self.access {
            Access::Full => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

/// Makes `path` absolute with as few directories as possible: a relative path that leaves the
/// working directory by `..` then does not depend on that directory any more. Symbolic links are
/// not resolved, so the path follows a link that is changed later.
fn place(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() {
        return std::path::absolute(path);
    }
    // The system returns the working directory without symbolic links, so its parent is the path
    // without the last name.
    let mut place = std::env::current_dir()?;
    let mut is_leaving = true;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if is_leaving => {
                place.pop();
            }
            other => {
                is_leaving = false;
                place.push(other);
            }
        }
    }
    Ok(place)
}

fn open_folder(at: impl std::os::fd::AsFd, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || openat(&at, path, flags, Mode::empty());
    Ok(retry_on_intr(open)?.into())
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES.min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let some = zeros.len().min((bytes - at) as usize);
        FileExt::write_all_at(file, &zeros[..some], at)?;
        at += some as u64;
    }
    Ok(())
}

impl FileId {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

impl RawFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
            // The file system does not support `fallocate`.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(self, bytes),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(FileId::of(&self.metadata()?))
    }
}

impl Files for Folder {
    fn folder(&self) -> &Path {
        &self.path
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn RawFile>> {
        self.check_access()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        Ok(Box::new(self.open_file_at(name, flags)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn RawFile>> {
        let flags = match self.access {
            Access::Full => OFlags::RDWR,
            Access::ReadOnly => OFlags::RDONLY,
        };
        Ok(Box::new(self.open_file_at(name, flags)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_access()?;
        Ok(renameat(&self.descriptor, from, &self.descriptor, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_access()?;
        Ok(unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        let found = statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileId {
            device: found.st_dev,
            number: found.st_ino,
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.check_access()?;
        self.descriptor.sync_all()
    }

    fn room(&self) -> io::Result<Option<u64>> {
        let found = fstatvfs(&self.descriptor)?;
        // Some network file systems return only zeros.
        let is_known = found.f_blocks > 0;
        Ok(is_known.then(|| found.f_bavail.saturating_mul(found.f_frsize)))
    }
}

impl Nested for Folder {
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>> {
        match open_folder(&self.descriptor, Path::new(name)) {
            Ok(descriptor) => Ok(Some(Self {
                descriptor,
                path: self.path.join(name),
                access: self.access,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make(&self, name: &OsStr) -> io::Result<()> {
        match mkdirat(&self.descriptor, name, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&self) -> io::Result<()> {
        // By the descriptor: the path may end in a symbolic link, which is in another parent.
        open_folder(&self.descriptor, Path::new(".."))?.sync_all()
    }
}
