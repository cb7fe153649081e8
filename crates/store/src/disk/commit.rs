//! Commit: makes the write batch durable, then visible. If there is no space for it, rolls it back.
//!
//! Invariant: a visible commit was synced before. If the sync was not reached, nothing remains on
//! disk that an opening could take for a commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::super::StoreError;
use super::DiskStore;
use super::checkpoint::Image;
use super::journal::Journal;
use super::memtable::Memtable;
use super::shared::{Flush, Stop, Version};

/// Number of staged keys that keep their memory between commits.
const STAGED_KEYS_KEPT: usize = 1 << 16;

impl DiskStore {
    /// Checks that the next opening of the store will find what this process writes: that the
    /// journal still has its name, and that this process still holds the data directory.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        self.shared.look()?;
        self.journal.check_name(&*self.shared.files)
    }

    /// Makes the write batch durable and visible. If there is no space for it, drops it.
    pub(super) fn commit_staged(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.append_staged() {
            self.note_if_full(&error);
            if error.is_full() {
                self.roll_back();
            }
            return Err(error);
        }
        self.commit += 1;
        let journal_bytes = &self.shared.journal_bytes;
        journal_bytes.store(self.journal.disk_bytes(), Ordering::Relaxed);
        {
            let mut committed = self.shared.committed.write();
            let view = self.shared.view();
            let mut table = view.table.write();
            for key in &self.staged_list {
                table.insert(*key);
            }
            committed.apply(&self.staged);
        }
        self.forget_staged();
        Ok(())
    }

    /// Marks the store as full if `error` reports a lack of space.
    pub(super) fn note_if_full(&self, error: &StoreError) {
        if error.is_full() {
            self.shared.note_full(error);
            self.shared.wake();
        }
    }

    fn append_staged(&mut self) -> Result<(), StoreError> {
        self.shared.check_room()?;
        let keys_max = self.shared.options.table_keys_max();
        let keys = self.shared.view().table.read().len();
        let is_full = keys > 0 && keys + self.staged_list.len() > keys_max;
        if is_full || self.journal.position() >= self.shared.options.segment_bytes_max {
            self.freeze()?;
        }
        // The checks before and after the append ensure that nothing is written into a directory of
        // another process, and that no commit is acknowledged that the next start would not find.
        self.shared.look_before_append()?;
        self.journal
            .append(self.commit + 1, &self.staged, &self.staged_list)?;
        self.look()
    }

    /// Resets the writer to the last commit, which is the state that readers see.
    fn roll_back(&mut self) {
        self.forget_staged();
        self.position = self.shared.committed.read().position().clone();
    }

    fn forget_staged(&mut self) {
        self.staged.clear();
        self.staged_keys.clear(STAGED_KEYS_KEPT);
        self.staged_list.clear();
        self.staged_list.shrink_to(STAGED_KEYS_KEPT);
    }

    /// Hands the memtable to the flush thread and continues with an empty one and a new segment.
    /// Waits while an earlier memtable is being flushed: memory is bounded, so a slow disk slows
    /// commits down.
    pub(super) fn freeze(&mut self) -> Result<(), StoreError> {
        self.shared.wait_for_flush()?;
        let ahead_bytes = self.shared.options.journal_ahead_bytes;
        let (segment, base) = (self.journal.segment + 1, self.commit + 1);
        let of_spare = &self.shared.spare_bytes;
        let spare = Some(of_spare.swap(0, Ordering::AcqRel)).filter(|bytes| *bytes > 0);
        let next = Journal::create(&*self.shared.files, segment, base, ahead_bytes, spare);
        // If there was no space for its header or its name, the file is still the spare segment.
        let next = next.inspect_err(|_| of_spare.store(spare.unwrap_or(0), Ordering::Release))?;
        let old = std::mem::replace(&mut self.journal, next);
        let image = Image::of(&self.shared.committed.read(), self.commit);
        let empty = Memtable::with_capacity(self.shared.options.table_keys_max());
        let table = {
            let mut view = self.shared.view.write();
            let mut changed = Version::clone(&view);
            let table = std::mem::replace(&mut changed.table, Arc::new(RwLock::new(empty)));
            changed.frozen = Some(Arc::clone(&table));
            *view = Arc::new(changed);
            table
        };
        let frozen_bytes = &self.shared.frozen_journal_bytes;
        frozen_bytes.store(old.disk_bytes(), Ordering::Relaxed);
        self.shared.state().flush = Some(Arc::new(Flush {
            table,
            image,
            first_segment: old.segment,
            next_segment: segment,
        }));
        self.shared.notify();
        Ok(())
    }

    /// Flushes the commits in the journal, so that the next opening has nothing to recover, and
    /// ends the threads. On a full disk the commits stay in the journal.
    pub(super) fn settle_and_end(&mut self) -> Result<(), StoreError> {
        self.shared.release_reserve()?;
        if !self.journal.is_empty()
            && let Err(error) = self.freeze()
        {
            if !error.is_full() {
                return Err(error);
            }
            tracing::warn!(%error, "no room for last flush; the next start replays the journal");
        }
        self.join(Stop::Drained);
        self.shared.check()
    }
}
