//! The durable store: a storage engine for one large set of fixed-size keys. Almost all of its
//! queries are membership tests.
//!
//! Invariant: after any crash the store opens at the last commit that returned, or at the complete
//! commit that was in flight. A file with content that no crash can explain is rejected with its
//! name and offset, and never repaired.
//!
//! # Overview
//!
//! A log-structured merge tree (O'Neil et al., 1996) without values, updates or deletions.
//! Therefore a key is in exactly one place, places have no order among them, and a compaction never
//! drops a key. The counts are the sums of the set. They are kept separately in memory, and a
//! recount ([`verify`](super::verify)) proves that they are equal to the set.
//!
//! ```text
//!  insert ──► absent from staged keys, memtable, frozen memtable and runs? ──► staged keys
//!  staged keys ── commit ──► journal ──► memtable ── full ──► frozen memtable
//!  frozen memtable ── flush: sorted, with index and filter ──► runs ── compaction ──► runs
//! ```
//!
//! # Files
//!
//! | file | content | format |
//! |---|---|---|
//! | `journal-N` | the commits since the checkpoint, one record each | `journal`, `record` |
//! | `run-N` | ascending keys in blocks, with an index and a filter | `run`, `block`, `filter` |
//! | `checkpoint-N` | dictionary, counts, position, completeness | `checkpoint` |
//! | `GENERATION` | the generation that the queue on the broker holds too | `generation` |
//! | `journal-spare.tmp` | a flushed segment that becomes the next segment | `journal` |
//! | `room-reserve.tmp` | reserved space for a flush on a full disk | `room` |
//! | `MANIFEST` | the runs, the checkpoint, and the first segment after them | `manifest` |
//!
//! Every file is little-endian, has a version at its start, and is covered by checksums: CRC-32
//! (IEEE), which detects every burst error of up to 32 bits. A file number is never used again once
//! a manifest contained it.
//!
//! # Commit
//!
//! The store writes one record with the new tenants, applied batches and keys over existing bytes
//! (an older segment, or zeros) and syncs it. It then checks that the journal still has its name
//! and that the directory is still at its path. Then it makes keys and counts visible to readers,
//! under one lock. The record does not contain counts: they follow from the keys. One commit is in
//! flight at a time.
//!
//! When the memtable would overflow (or its segment is [`DiskOptions::segment_bytes_max`] long),
//! the store freezes it and starts a new memtable and a new segment: a segment corresponds to
//! exactly one memtable. A background thread writes the frozen keys as a run and the committed
//! state at the time of the freeze as a checkpoint, syncs both, replaces the manifest, and keeps
//! the segment as space for a later one. **Backpressure:** at most one memtable is frozen. A commit
//! that fills the next one before the flush ends waits for it, and a flush waits while there are 64
//! runs. So memory and the number of runs are bounded, and a disk that is too slow slows commits
//! down.
//!
//! # Lookup
//!
//! A lookup checks the memtable, the frozen memtable, each run from the newest to the oldest, and
//! last the staged keys. The filter of a run (12 bits per key, if memory allows) rules out about
//! 199 of 200 absent keys. For the other keys, the index in memory gives the only block of 4 KiB
//! that can contain the key; the store reads and checks that block. New items, the common case,
//! cost a few cache misses per run and one block read per run for about one key in two hundred.
//! Duplicates cost one block read, from the page cache if the block is cached.
//!
//! A whole batch is looked up at once, one place after the other. The lookups in one place do not
//! depend on each other, so the processor waits for many cache misses at the same time. Large
//! filters are in huge pages.
//!
//! # Filters
//!
//! Filters of full size take 1.5 bytes per key. During a compaction the filters of its inputs and
//! of its output are in memory at the same time. All filters share one budget: before a run is
//! written, other filters are *folded* to half their size, or dropped, until the new filter fits
//! (`filters`, `budget`). A filter of half the size lets about one absent key in ten pass; a run
//! without a filter lets every key pass. Each such key costs a block read, but never changes an
//! answer. If `memory_bytes_max` is at least 7.5 bytes per key, of which at least half is for
//! filters, filters are never folded. With less memory, new items cost more reads, at most one per
//! run. Small runs keep their filters longest.
//!
//! # Compaction
//!
//! See `compaction`: four runs of a tier become one run of the next. With n keys and memtables of
//! m, there are at most about 3·log₄(n/m) runs (plus the inputs of running compactions), and a key
//! is rewritten log₄(n/m) times. A compaction streams: it needs memory for some blocks of each
//! input, and for the index and filter of its output in addition to those of the inputs. Smaller
//! compactions preempt larger ones. Readers hold references to the runs that they read; the last
//! one removes the file of an obsolete run.
//!
//! # Ingest
//!
//! An ingest adds another store's snapshot while commits continue. It writes the keys that the
//! store does not have to ingest runs that no manifest contains (`ingest_keys`). It sorts one
//! memtable's worth of keys at a time, so it needs memory for one more memtable. Tenants that the
//! store does not know have provisional numbers in these runs. To finish (`ingest`), the store
//! commits the write batch and flushes the memtable. Then it streams the keys of the ingest runs
//! into one run, with their final tenant numbers and without the keys that commits added since. It
//! writes a checkpoint of the combined committed state, and **one manifest** that contains both.
//! The journal is empty at that moment and no commit gets a number, so recovery does not know about
//! ingests: before the manifest the store is the old one with all commits, after it the combined
//! one. The next opening removes files that no manifest contains.
//!
//! The finish blocks commits, but not readers. It takes about as long as a compaction of the ingest
//! runs, plus lookups for the keys of tenants that were known before. In a store that catches up,
//! nearly all keys are known and therefore not in the ingest runs. In a store that joins, nearly
//! all tenants are new and need no lookup. Until the finish ends, the ingested keys take their disk
//! space twice.
//!
//! # Recovery
//!
//! The manifest gives the runs, the checkpoint and the first segment. Recovery replays the records
//! of the segments over them. A record that fails its checks is a *torn tail* if no valid record
//! follows: a crash leaves such a record. If a valid record follows, or a later segment starts
//! beyond it, the record was committed, and the store refuses to open. Records contain the random
//! salt of their segment, so neither older bytes nor a client's text in a torn record can pass as a
//! record. Recovery writes and syncs the last record again before it becomes visible, because the
//! process that wrote it may have died before the sync. Recovery cannot distinguish a torn write
//! from later damage that reaches to the last commit of the journal with nothing valid after it.
//!
//! Any failed write, sync or check poisons the store: it acknowledges nothing afterwards, and only
//! opening it again, from the state on disk, clears the error. There is one exception.
//!
//! # Full disk
//!
//! A write or an allocation that finds no space *before* the sync of its commit is undone without
//! poisoning the store, because no durable state depends on it yet. A commit erases the header of
//! its record, so that no opening takes the record for a commit, and drops the write batch. A
//! flush, a compaction or an ingest removes the files that it made. Then the store is *full*: it
//! commits nothing, answers from the state that it has, and resumes when there is space again
//! (`room`). An error from a sync, also for lack of space, always poisons the store, because it is
//! unknown what was written.
//!
//! # Costs
//!
//! A key takes about 14 bytes of disk. A compaction needs the disk space of its inputs a second
//! time until it ends. Memtables and filters take [`DiskOptions::memory_bytes_max`], independent of
//! the number of keys. In addition there are the indexes (16 bytes per block of about 290 keys) and
//! the committed state (about 150 bytes per tenant). Tenants with one or two keys cost up to 18
//! bytes per key. Every flush writes the whole dictionary: about 30 bytes per tenant.
//!
//! # Tests
//!
//! All file operations go through `Files`. The tests replace it with a simulated disk. At a crash,
//! it keeps any subset of the sectors of unsynced writes and of the unsynced names of files and
//! directories. The tests inject a crash, an error or a full disk at every operation of a history,
//! and a crash at an operation after the disk became full. The contract suite is in `tests/store`.

mod block;
mod budget;
mod checkpoint;
mod commit;
mod compaction;
mod filter;
mod filters;
mod flush;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
mod huge_pages;
mod ingest;
mod ingest_keys;
mod journal;
mod manifest;
mod memtable;
mod merge_iter;
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
mod writer;

pub use reader::DiskReader;
pub use writer::DiskStore;

use std::time::Duration;

/// Limits of a [`DiskStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Memory limit in bytes. Up to half is for keys that are not in a run yet: two memtables, and
    /// a sorted copy during a flush. An open ingest needs as much as such a copy in addition to the
    /// limit. The rest is for the filters of the runs.
    pub memory_bytes_max: usize,
    /// Size in bytes at which a journal segment ends even if its memtable is not full.
    pub segment_bytes_max: u64,
    /// Number of bytes that the journal fills with zeros ahead of its records.
    pub journal_ahead_bytes: u64,
    /// Interval at which a full store checks whether the disk has space again.
    pub room_interval: Duration,
}

/// Two memtables of 917504 keys: about a second of heavy traffic between flushes, with little
/// memory. Filters of 12 bits per key for 22 million keys, even during a compaction of all of them.
pub const MEMORY_BYTES_MAX_DEFAULT: usize = 128 << 20;
/// Enough for a full memtable of commits with a few items each.
pub const SEGMENT_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// A few dozen commits of 1000 items between two extensions of the journal.
pub const JOURNAL_AHEAD_BYTES_DEFAULT: u64 = 1 << 20;
/// Short enough that the store resumes soon after space was freed, and long enough that the checks
/// cost almost nothing.
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

/// Maximum size of a key in a run in bytes, including its share of filter and index, if tenants
/// have more than a few keys.
const RUN_KEY_BYTES_MAX: u64 = 18;

/// Bytes that a flush writes in addition to its keys: the blocks of a small run, a manifest, a
/// checkpoint of a few hundred tenants.
const FLUSH_BYTES: u64 = 32 * 1024;

/// Minimum number of slots of a memtable.
const TABLE_PLACES_MIN: usize = 16;

/// Bytes per slot: one slot in each of two memtables, and its key in the sorted copy.
const TABLES_PLACE_BYTES: usize = 2 * memtable::PLACE_BYTES + super::KEY_BYTES * 7 / 8;

impl DiskOptions {
    /// Number of keys of a full memtable. A single commit with more keys gets its own memtable that
    /// exceeds the limit: the caller must bound the size of a commit.
    fn table_keys_max(&self) -> usize {
        self.table_places() / 8 * 7
    }

    /// Number of slots of a memtable: a power of two. A memtable grows when it is more than seven
    /// eighths full.
    fn table_places(&self) -> usize {
        let places = (self.memory_bytes_max / 2 / TABLES_PLACE_BYTES).max(TABLE_PLACES_MIN);
        (places + 1).next_power_of_two() / 2
    }

    /// Size of the reserve in bytes: the size of a flush of a full memtable and of a new segment,
    /// but at most [`room::RESERVE_BYTES_MAX`].
    fn reserve_bytes(&self) -> u64 {
        let run_bytes = self.table_keys_max() as u64 * RUN_KEY_BYTES_MAX;
        let bytes = run_bytes.saturating_add(self.journal_ahead_bytes + FLUSH_BYTES);
        bytes.min(room::RESERVE_BYTES_MAX)
    }

    /// Memory for the filters of all runs, in bytes: the part of the limit that the memtables do
    /// not use, which is at least half.
    fn filters_bytes_max(&self) -> u64 {
        let tables_bytes = self.table_places() * TABLES_PLACE_BYTES;
        self.memory_bytes_max.saturating_sub(tables_bytes) as u64
    }
}
