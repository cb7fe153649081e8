//! Writes a run.
//!
//! Invariant: a run that [`RunWriter::finish`] returns is on disk completely. Its name becomes
//! durable when the manifest is written.

use std::sync::Arc;

use super::super::{Key, StoreError};
use super::block::{BLOCK_BYTES, BlockBuilder};
use super::filter::{Filter, Fingerprint};
use super::filters::RunFilter;
use super::run::{FOOT_BYTES, Foot, HEAD_BYTES, HEAD_MAGIC, Run, VERSION, name};
use crate::vfs::{DiskFile, Files};

/// Size in bytes of the write buffer.
const BUFFER_BYTES: usize = 64 * BLOCK_BYTES;

/// Number of keys that are added to the filter at once.
const FINGERPRINTS_AT_ONCE: usize = 256;

/// Number of bytes between two syncs. Small syncs prevent the sync of a commit from waiting for the
/// sync of a whole run.
const SYNC_BYTES: u64 = 2 << 20;

/// Writes ascending keys as a run. Beyond the index and the filter of the run, its memory is
/// bounded.
pub(super) struct RunWriter {
    files: Arc<dyn Files>,
    file: DiskFile,
    number: u64,
    keys: u64,
    block: BlockBuilder,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    first_keys: Vec<Key>,
    filter: Arc<RunFilter>,
    /// The fingerprints of keys that are not in the filter yet.
    fingerprints: Vec<Fingerprint>,
}

impl RunWriter {
    /// Starts the run `number` with an empty filter.
    pub(super) fn create(
        files: Arc<dyn Files>,
        number: u64,
        filter: Arc<RunFilter>,
    ) -> Result<Self, StoreError> {
        let file = files.create_file(&name(number))?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + BLOCK_BYTES);
        buffer.extend_from_slice(&HEAD_MAGIC);
        buffer.extend_from_slice(&VERSION.to_le_bytes());
        buffer.extend_from_slice(&number.to_le_bytes());
        let crc = crc32fast::hash(&buffer);
        buffer.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(buffer.len(), HEAD_BYTES);
        buffer.resize(BLOCK_BYTES, 0);
        Ok(Self {
            files,
            file,
            number,
            keys: 0,
            block: BlockBuilder::new(),
            buffer,
            written: 0,
            synced: 0,
            first_keys: Vec::new(),
            filter,
            fingerprints: Vec::with_capacity(FINGERPRINTS_AT_ONCE),
        })
    }

    /// Appends the next key.
    pub(super) fn push(&mut self, key: Key) -> Result<(), StoreError> {
        if self.block.is_empty() {
            self.first_keys.push(key);
        }
        if !self.block.push(&key) {
            self.end_block()?;
            self.first_keys.push(key);
            self.block.push(&key);
        }
        self.fingerprints.push(Fingerprint::of(&key));
        if self.fingerprints.len() >= FINGERPRINTS_AT_ONCE {
            self.add_to_filter();
        }
        self.keys += 1;
        Ok(())
    }

    /// Writes the rest and syncs the file.
    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.add_to_filter();
        let mut index_crc = crc32fast::Hasher::new();
        for at in 0..self.first_keys.len() {
            let key = self.first_keys[at];
            index_crc.update(&key.0);
            self.put(&key.0)?;
        }
        let (filter_bytes, filter_crc) = self.put_filter()?;
        let foot = Foot {
            run: self.number,
            blocks: self.first_keys.len() as u64,
            keys: self.keys,
            filter_bytes,
            index_crc: index_crc.finalize(),
            filter_crc,
        };
        self.put(&foot.encode())?;
        self.flush()?;
        debug_assert_eq!(Some(self.written), foot.file_bytes(), "{FOOT_BYTES}");
        self.file.sync()?;
        // Releases the memory that doubling left unused.
        self.first_keys.shrink_to_fit();
        Ok(Run::new(
            self.files,
            self.file,
            foot,
            self.first_keys,
            self.filter,
        ))
    }

    /// Writes the filter. Returns its length and checksum.
    fn put_filter(&mut self) -> Result<(u64, u32), StoreError> {
        let filter = Arc::clone(&self.filter);
        let written = {
            let filter = filter.read();
            let bytes = filter.as_ref().map_or(&[][..], Filter::bytes);
            for part in bytes.chunks(BUFFER_BYTES) {
                self.put(part)?;
            }
            (bytes.len() as u64, crc32fast::hash(bytes))
        };
        filter.end_building();
        Ok(written)
    }

    fn add_to_filter(&mut self) {
        self.filter.add(&self.fingerprints);
        self.fingerprints.clear();
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        let number = (self.first_keys.len() as u64).saturating_sub(1);
        self.block.finish(self.number, number, &mut self.buffer);
        self.flush_if_full()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<(), StoreError> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }
}
