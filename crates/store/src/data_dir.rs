//! The data folder: whose it is, and that one process has it.
//!
//! Invariant: nothing in the folder is read or changed by two processes at once, nor by a counter
//! whose folder it is not. A folder that holds other files is never taken for one.
//!
//! A folder that `serve` made can be *adopted* by a counter, once and for good, when its operator
//! asks for it: a counter's own never can, since its position belongs to the counter's queue.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use headcount_model::Partitioning;

use super::StoreError;
use super::bytes::Cursor;
use super::files::{DiskFile, Files, TEMPORARY};
use super::folder::{Access, Folder};
use super::hold::{Hold, LOCK, SharedHold};

/// The name of the one counter of `serve`; no counter behind a broker may be called so.
pub const LOCAL_COUNTER: &str = "local";
const IDENTITY: &str = "IDENTITY";
/// What a store that was made always has.
pub(super) const MANIFEST: &str = "MANIFEST";
/// What an empty file system's top folder holds.
const LOST_AND_FOUND: &str = "lost+found";
const MAGIC: [u8; 8] = *b"HCOUNTID";
const VERSION: u32 = 1;
/// More than the longest counter name that [`Identity::decode`] takes.
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

/// Whom a folder must belong to, or will from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belonging {
    /// The cluster's id; `None` takes what the folder says, and a random one for a new folder.
    pub cluster: Option<u128>,
    /// The counter's name, at most 65535 bytes.
    pub counter: String,
    /// Whether a folder that [`LOCAL_COUNTER`] made becomes this counter's, and this cluster's when
    /// that is given. A folder that is this counter's already is opened as ever; where there is
    /// none, none is made.
    pub adopt: bool,
    /// How many partitions the cluster has.
    pub partitioning: Partitioning,
    /// The time now, in milliseconds since the Unix epoch: a new folder's date.
    pub now_ms: u64,
}

/// What a folder says of itself.
///
/// The file `IDENTITY`, little-endian: magic `HCOUNTID`, version (u32, 1), cluster (u128),
/// partitions (u16), created at (u64, Unix ms), whether the store was made (u8, 0 or 1), the
/// counter's name (u16 of bytes, then UTF-8), CRC-32 (u32) of all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's random id.
    pub cluster: u128,
    /// The counter's name.
    pub counter: String,
    /// How many partitions the cluster has.
    pub partitioning: Partitioning,
    /// When the folder was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Whether a store was made in the folder: from then on, its files must be there.
    pub store_made: bool,
}

/// An open data folder. Its lock lasts as long as this value, and ends with the process however it
/// ends.
#[derive(Debug)]
pub struct DataDir {
    folder: Arc<Folder>,
    identity: Identity,
    hold: Arc<Hold>,
}

/// A data folder that is only read, and may be a copy that can't be written. No process writes it
/// as long as this value lives, where that can be prevented.
#[derive(Debug)]
pub struct ReadOnlyDir {
    folder: Arc<Folder>,
    identity: Identity,
    _hold: SharedHold,
}

impl DataDir {
    /// Opens the folder, making it when it is not there.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Foreign`] when it is
    /// another's, [`StoreError::Version`] or [`StoreError::Damaged`] when its `IDENTITY` can't be
    /// read, [`StoreError::Displaced`] when its path comes to name something else meanwhile, and
    /// [`StoreError::Io`].
    pub fn open(path: &Path, expected: &Belonging) -> Result<Self, StoreError> {
        if expected.adopt && !has_identity(path)? {
            let detail = "there is no data of Headcount in it to adopt; is it the right folder? \
                          To start with an empty one, leave out --adopt";
            return Err(foreign(path, detail));
        }
        let folder = Folder::open_or_make(path).map_err(failed("open or make folder", path))?;
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

    /// Opens a folder that is one already, whosever it is.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when it is none, and those of [`Self::open`].
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

    /// Its files.
    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.folder) as Arc<dyn Files>
    }

    /// What keeps it for this process, as long as this value lives.
    pub(super) fn hold(&self) -> Weak<Hold> {
        Arc::downgrade(&self.hold)
    }

    /// Whether the last look is so long ago that another is due.
    pub(super) fn is_look_due(&self) -> bool {
        self.hold.is_look_due()
    }

    /// Notes for good that a store was made in it.
    pub(super) fn note_store_made(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.identity.store_made, true) {
            return Ok(());
        }
        self.hold.look()?;
        let files: &dyn Files = &*self.folder;
        files.replace(IDENTITY, &self.identity.encode(files.folder())?)
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadOnlyDir {
    /// Opens a folder that is one already, whosever it is. It needs no more than the right to read,
    /// and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process has it, as far as can be noticed without writing;
    /// [`StoreError::Foreign`] when it is none, and [`StoreError::Version`],
    /// [`StoreError::Damaged`] and [`StoreError::Io`].
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

    /// Its files.
    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.folder) as Arc<dyn Files>
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Whether somebody's data is there; an error where that can't be seen.
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
        return Err(foreign(path, "there is no data of Headcount in it"));
    }
    Folder::open(path, access).map_err(failed("open folder", path))
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
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        // The file that is written can always be read back.
        if out.len() as u64 > IDENTITY_BYTES_MAX {
            return Err(foreign(path, "the counter's name is too long"));
        }
        Ok(out)
    }

    fn read(file: &DiskFile) -> Result<Self, StoreError> {
        let bytes = file.read_all(IDENTITY_BYTES_MAX)?;
        file.check_head(&bytes, MAGIC, VERSION, "an identity")?;
        Self::decode(&bytes).ok_or_else(|| file.damaged(12, "its checksum or a field is wrong"))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut cursor = Cursor::new(body);
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

    /// For the fuzz targets: an identity written again; `None` when the bytes are none.
    #[cfg(fuzzing)]
    #[must_use]
    pub fn again(bytes: &[u8]) -> Option<Vec<u8>> {
        let identity = Self::decode(bytes)?;
        identity.encode(Path::new(IDENTITY)).ok()
    }

    /// Why the folder is not the counter `ours`'s, and what to do.
    fn refusal(&self, ours: &str) -> String {
        let its = &self.counter;
        if its == LOCAL_COUNTER {
            format!(
                "it was made by `headcount serve`, not by the counter {ours:?}; to move it there for good, \
                 stop `serve` and run `headcount counter --adopt`"
            )
        } else if ours == LOCAL_COUNTER {
            format!(
                "it belongs to the counter {its:?} of a cluster, and `headcount serve` can't use it; \
                 run `headcount counter --name {its}`, or serve another folder"
            )
        } else {
            format!(
                "it belongs to the counter {its:?}, not to {ours:?}; run `headcount counter --name {its}`, or \
                 give {ours:?} a folder of its own: it will catch up from its peers"
            )
        }
    }

    /// Refuses a folder without the manifest of the store that was made in it.
    pub(super) fn check_store(&self, files: &dyn Files) -> Result<(), StoreError> {
        if !self.store_made || files.names()?.iter().any(|name| name == MANIFEST) {
            return Ok(());
        }
        Err(StoreError::Damaged {
            path: files.path(MANIFEST),
            offset: 0,
            detail: "it is missing, but a store was made here".to_owned(),
        })
    }

    fn check(&self, path: &Path, expected: &Belonging) -> Result<(), StoreError> {
        if self.counter != expected.counter {
            return Err(foreign(path, self.refusal(&expected.counter)));
        }
        if let Some(ours) = expected.cluster.filter(|cluster| *cluster != self.cluster) {
            let its = self.cluster;
            let detail = format!("it belongs to the cluster {its:032x}, not to {ours:032x}");
            return Err(foreign(path, detail));
        }
        if self.partitioning != expected.partitioning {
            let (its, ours) = (self.partitioning.count(), expected.partitioning.count());
            let detail = format!("it was made for {its} partitions, not for {ours}");
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

/// Refuses a folder without an identity that holds anything but what an interrupted
/// [`DataDir::open`] leaves, and what systems put into any folder: those names are hidden, and none
/// of ours is.
fn refuse_strangers(path: &Path, names: &[String]) -> Result<(), StoreError> {
    let temporary = format!("{IDENTITY}{TEMPORARY}");
    let harmless = [LOCK, LOST_AND_FOUND, temporary.as_str()];
    let is_strange = |name: &&String| !name.starts_with('.') && !harmless.contains(&name.as_str());
    match names.iter().find(is_strange) {
        Some(name) => Err(foreign(
            path,
            format!("it has no {IDENTITY} but holds other files, such as {name:?}"),
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
