//! A set of keys in memory: the memtable, and the staged keys of a write batch.
//!
//! Invariant: within its capacity a set never grows, so no insertion pauses to move existing keys.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::super::{KEY_BYTES, Key};

/// Bytes per slot of the hash table: the key and one control byte.
pub(super) const PLACE_BYTES: usize = KEY_BYTES + 1;

/// Returns a random number that differs for every process and every call.
pub(super) fn random() -> u64 {
    // Uses the random state of the standard library, because that cannot fail.
    RandomState::new().hash_one(0_u8)
}

/// Hashes a key: multiplies to 128 bits and folds the halves together, like wyhash
/// (<https://github.com/wangyi-fudan/wyhash>). `seeds` prevent clients from choosing ids that
/// collide.
#[inline]
pub(super) fn mix(key: &Key, seeds: (u64, u64)) -> u64 {
    let wide = u128::from_be_bytes(key.0);
    let product = u128::from((wide >> 64) as u64 ^ seeds.0) * u128::from(wide as u64 ^ seeds.1);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A set of keys.
pub(super) struct Memtable {
    keys: HashTable<Key>,
    seeds: (u64, u64),
}

impl Memtable {
    /// Makes a set that holds `capacity` keys before it grows.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            keys: HashTable::with_capacity(capacity),
            seeds: (random(), random()),
        }
    }

    #[inline]
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.keys
            .find(mix(key, self.seeds), |other| other == key)
            .is_some()
    }

    /// Adds `key`. Returns whether it was absent.
    // Inlining makes a loop over the keys of a commit one seventh cheaper. Without the attribute,
    // the compiler's choice depends on unrelated changes.
    #[inline(always)]
    pub(super) fn insert(&mut self, key: Key) -> bool {
        let seeds = self.seeds;
        let entry = self.keys.entry(
            mix(&key, seeds),
            |other| *other == key,
            |other| mix(other, seeds),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(_) => false,
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(key);
                true
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Memory of the set in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.allocation_size()
    }

    /// Returns all keys, in any order.
    pub(super) fn to_vec(&self) -> Vec<Key> {
        self.keys.iter().copied().collect()
    }

    /// Removes all keys. Keeps memory for at most `capacity_kept` keys.
    pub(super) fn clear(&mut self, capacity_kept: usize) {
        self.keys.clear();
        if self.keys.capacity() > capacity_kept {
            self.keys = HashTable::with_capacity(capacity_kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_plain_set(keys in prop::collection::vec(0_u8..32, 0..100)) {
            let mut set = Memtable::with_capacity(4);
            let mut model = BTreeSet::new();
            for byte in keys {
                let key = Key([byte; KEY_BYTES]);
                prop_assert_eq!(set.contains(&key), model.contains(&key));
                prop_assert_eq!(set.insert(key), model.insert(key));
            }
            let mut keys = set.to_vec();
            keys.sort_unstable();
            prop_assert_eq!(keys, model.into_iter().collect::<Vec<_>>());
            set.clear(4);
            prop_assert_eq!(set.len(), 0);
        }
    }
}
