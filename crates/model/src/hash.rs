//! The hash that represents an item's id everywhere behind the HTTP API.
//!
//! Invariant: an id has the same hash on every node and in every release, because the hash is part
//! of the formats on disk and on the wire.

use std::fmt;

/// Size of an [`ItemHash`], in bytes.
pub const ITEM_HASH_BYTES: usize = 12;

/// The first 12 bytes of the BLAKE3 hash of an item's id.
///
/// With 96 bits, the probability that any two ids of a tenant with 10 billion items collide is
/// about 6 in 10 billion (birthday bound, n²/2⁹⁷). To make two ids collide on purpose, a client
/// needs about 2⁴⁸ hash computations: BLAKE3 (<https://github.com/BLAKE3-team/BLAKE3-specs>)
/// permits no faster way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemHash(pub [u8; ITEM_HASH_BYTES]);

impl ItemHash {
    /// Hashes an item's id.
    #[must_use]
    pub fn of_id(id: &str) -> Self {
        let digest = blake3::hash(id.as_bytes());
        let mut bytes = [0; ITEM_HASH_BYTES];
        bytes.copy_from_slice(&digest.as_bytes()[..ITEM_HASH_BYTES]);
        Self(bytes)
    }
}

impl fmt::Debug for ItemHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_published_blake3() {
        // The BLAKE3 test vector for the empty input, truncated to 12 bytes.
        assert_eq!(
            format!("{:?}", ItemHash::of_id("")),
            "af1349b9f5f9a1a6a0404dea"
        );
    }
}
