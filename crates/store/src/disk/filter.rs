//! The filter of a run. For most absent keys it proves without a read that the run does not contain
//! them.
//!
//! Invariant: a filter never rules out a key that was added.
//!
//! It is a split-block Bloom filter as in Apache Parquet
//! (<https://parquet.apache.org/docs/file-format/bloomfilter/>): blocks of 256 bits, one bit in
//! each of the eight words of a block. With [`BITS_PER_KEY`], about one absent key in two hundred
//! passes. Unlike in Parquet, the bits are fields of the fingerprint, which costs no
//! multiplications. The low 40 bits of the fingerprint select the bits. The high 32 bits select the
//! block; the lowest 8 of them have almost no effect on it.
//!
//! A filter can be *folded*: each two adjacent blocks become one block with the bits of both. The
//! result is bit for bit the filter that the same keys produce at half the size. So a filter
//! shrinks without access to its keys.

use super::super::Key;
use super::huge_pages::Pages;
use super::memtable::mix;

/// Filter bits per key, if memory allows.
const BITS_PER_KEY: u64 = 12;
/// Size of a block in bytes.
pub(super) const BLOCK_BYTES: usize = 32;
/// The number of blocks of a filter is a multiple of this, or a smaller power of two, so that the
/// filter can be halved a few times.
const BLOCKS_STEP: u64 = 16;
/// Number of fingerprint bits that select the bit in one word.
const LANE_BITS: usize = 5;
/// Number of keys that are looked up together: more than the number of cache misses that a
/// processor has outstanding at a time.
pub(super) const ASKED_AT_ONCE: usize = 64;
/// The seeds are constant because filters are stored. The numbers are those of wyhash.
const SEEDS: (u64, u64) = (0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db);

/// A filter in memory, in its stored form: each word is little-endian.
pub(super) struct Filter {
    bytes: Pages,
}

/// The part of a key's hash that filters use. It is the same for the filters of all runs.
#[derive(Clone, Copy, Default)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    #[inline]
    pub(super) fn of(key: &Key) -> Self {
        Self(mix(key, SEEDS))
    }

    /// The bit that is set in the given word of the block.
    #[inline]
    fn bit(self, word: usize) -> u32 {
        1 << ((self.0 >> (word * LANE_BITS)) & 31)
    }
}

/// Size in bytes of a filter for `keys` keys, if memory allows.
pub(super) fn full_bytes(keys: u64) -> u64 {
    let bits = keys.saturating_mul(BITS_PER_KEY);
    let blocks = bits.div_ceil(BLOCK_BYTES as u64 * 8);
    let step = blocks.next_power_of_two().min(BLOCKS_STEP);
    blocks.next_multiple_of(step) * BLOCK_BYTES as u64
}

/// Size in bytes of the largest filter that is not larger than `bytes_max`, or 0 if there is none.
pub(super) fn size_within(bytes_max: u64) -> u64 {
    let blocks = bytes_max / BLOCK_BYTES as u64;
    let step = blocks.checked_ilog2().map_or(1, |bits| 1 << bits);
    let step = BLOCKS_STEP.min(step);
    blocks / step * step * BLOCK_BYTES as u64
}

/// Size in bytes of a filter of `bytes` after folding. `None` if it cannot be folded.
pub(super) fn half_bytes(bytes: u64) -> Option<u64> {
    let two_blocks = 2 * BLOCK_BYTES as u64;
    (bytes > 0 && bytes.is_multiple_of(two_blocks)).then_some(bytes / 2)
}

impl Filter {
    /// Makes an empty filter of `bytes`, rounded down to whole blocks, with at least one block.
    pub(super) fn new(bytes: u64) -> Self {
        let blocks = (bytes as usize / BLOCK_BYTES).max(1);
        Self {
            bytes: Pages::zeroed(blocks * BLOCK_BYTES),
        }
    }

    /// The stored form of the filter.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds the keys of a part of another filter that has `1 << folds` times as many blocks. The
    /// part starts at block `first`.
    pub(super) fn add_folded(&mut self, part: &[u8], first: usize, folds: u32) {
        let blocks = self.bytes.as_chunks_mut::<BLOCK_BYTES>().0;
        for (from, at) in part.as_chunks::<BLOCK_BYTES>().0.iter().zip(first..) {
            if let Some(block) = blocks.get_mut(at >> folds) {
                block
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to |= from);
            }
        }
    }

    /// Returns a filter of `bytes` for the same keys. The size of this filter must be a power of
    /// two times `bytes`.
    pub(super) fn folded(&self, bytes: u64) -> Self {
        let mut folded = Self::new(bytes);
        folded.add_folded(&self.bytes, 0, folds(self.bytes.len() as u64, bytes));
        folded
    }

    fn blocks(&self) -> &[[u8; BLOCK_BYTES]] {
        self.bytes.as_chunks().0
    }

    #[inline]
    fn block_of(fingerprint: Fingerprint, blocks: usize) -> usize {
        (((fingerprint.0 >> 32) * blocks as u64) >> 32) as usize
    }

    /// Adds keys. Adding many keys at once lets the processor wait for their cache misses at the
    /// same time.
    pub(super) fn add(&mut self, fingerprints: &[Fingerprint]) {
        self.touch(fingerprints);
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

    /// Sets in `may`, for each of at most [`ASKED_AT_ONCE`] keys, whether it may have been added.
    pub(super) fn ask(&self, fingerprints: &[Fingerprint], may: &mut [bool]) {
        self.touch(fingerprints);
        let blocks = self.blocks();
        for (fingerprint, may) in fingerprints.iter().zip(may) {
            *may = has_all(blocks, *fingerprint);
        }
    }

    /// Loads the keys' blocks into the cache. The processor has dozens of cache misses outstanding
    /// in this short loop, but only few in a loop that also tests the bits. For filters larger than
    /// the cache, a key took 58 ns without this and takes 24 ns with it.
    fn touch(&self, fingerprints: &[Fingerprint]) {
        let blocks = self.blocks();
        let first_bytes = fingerprints
            .iter()
            .filter_map(|fingerprint| blocks.get(Self::block_of(*fingerprint, blocks.len())))
            .fold(0, |bytes, block| bytes | block[0]);
        // Prevents the compiler from removing the loads.
        std::hint::black_box(first_bytes);
    }
}

/// How many times a filter of `from` bytes must be folded to have `to` bytes.
pub(super) fn folds(from: u64, to: u64) -> u32 {
    (from / to.max(1)).max(1).ilog2()
}

/// Whether the key's block has all bits of the key set.
#[inline]
fn has_all(blocks: &[[u8; BLOCK_BYTES]], fingerprint: Fingerprint) -> bool {
    let Some(block) = blocks.get(Filter::block_of(fingerprint, blocks.len())) else {
        return true;
    };
    let words = block.as_chunks::<4>().0.iter().enumerate();
    let lacking = words.fold(0, |lacking, (word, bytes)| {
        lacking | (!u32::from_le_bytes(*bytes) & fingerprint.bit(word))
    });
    lacking == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::TenantNumber;
    use headcount_model::ItemHash;

    fn fingerprint(id: u32) -> Fingerprint {
        let hash = ItemHash::of_id(&id.to_string());
        Fingerprint::of(&Key::new(TenantNumber(id % 7), &hash))
    }

    #[test]
    fn added_keys_pass_and_few_others() {
        let mut filter = Filter::new(full_bytes(10_000));
        let fingerprints: Vec<_> = (0..10_000).map(fingerprint).collect();
        filter.add(&fingerprints);
        // Of 100000 absent keys, about one in two hundred passes, and one in ten at half the size.
        for (bytes, passed_max) in [
            (full_bytes(10_000), 1_000),
            (full_bytes(10_000) / 2, 11_000),
        ] {
            let stored = filter.folded(bytes);
            assert_eq!(stored.bytes().len() as u64, bytes);
            assert!((0..10_000).all(|id| stored.may_contain(fingerprint(id))));
            let passed = (10_000..110_000)
                .filter(|&id| stored.may_contain(fingerprint(id)))
                .count();
            assert!(passed < passed_max, "{passed} of 100000 absent keys passed");
        }
    }

    proptest! {
        #[test]
        fn a_folded_filter_is_the_one_built_at_that_size(
            blocks in 1_u64..40,
            folds in 0_u32..5,
            ids in prop::collection::vec(any::<u32>(), 0..500),
            part_blocks in 1_usize..20,
        ) {
            let bytes = blocks * BLOCK_BYTES as u64;
            let fingerprints: Vec<_> = ids.iter().copied().map(fingerprint).collect();
            let mut large = Filter::new(bytes << folds);
            large.add(&fingerprints);
            let mut small = Filter::new(bytes);
            small.add(&fingerprints);
            let folded = large.folded(bytes);
            prop_assert_eq!(folded.bytes(), small.bytes());
            prop_assert!(fingerprints.iter().all(|key| folded.may_contain(*key)));
            let mut by_parts = Filter::new(bytes);
            let parts = large.bytes().chunks(part_blocks * BLOCK_BYTES);
            for (part, first) in parts.zip((0..).step_by(part_blocks)) {
                by_parts.add_folded(part, first, folds);
            }
            prop_assert_eq!(by_parts.bytes(), small.bytes());
        }

        #[test]
        fn sizes_are_whole_blocks_near_what_is_asked(
            keys in 1_u64..1 << 40,
            bytes in 0_u64..1 << 40,
        ) {
            let full = full_bytes(keys);
            prop_assert!(full * 8 >= keys * BITS_PER_KEY);
            prop_assert!(full < 2 * (keys * BITS_PER_KEY / 8 + BLOCK_BYTES as u64));
            prop_assert_eq!(size_within(full), full);
            let within = size_within(bytes);
            prop_assert!(within <= bytes && bytes < 2 * (within + BLOCK_BYTES as u64));
            prop_assert_eq!(size_within(within), within);
            prop_assert!(within <= BLOCK_BYTES as u64 || half_bytes(within).is_some());
        }
    }
}
