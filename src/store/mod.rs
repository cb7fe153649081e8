//! The store: what a counter remembers. Keys, counts and position, changed together or not at all.
//!
//! Invariant: what readers see (the [`Cut`]) is always the state of some commit, whole; what a reopened store
//! holds is the last commit that returned, or a later one that was being made, never a part of one.
//!
//! The contract of [`Store`] is checked by one suite, `tests/store`, against every implementation.

mod bytes;
mod cut;
pub mod data_dir;
pub mod disk;
mod files;
mod folder;
mod hold;
pub mod memory;
mod staged;
pub mod verify;

pub use cut::{Cut, TenantNumber};
pub use staged::Staged;

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;

use parking_lot::RwLockReadGuard;
use thiserror::Error;

use crate::model::{
    BatchId, ItemHash, Partition, Partitioning, Position, TenantItems, TenantName, Verdict,
};

/// Bytes in a [`Key`].
pub const KEY_BYTES: usize = 16;

/// What the seen-set stores of an item: its tenant's number (4 bytes, big-endian, so that a tenant's keys lie
/// together when sorted) and its hash (12 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; KEY_BYTES]);

impl Ord for Key {
    /// The order of the bytes, compared as one number, which takes two instructions instead of a call.
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key {
    /// The key of one tenant's item.
    #[must_use]
    pub fn new(tenant: TenantNumber, hash: &ItemHash) -> Self {
        let mut bytes = [0; KEY_BYTES];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&tenant.0.to_be_bytes());
        tail.copy_from_slice(&hash.0);
        Self(bytes)
    }

    /// The tenant's number.
    #[must_use]
    pub fn tenant(&self) -> TenantNumber {
        let [a, b, c, d, ..] = self.0;
        TenantNumber(u32::from_be_bytes([a, b, c, d]))
    }

    /// The item's hash.
    #[must_use]
    pub fn hash(&self) -> ItemHash {
        let [_, _, _, _, hash @ ..] = self.0;
        ItemHash(hash)
    }
}

/// Why a store can't open, or can't go on.
///
/// After any error of a running store it is poisoned: every later change or commit fails too, and the process
/// must exit and recover by opening again.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file is not as it was written. Nothing was changed.
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// A file was written by a release that this one does not know.
    #[error("{} has format version {found}; this release reads version {known}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this release reads.
        known: u32,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder belongs to another counter or cluster, or is no store.
    #[error("{}: {detail}", path.display())]
    Foreign {
        /// The store's folder.
        path: PathBuf,
        /// Whose it is.
        detail: String,
    },
    /// Something that the store had open lost its name, or its name stands for something else now. What was
    /// acknowledged is where it was written; nothing more is.
    #[error(
        "{}: {what} while this process had it open, so nothing more is acknowledged; \
         put the folder back where it was, see that no other process uses it, and start again",
        path.display()
    )]
    Displaced {
        /// The store's folder, or a file in it.
        path: PathBuf,
        /// What happened to it.
        what: String,
    },
    /// An earlier write or flush failed: what is on disk is unknown until the store is opened again.
    #[error("the store failed earlier and must be opened again")]
    Poisoned,
    /// A thread of the store panicked: what is on disk is unknown until the store is opened again.
    #[error("its thread {thread} panicked: {detail}")]
    Panicked {
        /// The thread's name.
        thread: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// More was staged than one commit may hold.
    #[error("a commit may hold {bytes_max} bytes at most")]
    CommitTooLarge {
        /// The most bytes that a commit may take on disk.
        bytes_max: u64,
    },
    /// Keys were to be united, or a unite finished, that was not begun, or was abandoned.
    #[error("no unite was begun")]
    NoUnite,
    /// There are more tenants than a u32 can number.
    #[error("no more tenants can be numbered")]
    TenantsExhausted,
}

impl StoreError {
    /// The same error again: for one that must be told in two places.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => Self::Io {
                action,
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Damaged {
                path,
                offset,
                detail,
            } => Self::Damaged {
                path: path.clone(),
                offset: *offset,
                detail: detail.clone(),
            },
            Self::Version { path, found, known } => Self::Version {
                path: path.clone(),
                found: *found,
                known: *known,
            },
            Self::InUse { path } => Self::InUse { path: path.clone() },
            Self::Foreign { path, detail } => Self::Foreign {
                path: path.clone(),
                detail: detail.clone(),
            },
            Self::Displaced { path, what } => Self::Displaced {
                path: path.clone(),
                what: what.clone(),
            },
            Self::Poisoned => Self::Poisoned,
            Self::Panicked { thread, detail } => Self::Panicked {
                thread,
                detail: detail.clone(),
            },
            Self::CommitTooLarge { bytes_max } => Self::CommitTooLarge {
                bytes_max: *bytes_max,
            },
            Self::NoUnite => Self::NoUnite,
            Self::TenantsExhausted => Self::TenantsExhausted,
        }
    }
}

/// What a store takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes of memory that grow with what it holds (tables, filters, indexes; the dictionary not included).
    pub memory_bytes: u64,
    /// Sorted runs, or the like.
    pub runs: u64,
}

/// A counter's store. One task owns it; any number of [`StoreReader`]s look at its last commit.
///
/// Contract:
/// - [`insert`](Self::insert) and [`record`](Self::record) stage changes. The writer sees what it staged (an
///   id staged twice is new once); readers don't, until [`commit`](Self::commit) returns.
/// - `commit` makes everything staged durable, against the machine's crash too, and visible, atomically. A
///   commit with nothing staged is free.
/// - A tenant's count in a partition is the number of its keys there, always.
/// - Another store's snapshot enters by a unite: [`begin_unite`](Self::begin_unite), any number of
///   [`unite`](Self::unite), [`finish_unite`](Self::finish_unite). Inserts, records and commits go on between
///   these calls, and nobody (readers, `insert`, `judge`) sees anything of the unite before its finish. Its
///   keys, their counts and its position become durable and visible in one atomic step: a crash leaves all of
///   it or nothing. A key that came both ways counts once. A unite that was not finished goes with the store.
/// - After an error the store is poisoned (see [`StoreError`]).
pub trait Store: Send + 'static {
    /// The readers' handle.
    type Reader: StoreReader;

    /// Adds those of `hashes` that are absent for `tenant`; returns how many were. All of them must belong to
    /// `partition`. Repetitions within `hashes` count once.
    ///
    /// # Errors
    /// When the seen-set can't be read, or the store is poisoned.
    fn insert(
        &mut self,
        partition: Partition,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<u64, StoreError>;

    /// Adds those of `items` that are absent, as [`insert`](Self::insert) does for one tenant after the other;
    /// returns how many were. A store may be faster at many at once.
    ///
    /// # Errors
    /// As those of `insert`.
    fn insert_all(
        &mut self,
        partition: Partition,
        items: &[TenantItems],
    ) -> Result<u64, StoreError> {
        let mut added = 0;
        for of_tenant in items {
            added += self.insert(partition, &of_tenant.tenant, &of_tenant.hashes)?;
        }
        Ok(added)
    }

    /// What the position, staged records included, says of a batch.
    fn judge(&self, id: BatchId, checksum: u32) -> Verdict;

    /// Records that a batch is applied.
    fn record(&mut self, id: BatchId, checksum: u32);

    /// Says whether this store has everything that it should have.
    fn set_complete(&mut self, complete: bool);

    /// Makes everything staged durable and visible.
    ///
    /// # Errors
    /// When a write or flush failed; what is on disk is then unknown until the store is opened again.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Begins to take another store's keys in; a unite that is open already is abandoned.
    ///
    /// # Errors
    /// When the store is poisoned.
    fn begin_unite(&mut self) -> Result<(), StoreError>;

    /// Sets keys of `tenant` aside for the finish, of any partitions, in bounded memory beyond the names of
    /// tenants. They may come in any order, repeatedly, and be in the store already.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`]; when they can't be written, or the seen-set can't be read.
    fn unite(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError>;

    /// Commits what is staged, as [`commit`](Self::commit) does; then makes what was set aside durable and
    /// visible, together with the union of the store's position and `position`. With `complete` the store is
    /// complete from the same moment; without, it stays what it was. It takes time in proportion to the keys
    /// that were set aside and absent; readers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`]; when a write or flush failed, or the seen-set can't be read.
    fn finish_unite(&mut self, position: &Position, complete: bool) -> Result<(), StoreError>;

    /// Forgets what was set aside, if anything was.
    fn abandon_unite(&mut self);

    /// Says whether the store still works: what failed in the background, or under a reader, shows here at once
    /// and not only at the next commit.
    ///
    /// # Errors
    /// The cause of the failure, once; [`StoreError::Poisoned`] after that.
    fn check(&self) -> Result<(), StoreError>;

    /// A handle for readers.
    fn reader(&self) -> Self::Reader;

    /// Closes the store cleanly, so that the next opening has nothing to recover. Staged changes that were
    /// not committed are dropped. Dropping a store instead is like a crash: nothing committed is lost.
    ///
    /// # Errors
    /// When the last writes failed; a reopened store recovers.
    fn close(self) -> Result<(), StoreError>;
}

/// All keys of one commit, ascending; an error ends the stream.
pub type Keys = Box<dyn Iterator<Item = Result<Key, StoreError>> + Send>;

/// One consistent cut with its keys, while the store goes on.
pub struct Snapshot {
    /// Counts, dictionary and position.
    pub cut: Cut,
    /// Exactly the keys that those counts count, ascending, each once.
    pub keys: Keys,
}

/// Whether one item is in one commit: what memory says, or what is still to be read.
pub enum LookUp {
    /// It is known.
    Known(bool),
    /// It is to be read from disk, of the commit that the look-up was begun in.
    OnDisk(Box<dyn FnOnce() -> Result<bool, StoreError> + Send>),
}

impl LookUp {
    /// Whether the item is in the commit in which the look-up was begun, whatever was committed since. May read from
    /// disk.
    ///
    /// # Errors
    /// When the seen-set can't be read.
    pub fn finish(self) -> Result<bool, StoreError> {
        match self {
            Self::Known(is_in) => Ok(is_in),
            Self::OnDisk(read) => read(),
        }
    }
}

/// A view of a store's last commit; cheap to clone, usable while the store works.
pub trait StoreReader: Clone + Send + Sync + 'static {
    /// The last commit's counts, dictionary and position. Hold it briefly: a commit waits for it. Call nothing
    /// else of the reader meanwhile but [`look_up`](Self::look_up): that would wait behind the waiting commit, and so
    /// for ever.
    fn cut(&self) -> RwLockReadGuard<'_, Cut>;

    /// Begins to look an item up in the commit whose `cut`, one that this reader gave, is held: it reads memory only.
    /// What the finished look-up says and what the cut says are of the same commit.
    fn look_up(
        &self,
        cut: &RwLockReadGuard<'_, Cut>,
        tenant: &TenantName,
        hash: &ItemHash,
    ) -> LookUp;

    /// Whether the item is in the last commit. May read from disk.
    ///
    /// # Errors
    /// When the seen-set can't be read.
    fn contains(&self, tenant: &TenantName, hash: &ItemHash) -> Result<bool, StoreError> {
        let look_up = self.look_up(&self.cut(), tenant, hash);
        look_up.finish()
    }

    /// The last commit with all its keys, in bounded memory beyond the dictionary.
    ///
    /// # Errors
    /// When the seen-set can't be read.
    fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// What the store takes up now.
    fn stats(&self) -> StoreStats;
}

/// What a store must know to be made.
#[derive(Debug, Clone, Copy)]
pub struct StoreShape {
    /// How many partitions the cluster has.
    pub partitioning: Partitioning,
}

impl StoreShape {
    /// An empty cut of this shape.
    #[must_use]
    pub fn empty_cut(self) -> Cut {
        Cut::new(self.partitioning, Position::default())
    }
}
