//! Keys in memory: the table of committed keys that are in no run yet, and the keys staged by a
//! commit.
//!
//! Invariant: within its capacity a set never grows, so no insertion pauses to move what is there.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::super::{KEY_BYTES, Key};

/// Bytes that a hash table takes for each place: the key and one byte of control.
pub(super) const PLACE_BYTES: usize = KEY_BYTES + 1;

/// A random number: different in every process and at every call.
pub(super) fn random() -> u64 {
    // The standard library's per-process random state, so that drawing a number can't fail.
    RandomState::new().hash_one(0_u8)
}

/// Multiplies to 128 bits and folds the halves together, as wyhash and its kin do
/// (<https://github.com/wangyi-fudan/wyhash>). `seeds` keep a client from choosing ids that
/// collide.
#[inline]
pub(super) fn mix(key: &Key, seeds: (u64, u64)) -> u64 {
    let wide = u128::from_be_bytes(key.0);
    let product = u128::from((wide >> 64) as u64 ^ seeds.0) * u128::from(wide as u64 ^ seeds.1);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A set of keys.
pub(super) struct KeySet {
    keys: HashTable<Key>,
    seeds: (u64, u64),
}

impl KeySet {
    /// A set that takes `capacity` keys before it grows.
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

    /// Adds `key`; says whether it was absent.
    // In a loop over a commit's keys it is a seventh cheaper in place; left to itself, the compiler
    // changes its mind with changes anywhere.
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

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.allocation_size()
    }

    /// All keys, in any order.
    pub(super) fn to_vec(&self) -> Vec<Key> {
        self.keys.iter().copied().collect()
    }

    /// Forgets all keys; keeps room for `capacity_kept` of them at most.
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
            let mut set = KeySet::with_capacity(4);
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
