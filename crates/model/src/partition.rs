//! Partitions of the space of item hashes, so that one huge tenant can be spread over several
//! counters.
//!
//! Invariant: every hash belongs to exactly one partition, determined only by the hash and the
//! number of partitions. Only this file and the composition root may assume that there is one
//! partition.

use std::fmt;

use super::ItemHash;

/// The maximum number of partitions of a cluster.
pub const PARTITIONS_MAX: u16 = 1024;

/// The number of a partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of partitions, fixed when a cluster is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitioning {
    count: u16,
}

impl Partitioning {
    /// One partition, 0, for all hashes.
    pub const SINGLE: Self = Self { count: 1 };

    /// Divides the space into `count` partitions; `None` unless 1 ≤ `count` ≤ [`PARTITIONS_MAX`].
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        (1..=PARTITIONS_MAX)
            .contains(&count)
            .then_some(Self { count })
    }

    /// The number of partitions.
    #[must_use]
    pub fn count(self) -> u16 {
        self.count
    }

    /// The partition of all hashes, if there is only one partition.
    #[must_use]
    pub fn only(self) -> Option<Partition> {
        (self.count == 1).then_some(Partition(0))
    }

    /// All partitions, in order.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.count).map(Partition)
    }

    /// The partition of `hash`: its first 32 bits scaled to the number of partitions, which
    /// distributes evenly without a division (Lemire, "Fast random integer generation in an
    /// interval", 2019).
    #[must_use]
    pub fn of(self, hash: &ItemHash) -> Partition {
        let head = u32::from_be_bytes([hash.0[0], hash.0[1], hash.0[2], hash.0[3]]);
        let scaled = (u64::from(head) * u64::from(self.count)) >> 32;
        Partition(scaled as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_spread_evenly_and_one_partition_takes_all() {
        let four = Partitioning::new(4).expect("valid");
        let mut sizes = [0_u32; 4];
        for id in 0..4_000 {
            let hash = ItemHash::of_id(&id.to_string());
            sizes[usize::from(four.of(&hash).0)] += 1;
            assert_eq!(Partitioning::SINGLE.of(&hash), Partition(0));
        }
        assert!(
            sizes.iter().all(|&size| (850..1150).contains(&size)),
            "{sizes:?}"
        );
        assert_eq!(Partitioning::new(0), None);
        assert_eq!(Partitioning::new(PARTITIONS_MAX + 1), None);
    }
}
