//! Reads of the last commit, concurrent with the writer.
//!
//! Invariant: a reader sees only whole commits: keys become visible under the same lock as the
//! counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, RwLockReadGuard};

use super::super::data_dir::ReadOnlyDir;
use super::super::{
    CommittedState, Key, LookUp, Snapshot, StoreError, StoreReader, StoreShape, StoreStats,
};
use super::DiskOptions;
use super::filter::Fingerprint;
use super::generation;
use super::merge_iter::{Merged, Source};
use super::recovery::recover_for_reading;
use super::run::Run;
use super::shared::Shared;
use headcount_model::{ItemHash, KeptGeneration, TenantName};

/// A reader of a [`DiskStore`](super::DiskStore).
#[derive(Clone)]
pub struct DiskReader {
    pub(super) shared: Arc<Shared>,
}

impl DiskReader {
    /// Opens the data directory of a stopped store without changing it.
    ///
    /// # Errors
    /// Any [`StoreError`]: it refuses to open whatever [`DiskStore::open`](super::DiskStore::open)
    /// refuses.
    pub fn open(
        dir: &ReadOnlyDir,
        shape: StoreShape,
        options: DiskOptions,
    ) -> Result<Self, StoreError> {
        let files = dir.files();
        dir.identity().check_store(&*files)?;
        let kept = generation::read(&*files)?;
        let found = recover_for_reading(&files, shape, &options)?;
        let (committed, view) = (found.committed, found.view);
        let (filters, manifest) = (found.filters, found.manifest);
        let mut shared = Shared::new(files, options, committed, view, filters, manifest, None);
        shared.generation = Mutex::new(kept);
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl StoreReader for DiskReader {
    fn committed(&self) -> RwLockReadGuard<'_, CommittedState> {
        self.shared.committed.read()
    }

    fn look_up(
        &self,
        committed: &RwLockReadGuard<'_, CommittedState>,
        tenant: &TenantName,
        hash: &ItemHash,
    ) -> LookUp {
        let Some(number) = committed.number(tenant.as_str()) else {
            return LookUp::Known(false);
        };
        let key = Key::new(number, hash);
        // No commit and no ingest can end while the committed state is locked. So the keys of this
        // state are those in the memtable now, and those of the frozen memtable and the runs, which
        // never change. The memtable must be read now, since later commits add to it. The runs can
        // be read later.
        let view = self.shared.view();
        let is_in_memory = [Some(&view.table), view.frozen.as_ref()]
            .into_iter()
            .flatten()
            .any(|table| table.read().contains(&key));
        if is_in_memory || view.runs.is_empty() {
            return LookUp::Known(is_in_memory);
        }
        let shared = Arc::clone(&self.shared);
        LookUp::OnDisk(Box::new(move || {
            is_in_runs(key, &view.runs).inspect_err(|error| shared.fail(error.duplicate()))
        }))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (committed, view, table) = {
            let committed = self.shared.committed.read();
            let view = self.shared.view();
            // Commits wait for the copy of the memtable, a few milliseconds if it is full, but not
            // for the sort.
            let table = view.table.read().to_vec();
            (committed.clone(), view, table)
        };
        let frozen = view.frozen.iter().map(|table| table.read().to_vec());
        let mut sources: Vec<Source> = frozen.map(Source::memory).collect();
        sources.push(Source::memory(table));
        sources.extend(view.runs.iter().cloned().map(Source::run));
        let merged =
            Merged::new(sources).inspect_err(|error| self.shared.fail(error.duplicate()))?;
        Ok(Snapshot {
            committed,
            keys: Box::new(SnapshotKeys {
                merged: Some(merged),
                shared: Arc::clone(&self.shared),
            }),
        })
    }

    fn generation(&self) -> Option<KeptGeneration> {
        *self.shared.generation.lock()
    }

    fn stats(&self) -> StoreStats {
        let view = self.shared.view();
        let tables = [Some(&view.table), view.frozen.as_ref()];
        let tables: usize = tables
            .iter()
            .flatten()
            .map(|table| table.read().bytes())
            .sum();
        let of_journal = &self.shared.journal_bytes;
        let others = [
            of_journal,
            &self.shared.frozen_journal_bytes,
            &self.shared.checkpoint_bytes,
            &self.shared.spare_bytes,
            &self.shared.aside_bytes,
            &self.shared.room.reserve_bytes,
        ];
        let others = others.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        let runs = &view.runs;
        let memory = runs.iter().map(|run| run.index_bytes()).sum::<u64>() + tables as u64;
        StoreStats {
            disk_bytes: runs.iter().map(|run| run.disk_bytes()).sum::<u64>() + others.sum::<u64>(),
            memory_bytes: memory + self.shared.filters.bytes(),
            runs: runs.len() as u64,
        }
    }
}

/// Whether one of `runs` contains the key.
fn is_in_runs(key: Key, runs: &[Arc<Run>]) -> Result<bool, StoreError> {
    let mut absent = vec![key];
    let mut fingerprints = vec![Fingerprint::of(&key)];
    let mut scratch = Vec::new();
    for run in runs.iter().rev() {
        run.remove_known(&mut absent, &mut fingerprints, &mut scratch)?;
        if absent.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The keys of a snapshot. They end after the first error.
struct SnapshotKeys {
    merged: Option<Merged>,
    shared: Arc<Shared>,
}

impl Iterator for SnapshotKeys {
    type Item = Result<Key, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.merged.as_mut()?.next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.merged = None;
        }
        if let Some(Err(error)) = &next {
            self.shared.fail(error.duplicate());
        }
        next
    }
}
