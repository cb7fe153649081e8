//! The finish of an ingest: adds another store's snapshot to this store.
//!
//! Invariant: until the manifest that contains the ingested run and the new checkpoint is in place,
//! nothing of the ingest is part of the store; from then on all of it is. An ingest that finds no
//! space ends, and its files are removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::{Key, StoreError, TenantNumber, WriteBatch};
use super::checkpoint::{self, Image};
use super::ingest_keys::{IngestKeys, Resolved};
use super::manifest::RunEntry;
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::Version;
use super::writer::DiskStore;
use headcount_model::{ItemHash, Partition, Position, TenantName};

/// Number of keys per lookup.
const KEYS_AT_ONCE: usize = 1 << 12;

impl DiskStore {
    /// Writes the keys that the store does not have now to the ingest runs. The finish looks up the
    /// keys that are committed later.
    pub(super) fn set_aside(
        &mut self,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<(), StoreError> {
        let done = self.sort_out(tenant, hashes);
        if done.as_ref().is_err_and(StoreError::is_full) {
            self.forget_aside();
        }
        done
    }

    fn sort_out(&mut self, tenant: &TenantName, hashes: &[ItemHash]) -> Result<(), StoreError> {
        self.shared.check_room()?;
        let aside = self.aside.as_mut().ok_or(StoreError::NoUnite)?;
        if hashes.is_empty() {
            return Ok(());
        }
        let (number, is_known) = {
            let committed = self.shared.committed.read();
            aside.number(&self.staged, &committed, tenant)?
        };
        for some in hashes.chunks(KEYS_AT_ONCE) {
            let mut keys: Vec<Key> = some.iter().map(|hash| Key::new(number, hash)).collect();
            if is_known {
                keys.sort_unstable();
                keys.dedup();
                self.remove_committed(&mut keys)?;
            }
            if let Some(aside) = self.aside.as_mut() {
                aside.push(&self.shared, &keys)?;
            }
        }
        Ok(())
    }

    /// Ends the ingest and drops its keys.
    pub(super) fn forget_aside(&mut self) {
        if let Some(aside) = self.aside.take() {
            aside.forget(&self.shared);
        }
    }

    /// Commits the write batch, then makes the ingested keys part of the store.
    pub(super) fn take_in(
        &mut self,
        position: &Position,
        complete: bool,
    ) -> Result<(), StoreError> {
        let mut aside = self.aside.take().ok_or(StoreError::NoUnite)?;
        let done = self.take_in_aside(&mut aside, position, complete);
        aside.forget(&self.shared);
        done
    }

    fn take_in_aside(
        &mut self,
        aside: &mut IngestKeys,
        position: &Position,
        complete: bool,
    ) -> Result<(), StoreError> {
        self.shared.check_room()?;
        if !self.staged.is_empty() {
            self.commit_staged()?;
        }
        if !self.journal.is_empty() {
            self.freeze()?;
        }
        let mut staged = WriteBatch::default();
        let resolved = aside.resolve(&self.shared, &mut staged)?;
        // From here on every commit is in a run and in the checkpoint, and the journal is empty.
        self.shared.wait_for_flush()?;
        let shared = Arc::clone(&self.shared);
        let (of_run, of_checkpoint) = (shared.take_number()?, shared.take_number()?);
        let names = [run::name(of_run), checkpoint::name(of_checkpoint)];
        let old_checkpoint = shared.or_discard(&names[0], || {
            shared.or_discard(&names[1], || {
                let run = self.write_united(aside, resolved, of_run, &mut staged)?;
                if complete {
                    staged.set_complete(true);
                }
                self.install_united(run, of_checkpoint, &staged, position)
            })
        })?;
        if old_checkpoint != 0 {
            let name = checkpoint::name(old_checkpoint);
            shared.files.remove_file(&name)?;
        }
        // Runs may be due for compaction now.
        shared.wake();
        self.position.unite(position);
        Ok(())
    }

    /// Writes the ingested keys that the store does not have as the run `number`, and stages their
    /// counts.
    fn write_united(
        &mut self,
        aside: &IngestKeys,
        resolved: Resolved,
        number: u64,
        staged: &mut WriteBatch,
    ) -> Result<Option<Run>, StoreError> {
        let keys_max = aside.keys_max();
        let first_new = resolved.first_new;
        let mut stream = aside.resolved_stream(resolved)?;
        let mut run = None;
        let mut counter = Counter::default();
        let mut keys = Vec::with_capacity(KEYS_AT_ONCE);
        loop {
            keys.clear();
            stream.read(KEYS_AT_ONCE, &mut keys)?;
            let Some(first) = keys.first() else {
                break;
            };
            // The keys ascend. The store has no keys of `first_new` and later tenants.
            if first.tenant() < first_new {
                self.remove_committed(&mut keys)?;
            }
            if keys.is_empty() {
                continue;
            }
            let mut writer = match run.take() {
                Some(writer) => writer,
                None => {
                    let filter = self.shared.filters.make(keys_max);
                    RunWriter::create(Arc::clone(&self.shared.files), number, filter)?
                }
            };
            let partitioning = self.shared.committed.read().partitioning();
            for key in &keys {
                writer.push(*key)?;
                counter.count(key.tenant(), partitioning.of(&key.hash()), staged);
            }
            run = Some(writer);
        }
        counter.end(staged);
        run.map(RunWriter::finish).transpose()
    }

    /// Replaces the committed state and adds the ingested run: on disk by one manifest, for readers
    /// under one lock. Returns the number of the obsolete checkpoint.
    fn install_united(
        &self,
        run: Option<Run>,
        number: u64,
        staged: &WriteBatch,
        position: &Position,
    ) -> Result<u64, StoreError> {
        let shared = &self.shared;
        let mut committed = shared.committed.read().clone();
        committed.ingest(staged, position);
        let image = Image::of(&committed, self.commit);
        let checkpoint_bytes = image.write(&*shared.files, number, |from, count| {
            committed
                .names()
                .iter()
                .skip(from)
                .take(count)
                .cloned()
                .collect()
        })?;

        let mut manifest = shared.manifest.lock();
        let mut next = manifest.clone();
        let is_settled = (next.commit, next.first_segment) == (self.commit, self.journal.segment);
        if !is_settled {
            // Only a bug leads here. Continuing would lose the commits in the journal.
            return Err(StoreError::Poisoned);
        }
        let old_checkpoint = next.checkpoint;
        next.checkpoint = number;
        next.next_number = shared.next_number();
        next.runs.extend(run.iter().map(|run| RunEntry {
            number: run.number,
            keys: run.keys,
        }));
        shared.write_manifest(&next)?;
        self.look()?;
        *manifest = next;
        let old_cut = {
            let mut shown = shared.committed.write();
            let mut view = shared.view.write();
            let mut changed = Version::clone(&view);
            changed.runs.extend(run.map(Arc::new));
            *view = Arc::new(changed);
            std::mem::replace(&mut *shown, committed)
        };
        drop(manifest);
        drop(old_cut);
        let of_checkpoint = &shared.checkpoint_bytes;
        of_checkpoint.store(checkpoint_bytes, Ordering::Relaxed);
        Ok(old_checkpoint)
    }

    /// Starts an ingest, and ends any other.
    pub(super) fn start_aside(&mut self) {
        self.forget_aside();
        self.aside = Some(IngestKeys::default());
    }
}

/// Sums consecutive keys of the same tenant and partition.
#[derive(Default)]
struct Counter {
    last: Option<(TenantNumber, Partition)>,
    keys: u64,
}

impl Counter {
    fn count(&mut self, tenant: TenantNumber, partition: Partition, staged: &mut WriteBatch) {
        if self.last != Some((tenant, partition)) {
            self.end(staged);
            self.last = Some((tenant, partition));
        }
        self.keys += 1;
    }

    fn end(&mut self, staged: &mut WriteBatch) {
        if let Some((tenant, partition)) = self.last.take() {
            staged.add(tenant, partition, self.keys);
        }
        self.keys = 0;
    }
}
