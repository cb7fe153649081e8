//! The store's single writer: staging and commits.
//!
//! Invariant: a staged key is in no memtable and no run. It becomes visible after its record is
//! synced.

use std::path::Path;
use std::sync::{Arc, atomic::Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::super::data_dir::DataDir;
use super::super::{Key, Store, StoreError, StoreShape, TenantNumber, WriteBatch};
use super::filter::Fingerprint;
use super::generation;
use super::ingest_keys::IngestKeys;
use super::journal::Journal;
use super::memtable::Memtable;
use super::recovery::{Recovered, recover};
use super::shared::{Shared, Stop};
use super::{DiskOptions, DiskReader, compaction, flush};
use crate::vfs::Files;
use headcount_model::{
    BatchId, ItemHash, KeptGeneration, Marks, Partition, Position, TenantItems, TenantName,
    Verdict, item_count,
};
use headcount_runtime::supervisor::Task;

/// A [`Store`] on disk. See the [module documentation](super).
pub struct DiskStore {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Journal,
    /// The number of the last commit.
    pub(super) commit: u64,
    pub(super) staged: WriteBatch,
    pub(super) staged_keys: Memtable,
    /// The staged keys in order of arrival.
    pub(super) staged_list: Vec<Key>,
    pub(super) position: Position,
    /// The open ingest, if there is one.
    pub(super) aside: Option<IngestKeys>,
    /// The keys of the last insert that were absent.
    pub(super) fresh: Vec<Key>,
    /// The numbers of the tenants of the last insert that had items.
    pub(super) numbers: Vec<TenantNumber>,
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) scratch: Vec<u8>,
    threads: Vec<JoinHandle<()>>,
    /// Holds the lock on the data directory as long as the store lives.
    dir: Option<DataDir>,
}

impl DiskStore {
    /// Opens the store in a data directory, or makes a new one there.
    ///
    /// # Errors
    /// Any [`StoreError`]. Damage that no crash can explain is never repaired.
    pub fn open(dir: DataDir, shape: StoreShape, options: DiskOptions) -> Result<Self, StoreError> {
        let files = dir.files();
        dir.identity().check_store(&*files)?;
        let mut store = Self::open_files(files, Some(dir), shape, options)?;
        let dir = store.dir.as_mut();
        dir.map_or(Ok(()), DataDir::note_store_made)?;
        Ok(store)
    }

    pub(super) fn open_files(
        files: Arc<dyn Files>,
        dir: Option<DataDir>,
        shape: StoreShape,
        options: DiskOptions,
    ) -> Result<Self, StoreError> {
        let hold = dir.as_ref().map(DataDir::hold).unwrap_or_default();
        let kept = generation::read(&*files)?;
        let recovered = recover(&files, &hold, shape, &options)?;
        let Recovered {
            committed,
            view,
            filters,
            journal,
            ..
        } = recovered;
        let position = committed.position().clone();
        let (manifest, flush) = (recovered.manifest, recovered.flush);
        let mut shared = Shared::new(files, options, committed, view, filters, manifest, flush);
        shared.hold = hold;
        shared.generation = Mutex::new(kept);
        let sizes = [
            (&shared.journal_bytes, journal.disk_bytes()),
            (&shared.checkpoint_bytes, recovered.checkpoint_bytes),
        ];
        for (size, bytes) in sizes {
            size.store(bytes, Ordering::Relaxed);
        }
        if let Err(error) = shared.take_reserve() {
            match error.is_full() {
                true => shared.note_full(&error),
                false => return Err(error),
            }
        }
        let mut store = Self {
            shared: Arc::new(shared),
            journal,
            commit: recovered.commit,
            staged: WriteBatch::default(),
            staged_keys: Memtable::with_capacity(0),
            staged_list: Vec::new(),
            position,
            aside: None,
            fresh: Vec::new(),
            numbers: Vec::new(),
            fingerprints: Vec::new(),
            scratch: Vec::new(),
            threads: Vec::new(),
            dir,
        };
        store.start_thread(Task::StoreFlush, flush::work)?;
        store.start_thread(Task::StoreMerge, compaction::work)?;
        Ok(store)
    }

    fn start_thread(&mut self, task: Task, work: fn(&Shared)) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        #[expect(
            clippy::disallowed_methods,
            reason = "a panic of the store's threads poisons the store"
        )]
        let thread = thread::Builder::new()
            .name(task.name().to_owned())
            .spawn(move || shared.watched(task, work))
            .map_err(|source| StoreError::Io {
                action: "start a thread for",
                path: Path::to_owned(self.shared.files.folder()),
                source,
            })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Runs `work` unless the store is poisoned. An error poisons the store, except a lack of
    /// space: the operation that found none has undone itself.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.shared.check()?;
        let done = work(self);
        if done.as_ref().is_err_and(|error| !error.is_full()) {
            self.shared.poison();
        }
        done
    }

    pub(super) fn join(&mut self, stop: Stop) {
        self.shared.stop(stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.poison();
            }
        }
    }
}

impl Store for DiskStore {
    type Reader = DiskReader;

    fn insert(
        &mut self,
        partition: Partition,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<u64, StoreError> {
        self.guarded(|store| store.stage(partition, std::iter::once((tenant, hashes))))
    }

    fn insert_all(
        &mut self,
        partition: Partition,
        items: &[TenantItems],
    ) -> Result<u64, StoreError> {
        let items = items
            .iter()
            .map(|items| (&items.tenant, items.hashes.as_slice()));
        self.guarded(|store| store.stage(partition, items))
    }

    fn insert_all_marking(
        &mut self,
        partition: Partition,
        items: &[TenantItems],
        marks: &mut Marks,
    ) -> Result<u64, StoreError> {
        let added = self.insert_all(partition, items)?;
        let count = item_count(items);
        match added {
            0 => {}
            // The common case, since few items are duplicates.
            all if all == count as u64 => marks.mark_first(count),
            _ => self.mark_fresh(items, marks),
        }
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
        if self.staged.is_empty() {
            // Nothing is written, but the caller acknowledges items that were committed earlier.
            // The check ensures that the next start will find them.
            return self.guarded(|store| store.look());
        }
        self.guarded(Self::commit_staged)
    }

    fn begin_ingest(&mut self) -> Result<(), StoreError> {
        self.start_aside();
        self.shared.check()
    }

    fn ingest(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError> {
        self.guarded(|store| store.set_aside(tenant, hashes))
    }

    fn finish_ingest(&mut self, position: &Position, complete: bool) -> Result<(), StoreError> {
        self.guarded(|store| store.take_in(position, complete))
    }

    fn abandon_ingest(&mut self) {
        self.forget_aside();
    }

    fn set_generation(&mut self, kept: KeptGeneration) -> Result<(), StoreError> {
        self.guarded(|store| {
            store.shared.look()?;
            let written = generation::write(&*store.shared.files, kept);
            written.inspect_err(|error| store.note_if_full(error))?;
            store.look()?;
            *store.shared.generation.lock() = Some(kept);
            Ok(())
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        self.shared.check()?;
        match &self.dir {
            Some(dir) if dir.is_look_due() => self.look().inspect_err(|_| self.shared.poison()),
            _ => Ok(()),
        }
    }

    fn reader(&self) -> DiskReader {
        DiskReader {
            shared: Arc::clone(&self.shared),
        }
    }

    fn full(&self) -> Option<String> {
        self.shared.check_room().err().map(|why| why.to_string())
    }

    fn close(mut self) -> Result<(), StoreError> {
        self.guarded(Self::settle_and_end)
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.join(Stop::Now);
    }
}
