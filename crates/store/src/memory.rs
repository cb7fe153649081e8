//! A store in memory: the simplest implementation of the contract, for tests and as the upper bound
//! in benchmarks.
//!
//! Invariant: it implements the whole contract except durability: when the process ends, all
//! commits are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use headcount_model::{
    BatchId, ItemHash, KeptGeneration, Partition, Position, TenantName, Verdict,
};

use super::{
    CommittedState, KEY_BYTES, Key, LookUp, Snapshot, Store, StoreError, StoreReader, StoreShape,
    StoreStats, WriteBatch,
};

/// A [`Store`] without a disk.
pub struct MemoryStore {
    shared: Arc<Shared>,
    staged: WriteBatch,
    staged_keys: HashSet<Key>,
    position: Position,
    /// The keys of the open ingest.
    aside: Option<BTreeMap<TenantName, BTreeSet<ItemHash>>>,
    /// Whether commits fail with [`StoreError::Full`].
    is_full: Arc<AtomicBool>,
}

/// The readers' handle of a [`MemoryStore`].
#[derive(Clone)]
pub struct MemoryReader {
    shared: Arc<Shared>,
}

struct Shared {
    // If both locks are needed, `committed` is locked first: a reader that holds it may look up
    // keys.
    committed: RwLock<CommittedState>,
    keys: RwLock<HashSet<Key>>,
    generation: Mutex<Option<KeptGeneration>>,
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new(shape: StoreShape) -> Self {
        Self {
            shared: Arc::new(Shared {
                committed: RwLock::new(shape.empty_cut()),
                keys: RwLock::default(),
                generation: Mutex::default(),
            }),
            staged: WriteBatch::default(),
            staged_keys: HashSet::new(),
            position: Position::default(),
            aside: None,
            is_full: Arc::default(),
        }
    }

    /// A flag that makes commits fail with [`StoreError::Full`] while it is set.
    #[must_use]
    pub fn fullness(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_full)
    }

    fn check_room(&self) -> Result<(), StoreError> {
        match self.is_full.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(StoreError::Full {
                action: "commit to",
                path: "memory".into(),
                source: io::ErrorKind::StorageFull.into(),
            }),
        }
    }
}

impl Store for MemoryStore {
    type Reader = MemoryReader;

    fn insert(
        &mut self,
        partition: Partition,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<u64, StoreError> {
        if hashes.is_empty() {
            return Ok(0);
        }
        let number = self
            .staged
            .number_or_new(&self.shared.committed.read(), tenant)?;
        let keys = self.shared.keys.read();
        let mut added = 0;
        for hash in hashes {
            let key = Key::new(number, hash);
            if !keys.contains(&key) && self.staged_keys.insert(key) {
                added += 1;
            }
        }
        self.staged.add(number, partition, added);
        Ok(added)
    }

    fn judge(&self, id: BatchId, checksum: u32) -> Verdict {
        self.position.judge(id, checksum)
    }

    fn record(&mut self, id: BatchId, checksum: u32) {
        self.position.record(id, checksum);
        self.staged.record(id, checksum);
    }

    fn set_complete(&mut self, complete: bool) {
        self.staged.set_complete(complete);
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if !self.staged.is_empty()
            && let Err(error) = self.check_room()
        {
            self.staged.clear();
            self.staged_keys.clear();
            self.position = self.shared.committed.read().position().clone();
            return Err(error);
        }
        let mut committed = self.shared.committed.write();
        self.shared.keys.write().extend(self.staged_keys.drain());
        committed.apply(&self.staged);
        self.staged.clear();
        Ok(())
    }

    fn begin_ingest(&mut self) -> Result<(), StoreError> {
        self.aside = Some(BTreeMap::new());
        Ok(())
    }

    fn ingest(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError> {
        let aside = self.aside.as_mut().ok_or(StoreError::NoUnite)?;
        if !hashes.is_empty() {
            aside.entry(tenant.clone()).or_default().extend(hashes);
        }
        Ok(())
    }

    fn finish_ingest(&mut self, position: &Position, complete: bool) -> Result<(), StoreError> {
        let aside = self.aside.take().ok_or(StoreError::NoUnite)?;
        self.check_room()?;
        self.commit()?;
        let mut staged = WriteBatch::default();
        let mut committed = self.shared.committed.write();
        let mut keys = self.shared.keys.write();
        for (tenant, hashes) in &aside {
            let number = staged.number_or_new(&committed, tenant)?;
            for hash in hashes {
                let is_new = keys.insert(Key::new(number, hash));
                staged.add(number, committed.partitioning().of(hash), u64::from(is_new));
            }
        }
        if complete {
            staged.set_complete(true);
        }
        committed.ingest(&staged, position);
        self.position.unite(position);
        Ok(())
    }

    fn abandon_ingest(&mut self) {
        self.aside = None;
    }

    fn set_generation(&mut self, kept: KeptGeneration) -> Result<(), StoreError> {
        *self.shared.generation.lock() = Some(kept);
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn full(&self) -> Option<String> {
        self.check_room().err().map(|why| why.to_string())
    }

    fn reader(&self) -> MemoryReader {
        MemoryReader {
            shared: Arc::clone(&self.shared),
        }
    }

    fn close(self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl StoreReader for MemoryReader {
    fn committed(&self) -> RwLockReadGuard<'_, CommittedState> {
        self.shared.committed.read()
    }

    fn look_up(
        &self,
        committed: &RwLockReadGuard<'_, CommittedState>,
        tenant: &TenantName,
        hash: &ItemHash,
    ) -> LookUp {
        let number = committed.number(tenant.as_str());
        let is_in = |number| self.shared.keys.read().contains(&Key::new(number, hash));
        LookUp::Known(number.is_some_and(is_in))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (committed, mut keys) = {
            let committed = self.shared.committed.read();
            let keys: Vec<Key> = self.shared.keys.read().iter().copied().collect();
            (committed.clone(), keys)
        };
        keys.sort_unstable();
        Ok(Snapshot {
            committed,
            keys: Box::new(keys.into_iter().map(Ok)),
        })
    }

    fn generation(&self) -> Option<KeptGeneration> {
        *self.shared.generation.lock()
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            disk_bytes: 0,
            memory_bytes: (self.shared.keys.read().len() * KEY_BYTES) as u64,
            runs: 0,
        }
    }
}
