//! A run's filter: tells for most absent keys, without a read, that the run does not have them.
//!
//! Invariant: it never denies a key that was added.
//!
//! A split-block Bloom filter as in Apache Parquet (<https://parquet.apache.org/docs/file-format/bloomfilter/>):
//! blocks of 256 bits, one bit in each of a block's eight words. At [`BITS_PER_KEY`] about one absent key in
//! a hundred passes.

use super::super::Key;
use super::key_set::mix;

/// Bits of filter for each key.
pub(super) const BITS_PER_KEY: u64 = 10;
/// Bytes of one block.
const BLOCK_BYTES: usize = 32;
const WORDS: usize = 8;
/// Part of the format of runs, like everything here: odd numbers of Parquet's specification.
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];
/// Fixed, since filters are stored; the numbers are wyhash's.
const SEEDS: (u64, u64) = (0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db);

/// A filter over keys.
pub(super) struct Filter {
    blocks: Vec<[u32; WORDS]>,
}

/// What of a key its filter looks at; the same for the filters of all runs.
#[derive(Clone, Copy)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    #[inline]
    pub(super) fn of(key: &Key) -> Self {
        Self(mix(key, SEEDS))
    }

    #[inline]
    fn mask(self) -> [u32; WORDS] {
        let low = self.0 as u32;
        SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27))
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
        Self {
            blocks: vec![[0; WORDS]; (bytes as usize / BLOCK_BYTES).max(1)],
        }
    }

    /// The filter stored as `bytes`.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut filter = Self::new(bytes.len() as u64);
        let words = filter.blocks.as_flattened_mut();
        for (word, stored) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*stored);
        }
        filter
    }

    /// The words to store, each little-endian.
    pub(super) fn words(&self) -> &[u32] {
        self.blocks.as_flattened()
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    #[inline]
    fn block_of(&self, fingerprint: Fingerprint) -> usize {
        (((fingerprint.0 >> 32) * self.blocks.len() as u64) >> 32) as usize
    }

    #[inline]
    pub(super) fn add(&mut self, fingerprint: Fingerprint) {
        let at = self.block_of(fingerprint);
        if let Some(block) = self.blocks.get_mut(at) {
            for (word, bit) in block.iter_mut().zip(fingerprint.mask()) {
                *word |= bit;
            }
        }
    }

    /// Whether the key may have been added.
    #[inline]
    pub(super) fn may_contain(&self, fingerprint: Fingerprint) -> bool {
        self.blocks
            .get(self.block_of(fingerprint))
            .is_none_or(|block| {
                let mask = fingerprint.mask();
                block
                    .iter()
                    .zip(mask)
                    .fold(0, |missing, (word, bit)| missing | (!word & bit))
                    == 0
            })
    }
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
        for id in 0..10_000 {
            filter.add(fingerprint(id));
        }
        let words = filter.words().iter();
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        let stored = Filter::from_bytes(&bytes);
        assert!((0..10_000).all(|id| stored.may_contain(fingerprint(id))));
        let passed = (10_000..110_000)
            .filter(|&id| stored.may_contain(fingerprint(id)))
            .count();
        assert!(passed < 2_000, "{passed} of 100000 absent keys passed");
    }
}
