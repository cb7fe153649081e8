//! Disk space: handles a full disk and detects when it has space again.
//!
//! Invariant: while the store is full, it commits nothing and no thread waits for space. An
//! operation that found no space is undone, and earlier commits can be read.
//!
//! The store is *full* from the moment that a commit or a flush finds no space. It stops being full
//! when no flush waits for space, the *reserve* is complete, and the space that the next commit may
//! need can be allocated. This is tried every [`DiskOptions::room_interval`](super::DiskOptions).
//! So once the store is not full any more, it has space for a while, and does not alternate between
//! accepting and rejecting items.
//!
//! The reserve is a file of at most [`RESERVE_BYTES_MAX`] without content. Only a flush that finds
//! no space releases it, once: the commits in the journal then become a run, and their segment
//! becomes the space of the next one. Without the reserve, a small disk that is filled by the
//! journal could wait forever for space that only a flush frees. An opening and a clean shutdown
//! release the reserve too, for their own writes.
//!
//! A compaction takes much space for a while and does not free space for others, so it waits (see
//! [`super::compaction`]).

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::StoreError;
use super::shared::Shared;
use crate::vfs::{Files, TEMPORARY};

/// Name prefix of the files that only allocate space. Their names end like those of unfinished
/// files, so each opening removes them.
pub(super) const FAMILY: &str = "room-";

/// Maximum size of the reserve in bytes.
pub(super) const RESERVE_BYTES_MAX: u64 = 8 << 20;

/// Multiple of [`DiskOptions::journal_ahead_bytes`](super::DiskOptions) that must fit in addition
/// to the reserve before the store stops being full: for a new segment, and for the first records
/// after its zeros.
const AHEADS_TRIED: u64 = 2;

/// Returns the file name of the reserve.
pub(super) fn reserve_name() -> String {
    format!("{FAMILY}reserve{TEMPORARY}")
}

/// Returns the name of a file that is made to test for space and is removed at once.
fn trial_name() -> String {
    format!("{FAMILY}trial{TEMPORARY}")
}

/// Whether the store is full, and its reserve.
#[derive(Default)]
pub(super) struct Room {
    is_full: AtomicBool,
    /// The first error for lack of space. `None` while the store is not full.
    cause: Mutex<Option<StoreError>>,
    /// Size of the reserve in bytes; 0 if there is none.
    pub(super) reserve_bytes: AtomicU64,
    /// Whether the system does not allow files of the size of the reserve.
    has_no_reserve: AtomicBool,
}

impl Shared {
    /// Whether the store is full.
    pub(super) fn is_full(&self) -> bool {
        self.room.is_full.load(Ordering::Acquire)
    }

    /// Returns the first [`StoreError::Full`] while the store is full.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        if !self.is_full() {
            return Ok(());
        }
        let cause = self.room.cause.lock();
        cause.as_ref().map_or(Ok(()), |why| Err(why.duplicate()))
    }

    /// Marks the store as full. The caller must wake the threads that wait for a change.
    pub(super) fn note_full(&self, error: &StoreError) {
        let mut cause = self.room.cause.lock();
        if cause.is_none() {
            tracing::error!(
                %error,
                "disk is full; rejecting writes until there is room, reads continue"
            );
            *cause = Some(error.duplicate());
        }
        self.room.is_full.store(true, Ordering::Release);
    }

    fn note_room(&self) {
        // A flush that started to wait since then keeps the store full.
        let state = self.state();
        if state.flush_waits {
            return;
        }
        *self.room.cause.lock() = None;
        self.room.is_full.store(false, Ordering::Release);
        tracing::info!("disk has room again; accepting writes");
    }

    /// Whether the file system reports at least `bytes` of free space. A quota can still reject
    /// writes.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool, StoreError> {
        let room = self.files.room_left()?;
        Ok(room.is_none_or(|room| room >= bytes))
    }

    /// Allocates the reserve, unless it exists.
    pub(super) fn take_reserve(&self) -> Result<(), StoreError> {
        let bytes = self.reserve_missing();
        if bytes == 0 {
            return Ok(());
        }
        match self.allocate(&reserve_name(), bytes) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::FileTooLarge => {
                // Files of this size are not possible at all. Operations that reach that limit fail
                // with an ordinary error.
                self.room.has_no_reserve.store(true, Ordering::Release);
                self.discard(&reserve_name())
            }
            done => {
                done?;
                self.room.reserve_bytes.store(bytes, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Number of bytes that are missing from the reserve.
    fn reserve_missing(&self) -> u64 {
        let held = self.room.reserve_bytes.load(Ordering::Acquire);
        match held > 0 || self.room.has_no_reserve.load(Ordering::Acquire) {
            true => 0,
            false => self.options.reserve_bytes(),
        }
    }

    /// Releases the reserve. Returns whether there was one.
    pub(super) fn release_reserve(&self) -> Result<bool, StoreError> {
        if self.room.reserve_bytes.swap(0, Ordering::AcqRel) == 0 {
            return Ok(false);
        }
        self.discard(&reserve_name())?;
        Ok(true)
    }

    /// Checks whether there is space again. If so, the store is not full any more.
    pub(super) fn find_room(&self) -> Result<(), StoreError> {
        let beside = AHEADS_TRIED.saturating_mul(self.options.journal_ahead_bytes);
        if !self.has_room(self.reserve_missing().saturating_add(beside))? {
            return Ok(());
        }
        let tried = self.take_reserve().and_then(|()| {
            self.allocate(&trial_name(), beside)?;
            self.discard(&trial_name())
        });
        match tried {
            Ok(()) => self.note_room(),
            Err(error) if error.is_full() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes a file of `bytes` without content. If there is no space for it, makes none.
    fn allocate(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        self.look()?;
        self.or_discard(name, || self.files.create_file(name)?.allocate(bytes))
    }

    /// Runs `work`, which makes the file `name`. If it finds no space, removes that file.
    pub(super) fn or_discard<T>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let done = work();
        if done.as_ref().is_err_and(StoreError::is_full) {
            self.discard(name)?;
        }
        done
    }

    /// Removes a file that is not part of the store, if it exists.
    pub(super) fn discard(&self, name: &str) -> Result<(), StoreError> {
        self.look()?;
        let files: &dyn Files = &*self.files;
        files.remove_if_there(name)
    }
}
