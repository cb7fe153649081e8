//! The contract of a counter's store: it keeps keys, counts and position, and changes them
//! atomically.
//!
//! Invariant: readers always see the complete state of one commit (the [`CommittedState`]). A
//! reopened store holds the last commit that returned, or a later one that was in progress, never a
//! part of one.
//!
//! One test suite, `tests/store`, checks the contract of [`Store`] against every implementation.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
)]

mod bytes;
mod committed_state;
pub mod data_dir;
pub mod disk;
mod error;
mod folder;
mod hold;
pub mod memory;
pub mod verify;
mod vfs;
mod write_batch;

pub use committed_state::{CommittedState, TenantNumber};
pub use error::StoreError;
pub use write_batch::WriteBatch;

use std::cmp::Ordering;

use parking_lot::RwLockReadGuard;

use headcount_model::{
    BatchId, ItemHash, KeptGeneration, Marks, Partition, Partitioning, Position, TenantItems,
    TenantName, Verdict,
};

/// Bytes in a [`Key`].
pub const KEY_BYTES: usize = 16;

/// A key of the seen-set, one per item: the tenant's number (4 bytes, big-endian, so that a
/// tenant's keys are adjacent when sorted) followed by the item's hash (12 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; KEY_BYTES]);

impl Ord for Key {
    /// Compares the bytes as one big-endian number, which takes two instructions instead of a call.
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
    /// Makes the key of one item of a tenant.
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

/// Disk space and memory that a store uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Size of the store's files, in bytes.
    pub disk_bytes: u64,
    /// Memory that grows with the number of keys, in bytes (memtables, filters, indexes; without
    /// the dictionary).
    pub memory_bytes: u64,
    /// Number of sorted runs; 0 for a store without runs.
    pub runs: u64,
}

/// A counter's store. One task owns it; any number of [`StoreReader`]s read its last commit.
///
/// Contract:
/// - [`insert`](Self::insert) and [`record`](Self::record) add to the write batch. The writer sees
///   its staged changes (an id that is staged twice is new once); readers see them only after
///   [`commit`](Self::commit) returns.
/// - `commit` makes the write batch durable and visible atomically. It survives a crash of the
///   machine. A commit of an empty write batch costs nothing.
/// - A tenant's count in a partition always equals the number of its keys in that partition.
/// - A snapshot of another store is ingested by [`begin_ingest`](Self::begin_ingest), any number of
///   [`ingest`](Self::ingest), and [`finish_ingest`](Self::finish_ingest). Inserts, records and
///   commits may happen between these calls. Neither readers nor `insert` nor `judge` see the
///   ingested state before it is finished. Its keys, counts and position become durable and visible
///   in one atomic step: after a crash, the store has all of them or none. A key that is both
///   inserted and ingested counts once. An unfinished ingest is lost when the store is closed or
///   dropped.
/// - The generation is independent of commits: [`set_generation`](Self::set_generation) is not part
///   of a commit, and snapshots do not contain the generation. It identifies this one store and is
///   kept with the store's files.
/// - After an error the store is poisoned (see [`StoreError`]). The exception is
///   [`StoreError::Full`]: it discards the write batch or the unfinished ingest, and the store
///   stays usable.
pub trait Store: Send + 'static {
    /// The handle that readers use.
    type Reader: StoreReader;

    /// Inserts the `hashes` that `tenant` does not have yet and returns their number. All `hashes`
    /// must belong to `partition`. Duplicates within `hashes` count once.
    ///
    /// # Errors
    /// When the seen-set cannot be read, or when the store is poisoned.
    fn insert(
        &mut self,
        partition: Partition,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<u64, StoreError>;

    /// Inserts the `items` that are absent and returns their number. Equivalent to one
    /// [`insert`](Self::insert) per tenant, in order; an implementation may be faster for many
    /// tenants.
    ///
    /// # Errors
    /// The same as those of `insert`.
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

    /// Does the same as [`insert_all`](Self::insert_all), and marks each item that was absent by
    /// its index among all `items`. Of duplicates, exactly one is marked.
    ///
    /// # Errors
    /// The same as those of `insert`.
    fn insert_all_marking(
        &mut self,
        partition: Partition,
        items: &[TenantItems],
        marks: &mut Marks,
    ) -> Result<u64, StoreError> {
        let mut added = 0;
        let all = items.iter().flat_map(|of_tenant| {
            let hashes = of_tenant.hashes.iter();
            hashes.map(|hash| (&of_tenant.tenant, hash))
        });
        for (place, (tenant, hash)) in all.enumerate() {
            if self.insert(partition, tenant, std::slice::from_ref(hash))? > 0 {
                marks.mark(place);
                added += 1;
            }
        }
        Ok(added)
    }

    /// Checks a batch against the position, including staged records.
    fn judge(&self, id: BatchId, checksum: u32) -> Verdict;

    /// Records a batch as applied.
    fn record(&mut self, id: BatchId, checksum: u32);

    /// Sets whether this store is complete: whether it has everything that it should have.
    fn set_complete(&mut self, complete: bool);

    /// Makes the write batch durable and visible.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room for the write batch: it is discarded, the writer
    /// sees the same state as readers, and the discarded changes do not reappear, not even after a
    /// crash. Any other error when a write or flush failed; the state on disk is then unknown until
    /// the store is opened again.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Begins to ingest a snapshot of another store. An ingest that is already open is abandoned.
    ///
    /// # Errors
    /// When the store is poisoned.
    fn begin_ingest(&mut self) -> Result<(), StoreError>;

    /// Adds keys of `tenant`, of any partitions, to the open ingest. Memory use is bounded, except
    /// for the names of tenants. Keys may come in any order, repeatedly, and may already be in the
    /// store.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`] when no ingest is open; other errors when the keys cannot be written
    /// or the seen-set cannot be read.
    fn ingest(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError>;

    /// Commits the write batch, as [`commit`](Self::commit) does. Then makes the ingested keys
    /// durable and visible, together with the union of the store's position and `position`. If
    /// `complete` is true, the store becomes complete in the same step; otherwise its completeness
    /// does not change. The call takes time in proportion to the number of ingested keys that were
    /// absent. Readers are not blocked meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`] when no ingest is open; other errors when a write or flush failed or
    /// the seen-set cannot be read.
    fn finish_ingest(&mut self, position: &Position, complete: bool) -> Result<(), StoreError>;

    /// Discards the open ingest, if there is one.
    fn abandon_ingest(&mut self);

    /// Stores a generation in place of the previous one. When the call returns, the generation is
    /// visible to readers and survives a crash of the machine. The write batch does not change.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the store keeps the previous generation. Any other error when a write
    /// or flush failed; until the store is opened again, it is unknown which of the two generations
    /// it holds.
    fn set_generation(&mut self, kept: KeptGeneration) -> Result<(), StoreError>;

    /// Checks whether the store is usable. A failure in the background or in a reader is reported
    /// here immediately, not only at the next commit.
    ///
    /// # Errors
    /// The cause of the failure, once; [`StoreError::Poisoned`] after that.
    fn check(&self) -> Result<(), StoreError>;

    /// The reason why commits are refused while there is no room on the disk. `None` as soon as
    /// there is room; the store checks this without a call.
    fn full(&self) -> Option<String> {
        None
    }

    /// Makes a handle for readers.
    fn reader(&self) -> Self::Reader;

    /// Closes the store cleanly, so that the next open has nothing to recover. WriteBatch changes
    /// that were not committed are discarded. Dropping a store without `close` is equivalent to a
    /// crash: no commit is lost.
    ///
    /// # Errors
    /// When the last writes failed; opening the store again recovers it.
    fn close(self) -> Result<(), StoreError>;
}

/// All keys of one commit, in ascending order. An error ends the iterator.
pub type Keys = Box<dyn Iterator<Item = Result<Key, StoreError>> + Send>;

/// A consistent copy of one committed state with its keys. The store can be changed while it is
/// read.
pub struct Snapshot {
    /// Counts, dictionary and position.
    pub committed: CommittedState,
    /// The keys that the counts of `committed` include: exactly these, ascending, without
    /// duplicates.
    pub keys: Keys,
}

/// The result of [`StoreReader::look_up`]: whether one item is in one commit, or the disk read that
/// decides it.
pub enum LookUp {
    /// Memory was sufficient to decide.
    Known(bool),
    /// Reads the disk, in the state of the commit in which the look-up was begun.
    OnDisk(Box<dyn FnOnce() -> Result<bool, StoreError> + Send>),
}

impl LookUp {
    /// Returns whether the item is in the commit in which the look-up was begun, independent of
    /// later commits. May read from disk.
    ///
    /// # Errors
    /// When the seen-set cannot be read.
    pub fn finish(self) -> Result<bool, StoreError> {
        match self {
            Self::Known(is_in) => Ok(is_in),
            Self::OnDisk(read) => read(),
        }
    }
}

/// A handle to a store's last commit. It is cheap to clone and can be used while the store changes.
pub trait StoreReader: Clone + Send + Sync + 'static {
    /// Counts, dictionary and position of the last commit. Hold the guard briefly: commits wait for
    /// it. While it is held, call no other method of the reader than [`look_up`](Self::look_up):
    /// other methods would wait for the waiting commit, which is a deadlock.
    fn committed(&self) -> RwLockReadGuard<'_, CommittedState>;

    /// Begins to look up an item in the commit of `committed`, a guard that this reader returned.
    /// It reads only memory. The result of the finished look-up and `committed` belong to the same
    /// commit.
    fn look_up(
        &self,
        committed: &RwLockReadGuard<'_, CommittedState>,
        tenant: &TenantName,
        hash: &ItemHash,
    ) -> LookUp;

    /// Returns whether the item is in the last commit. May read from disk.
    ///
    /// # Errors
    /// When the seen-set cannot be read.
    fn contains(&self, tenant: &TenantName, hash: &ItemHash) -> Result<bool, StoreError> {
        let look_up = self.look_up(&self.committed(), tenant, hash);
        look_up.finish()
    }

    /// Returns the last commit with all its keys. Memory use is bounded, except for the dictionary.
    ///
    /// # Errors
    /// When the seen-set cannot be read.
    fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// The generation that was stored last; `None` if none was ever stored. Must not be called
    /// while a [`committed`](Self::committed) is held.
    fn generation(&self) -> Option<KeptGeneration>;

    /// Disk space and memory that the store uses now.
    fn stats(&self) -> StoreStats;
}

/// The parameters with which a store is created.
#[derive(Debug, Clone, Copy)]
pub struct StoreShape {
    /// The number of partitions of the cluster.
    pub partitioning: Partitioning,
}

impl StoreShape {
    /// Makes an empty committed state of this shape.
    #[must_use]
    pub fn empty_cut(self) -> CommittedState {
        CommittedState::new(self.partitioning, Position::default())
    }
}
