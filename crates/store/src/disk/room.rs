//! Room on the disk: what is done when there is none, and how it is noticed that there is some
//! again.
//!
//! Invariant: while the store is full nothing is committed and nobody waits for room; whatever
//! found none is undone, and what was committed before can be read.
//!
//! The store is *full* from the moment that a commit or a flush finds no room. It ends once no
//! flush waits for room, the *reserve* is whole, and as much can be allocated as the next commit
//! may take, which is tried every [`DiskOptions::room_interval`](super::DiskOptions). So what has
//! room once the store is not full any more has some for a while, and posts are not taken and
//! refused in turns.
//!
//! The reserve is a file of at most [`RESERVE_BYTES_MAX`] that nothing is kept in. Only a flush
//! that finds no room takes it away, once: what the journal holds then becomes a run, and its
//! segment is the next one's space. Without it a small disk that is full of journal could wait for
//! room that only a flush makes. An opening and a clean stop take it away too, for what they write.
//!
//! A merge takes much room for a while and makes none, so it waits (see [`super::merge`]).

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::StoreError;
use super::shared::Shared;
use crate::files::{Files, TEMPORARY};

/// How the names of files begin that only take room. They end as those of files that are still
/// being made, so that openings remove them.
pub(super) const FAMILY: &str = "room-";

/// The most bytes of the reserve.
pub(super) const RESERVE_BYTES_MAX: u64 = 8 << 20;

/// How often [`DiskOptions::journal_ahead_bytes`](super::DiskOptions) must have room beside the
/// reserve for the store not to be full any more: for a new segment and for the first records
/// beyond it.
const AHEADS_TRIED: u64 = 2;

/// The name of the reserve's file.
pub(super) fn reserve_name() -> String {
    format!("{FAMILY}reserve{TEMPORARY}")
}

/// The name of a file that is made to see whether it has room, and is removed at once.
fn trial_name() -> String {
    format!("{FAMILY}trial{TEMPORARY}")
}

/// Whether the store is full, and its reserve.
#[derive(Default)]
pub(super) struct Room {
    is_full: AtomicBool,
    /// What found no room first; none while the store is not full.
    cause: Mutex<Option<StoreError>>,
    /// Bytes of the reserve; 0 while there is none.
    pub(super) reserve_bytes: AtomicU64,
    /// Whether the system allows no file of its size.
    has_no_reserve: AtomicBool,
}

impl Shared {
    /// Whether the store is full.
    pub(super) fn is_full(&self) -> bool {
        self.room.is_full.load(Ordering::Acquire)
    }

    /// [`StoreError::Full`], as it was said first, while the store is full.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        if !self.is_full() {
            return Ok(());
        }
        let cause = self.room.cause.lock();
        cause.as_ref().map_or(Ok(()), |why| Err(why.duplicate()))
    }

    /// Notes that something found no room; whoever waits for a change is still to be told.
    pub(super) fn note_full(&self, error: &StoreError) {
        let mut cause = self.room.cause.lock();
        if cause.is_none() {
            tracing::error!(
                %error,
                "the disk is full: nothing more is taken until there is room; what is there can be read"
            );
            *cause = Some(error.duplicate());
        }
        self.room.is_full.store(true, Ordering::Release);
    }

    fn note_room(&self) {
        // A flush that has come to wait meanwhile keeps the store full.
        let state = self.state();
        if state.flush_waits {
            return;
        }
        *self.room.cause.lock() = None;
        self.room.is_full.store(false, Ordering::Release);
        tracing::info!("the disk has room again");
    }

    /// Whether files may take `bytes` more, as far as the file system says. A quota may still
    /// refuse them.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool, StoreError> {
        let room = self.files.room_left()?;
        Ok(room.is_none_or(|room| room >= bytes))
    }

    /// Takes the reserve, unless it is there.
    pub(super) fn take_reserve(&self) -> Result<(), StoreError> {
        let bytes = self.reserve_missing();
        if bytes == 0 {
            return Ok(());
        }
        match self.allocate(&reserve_name(), bytes) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::FileTooLarge => {
                // Larger files can't be had at all: the limit is met elsewhere, as an error like
                // any other.
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

    /// Bytes that the reserve is to have and has not.
    fn reserve_missing(&self) -> u64 {
        let held = self.room.reserve_bytes.load(Ordering::Acquire);
        match held > 0 || self.room.has_no_reserve.load(Ordering::Acquire) {
            true => 0,
            false => self.options.reserve_bytes(),
        }
    }

    /// Gives the reserve away; says whether there was one.
    pub(super) fn release_reserve(&self) -> Result<bool, StoreError> {
        if self.room.reserve_bytes.swap(0, Ordering::AcqRel) == 0 {
            return Ok(false);
        }
        self.discard(&reserve_name())?;
        Ok(true)
    }

    /// Looks whether there is room again, and ends being full then.
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

    /// Makes a file of `bytes` that nothing is kept in, or none.
    fn allocate(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        self.look()?;
        self.or_discard(name, || self.files.create_file(name)?.allocate(bytes))
    }

    /// Does `work`, which makes the file `name`: where it finds no room nothing of that file stays.
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

    /// Removes a file that is no part of the store, if it is there.
    pub(super) fn discard(&self, name: &str) -> Result<(), StoreError> {
        self.look()?;
        let files: &dyn Files = &*self.files;
        files.remove_if_there(name)
    }
}
