//! The store: what a counter remembers. Keys, counts and position, changed together or not at all.
//!
//! Invariant: what readers see (the [`Cut`]) is always the state of some commit, whole; what a
//! reopened store holds is the last commit that returned, or a later one that was being made, never
//! a part of one.
//!
//! The contract of [`Store`] is checked by one suite, `tests/store`, against every implementation.

mod bytes;
mod cut;
pub mod data_dir;
pub mod disk;
mod error;
mod files;
mod folder;
mod hold;
pub mod memory;
mod staged;
pub mod verify;

pub use cut::{Cut, TenantNumber};
pub use error::StoreError;
pub use staged::Staged;

use std::cmp::Ordering;

use parking_lot::RwLockReadGuard;

use headcount_model::{
    BatchId, ItemHash, KeptGeneration, Marks, Partition, Partitioning, Position, TenantItems,
    TenantName, Verdict,
};

/// Bytes in a [`Key`].
pub const KEY_BYTES: usize = 16;

/// What the seen-set stores of an item: its tenant's number (4 bytes, big-endian, so that a
/// tenant's keys lie together when sorted) and its hash (12 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; KEY_BYTES]);

impl Ord for Key {
    /// The order of the bytes, compared as one number, which takes two instructions instead of a
    /// call.
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

/// What a store takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes of memory that grow with what it holds (tables, filters, indexes; the dictionary not
    /// included).
    pub memory_bytes: u64,
    /// Sorted runs, or the like.
    pub runs: u64,
}

/// A counter's store. One task owns it; any number of [`StoreReader`]s look at its last commit.
///
/// Contract:
/// - [`insert`](Self::insert) and [`record`](Self::record) stage changes. The writer sees what it
///   staged (an id staged twice is new once); readers don't, until [`commit`](Self::commit)
///   returns.
/// - `commit` makes everything staged durable, against the machine's crash too, and visible,
///   atomically. A commit with nothing staged is free.
/// - A tenant's count in a partition is the number of its keys there, always.
/// - Another store's snapshot enters by a unite: [`begin_unite`](Self::begin_unite), any number of
///   [`unite`](Self::unite), [`finish_unite`](Self::finish_unite). Inserts, records and commits go
///   on between these calls, and nobody (readers, `insert`, `judge`) sees anything of the unite
///   before its finish. Its keys, their counts and its position become durable and visible in one
///   atomic step: a crash leaves all of it or nothing. A key that came both ways counts once. A
///   unite that was not finished goes with the store.
/// - The generation is beside all that: [`set_generation`](Self::set_generation) is no part of a
///   commit, and no snapshot has it. It stands for this one store, and goes where its files go.
/// - After an error the store is poisoned (see [`StoreError`]), unless that is
///   [`StoreError::Full`]: then what was staged, or set aside by a unite, is forgotten as if it had
///   never come, and the store goes on.
pub trait Store: Send + 'static {
    /// The readers' handle.
    type Reader: StoreReader;

    /// Adds those of `hashes` that are absent for `tenant`; returns how many were. All of them must
    /// belong to `partition`. Repetitions within `hashes` count once.
    ///
    /// # Errors
    /// When the seen-set can't be read, or the store is poisoned.
    fn insert(
        &mut self,
        partition: Partition,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<u64, StoreError>;

    /// Adds those of `items` that are absent, as [`insert`](Self::insert) does for one tenant after
    /// the other; returns how many were. A store may be faster at many at once.
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

    /// As [`insert_all`](Self::insert_all), and marks each item that was absent by its place among
    /// all `items`; of the repetitions of an item one.
    ///
    /// # Errors
    /// As those of `insert`.
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

    /// What the position, staged records included, says of a batch.
    fn judge(&self, id: BatchId, checksum: u32) -> Verdict;

    /// Records that a batch is applied.
    fn record(&mut self, id: BatchId, checksum: u32);

    /// Says whether this store has everything that it should have.
    fn set_complete(&mut self, complete: bool);

    /// Makes everything staged durable and visible.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room for it: everything staged is forgotten, the
    /// writer sees what readers see, and neither a crash nor anything else brings it back. When a
    /// write or flush failed; what is on disk is then unknown until the store is opened again.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Begins to take another store's keys in; a unite that is open already is abandoned.
    ///
    /// # Errors
    /// When the store is poisoned.
    fn begin_unite(&mut self) -> Result<(), StoreError>;

    /// Sets keys of `tenant` aside for the finish, of any partitions, in bounded memory beyond the
    /// names of tenants. They may come in any order, repeatedly, and be in the store already.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`]; when they can't be written, or the seen-set can't be read.
    fn unite(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError>;

    /// Commits what is staged, as [`commit`](Self::commit) does; then makes what was set aside
    /// durable and visible, together with the union of the store's position and `position`. With
    /// `complete` the store is complete from the same moment; without, it stays what it was. It
    /// takes time in proportion to the keys that were set aside and absent; readers go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoUnite`]; when a write or flush failed, or the seen-set can't be read.
    fn finish_unite(&mut self, position: &Position, complete: bool) -> Result<(), StoreError>;

    /// Forgets what was set aside, if anything was.
    fn abandon_unite(&mut self);

    /// Remembers a generation in place of the one before: durable, against the machine's crash too,
    /// and visible to readers when it returns. What is staged stays staged.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the one before is remembered. When a write or flush failed; which of
    /// the two is remembered is then unknown until the store is opened again.
    fn set_generation(&mut self, kept: KeptGeneration) -> Result<(), StoreError>;

    /// Says whether the store still works: what failed in the background, or under a reader, shows
    /// here at once and not only at the next commit.
    ///
    /// # Errors
    /// The cause of the failure, once; [`StoreError::Poisoned`] after that.
    fn check(&self) -> Result<(), StoreError>;

    /// Why nothing is committed now: there is no room on the disk. None as soon as there is; the
    /// store looks by itself.
    fn full(&self) -> Option<String> {
        None
    }

    /// A handle for readers.
    fn reader(&self) -> Self::Reader;

    /// Closes the store cleanly, so that the next opening has nothing to recover. Staged changes
    /// that were not committed are dropped. Dropping a store instead is like a crash: nothing
    /// committed is lost.
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
    /// Whether the item is in the commit in which the look-up was begun, whatever was committed
    /// since. May read from disk.
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
    /// The last commit's counts, dictionary and position. Hold it briefly: a commit waits for it.
    /// Call nothing else of the reader meanwhile but [`look_up`](Self::look_up): that would wait
    /// behind the waiting commit, and so for ever.
    fn cut(&self) -> RwLockReadGuard<'_, Cut>;

    /// Begins to look an item up in the commit whose `cut`, one that this reader gave, is held: it
    /// reads memory only. What the finished look-up says and what the cut says are of the same
    /// commit.
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

    /// The generation that was remembered last; none when none ever was. Not while a
    /// [`cut`](Self::cut) is held.
    fn generation(&self) -> Option<KeptGeneration>;

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
