//! What the writer, the readers and the background threads of one store share.
//!
//! Invariant: every key of the cut is in the view's table, its frozen table or one of its runs, and
//! nowhere twice; a view that someone holds stays whole while the store goes on.
//!
//! Locks, in this order where several are needed: manifest, state, cut, view, a table's keys. Those
//! of the filters are taken last, or alone, and so is that of the generation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::super::{Cut, StoreError};
use super::DiskOptions;
use super::checkpoint::Image;
use super::filters::Filters;
use super::key_set::KeySet;
use super::manifest::Manifest;
use super::room::Room;
use super::run::Run;
use crate::files::Files;
use crate::hold::Hold;
use headcount_model::KeptGeneration;
use headcount_runtime::supervisor::{self, Task};

/// Committed keys that are in no run yet. Only the writer adds to it, until it is frozen.
pub(super) type Table = RwLock<KeySet>;

/// Where the keys of the last commit are.
#[derive(Clone)]
pub(super) struct View {
    pub(super) table: Arc<Table>,
    /// A full table on its way into a run.
    pub(super) frozen: Option<Arc<Table>>,
    pub(super) runs: Vec<Arc<Run>>,
}

/// A frozen table's way into a run.
pub(super) struct Flush {
    pub(super) table: Arc<Table>,
    pub(super) image: Image,
    /// The segments to remove afterwards: all from here…
    pub(super) first_segment: u64,
    /// …to before the one that follows.
    pub(super) next_segment: u64,
}

/// How the background threads are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not yet.
    No,
    /// After the flush that waits.
    Drained,
    /// As soon as they notice.
    Now,
}

/// What the threads tell each other.
pub(super) struct State {
    pub(super) flush: Option<Arc<Flush>>,
    pub(super) merging: bool,
    /// Whether runs are due to be merged that have no room.
    pub(super) merge_waits: bool,
    /// Whether the flush waits for room: nobody may wait for it then.
    pub(super) flush_waits: bool,
    pub(super) stop: Stop,
    /// Why the store is poisoned, until someone was told.
    error: Option<StoreError>,
}

/// See the module.
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    /// What keeps the folder, for as long as the store lives; none where no other process can come,
    /// or nothing is written.
    pub(super) hold: Weak<Hold>,
    pub(super) options: DiskOptions,
    pub(super) cut: RwLock<Cut>,
    pub(super) view: RwLock<Arc<View>>,
    pub(super) filters: Filters,
    pub(super) manifest: Mutex<Manifest>,
    /// What the store's file of that name says.
    pub(super) generation: Mutex<Option<KeptGeneration>>,
    next_number: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    poisoned: AtomicBool,
    stopping: AtomicBool,
    /// Bytes of the segment that is written, of those that wait for a flush, and of the checkpoint.
    pub(super) journal_bytes: AtomicU64,
    pub(super) frozen_journal_bytes: AtomicU64,
    pub(super) checkpoint_bytes: AtomicU64,
    /// Bytes of the segment that waits to be the next one's space; 0 when there is none.
    pub(super) spare_bytes: AtomicU64,
    /// Bytes of the runs that an open unite has set aside.
    pub(super) aside_bytes: AtomicU64,
    pub(super) room: Room,
}

impl Shared {
    pub(super) fn new(
        files: Arc<dyn Files>,
        options: DiskOptions,
        cut: Cut,
        view: View,
        filters: Filters,
        manifest: Manifest,
        flush: Option<Flush>,
    ) -> Self {
        Self {
            files,
            hold: Weak::new(),
            options,
            cut: RwLock::new(cut),
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

    /// The view now.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Looks whether the folder is still ours, before files in it are made, written or removed, and
    /// after what is acknowledged was written.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        Hold::look_if_held(&self.hold)
    }

    /// The same, unless somebody has looked just now: commits follow each other, and each looks
    /// when it has written.
    pub(super) fn look_before_append(&self) -> Result<(), StoreError> {
        Hold::look_if_stale(&self.hold)
    }

    /// Puts a manifest in place of the old one. What it no longer names may be removed then.
    pub(super) fn write_manifest(&self, next: &Manifest) -> Result<(), StoreError> {
        self.look()?;
        next.write(&*self.files)?;
        self.look()
    }

    /// A number for a new run or checkpoint, which is made next: it must not be another process's.
    pub(super) fn take_number(&self) -> Result<u64, StoreError> {
        self.look()?;
        Ok(self.next_number.fetch_add(1, Ordering::Relaxed))
    }

    /// The number that [`Self::take_number`] would give next.
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

    /// Waits until the state may have changed, until `deadline` at most; says whether that has
    /// come.
    pub(super) fn wait_until(&self, state: &mut MutexGuard<'_, State>, deadline: Instant) -> bool {
        self.changed.wait_until(state, deadline).timed_out()
    }

    /// Wakes everyone who waits.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Tells the threads to end.
    pub(super) fn stop(&self, stop: Stop) {
        self.state().stop = stop;
        self.stopping.store(true, Ordering::Release);
        self.notify();
    }

    /// Whether a merge should be given up.
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

    /// Poisons the store; the writer's next call tells why.
    pub(super) fn fail(&self, error: StoreError) {
        tracing::error!(%error, "the store failed");
        self.state().error.get_or_insert(error);
        self.poison();
    }

    /// Does the work of a thread. A panic poisons the store, so that nobody waits for that thread
    /// for ever.
    pub(super) fn watched(&self, task: Task, work: fn(&Self)) {
        if let Err(detail) = supervisor::catch(task, || work(self)) {
            let thread = task.name();
            self.fail(StoreError::Panicked { thread, detail });
        }
    }

    /// An error when the store is poisoned: the first time the cause, if the writer was not told.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.is_poisoned() {
            return Err(self.state().error.take().unwrap_or(StoreError::Poisoned));
        }
        Ok(())
    }

    /// Waits until no table is frozen, then looks: it may have taken long. A flush that waits for
    /// room is not waited for.
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

    /// Notes that a unite has set so much more aside.
    pub(super) fn add_aside_bytes(&self, bytes: u64) {
        self.aside_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that so much less is set aside.
    pub(super) fn remove_aside_bytes(&self, bytes: u64) {
        self.aside_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Wakes everyone who waits, and whoever is about to.
    pub(super) fn wake(&self) {
        // Taking the lock makes sure that whoever checked before is waiting by now, and wakes.
        drop(self.state());
        self.notify();
    }
}
