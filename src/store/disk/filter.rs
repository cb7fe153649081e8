//! A run's filter: tells for most absent keys, without a read, that the run does not have them.
//!
//! Invariant: it never denies a key that was added.
//!
//! A split-block Bloom filter as in Apache Parquet (<https://parquet.apache.org/docs/file-format/bloomfilter/>):
//! blocks of 256 bits, one bit in each of a block's eight words. At [`BITS_PER_KEY`] about one absent key in
//! two hundred passes. Unlike there, the bits are fields of the fingerprint, which costs no multiplications: the low
//! 40 bits choose them, and the block is chosen by the high 32, of which the lowest 8 hardly matter.

use std::ops::Range;

use super::super::Key;
use super::key_set::mix;
use super::pages::Pages;

/// Bits of filter for each key.
pub(super) const BITS_PER_KEY: u64 = 12;
/// Bytes of one block.
const BLOCK_BYTES: usize = 32;
const WORDS: usize = 8;
/// Bits of a fingerprint that choose the bit in one word.
const LANE_BITS: usize = 5;
/// Keys that are looked up together: enough for a processor's dozen or two of misses at a time.
pub(super) const ASKED_AT_ONCE: usize = 64;
/// Fixed, since filters are stored; the numbers are wyhash's.
const SEEDS: (u64, u64) = (0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db);

/// A filter over keys, in memory as it is stored: each word is little-endian.
pub(super) struct Filter {
    bytes: Pages,
}

/// What of a key its filter looks at; the same for the filters of all runs.
#[derive(Clone, Copy, Default)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    #[inline]
    pub(super) fn of(key: &Key) -> Self {
        Self(mix(key, SEEDS))
    }

    /// The bit of one word of the block.
    #[inline]
    fn bit(self, word: usize) -> u32 {
        1 << ((self.0 >> (word * LANE_BITS)) & 31)
    }
}

/// Bytes of a filter made for `keys` keys; `None` when there is no such size.
pub(super) fn filter_bytes(keys: u64) -> Option<u64> {
    let bits = keys.checked_mul(BITS_PER_KEY)?;
    Some(bits.div_ceil(BLOCK_BYTES as u64 * 8).max(1) * BLOCK_BYTES as u64)
}

impl Filter {
    /// An empty filter of `bytes`, as [`filter_bytes`] says.
    pub(super) fn new(bytes: u64) -> Self {
        let blocks = (bytes as usize / BLOCK_BYTES).max(1);
        Self {
            bytes: Pages::zeroed(blocks * BLOCK_BYTES),
        }
    }

    /// What is stored.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, to be filled with what was stored.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn blocks(&self) -> &[[u8; BLOCK_BYTES]] {
        self.bytes.as_chunks().0
    }

    #[inline]
    fn block_of(fingerprint: Fingerprint, blocks: usize) -> usize {
        (((fingerprint.0 >> 32) * blocks as u64) >> 32) as usize
    }

    /// Adds keys. Many at once, since then the processor waits for their cache misses together.
    pub(super) fn add(&mut self, fingerprints: &[Fingerprint]) {
        let blocks = self.bytes.as_chunks_mut::<BLOCK_BYTES>().0;
        for fingerprint in fingerprints {
            let at = Self::block_of(*fingerprint, blocks.len());
            if let Some(block) = blocks.get_mut(at) {
                let words = block.as_chunks_mut::<4>().0;
                for (word, bytes) in words.iter_mut().enumerate() {
                    let bits = u32::from_le_bytes(*bytes) | fingerprint.bit(word);
                    *bytes = bits.to_le_bytes();
                }
            }
        }
    }

    /// Whether the key may have been added.
    #[cfg(test)]
    pub(super) fn may_contain(&self, fingerprint: Fingerprint) -> bool {
        let mut may = [false];
        self.ask(&[fingerprint], &mut may);
        may[0]
    }

    /// Says of each key whether it may have been added; of [`ASKED_AT_ONCE`] keys at most.
    ///
    /// The first pass looks at half of each block, which nine in ten absent keys do not get past, and has no branches,
    /// so that the processor waits for all cache misses together; the second finds its blocks in the cache.
    pub(super) fn ask(&self, fingerprints: &[Fingerprint], may: &mut [bool]) {
        let blocks = self.blocks();
        for (fingerprint, may) in fingerprints.iter().zip(may.iter_mut()) {
            *may = has_all(blocks, *fingerprint, 0..WORDS / 2);
        }
        for (fingerprint, may) in fingerprints.iter().zip(may.iter_mut()) {
            *may = *may && has_all(blocks, *fingerprint, WORDS / 2..WORDS);
        }
    }
}

/// Whether the key's block has the key's bits in all of `words`.
#[inline]
fn has_all(blocks: &[[u8; BLOCK_BYTES]], fingerprint: Fingerprint, words: Range<usize>) -> bool {
    let Some(block) = blocks.get(Filter::block_of(fingerprint, blocks.len())) else {
        return true;
    };
    let stored = block.as_chunks::<4>().0;
    let lacks = |missing, word: usize| {
        missing | (!u32::from_le_bytes(stored[word]) & fingerprint.bit(word))
    };
    words.fold(0, lacks) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ItemHash;
    use crate::store::TenantNumber;

    fn fingerprint(id: u32) -> Fingerprint {
        let hash = ItemHash::of_id(&id.to_string());
        Fingerprint::of(&Key::new(TenantNumber(id % 7), &hash))
    }

    #[test]
    fn added_keys_pass_and_few_others() {
        let mut filter = Filter::new(filter_bytes(10_000).expect("small"));
        let fingerprints: Vec<_> = (0..10_000).map(fingerprint).collect();
        filter.add(&fingerprints);
        let mut stored = Filter::new(filter.bytes().len() as u64);
        stored.bytes_mut().copy_from_slice(filter.bytes());
        assert!((0..10_000).all(|id| stored.may_contain(fingerprint(id))));
        let passed = (10_000..110_000)
            .filter(|&id| stored.may_contain(fingerprint(id)))
            .count();
        assert!(passed < 1_000, "{passed} of 100000 absent keys passed");
    }
}
