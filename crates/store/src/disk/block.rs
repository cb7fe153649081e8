//! A block of a run: a few hundred keys in ascending order, with a checksum.
//!
//! Invariant: bytes that pass [`is_intact`] are exactly the bytes that were written at that place
//! of that run.
//!
//! Layout, little-endian, [`BLOCK_BYTES`] in total: CRC-32 (u32) of the run's number (u64), the
//! block's number (u64) and all bytes after the checksum; the number of groups (u16); 2 zero bytes;
//! the groups: tenant (u32), number of hashes (u16, at least 1), the hashes in ascending order;
//! zeros to the end. Groups ascend by tenant, so a key of a tenant with many keys takes little more
//! than its hash.

use super::super::{Key, TenantNumber};
use crate::bytes::Cursor;
use headcount_model::{ITEM_HASH_BYTES, ItemHash};

/// Size of a block in bytes: one page of the page cache.
pub(super) const BLOCK_BYTES: usize = 4096;
const HEAD_BYTES: usize = 8;
const GROUP_HEAD_BYTES: usize = 6;

pub(super) fn checksum(run: u64, block: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&run.to_le_bytes());
    crc.update(&block.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Builds a block from ascending keys.
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    groups: u16,
    /// The last group: its tenant, the offset of its number of hashes, and that number.
    open: Option<(TenantNumber, usize, u16)>,
}

impl BlockBuilder {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.resize(HEAD_BYTES, 0);
        Self {
            bytes,
            groups: 0,
            open: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups == 0
    }

    /// Appends the next key. Returns `false` if the block is full.
    pub(super) fn push(&mut self, key: &Key) -> bool {
        let tenant = key.tenant();
        let room = BLOCK_BYTES - self.bytes.len();
        match &mut self.open {
            Some((open, at, hashes)) if *open == tenant => {
                if room < ITEM_HASH_BYTES {
                    return false;
                }
                *hashes += 1;
                let count = hashes.to_le_bytes();
                self.bytes[*at..*at + 2].copy_from_slice(&count);
            }
            _ => {
                if room < GROUP_HEAD_BYTES + ITEM_HASH_BYTES {
                    return false;
                }
                self.groups += 1;
                self.bytes.extend_from_slice(&tenant.0.to_le_bytes());
                self.open = Some((tenant, self.bytes.len(), 1));
                self.bytes.extend_from_slice(&1_u16.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(&key.hash().0);
        true
    }

    /// Appends the finished block to `out` and starts the next one.
    pub(super) fn finish(&mut self, run: u64, block: u64, out: &mut Vec<u8>) {
        self.bytes[4..6].copy_from_slice(&self.groups.to_le_bytes());
        self.bytes.resize(BLOCK_BYTES, 0);
        let crc = checksum(run, block, &self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.bytes);
        *self = Self::new();
    }
}

/// Whether `bytes` are intact as block `block` of run `run`.
pub(super) fn is_intact(bytes: &[u8], run: u64, block: u64) -> bool {
    match bytes.split_first_chunk::<4>() {
        Some((crc, body)) => u32::from_le_bytes(*crc) == checksum(run, block, body),
        None => false,
    }
}

/// A tenant and its hashes in one block.
type Group<'a> = (TenantNumber, &'a [[u8; ITEM_HASH_BYTES]]);

/// Iterates over the groups of a block.
struct Groups<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Groups<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        cursor.u32()?;
        let left = cursor.u16()?;
        cursor.u16()?;
        Some(Self { left, cursor })
    }

    /// Returns the next group, `Some(None)` at the end, and `None` if the bytes cannot be decoded.
    fn next(&mut self) -> Option<Option<Group<'a>>> {
        if self.left == 0 {
            return Some(None);
        }
        self.left -= 1;
        let tenant = TenantNumber(self.cursor.u32()?);
        let hashes = usize::from(self.cursor.u16()?);
        let (hashes, _) = self.cursor.take(hashes * ITEM_HASH_BYTES)?.as_chunks();
        Some(Some((tenant, hashes)))
    }
}

/// Whether the block contains `key`. `None` if the bytes cannot be decoded.
pub(super) fn contains(bytes: &[u8], key: &Key) -> Option<bool> {
    let mut groups = Groups::new(bytes)?;
    while let Some((tenant, hashes)) = groups.next()? {
        if tenant == key.tenant() {
            return Some(hashes.binary_search(&key.hash().0).is_ok());
        }
        if tenant > key.tenant() {
            break;
        }
    }
    Some(false)
}

/// Appends the keys of the block to `out`. `None` if the bytes cannot be decoded.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<Key>) -> Option<()> {
    let mut groups = Groups::new(bytes)?;
    while let Some((tenant, hashes)) = groups.next()? {
        out.extend(hashes.iter().map(|hash| Key::new(tenant, &ItemHash(*hash))));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        (0_u32..20, any::<[u8; ITEM_HASH_BYTES]>())
            .prop_map(|(tenant, hash)| Key::new(TenantNumber(tenant), &ItemHash(hash)))
    }

    proptest! {
        #[test]
        fn blocks_survive_the_round_trip_and_damage_is_noticed(
            keys in prop::collection::btree_set(key(), 1..500),
            absent in key(),
            at in 0..BLOCK_BYTES,
            flip in 1_u8..=255,
        ) {
            let mut builder = BlockBuilder::new();
            let taken: BTreeSet<Key> =
                keys.iter().copied().take_while(|key| builder.push(key)).collect();
            prop_assert!(taken.len() == keys.len() || taken.len() > 200);
            let mut bytes = Vec::new();
            builder.finish(3, 4, &mut bytes);
            prop_assert_eq!(bytes.len(), BLOCK_BYTES);
            prop_assert!(is_intact(&bytes, 3, 4));
            prop_assert!(!is_intact(&bytes, 3, 5));
            prop_assert!(taken.iter().all(|key| contains(&bytes, key) == Some(true)));
            prop_assert_eq!(contains(&bytes, &absent), Some(taken.contains(&absent)));
            let mut decoded = Vec::new();
            prop_assert_eq!(decode(&bytes, &mut decoded), Some(()));
            prop_assert_eq!(decoded, taken.into_iter().collect::<Vec<_>>());
            bytes[at] ^= flip;
            prop_assert!(!is_intact(&bytes, 3, 4));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in key(),
        ) {
            let _ = is_intact(&bytes, 1, 1);
            let _ = contains(&bytes, &key);
            let _ = decode(&bytes, &mut Vec::new());
        }
    }
}
