//! The hash that stands for an item's id everywhere behind the HTTP face.
//!
//! Invariant: the same id has the same hash for ever, on every node: it is part of the formats on
//! disk and on the wire.

use std::fmt;

/// Bytes in an [`ItemHash`].
pub const ITEM_HASH_BYTES: usize = 12;

/// The first 12 bytes of the BLAKE3 hash of an item's id.
///
/// With 96 bits, a tenant with 10 billion items has a chance of about 6 in 10 billion that any two
/// of its ids collide (birthday bound, n²/2⁹⁷), and BLAKE3
/// (<https://github.com/BLAKE3-team/BLAKE3-specs>) leaves a client no better way to make two
/// collide on purpose than about 2⁴⁸ hash computations.
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
        // The BLAKE3 test vector for the empty input, cut to 12 bytes.
        assert_eq!(
            format!("{:?}", ItemHash::of_id("")),
            "af1349b9f5f9a1a6a0404dea"
        );
    }
}
