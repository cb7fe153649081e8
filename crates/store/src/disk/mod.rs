//! The durable store: our own engine for one large set of fixed-size keys, asked almost only "is it
//! there?".
//!
//! Invariant: after any crash the store opens at the last commit that returned, or at the one that
//! was being made, whole; a file that no crash can explain is refused by name and offset, and never
//! repaired.
//!
//! # What it is
//!
//! A log-structured merge tree (O'Neil et al., 1996) without values, updates or deletions. That
//! leaves little: a key is in exactly one place, places have no order among them, and a merge never
//! drops anything. The counts are the set's sums, kept apart in memory and proven equal by a
//! recount ([`verify`](super::verify)).
//!
//! ```text
//!  insert ── absent from staged, table, frozen table, runs? ──► staged keys ── commit ──► journal ──► table
//!                                                                                                      │ full
//!                             runs ◄── merges ── runs ◄── sorted, with index and filter ◄── frozen table
//! ```
//!
//! # Files
//!
//! | file | what | format |
//! |---|---|---|
//! | `journal-N` | the commits since the checkpoint, one record each | `journal`, `record` |
//! | `run-N` | keys in ascending order, in blocks, with an index and a filter | `run`, `block`, `filter` |
//! | `checkpoint-N` | dictionary, counts, position, completeness | `checkpoint` |
//! | `GENERATION` | what its queue on the broker holds too, for a store behind one | `generation` |
//! | `journal-spare.tmp`, `room-reserve.tmp` | a flushed segment that becomes the next one; room for a flush on a full disk | `journal`, `room` |
//! | `MANIFEST` | which runs and which checkpoint are the store, and the first segment after them | `manifest` |
//!
//! Everything is little-endian, has a version at its start, and is covered by checksums: CRC-32
//! (IEEE), which finds every burst of up to 32 bits. Numbers of files are never used twice once a
//! manifest named them.
//!
//! # Commit
//!
//! One record with the new tenants, applied batches and keys is written over what was written
//! before (an older segment, or zeros) and synced; the journal still has its name and the folder
//! its place; then keys and counts become visible to readers, under one lock. Counts are not in the
//! record: they follow from the keys. One commit is in flight at a time.
//!
//! When the table would overflow (or its segment is [`DiskOptions::segment_bytes_max`] long), it is
//! frozen, and a new table and a new segment begin: a segment holds exactly one table. A background
//! thread writes the frozen keys as a run and the cut as of then as a checkpoint, syncs both, puts
//! a new manifest in place, and keeps the segment as space for the next one. **Backpressure:** at
//! most one table is frozen; a commit that fills the next one meanwhile waits, and a flush waits
//! while there are 64 runs. So memory and the number of runs are bounded, and a disk that is too
//! slow slows commits.
//!
//! # Lookup
//!
//! Table, frozen table, then each run from the newest, last the staged keys: a run's filter (12
//! bits a key, as long as memory allows) denies about 199 of 200 absent keys; for the rest the
//! index in memory names the one block of 4 KiB that could have the key, which is read and checked.
//! New items, the common case, cost a few cache misses for each run and about a block read in two
//! hundred per run; duplicates cost one block read, from the system's cache when it is there.
//!
//! A whole batch is looked up at once, place by place. The look-ups of one place do not depend on
//! each other, so the processor waits for many cache misses at a time, and large filters lie in
//! huge pages.
//!
//! # Filters
//!
//! At full size they take 1.5 bytes a key, and those of a merge's inputs and output are needed at
//! once. All have one budget: before a run is written, other filters are *folded* to half their
//! size, or dropped, until its own has room (`filters`, `budget`). At half the size about one
//! absent key in ten passes, without a filter every one: that costs a block read, never an answer.
//! With 7.5 bytes of `memory_bytes_max` for each key, of which at least half is for filters, they
//! are never folded; with less new items cost more and more reads, at most one for each run. Small
//! runs keep their filters longest.
//!
//! # Merges
//!
//! See `merge`: four runs of a tier become one of the next. With n keys and tables of m, there are
//! at most about 3·log₄(n/m) runs (plus those being merged), and a key is rewritten log₄(n/m)
//! times. A merge streams: its memory is some blocks for each input, and the index and filter of
//! its output, which have room beside theirs. Smaller merges overtake larger ones. Readers hold the
//! runs that they read; a file goes with its last reader.
//!
//! # Uniting
//!
//! Another store's snapshot enters beside the commits, which go on. Keys that the store does not
//! have are set aside in runs that no manifest names (`aside`), sorted a table at a time, so memory
//! is bounded by one more table; tenants that the store does not know have provisional numbers
//! there. At the finish (`unite`) what is staged is committed and the table flushed; then the keys
//! set aside stream into one run, under their true numbers and without those that arrived by
//! commits meanwhile; a checkpoint of the united cut is written; and **one manifest** names both.
//! The journal is empty at that moment and no commit gets a number, so recovery knows nothing of
//! unites: before the manifest the store is the old one with all commits, after it the united one.
//! Files that nothing names go at the next opening.
//!
//! The finish holds up commits, not readers: about as long as a merge of what was set aside takes,
//! plus lookups for the keys of tenants that were known before. In a store that is healed nearly
//! all keys are known, and so were never set aside; in one that joins nearly all tenants are new,
//! and need no lookup. Disk space for what was set aside is needed twice until it ends.
//!
//! # Recovery
//!
//! The manifest names runs, checkpoint and first segment; the segments' records are replayed on
//! top. A record that fails its checks is a *torn tail* when nothing valid follows, which is what a
//! crash leaves. If a valid record follows, or a later segment starts beyond it, it was committed,
//! and opening refuses. Records carry their segment's random salt, so neither older bytes nor a
//! client's text in a torn record can pass for one. The last record is written and synced again
//! before anyone sees it: it may have been written by a process that did not live to sync it. What
//! can't be told from a torn write is later damage that reaches to the last commit of the journal,
//! with nothing valid after it.
//!
//! Any failed write, sync or check poisons the store: nothing is acknowledged after it, and only
//! opening it again, which starts from what is on disk, goes on. There is one exception.
//!
//! # A full disk
//!
//! A write or an allocation that finds no room, *before* the sync of its commit, is undone, and
//! nobody is poisoned: nothing durable depends on it yet. A commit loses its record's head, so that
//! no opening takes the record for a commit, and what was staged is forgotten; a flush, a merge or
//! a unite removes the files that it made. Then the store is *full*: it commits nothing, answers
//! from what it has, and goes on by itself once there is room (`room`). Whatever a sync says, want
//! of room included, is final: nobody knows what it wrote.
//!
//! # Costs
//!
//! About 14 bytes of disk for each key; a merge needs its inputs' disk space a second time until it
//! ends. Tables and filters take [`DiskOptions::memory_bytes_max`], however many keys there are.
//! Beside them are the indexes (16 bytes for each block of about 290 keys) and the cut (about 150
//! bytes a tenant). Tenants with one or two keys cost up to 18 bytes a key. Every flush writes the
//! whole dictionary: about 30 bytes a tenant.
//!
//! # Tests
//!
//! All file operations go through `Files`; the tests put a simulated disk under it that keeps, at a
//! crash, any sectors of unsynced writes and any unsynced names of files and folders, and let a
//! crash, an error or a full disk hit every operation of a history, and a crash what follows a full
//! disk. The contract suite is in `tests/store`.

mod aside;
mod block;
mod budget;
mod checkpoint;
mod commit;
mod filter;
mod filters;
mod flush;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
mod journal;
mod key_set;
mod manifest;
mod merge;
mod merged;
mod pages;
mod reader;
mod record;
mod recovery;
mod room;
mod run;
mod run_writer;
mod shared;
mod staging;
#[cfg(test)]
mod tests;
mod unite;
mod writer;

pub use reader::DiskReader;
pub use writer::DiskStore;

use std::time::Duration;

/// Limits of a [`DiskStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Bytes of memory. Up to half is for keys that are in no run yet: two tables, and a sorted
    /// copy while one is flushed; an open unite takes the size of such a copy more. The rest is for
    /// the runs' filters.
    pub memory_bytes_max: usize,
    /// Bytes after which a journal segment ends even if its table is not full.
    pub segment_bytes_max: u64,
    /// Bytes of zeros that the journal keeps written ahead of its records.
    pub journal_ahead_bytes: u64,
    /// How often it is looked whether a full disk has room again.
    pub room_interval: Duration,
}

/// Two tables of 917504 keys: about a second of heavy traffic between flushes, and little memory.
/// Filters of 12 bits a key for 22 million keys, even while all of them are merged.
pub const MEMORY_BYTES_MAX_DEFAULT: usize = 128 << 20;
/// Room for a full table of commits of a few items each.
pub const SEGMENT_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Some dozen commits of 1000 items between two extensions of the journal.
pub const JOURNAL_AHEAD_BYTES_DEFAULT: u64 = 1 << 20;
/// Soon enough for whoever has made room, and next to nothing to do meanwhile.
pub const ROOM_INTERVAL_DEFAULT: Duration = Duration::from_millis(500);

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: MEMORY_BYTES_MAX_DEFAULT,
            segment_bytes_max: SEGMENT_BYTES_MAX_DEFAULT,
            journal_ahead_bytes: JOURNAL_AHEAD_BYTES_DEFAULT,
            room_interval: ROOM_INTERVAL_DEFAULT,
        }
    }
}

/// Bytes that a key takes in a run at most, with its part of filter and index, where tenants have
/// more than a few keys.
const RUN_KEY_BYTES_MAX: u64 = 18;

/// Bytes that a flush takes beside its keys: the blocks of a small run, a manifest, a checkpoint of
/// some hundred tenants.
const FLUSH_BYTES: u64 = 32 * 1024;

/// The fewest places of a table.
const TABLE_PLACES_MIN: usize = 16;

/// Bytes that one place takes in both tables, and its key in the sorted copy.
const TABLES_PLACE_BYTES: usize = 2 * key_set::PLACE_BYTES + super::KEY_BYTES * 7 / 8;

impl DiskOptions {
    /// Keys after which a table is full. One commit with more keys than that gets a table of its
    /// own, larger than the limit: what one commit stages is its caller's to bound.
    fn table_keys_max(&self) -> usize {
        self.table_places() / 8 * 7
    }

    /// Tables have a power of two of places and are seven eighths full before they would grow.
    fn table_places(&self) -> usize {
        let places = (self.memory_bytes_max / 2 / TABLES_PLACE_BYTES).max(TABLE_PLACES_MIN);
        (places + 1).next_power_of_two() / 2
    }

    /// Bytes of the reserve: what a flush of a full table takes and a new segment beside it, but at
    /// most [`room::RESERVE_BYTES_MAX`].
    fn reserve_bytes(&self) -> u64 {
        let run_bytes = self.table_keys_max() as u64 * RUN_KEY_BYTES_MAX;
        let bytes = run_bytes.saturating_add(self.journal_ahead_bytes + FLUSH_BYTES);
        bytes.min(room::RESERVE_BYTES_MAX)
    }

    /// Bytes of memory for the filters of all runs: what the tables leave, which is at least half.
    fn filters_bytes_max(&self) -> u64 {
        let tables_bytes = self.table_places() * TABLES_PLACE_BYTES;
        self.memory_bytes_max.saturating_sub(tables_bytes) as u64
    }
}
