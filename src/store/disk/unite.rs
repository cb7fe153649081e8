//! Uniting the store with another's snapshot: the finish.
//!
//! Invariant: until the manifest that names the united run and the united checkpoint is in place, nothing of
//! the unite is part of the store; from then on all of it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::{Key, Staged, StoreError, TenantNumber};
use super::aside::Aside;
use super::checkpoint::{self, Image};
use super::manifest::RunEntry;
use super::run::Run;
use super::run_writer::RunWriter;
use super::shared::View;
use super::writer::DiskStore;
use crate::model::{ItemHash, Partition, Position, TenantName};

/// Keys looked up at once.
const KEYS_AT_ONCE: usize = 1 << 12;

impl DiskStore {
    /// Sets those keys aside that the store does not have now. What arrives later is looked up at the finish.
    pub(super) fn set_aside(
        &mut self,
        tenant: &TenantName,
        hashes: &[ItemHash],
    ) -> Result<(), StoreError> {
        let aside = self.aside.as_mut().ok_or(StoreError::NoUnite)?;
        if hashes.is_empty() {
            return Ok(());
        }
        let (number, is_known) = {
            let cut = self.shared.cut.read();
            aside.number(&self.staged, &cut, tenant)?
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

    /// Forgets what was set aside.
    pub(super) fn forget_aside(&mut self) {
        if let Some(aside) = self.aside.take() {
            aside.forget(&self.shared);
        }
    }

    /// Commits what is staged, then makes what was set aside part of the store.
    pub(super) fn take_in(
        &mut self,
        position: &Position,
        complete: bool,
    ) -> Result<(), StoreError> {
        let mut aside = self.aside.take().ok_or(StoreError::NoUnite)?;
        if !self.staged.is_empty() {
            self.commit_staged()?;
        }
        if !self.journal.is_empty() {
            self.freeze()?;
        }
        let mut staged = Staged::default();
        let resolved = aside.resolve(&self.shared, &mut staged)?;
        // From here on every commit is in a run and in the checkpoint, and the journal is empty.
        self.shared.wait_for_flush()?;
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
            // They ascend: behind the first new tenant there is nothing that the store could have.
            if first.tenant() < first_new {
                self.remove_committed(&mut keys)?;
            }
            self.write_keys(&mut run, keys_max, &keys, &mut counter, &mut staged)?;
        }
        counter.end(&mut staged);
        if complete {
            staged.set_complete(true);
        }
        let run = run.map(RunWriter::finish).transpose()?;
        self.install_united(run, &staged, position)?;
        drop(stream);
        aside.forget(&self.shared);
        self.position.unite(position);
        Ok(())
    }

    fn write_keys(
        &self,
        run: &mut Option<RunWriter>,
        keys_max: u64,
        keys: &[Key],
        counter: &mut Counter,
        staged: &mut Staged,
    ) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut writer = match run.take() {
            Some(writer) => writer,
            None => {
                let (files, number) = (Arc::clone(&self.shared.files), self.shared.take_number()?);
                RunWriter::create(files, number, self.shared.filters.make(keys_max))?
            }
        };
        let partitioning = self.shared.cut.read().partitioning();
        for key in keys {
            writer.push(*key)?;
            counter.count(key.tenant(), partitioning.of(&key.hash()), staged);
        }
        *run = Some(writer);
        Ok(())
    }

    /// Puts the united run and cut in place of the old cut: on disk by one manifest, for readers under one lock.
    fn install_united(
        &self,
        run: Option<Run>,
        staged: &Staged,
        position: &Position,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut cut = shared.cut.read().clone();
        cut.unite(staged, position);
        let number = shared.take_number()?;
        let image = Image::of(&cut, self.commit);
        let checkpoint_bytes = image.write(&*shared.files, number, |from, count| {
            cut.names().iter().skip(from).take(count).cloned().collect()
        })?;

        let mut manifest = shared.manifest.lock();
        let mut next = manifest.clone();
        let is_settled = (next.commit, next.first_segment) == (self.commit, self.journal.segment);
        if !is_settled {
            // Only a bug brings us here: what the journal has would be lost.
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
            let mut shown = shared.cut.write();
            let mut view = shared.view.write();
            let mut changed = View::clone(&view);
            changed.runs.extend(run.map(Arc::new));
            *view = Arc::new(changed);
            std::mem::replace(&mut *shown, cut)
        };
        drop(manifest);
        drop(old_cut);

        if old_checkpoint != 0 {
            let name = checkpoint::name(old_checkpoint);
            shared.files.remove_file(&name)?;
        }
        let of_checkpoint = &shared.checkpoint_bytes;
        of_checkpoint.store(checkpoint_bytes, Ordering::Relaxed);
        // There may be something to merge now.
        drop(shared.state());
        shared.notify();
        Ok(())
    }

    /// A new unite, in place of any other.
    pub(super) fn start_aside(&mut self) {
        self.forget_aside();
        self.aside = Some(Aside::default());
    }
}

/// Sums up the keys of a tenant and partition that follow each other.
#[derive(Default)]
struct Counter {
    last: Option<(TenantNumber, Partition)>,
    keys: u64,
}

impl Counter {
    fn count(&mut self, tenant: TenantNumber, partition: Partition, staged: &mut Staged) {
        if self.last != Some((tenant, partition)) {
            self.end(staged);
            self.last = Some((tenant, partition));
        }
        self.keys += 1;
    }

    fn end(&mut self, staged: &mut Staged) {
        if let Some((tenant, partition)) = self.last.take() {
            staged.add(tenant, partition, self.keys);
        }
        self.keys = 0;
    }
}
