//! The state that the writer, the readers and the background threads of one store share.
//!
//! Invariant: every committed key is in exactly one place of the version: its memtable, its frozen
//! memtable or one of its runs. A version that is in use stays complete while the store continues.
//!
//! Lock order: manifest, state, committed state, version, keys of a memtable. The locks of the
//! filters are taken last, or alone, and so is the lock of the generation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::super::{CommittedState, StoreError};
use super::DiskOptions;
use super::checkpoint::Image;
use super::filters::Filters;
use super::manifest::Manifest;
use super::memtable::Memtable;
use super::room::Room;
use super::run::Run;
use crate::hold::Hold;
use crate::vfs::Files;
use headcount_model::KeptGeneration;
use headcount_runtime::supervisor::{self, Task};

/// The committed keys that are not in a run yet. Only the writer adds keys to a memtable, until it
/// is frozen.
pub(super) type Table = RwLock<Memtable>;

/// A version: the places of the keys of the last commit.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) table: Arc<Table>,
    /// A full memtable that is being flushed.
    pub(super) frozen: Option<Arc<Table>>,
    pub(super) runs: Vec<Arc<Run>>,
}

/// A flush that is due or running.
pub(super) struct Flush {
    pub(super) table: Arc<Table>,
    pub(super) image: Image,
    /// The first segment to remove after the flush.
    pub(super) first_segment: u64,
    /// The first segment to keep.
    pub(super) next_segment: u64,
}

/// Whether and how the background threads must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Continue.
    No,
    /// End after the waiting flush.
    Drained,
    /// End as soon as possible.
    Now,
}

/// The state that the threads coordinate with.
pub(super) struct State {
    pub(super) flush: Option<Arc<Flush>>,
    pub(super) merging: bool,
    /// Whether runs are due for compaction but there is no space for it.
    pub(super) merge_waits: bool,
    /// Whether the flush waits for space. No thread may wait for the flush then.
    pub(super) flush_waits: bool,
    pub(super) stop: Stop,
    /// Why the store is poisoned, until the writer has received the error.
    error: Option<StoreError>,
}

/// See the module documentation.
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    /// The lock on the data directory, for as long as the store lives. Empty if no other process
    /// can use the directory, or nothing is written.
    pub(super) hold: Weak<Hold>,
    pub(super) options: DiskOptions,
    pub(super) committed: RwLock<CommittedState>,
    pub(super) view: RwLock<Arc<Version>>,
    pub(super) filters: Filters,
    pub(super) manifest: Mutex<Manifest>,
    /// The content of the file `GENERATION`.
    pub(super) generation: Mutex<Option<KeptGeneration>>,
    next_number: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    poisoned: AtomicBool,
    stopping: AtomicBool,
    /// Sizes in bytes: of the segment that is being written, of the segments that wait for a flush,
    /// and of the checkpoint.
    pub(super) journal_bytes: AtomicU64,
    pub(super) frozen_journal_bytes: AtomicU64,
    pub(super) checkpoint_bytes: AtomicU64,
    /// Size in bytes of the spare segment; 0 if there is none.
    pub(super) spare_bytes: AtomicU64,
    /// Size in bytes of the runs of an open ingest.
    pub(super) aside_bytes: AtomicU64,
    pub(super) room: Room,
}

impl Shared {
    pub(super) fn new(
        files: Arc<dyn Files>,
        options: DiskOptions,
        committed: CommittedState,
        view: Version,
        filters: Filters,
        manifest: Manifest,
        flush: Option<Flush>,
    ) -> Self {
        Self {
            files,
            hold: Weak::new(),
            options,
            committed: RwLock::new(committed),
            view: RwLock::new(Arc::new(view)),
            filters,
            next_number: AtomicU64::new(manifest.next_number),
            manifest: Mutex::new(manifest),
            generation: Mutex::default(),
            state: Mutex::new(State {
                flush: flush.map(Arc::new),
                merging: false,
                merge_waits: false,
                flush_waits: false,
                stop: Stop::No,
                error: None,
            }),
            changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(0),
            frozen_journal_bytes: AtomicU64::new(0),
            checkpoint_bytes: AtomicU64::new(0),
            spare_bytes: AtomicU64::new(0),
            aside_bytes: AtomicU64::new(0),
            room: Room::default(),
        }
    }

    /// Returns the current version.
    pub(super) fn view(&self) -> Arc<Version> {
        Arc::clone(&self.view.read())
    }

    /// Checks that this process still holds the data directory. Called before files in it are made,
    /// written or removed, and after every write that is acknowledged.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        Hold::look_if_held(&self.hold)
    }

    /// Like [`Self::look`], but skips the check if a recent one succeeded: consecutive commits
    /// check after each write already.
    pub(super) fn look_before_append(&self) -> Result<(), StoreError> {
        Hold::look_if_stale(&self.hold)
    }

    /// Replaces the manifest. Files that it no longer contains may be removed afterwards.
    pub(super) fn write_manifest(&self, next: &Manifest) -> Result<(), StoreError> {
        self.look()?;
        next.write(&*self.files)?;
        self.look()
    }

    /// Takes a number for a new run or checkpoint. Checks the lock on the data directory, because
    /// the caller makes the file next and must not overwrite a file of another process.
    pub(super) fn take_number(&self) -> Result<u64, StoreError> {
        self.look()?;
        Ok(self.next_number.fetch_add(1, Ordering::Relaxed))
    }

    /// The number that the next [`Self::take_number`] returns.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until the state may have changed.
    pub(super) fn wait(&self, state: &mut MutexGuard<'_, State>) {
        self.changed.wait(state);
    }

    /// Waits until the state may have changed, or until `deadline`. Returns whether the deadline
    /// has passed.
    pub(super) fn wait_until(&self, state: &mut MutexGuard<'_, State>, deadline: Instant) -> bool {
        self.changed.wait_until(state, deadline).timed_out()
    }

    /// Wakes all waiting threads.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Makes the threads stop.
    pub(super) fn stop(&self, stop: Stop) {
        self.state().stop = stop;
        self.stopping.store(true, Ordering::Release);
        self.notify();
    }

    /// Whether a compaction must be cancelled.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether the store is poisoned.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Poisons the store.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.wake();
    }

    /// Poisons the store. The writer's next call returns the error.
    pub(super) fn fail(&self, error: StoreError) {
        tracing::error!(%error, "store failed");
        self.state().error.get_or_insert(error);
        self.poison();
    }

    /// Runs `work` on a background thread. A panic poisons the store, so that no thread waits
    /// forever for the panicked one.
    pub(super) fn watched(&self, task: Task, work: fn(&Self)) {
        if let Err(detail) = supervisor::catch(task, || work(self)) {
            let thread = task.name();
            self.fail(StoreError::Panicked { thread, detail });
        }
    }

    /// Returns an error if the store is poisoned: the first time the cause, if the writer has not
    /// received it yet.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.is_poisoned() {
            return Err(self.state().error.take().unwrap_or(StoreError::Poisoned));
        }
        Ok(())
    }

    /// Waits until no memtable is frozen, then checks the lock on the data directory, since the
    /// wait may have been long. Does not wait for a flush that waits for space.
    pub(super) fn wait_for_flush(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        while state.flush.is_some() && !self.is_poisoned() {
            if state.flush_waits {
                self.check_room()?;
            }
            self.wait(&mut state);
        }
        drop(state);
        self.check()?;
        self.look()
    }

    /// Adds to the size of the open ingest's runs.
    pub(super) fn add_aside_bytes(&self, bytes: u64) {
        self.aside_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts from the size of the open ingest's runs.
    pub(super) fn remove_aside_bytes(&self, bytes: u64) {
        self.aside_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Wakes all waiting threads, including those that are about to wait.
    pub(super) fn wake(&self) {
        // A thread that checked the state under the lock before now waits already, so the
        // notification reaches it.
        drop(self.state());
        self.notify();
    }
}
