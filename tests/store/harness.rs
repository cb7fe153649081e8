//! The stores under test, and small words for them.
//!
//! Invariant: a disk store's table holds some dozen keys, so flushes and merges happen in every
//! longer test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headcount::model::{BatchId, Epoch, ItemHash, Partition, Partitioning, Position, TenantName};
use headcount::store::data_dir::{Belonging, DataDir};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::memory::MemoryStore;
use headcount::store::verify::recount;
use headcount::store::{Store, StoreError, StoreReader, StoreShape};
use tempfile::TempDir;

/// Partitions of the stores under test.
pub const PARTITIONS: u16 = 3;

pub fn shape() -> StoreShape {
    StoreShape {
        partitioning: Partitioning::new(PARTITIONS).expect("valid"),
    }
}

/// Tables of 28 keys.
pub fn tiny() -> DiskOptions {
    DiskOptions {
        memory_bytes_max: 2 * 32 * 48,
        segment_bytes_max: 16 * 1024,
        journal_ahead_bytes: 4096,
        ..DiskOptions::default()
    }
}

pub fn belonging() -> Belonging {
    Belonging {
        cluster: None,
        counter: "counter-1".to_owned(),
        adopt: false,
        partitioning: shape().partitioning,
        now_ms: 1_700_000_000_000,
    }
}

pub fn open_disk(path: &Path) -> Result<DiskStore, StoreError> {
    DiskStore::open(DataDir::open(path, &belonging())?, shape(), tiny())
}

/// How a store under test is made, and made again.
pub trait Harness {
    type Store: Store;
    /// A new store.
    fn make() -> (Self, Self::Store)
    where
        Self: Sized;
    /// The store after a crash; `None` when it does not survive one.
    fn crash(&mut self, store: Self::Store) -> Result<Self::Store, Self::Store>;
    /// The store after a clean close.
    fn close(&mut self, store: Self::Store) -> Result<Self::Store, Self::Store>;
}

pub struct InMemory;

impl Harness for InMemory {
    type Store = MemoryStore;

    fn make() -> (Self, MemoryStore) {
        (Self, MemoryStore::new(shape()))
    }

    fn crash(&mut self, store: MemoryStore) -> Result<MemoryStore, MemoryStore> {
        Err(store)
    }

    fn close(&mut self, store: MemoryStore) -> Result<MemoryStore, MemoryStore> {
        Err(store)
    }
}

pub struct OnDisk {
    folder: TempDir,
}

impl Harness for OnDisk {
    type Store = DiskStore;

    fn make() -> (Self, DiskStore) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open_disk(folder.path()).expect("a new store");
        (Self { folder }, store)
    }

    fn crash(&mut self, store: DiskStore) -> Result<DiskStore, DiskStore> {
        drop(store);
        Ok(open_disk(self.folder.path()).expect("it recovers"))
    }

    fn close(&mut self, store: DiskStore) -> Result<DiskStore, DiskStore> {
        store.close().expect("it closes");
        Ok(open_disk(self.folder.path()).expect("it opens"))
    }
}

/// Makes a test of each of these functions for every store.
macro_rules! for_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory_store {
            $(#[test] fn $test() { super::$test::<$crate::harness::InMemory>(); })*
        }
        mod disk_store {
            $(#[test] fn $test() { super::$test::<$crate::harness::OnDisk>(); })*
        }
    };
}
pub(crate) use for_every_store;

pub fn tenant(name: &str) -> TenantName {
    TenantName::new(name).expect("a valid name")
}

pub fn batch(partition: u16, sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(partition),
        epoch: Epoch(9),
        sequence,
    }
}

/// Inserts ids, each into its partition; returns how many were new.
pub fn insert(store: &mut impl Store, name: &str, ids: &[u32]) -> Result<u64, StoreError> {
    let mut added = 0;
    for partition in shape().partitioning.all() {
        let hashes: Vec<ItemHash> = ids
            .iter()
            .map(|id| ItemHash::of_id(&id.to_string()))
            .filter(|hash| shape().partitioning.of(hash) == partition)
            .collect();
        added += store.insert(partition, &tenant(name), &hashes)?;
    }
    Ok(added)
}

/// A tenant's count over all partitions.
pub fn count(reader: &impl StoreReader, name: &str) -> u64 {
    reader.committed().counts(name).iter().sum()
}

/// The hashes of ids.
pub fn hashes(ids: impl IntoIterator<Item = u32>) -> Vec<ItemHash> {
    let hash = |id: u32| ItemHash::of_id(&id.to_string());
    ids.into_iter().map(hash).collect()
}

/// Sets ids of a tenant aside for the open unite.
pub fn aside(store: &mut impl Store, name: &str, ids: impl IntoIterator<Item = u32>) {
    let hashes = hashes(ids);
    store.ingest(&tenant(name), &hashes).expect("set aside");
}

/// Inserts ids of a tenant and commits; returns how many were new.
pub fn commit(store: &mut impl Store, name: &str, ids: impl IntoIterator<Item = u32>) -> u64 {
    let ids: Vec<u32> = ids.into_iter().collect();
    let added = insert(store, name, &ids).expect("inserted");
    store.commit().expect("committed");
    added
}

/// A position with these batches of one epoch.
pub fn position(sequences: &[u64], checksum: u32) -> Position {
    let mut position = Position::default();
    for sequence in sequences {
        position.record(batch(0, *sequence), checksum);
    }
    position
}

/// Asserts that a recount agrees with all counts.
pub fn verify(store: &impl Store) {
    let report = recount(&store.reader()).expect("recounted");
    assert_eq!(report.differences, []);
    assert_eq!(report.items, store.reader().committed().items());
}

/// All files of a folder with their content.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder)
        .expect("listed")
        .map(|entry| {
            let path = entry.expect("listed").path();
            let content = fs::read(&path).expect("read");
            (path, content)
        })
        .collect()
}
