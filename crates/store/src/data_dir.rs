//! The data directory: which counter owns it, and exclusive access by one process.
//!
//! Invariant: two processes never read or change the directory at the same time, and a counter
//! never uses a directory of another counter. A directory that holds other files is never used as a
//! data directory.
//!
//! A counter can *adopt* a directory that `serve` made, once and irreversibly, on request of the
//! operator. It cannot adopt a directory of another counter, because that directory's position
//! belongs to the other counter's queue.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use headcount_model::Partitioning;

use super::StoreError;
use super::bytes::{Cursor, append_checksum};
use super::folder::{Access, Folder};
use super::hold::{Hold, LOCK, SharedHold};
use super::vfs::{DiskFile, Files, TEMPORARY};

/// The name of the only counter of `serve`. Counters behind a broker must not use this name.
pub const LOCAL_COUNTER: &str = "local";
const IDENTITY: &str = "IDENTITY";
/// The file that every created store has.
pub(super) const MANIFEST: &str = "MANIFEST";
/// The only entry in the root directory of an empty file system.
const LOST_AND_FOUND: &str = "lost+found";
const MAGIC: [u8; 8] = *b"HCOUNTID";
const VERSION: u32 = 1;
/// Upper limit for the size of `IDENTITY`, above the size with the longest counter name that
/// [`Identity::decode`] accepts.
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

/// The owner and shape that a data directory must have. A new directory gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belonging {
    /// The cluster's id. `None` accepts the id in the directory; a new directory then gets a random
    /// id.
    pub cluster: Option<u128>,
    /// The counter's name, at most 65535 bytes.
    pub counter: String,
    /// Whether to adopt a directory that [`LOCAL_COUNTER`] made: it then belongs to this counter,
    /// and to `cluster` if that is given. A directory that belongs to this counter already is
    /// opened normally. A missing directory is not created.
    pub adopt: bool,
    /// The number of partitions of the cluster.
    pub partitioning: Partitioning,
    /// The current time, in milliseconds since the Unix epoch: the creation time of a new
    /// directory.
    pub now_ms: u64,
}

/// The identity that a data directory records.
///
/// It is stored in the file `IDENTITY`, little-endian: magic `HCOUNTID`, version (u32, 1), cluster
/// (u128), partitions (u16), created at (u64, Unix ms), whether the store was made (u8, 0 or 1),
/// the counter's name (u16 length in bytes, then UTF-8), CRC-32 (u32) of all preceding bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's random id.
    pub cluster: u128,
    /// The counter's name.
    pub counter: String,
    /// The number of partitions of the cluster.
    pub partitioning: Partitioning,
    /// When the directory was created, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Whether a store was created in the directory. From then on, the store's files must exist.
    pub store_made: bool,
}

/// An open data directory. The lock is held as long as this value lives, and is released when the
/// process ends, also after a crash.
#[derive(Debug)]
pub struct DataDir {
    folder: Arc<Folder>,
    identity: Identity,
    hold: Arc<Hold>,
}

/// A data directory that is open for reading only. It may be a copy on a read-only medium. As far
/// as locks can prevent it, no process writes to the directory while this value lives.
#[derive(Debug)]
pub struct ReadOnlyDir {
    folder: Arc<Folder>,
    identity: Identity,
    _hold: SharedHold,
}

impl DataDir {
    /// Opens the directory. Creates it if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process uses it, [`StoreError::Foreign`] when it belongs
    /// to another counter or cluster, [`StoreError::Version`] or [`StoreError::Damaged`] when its
    /// `IDENTITY` cannot be read, [`StoreError::Displaced`] when its path changes to another
    /// directory meanwhile, and [`StoreError::Io`].
    pub fn open(path: &Path, expected: &Belonging) -> Result<Self, StoreError> {
        if expected.adopt && !has_identity(path)? {
            let detail = "there is no Headcount data to adopt; check the path, or omit --adopt to \
                          start with an empty data directory";
            return Err(foreign(path, detail));
        }
        let folder =
            Folder::open_or_make(path).map_err(failed("open or create directory", path))?;
        let files: &dyn Files = &folder;
        let names = files.names()?;
        let is_new = !names.iter().any(|name| name == IDENTITY);
        if is_new {
            refuse_strangers(path, &names)?;
        }
        let hold = Arc::new(Hold::take(&folder)?);
        let mut identity = if is_new && !files.names()?.iter().any(|name| name == IDENTITY) {
            let identity = Identity {
                cluster: expected.cluster.map_or_else(random_cluster, Ok)?,
                counter: expected.counter.clone(),
                partitioning: expected.partitioning,
                created_at_ms: expected.now_ms,
                store_made: false,
            };
            files.replace(IDENTITY, &identity.encode(path)?)?;
            identity
        } else {
            Identity::read(&files.open_file(IDENTITY)?)?
        };
        if expected.adopt && identity.counter == LOCAL_COUNTER {
            identity.counter.clone_from(&expected.counter);
            identity.cluster = expected.cluster.unwrap_or(identity.cluster);
            identity.check(path, expected)?;
            files.replace(IDENTITY, &identity.encode(path)?)?;
        }
        identity.check(path, expected)?;
        Ok(Self {
            folder: Arc::new(folder),
            identity,
            hold,
        })
    }

    /// Opens an existing data directory of any owner.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when it is not a data directory, and those of [`Self::open`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        let folder = Arc::new(open_ours(path, Access::Full)?);
        let hold = Arc::new(Hold::take(&folder)?);
        let files: &dyn Files = &*folder;
        let identity = Identity::read(&files.open_file(IDENTITY)?)?;
        Ok(Self {
            folder,
            identity,
            hold,
        })
    }

    /// The files of the directory.
    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.folder) as Arc<dyn Files>
    }

    /// A handle to the lock, which is held as long as this value lives.
    pub(super) fn hold(&self) -> Weak<Hold> {
        Arc::downgrade(&self.hold)
    }

    /// Whether the last check of the path is old enough for the next one.
    pub(super) fn is_look_due(&self) -> bool {
        self.hold.is_look_due()
    }

    /// Records durably that a store was created in the directory.
    pub(super) fn note_store_made(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.identity.store_made, true) {
            return Ok(());
        }
        self.hold.look()?;
        let files: &dyn Files = &*self.folder;
        files.replace(IDENTITY, &self.identity.encode(files.folder())?)
    }

    /// The identity that the directory records.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadOnlyDir {
    /// Opens an existing data directory of any owner for reading. It requires only read permission
    /// and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process uses it, as far as that can be detected without
    /// writing; [`StoreError::Foreign`] when it is not a data directory, and
    /// [`StoreError::Version`], [`StoreError::Damaged`] and [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let folder = Arc::new(open_ours(path, Access::ReadOnly)?);
        let hold = SharedHold::take(&folder)?;
        let files: &dyn Files = &*folder;
        let identity = Identity::read(&files.open_file(IDENTITY)?)?;
        Ok(Self {
            folder,
            identity,
            _hold: hold,
        })
    }

    /// The files of the directory.
    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.folder) as Arc<dyn Files>
    }

    /// The identity that the directory records.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Whether `path` is a data directory. An error when that cannot be determined, for example for
/// want of permission.
fn has_identity(path: &Path) -> Result<bool, StoreError> {
    let identity = path.join(IDENTITY);
    match std::fs::metadata(&identity) {
        Ok(found) => Ok(found.is_file()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
            _ => Err(failed("look for", &identity)(error)),
        },
    }
}

fn open_ours(path: &Path, access: Access) -> Result<Folder, StoreError> {
    if !has_identity(path)? {
        return Err(foreign(path, "not a Headcount data directory"));
    }
    Folder::open(path, access).map_err(failed("open directory", path))
}

impl Identity {
    fn encode(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let name_bytes = u16::try_from(self.counter.len())
            .map_err(|_| foreign(path, "the counter's name is longer than 65535 bytes"))?;
        let mut out = Vec::with_capacity(64 + self.counter.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.partitioning.count().to_le_bytes());
        out.extend_from_slice(&self.created_at_ms.to_le_bytes());
        out.push(u8::from(self.store_made));
        out.extend_from_slice(&name_bytes.to_le_bytes());
        out.extend_from_slice(self.counter.as_bytes());
        append_checksum(&mut out);
        // `read` must accept every file that is written.
        if out.len() as u64 > IDENTITY_BYTES_MAX {
            return Err(foreign(path, "the counter's name is too long"));
        }
        Ok(out)
    }

    fn read(file: &DiskFile) -> Result<Self, StoreError> {
        let bytes = file.read_all(IDENTITY_BYTES_MAX)?;
        file.check_head(&bytes, MAGIC, VERSION, "an identity")?;
        Self::decode(&bytes).ok_or_else(|| file.damaged(12, "wrong checksum or invalid field"))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::checked(bytes)?;
        cursor.array::<8>().filter(|magic| *magic == MAGIC)?;
        cursor.u32().filter(|version| *version == VERSION)?;
        let cluster = cursor.u128()?;
        let partitioning = Partitioning::new(cursor.u16()?)?;
        let created_at_ms = cursor.u64()?;
        let store_made = match cursor.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let name_bytes = usize::from(cursor.u16()?);
        let counter = std::str::from_utf8(cursor.take(name_bytes)?)
            .ok()?
            .to_owned();
        (cursor.remaining() == 0).then_some(Self {
            cluster,
            counter,
            partitioning,
            created_at_ms,
            store_made,
        })
    }

    /// Decodes and encodes an identity, for the fuzz targets. `None` when the bytes are not an
    /// identity.
    #[cfg(fuzzing)]
    #[must_use]
    pub fn again(bytes: &[u8]) -> Option<Vec<u8>> {
        let identity = Self::decode(bytes)?;
        identity.encode(Path::new(IDENTITY)).ok()
    }

    /// Explains why the directory does not belong to the counter `ours`, and what to do.
    fn refusal(&self, ours: &str) -> String {
        let its = &self.counter;
        if its == LOCAL_COUNTER {
            format!(
                "belongs to `headcount serve`, not to the counter {ours:?}; to convert it \
                 permanently, stop `serve` and run `headcount counter --adopt`"
            )
        } else if ours == LOCAL_COUNTER {
            format!(
                "belongs to the counter {its:?} of a cluster, not to `headcount serve`; run \
                 `headcount counter --name {its}`, or give `serve` another directory"
            )
        } else {
            format!(
                "belongs to the counter {its:?}, not to {ours:?}; run `headcount counter --name \
                 {its}`, or give {ours:?} another directory: it will catch up from its peers"
            )
        }
    }

    /// Returns an error if a store was created in the directory but its manifest is missing.
    pub(super) fn check_store(&self, files: &dyn Files) -> Result<(), StoreError> {
        if !self.store_made || files.names()?.iter().any(|name| name == MANIFEST) {
            return Ok(());
        }
        Err(StoreError::Damaged {
            path: files.path(MANIFEST),
            offset: 0,
            detail: "the file is missing, but a store was created here".to_owned(),
        })
    }

    fn check(&self, path: &Path, expected: &Belonging) -> Result<(), StoreError> {
        if self.counter != expected.counter {
            return Err(foreign(path, self.refusal(&expected.counter)));
        }
        if let Some(ours) = expected.cluster.filter(|cluster| *cluster != self.cluster) {
            let its = self.cluster;
            let detail = format!("belongs to the cluster {its:032x}, not to {ours:032x}");
            return Err(foreign(path, detail));
        }
        if self.partitioning != expected.partitioning {
            let (its, ours) = (self.partitioning.count(), expected.partitioning.count());
            let detail = format!("was created for {its} partitions, not for {ours}");
            return Err(foreign(path, detail));
        }
        Ok(())
    }
}

fn foreign(path: &Path, detail: impl Into<String>) -> StoreError {
    StoreError::Foreign {
        path: path.to_owned(),
        detail: detail.into(),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

/// Rejects a directory without an identity that holds other files. Allowed are the files that an
/// interrupted [`DataDir::open`] leaves, and hidden files, which systems put into any directory; no
/// file of a store is hidden.
fn refuse_strangers(path: &Path, names: &[String]) -> Result<(), StoreError> {
    let temporary = format!("{IDENTITY}{TEMPORARY}");
    let harmless = [LOCK, LOST_AND_FOUND, temporary.as_str()];
    let is_strange = |name: &&String| !name.starts_with('.') && !harmless.contains(&name.as_str());
    match names.iter().find(is_strange) {
        Some(name) => Err(foreign(
            path,
            format!("not an empty directory or data directory: it contains {name:?}"),
        )),
        None => Ok(()),
    }
}

fn random_cluster() -> Result<u128, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Io {
        action: "draw a random id for",
        path: PathBuf::from(IDENTITY),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(u128::from_le_bytes(bytes))
}
