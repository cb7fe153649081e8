//! The durable store: our own seen-set engine.
mod block;
mod checkpoint;
mod filter;
mod flush;
mod journal;
mod key_set;
mod manifest;
mod merge;
mod merged;
mod reader;
mod record;
mod recovery;
mod run;
mod run_writer;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::DiskReader;
pub use writer::DiskStore;

/// Limits of a [`DiskStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Bytes of memory for keys that are in no run yet: two tables, and a sorted copy while one is flushed.
    pub memory_bytes_max: usize,
    /// Bytes after which a journal segment ends even if its table is not full.
    pub segment_bytes_max: u64,
    /// Bytes of zeros that the journal keeps written ahead of its records.
    pub journal_ahead_bytes: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            segment_bytes_max: 64 << 20,
            journal_ahead_bytes: 1 << 20,
        }
    }
}

/// The fewest places of a table.
const TABLE_PLACES_MIN: usize = 16;

impl DiskOptions {
    /// Keys after which a table is full.
    fn table_keys_max(&self) -> usize {
        // Tables have a power of two of places and are seven eighths full before they would grow.
        let place_bytes = 2 * key_set::PLACE_BYTES + super::KEY_BYTES * 7 / 8;
        let places = (self.memory_bytes_max / place_bytes).max(TABLE_PLACES_MIN);
        let places = (places + 1).next_power_of_two() / 2;
        places / 8 * 7
    }
}
