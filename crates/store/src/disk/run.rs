//! A run: an immutable file of keys in ascending order.
//!
//! Invariant: the file of a run never changes once a manifest contains it. It is removed when it is
//! obsolete and its last reader has released it.
//!
//! Layout, little-endian: a header block ([`BLOCK_BYTES`]: magic `HCRN`, version u32, run u64,
//! CRC-32 of these, zeros); the blocks (see [`super::block`]); the first key of each; the filter's
//! words (see [`super::filter`]; none if there was no room for it); the footer, [`FOOT_BYTES`]:
//! magic `HCRF`, run u64, blocks u64, keys u64, filter bytes u64, CRC-32 of the first keys, CRC-32
//! of the filter, CRC-32 of the preceding footer bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{KEY_BYTES, Key, StoreError};
use super::block::{self, BLOCK_BYTES};
use super::budget::Share;
use super::filter::{self, ASKED_AT_ONCE, Filter, Fingerprint};
use super::filters::RunFilter;
use crate::bytes::{Cursor, START_BYTES, append_checksum};
use crate::vfs::{DiskFile, Files};

pub(super) const HEAD_MAGIC: [u8; 4] = *b"HCRN";
pub(super) const FOOT_MAGIC: [u8; 4] = *b"HCRF";
/// Version 2: the bits of filters are fields of the fingerprint.
pub(super) const VERSION: u32 = 2;
pub(super) const FOOT_BYTES: u64 = 48;
/// Size of the header in bytes, without its zeros.
pub(super) const HEAD_BYTES: usize = 20;

/// Number of bytes per read of a filter: a multiple of its block size.
const FILTER_READ_BYTES: u64 = 1 << 18;

/// Returns the file name of a run.
pub(super) fn name(run: u64) -> String {
    format!("run-{run:016x}")
}

/// An open run. Its index and its filter, as far as the budget allows, are in memory; its blocks
/// are on disk.
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) keys: u64,
    file: DiskFile,
    foot: Foot,
    first_keys: Vec<Key>,
    pub(super) filter: Arc<RunFilter>,
    files: Arc<dyn Files>,
    obsolete: AtomicBool,
}

/// The footer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foot {
    pub(super) run: u64,
    pub(super) blocks: u64,
    pub(super) keys: u64,
    pub(super) filter_bytes: u64,
    pub(super) index_crc: u32,
    pub(super) filter_crc: u32,
}

impl Foot {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOT_BYTES as usize);
        out.extend_from_slice(&FOOT_MAGIC);
        out.extend_from_slice(&self.run.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.keys.to_le_bytes());
        out.extend_from_slice(&self.filter_bytes.to_le_bytes());
        out.extend_from_slice(&self.index_crc.to_le_bytes());
        out.extend_from_slice(&self.filter_crc.to_le_bytes());
        append_checksum(&mut out);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::checked(bytes)?;
        cursor.array().filter(|magic| *magic == FOOT_MAGIC)?;
        let foot = Self {
            run: cursor.u64()?,
            blocks: cursor.u64()?,
            keys: cursor.u64()?,
            filter_bytes: cursor.u64()?,
            index_crc: cursor.u32()?,
            filter_crc: cursor.u32()?,
        };
        (cursor.remaining() == 0).then_some(foot)
    }

    /// The offset of the index (the first keys).
    pub(super) fn index_at(&self) -> Option<u64> {
        self.blocks.checked_add(1)?.checked_mul(BLOCK_BYTES as u64)
    }

    /// The offset of the filter.
    pub(super) fn filter_at(&self) -> Option<u64> {
        self.blocks
            .checked_mul(KEY_BYTES as u64)?
            .checked_add(self.index_at()?)
    }

    /// The length of the whole file.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.filter_at()?
            .checked_add(self.filter_bytes)?
            .checked_add(FOOT_BYTES)
    }
}

impl Run {
    /// Makes a run from a file that was just written.
    pub(super) fn new(
        files: Arc<dyn Files>,
        file: DiskFile,
        foot: Foot,
        first_keys: Vec<Key>,
        filter: Arc<RunFilter>,
    ) -> Self {
        Self {
            number: foot.run,
            keys: foot.keys,
            file,
            foot,
            first_keys,
            filter,
            files,
            obsolete: AtomicBool::new(false),
        }
    }

    /// Opens a run of a manifest and reads its index. [`Self::read_filter`] reads its filter.
    pub(super) fn open(files: Arc<dyn Files>, number: u64, keys: u64) -> Result<Self, StoreError> {
        let file = files.open_file(&name(number))?;
        let len = file.len()?;
        let mut head = [0; HEAD_BYTES];
        if len < BLOCK_BYTES as u64 + FOOT_BYTES {
            return Err(file.damaged(len, "the file is shorter than any run"));
        }
        file.read_at(&mut head, 0)?;
        check_head(&file, &head, number)?;
        let foot_at = len - FOOT_BYTES;
        let mut bytes = [0; FOOT_BYTES as usize];
        file.read_at(&mut bytes, foot_at)?;
        let foot = Foot::decode(&bytes)
            .filter(|foot| (foot.run, foot.keys) == (number, keys))
            .filter(|foot| foot.file_bytes() == Some(len))
            .filter(|foot| foot.filter_bytes.is_multiple_of(filter::BLOCK_BYTES as u64))
            .ok_or_else(|| file.damaged(foot_at, "the footer is corrupt"))?;
        let index_at = foot.index_at().unwrap_or_default();
        let filter_at = foot.filter_at().unwrap_or_default();
        // The footer's lengths add up to the length of the file, so the index cannot need more
        // memory than the file has bytes.
        let mut index = vec![0; (filter_at - index_at) as usize];
        file.read_at(&mut index, index_at)?;
        if crc32fast::hash(&index) != foot.index_crc {
            return Err(file.damaged(index_at, "the index does not match its checksum"));
        }
        let (first_keys, _) = index.as_chunks::<KEY_BYTES>();
        let first_keys = first_keys.iter().copied().map(Key).collect();
        let filter = RunFilter::new(keys);
        Ok(Self::new(files, file, foot, first_keys, filter))
    }

    /// The share of the filter with the size that it has in the file.
    pub(super) fn stored_share(&self) -> Share {
        Share {
            keys: self.keys,
            bytes: self.foot.filter_bytes,
            is_fixed: false,
        }
    }

    /// Reads the filter and folds it to `bytes`. If `bytes` is 0, only verifies its checksum.
    pub(super) fn read_filter(&self, bytes: u64) -> Result<Option<Filter>, StoreError> {
        let stored_bytes = self.foot.filter_bytes;
        let folds = filter::folds(stored_bytes, bytes);
        let start = self.foot.filter_at().unwrap_or_default();
        let mut filter = (bytes > 0).then(|| Filter::new(bytes));
        let mut crc = crc32fast::Hasher::new();
        let mut part = vec![0; stored_bytes.min(FILTER_READ_BYTES) as usize];
        for from in (0..stored_bytes).step_by(FILTER_READ_BYTES as usize) {
            part.truncate((stored_bytes - from) as usize);
            self.file.read_at(&mut part, start + from)?;
            crc.update(&part);
            if let Some(filter) = &mut filter {
                filter.add_folded(&part, from as usize / filter::BLOCK_BYTES, folds);
            }
        }
        if crc.finalize() != self.foot.filter_crc {
            let detail = "the filter does not match its checksum";
            return Err(self.file.damaged(start, detail));
        }
        Ok(filter)
    }

    /// Memory of the index in bytes.
    pub(super) fn index_bytes(&self) -> u64 {
        (self.first_keys.len() * KEY_BYTES) as u64
    }

    /// Size of the file in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.foot.file_bytes().unwrap_or_default()
    }

    /// The number of blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.first_keys.len() as u64
    }

    /// Marks the run as obsolete: no manifest contains it any more, and its last user removes its
    /// file.
    pub(super) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
        self.filter.retire();
    }

    /// Removes the keys that the run contains from `keys`, and their fingerprints from
    /// `fingerprints`. Adjacent keys of one block share its read.
    pub(super) fn remove_known(
        &self,
        keys: &mut Vec<Key>,
        fingerprints: &mut Vec<Fingerprint>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut may = [true; ASKED_AT_ONCE];
        let mut loaded = None;
        let filter = self.filter.read();
        let (mut kept, mut from) = (0, 0);
        while from < keys.len() {
            let to = keys.len().min(from + ASKED_AT_ONCE);
            if let Some(filter) = &*filter {
                filter.ask(&fingerprints[from..to], &mut may);
            }
            for at in from..to {
                let key = keys[at];
                if !may[at - from] || !self.find(&key, scratch, &mut loaded)? {
                    keys[kept] = key;
                    fingerprints[kept] = fingerprints[at];
                    kept += 1;
                }
            }
            from = to;
        }
        keys.truncate(kept);
        fingerprints.truncate(kept);
        Ok(())
    }

    /// Looks for `key` in its block. `loaded` is the number of the block in `scratch`.
    fn find(
        &self,
        key: &Key,
        scratch: &mut Vec<u8>,
        loaded: &mut Option<u64>,
    ) -> Result<bool, StoreError> {
        let after = self.first_keys.partition_point(|first| first <= key) as u64;
        let Some(number) = after.checked_sub(1) else {
            return Ok(false);
        };
        if *loaded != Some(number) {
            *loaded = None;
            self.read_blocks(number, 1, scratch)?;
            *loaded = Some(number);
        }
        block::contains(scratch, key).ok_or_else(|| self.bad_block(number))
    }

    /// Reads `count` blocks, starting with block `first`, into `bytes`, and verifies their
    /// checksums.
    pub(super) fn read_blocks(
        &self,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        bytes.resize(count as usize * BLOCK_BYTES, 0);
        self.file.read_at(bytes, block_at(first))?;
        for (number, block) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            if !block::is_intact(block, self.number, number) {
                return Err(self.bad_block(number));
            }
        }
        Ok(())
    }

    /// Makes the error for a damaged block.
    pub(super) fn bad_block(&self, number: u64) -> StoreError {
        self.file
            .damaged(block_at(number), "a block does not match its checksum")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            // If the removal fails, the next opening removes the file, because no manifest contains
            // it. A file of that name that another process made is not removed.
            let name = name(self.number);
            let is_ours = self.file.id().is_ok_and(|id| {
                let checked = self.files.check_name(&name, &self.file, id);
                checked.is_ok()
            });
            if is_ours {
                let _ = self.files.remove(&name);
            }
        }
    }
}

fn block_at(number: u64) -> u64 {
    (number + 1) * BLOCK_BYTES as u64
}

fn check_head(file: &DiskFile, head: &[u8; HEAD_BYTES], number: u64) -> Result<(), StoreError> {
    file.check_head(head, HEAD_MAGIC, VERSION, "a run")?;
    let mut cursor = Cursor::new(&head[START_BYTES..]);
    let crc = crc32fast::hash(&head[..16]);
    if cursor.u64() != Some(number) || cursor.u32() != Some(crc) {
        return Err(file.damaged(0, "the header is corrupt"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn feet_survive_the_round_trip_and_damage_is_noticed(
            numbers: [u64; 4],
            crcs: [u32; 2],
            at in 0..FOOT_BYTES as usize,
            flip in 1_u8..=255,
        ) {
            let [run, blocks, keys, filter_bytes] = numbers;
            let [index_crc, filter_crc] = crcs;
            let foot = Foot { run, blocks, keys, filter_bytes, index_crc, filter_crc };
            let mut bytes = foot.encode();
            prop_assert_eq!(Foot::decode(&bytes), Some(foot));
            let _ = foot.file_bytes();
            bytes[at] ^= flip;
            prop_assert_eq!(Foot::decode(&bytes), None);
        }
    }
}
