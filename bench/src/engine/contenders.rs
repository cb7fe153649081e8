//! The measured stores: Headcount's engine, and fjall in the same role.
//!
//! Invariant: all stores give the same guarantee: when `commit` returns, the keys and counts of the
//! batch are on disk together.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use headcount::model::{BatchId, Epoch, Partition, Partitioning, TenantItems, TenantName};
use headcount::store::data_dir::{Belonging, DataDir, LOCAL_COUNTER};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::{KEY_BYTES, Key, Store, StoreReader, StoreShape, TenantNumber};

use super::workload::Batch;
use crate::error::BenchError;

/// The only partition of an engine run.
const PARTITION: Partition = Partition(0);

/// Bits per key of fjall's filters, as many as in Headcount's.
const FILTER_BITS_PER_KEY: f32 = 12.0;

/// Time without background work after which fjall counts as settled.
const QUIET: Duration = Duration::from_millis(500);

/// Timeout for fjall to settle.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// A store that counts batches.
pub trait Contender {
    /// Converts a batch to the form in which it arrives; not measured.
    fn prepare(&mut self, _batch: &Batch) {}
    /// Stages a batch. Returns the number of its new items.
    fn apply(&mut self, batch: &Batch) -> Result<u64, BenchError>;
    /// Commits the staged items durably.
    fn commit(&mut self) -> Result<(), BenchError>;
    /// Whether a compaction is running.
    fn is_merging(&self) -> bool;
    /// Waits until no background work is left.
    fn settle(&self) -> Result<(), BenchError>;
    /// The count of every tenant, by index.
    fn counts(&self) -> Result<Vec<u64>, BenchError>;
}

/// Headcount's engine, used as the counter uses it.
pub struct Headcount {
    store: DiskStore,
    tenants: Vec<TenantName>,
    id: BatchId,
    /// The batch as its decoder returns it.
    items: Vec<TenantItems>,
}

impl Headcount {
    /// Opens the store in `dir`; creates it if it is missing.
    pub fn open(dir: &Path, tenants: u32, memory_bytes: usize) -> Result<Self, BenchError> {
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let belonging = Belonging {
            cluster: None,
            counter: LOCAL_COUNTER.into(),
            adopt: false,
            partitioning: Partitioning::SINGLE,
            now_ms: since_epoch.as_millis() as u64,
        };
        let shape = StoreShape {
            partitioning: Partitioning::SINGLE,
        };
        let options = DiskOptions {
            memory_bytes_max: memory_bytes,
            ..DiskOptions::default()
        };
        let store = DiskStore::open(DataDir::open(dir, &belonging)?, shape, options)?;
        let name = |index| TenantName::new(&format!("tenant-{index}"));
        let tenants: Result<Vec<TenantName>, _> = (0..tenants).map(name).collect();
        Ok(Self {
            store,
            tenants: tenants.map_err(|why| BenchError::Start(why.to_string()))?,
            id: BatchId {
                partition: PARTITION,
                epoch: Epoch(since_epoch.as_nanos()),
                sequence: 0,
            },
            items: Vec::new(),
        })
    }
}

impl Contender for Headcount {
    fn prepare(&mut self, batch: &Batch) {
        let items = batch.groups().filter_map(|(tenant, hashes)| {
            Some(TenantItems {
                tenant: self.tenants.get(tenant as usize)?.clone(),
                hashes: hashes.iter().copied().collect(),
            })
        });
        self.items = items.collect();
    }

    fn apply(&mut self, _batch: &Batch) -> Result<u64, BenchError> {
        self.id.sequence += 1;
        let new = self.store.insert_all(PARTITION, &self.items)?;
        self.store.record(self.id, self.id.sequence as u32);
        Ok(new)
    }

    fn commit(&mut self) -> Result<(), BenchError> {
        Ok(self.store.commit()?)
    }

    fn is_merging(&self) -> bool {
        self.store.is_merging()
    }

    fn settle(&self) -> Result<(), BenchError> {
        Ok(self.store.settle()?)
    }

    fn counts(&self) -> Result<Vec<u64>, BenchError> {
        let reader = self.store.reader();
        let committed = reader.committed();
        let count = |name: &TenantName| committed.counts(name.as_str()).iter().sum();
        Ok(self.tenants.iter().map(count).collect())
    }
}

/// fjall with the same keys, a second keyspace for the counts, and one atomic batch per commit.
pub struct Fjall {
    database: Database,
    items: Keyspace,
    counts: Keyspace,
    /// The counts are kept in memory and only written, which saves fjall the reads.
    known: Vec<u64>,
    staged: Vec<[u8; KEY_BYTES]>,
    staged_set: HashSet<[u8; KEY_BYTES]>,
    touched: Vec<u32>,
}

impl Fjall {
    /// Opens the database in `dir`; creates it if it is missing. The cache has the size of
    /// Headcount's memory, filters have as many bits as Headcount's, and compression is off because
    /// keys are random; everything else is fjall's default.
    pub fn open(dir: &Path, tenants: u32, memory_bytes: usize) -> Result<Self, BenchError> {
        let database = Database::builder(dir)
            .cache_size(memory_bytes as u64)
            .manual_journal_persist(true)
            .open()?;
        let filters =
            FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(FILTER_BITS_PER_KEY));
        let items = database.keyspace("items", || {
            KeyspaceCreateOptions::default().filter_policy(FilterPolicy::all(filters))
        })?;
        let counts = database.keyspace("counts", KeyspaceCreateOptions::default)?;
        let mut known = vec![0; tenants as usize];
        for (tenant, count) in known.iter_mut().enumerate() {
            let bytes = counts.get((tenant as u32).to_be_bytes())?;
            let bytes = bytes.and_then(|bytes| bytes.as_ref().try_into().ok());
            *count = bytes.map_or(0, u64::from_le_bytes);
        }
        Ok(Self {
            database,
            items,
            counts,
            known,
            staged: Vec::new(),
            staged_set: HashSet::new(),
            touched: Vec::new(),
        })
    }
}

impl Contender for Fjall {
    fn apply(&mut self, batch: &Batch) -> Result<u64, BenchError> {
        let mut new = 0;
        for (tenant, hashes) in batch.groups() {
            let before = new;
            for hash in hashes {
                let key = Key::new(TenantNumber(tenant), hash).0;
                if !self.staged_set.contains(&key) && !self.items.contains_key(key)? {
                    self.staged_set.insert(key);
                    self.staged.push(key);
                    new += 1;
                }
            }
            if new > before {
                self.touched.push(tenant);
                if let Some(count) = self.known.get_mut(tenant as usize) {
                    *count += new - before;
                }
            }
        }
        Ok(new)
    }

    fn commit(&mut self) -> Result<(), BenchError> {
        let size = self.staged.len() + self.touched.len();
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), size)
            .durability(Some(PersistMode::SyncData));
        for key in self.staged.drain(..) {
            batch.insert(&self.items, key, []);
        }
        for tenant in self.touched.drain(..) {
            let count = self.known.get(tenant as usize).copied().unwrap_or(0);
            batch.insert(&self.counts, tenant.to_be_bytes(), count.to_le_bytes());
        }
        self.staged_set.clear();
        Ok(batch.commit()?)
    }

    fn is_merging(&self) -> bool {
        self.database.active_compactions() > 0
    }

    fn settle(&self) -> Result<(), BenchError> {
        let started = Instant::now();
        let mut quiet = Instant::now();
        while quiet.elapsed() < QUIET && started.elapsed() < SETTLE_LIMIT {
            if self.is_merging() || self.database.outstanding_flushes() > 0 {
                quiet = Instant::now();
            }
            std::thread::sleep(QUIET / 10);
        }
        Ok(())
    }

    fn counts(&self) -> Result<Vec<u64>, BenchError> {
        let mut counts = Vec::with_capacity(self.known.len());
        for tenant in 0..self.known.len() as u32 {
            let bytes = self.counts.get(tenant.to_be_bytes())?;
            let bytes = bytes.and_then(|bytes| bytes.as_ref().try_into().ok());
            counts.push(bytes.map_or(0, u64::from_le_bytes));
        }
        Ok(counts)
    }
}
