//! What the benches share: items, bodies, batches and stores, the same at every run.
//!
//! Invariant: nothing here draws a random number, and a store is settled before it is handed out,
//! so what is measured starts from the same state each time.

use headcount::counter::apply;
use headcount::model::{
    Batch, BatchId, Epoch, ItemHash, Partition, Partitioning, TenantItems, TenantName,
};
use headcount::store::data_dir::{Belonging, DataDir, LOCAL_COUNTER};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::memory::MemoryStore;
use headcount::store::{Store, StoreShape};
use std::ops::Range;
use tempfile::TempDir;

/// Items in a large body and in a batch.
pub const ITEMS: u32 = 1_000;

/// Tenants that items are spread over.
const TENANTS: u32 = 10;

/// Memory of a store whose tables hold 3,584 keys: a few thousand items make several runs.
pub const SMALL_MEMORY_BYTES: usize = 2 * 4_096 * 48;

/// Keys in one such table.
pub const SMALL_TABLE_KEYS: u32 = 3_584;

/// Of one partition, like every cluster today.
pub const SHAPE: StoreShape = StoreShape {
    partitioning: Partitioning::SINGLE,
};

/// The `number`th item's id, as long as a UUID.
pub fn id(number: u32) -> String {
    format!("018f3c5e-7b2a-7c31-9d4e-{number:012x}")
}

/// The `number`th item's tenant.
pub fn tenant(number: u32) -> TenantName {
    TenantName::new(&format!("tenant-{}", number % TENANTS)).expect("valid")
}

/// The `number`th item as JSON.
pub fn item_json(number: u32) -> String {
    let (id, tenant) = (id(number), tenant(number));
    format!(r#"{{"id":"{id}","tenant":"{}"}}"#, tenant.as_str())
}

/// A body that is an array of [`ITEMS`] items.
pub fn array() -> Vec<u8> {
    let items: Vec<String> = (0..ITEMS).map(item_json).collect();
    format!("[{}]", items.join(",")).into_bytes()
}

/// The same items, one a line.
pub fn ndjson() -> Vec<u8> {
    let lines: Vec<String> = (0..ITEMS).map(|item| item_json(item) + "\n").collect();
    lines.concat().into_bytes()
}

/// Items by tenant.
pub fn groups(items: Range<u32>) -> Vec<TenantItems> {
    (0..TENANTS)
        .map(|tenant_number| TenantItems {
            tenant: tenant(tenant_number),
            hashes: items
                .clone()
                .filter(|item| item % TENANTS == tenant_number)
                .map(|item| ItemHash::of_id(&id(item)))
                .collect(),
        })
        .collect()
}

/// The name of the one epoch's batch `sequence`.
pub fn batch_id(sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(7),
        sequence,
    }
}

/// A batch of these items; its sequence follows from them.
pub fn batch(items: Range<u32>) -> Batch {
    let sequence = u64::from(items.start) + 1;
    Batch::new(batch_id(sequence), 1_700_000_000_000, groups(items))
}

/// A store in memory that holds the first `items` items.
pub fn memory_store(items: u32) -> MemoryStore {
    let mut store = MemoryStore::new(SHAPE);
    apply(&mut store, &batch(0..items)).expect("memory never fails");
    store.commit().expect("memory never fails");
    store
}

/// A store in a folder of its own, which goes with it.
pub struct Disk {
    /// The store.
    pub store: DiskStore,
    /// Named after the store, so that it is removed after the store is closed.
    _folder: TempDir,
}

/// A store on disk that holds the first `items` items, committed a table at a time: a run for each
/// full table, but for the last one, and where there are four of them, one for all.
pub fn disk_store(memory_bytes_max: usize, items: u32) -> Disk {
    let folder = tempfile::tempdir().expect("a folder");
    let belonging = Belonging {
        cluster: Some(1),
        counter: LOCAL_COUNTER.to_owned(),
        adopt: false,
        partitioning: Partitioning::SINGLE,
        now_ms: 0,
    };
    let dir = DataDir::open(folder.path(), &belonging).expect("opens");
    let options = DiskOptions {
        memory_bytes_max,
        ..DiskOptions::default()
    };
    let mut store = DiskStore::open(dir, SHAPE, options).expect("opens");
    let mut first = 0;
    while first < items {
        let next = (first + SMALL_TABLE_KEYS).min(items);
        apply(&mut store, &batch(first..next)).expect("applies");
        store.commit().expect("commits");
        store.settle().expect("settles");
        first = next;
    }
    Disk {
        store,
        _folder: folder,
    }
}
