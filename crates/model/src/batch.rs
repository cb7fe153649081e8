//! A batch: the unit of the log.
//!
//! Invariant: the tenants of a batch are in ascending order, without duplicates, each with at least
//! one hash. So equal content has one form and one checksum. A batch without items is a barrier.

use std::fmt;

use smallvec::SmallVec;

use super::shares::merge_posts;
use super::{Acceptance, Completes, ItemHash, Marks, Partition, Shares, TenantName};

/// Identifies one incarnation of a coordinator: a random 128-bit id, drawn at every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u128);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A batch's number in its epoch and partition: 1, 2, 3… without gaps. 0 means "before the first".
pub type Sequence = u64;

/// The greatest sequence that a batch may have. Its successor is still a valid number.
pub const SEQUENCE_MAX: Sequence = Sequence::MAX - 1;

/// Whether a batch may have `sequence`.
#[must_use]
pub fn is_sequence(sequence: Sequence) -> bool {
    (1..=SEQUENCE_MAX).contains(&sequence)
}

/// Identifies a batch. Ids are unique, except when a coordinator is cloned (a fork).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The partition of all items of the batch.
    pub partition: Partition,
    /// The incarnation of the coordinator that made the batch.
    pub epoch: Epoch,
    /// The number of the batch in that epoch.
    pub sequence: Sequence,
}

/// Hashes of items. One hash is stored inline, without an allocation, because a tenant often has
/// only one item in a batch.
pub type ItemHashes = SmallVec<[ItemHash; 1]>;

/// Items of one tenant, as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantItems {
    /// The tenant of the items.
    pub tenant: TenantName,
    /// The hashes of the items' ids. Duplicates are harmless.
    pub hashes: ItemHashes,
}

/// The unit of the log: items of some tenants that become durable and are applied together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    id: BatchId,
    accepted_at_ms: u64,
    tenants: Vec<TenantItems>,
    acceptance: Option<Acceptance>,
    checksum: u32,
    /// Known only in the process that made the batch; not part of the content.
    is_shared: bool,
}

impl Batch {
    /// Makes a batch of `items` in any order. Groups of the same tenant are combined.
    ///
    /// `accepted_at_ms` is the time of sealing, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(id: BatchId, accepted_at_ms: u64, items: Vec<TenantItems>) -> Self {
        let tenants = merge_by_tenant(items);
        Self::sealed(id, accepted_at_ms, tenants, None)
    }

    /// Makes a batch of the items of several posts. Also returns which items belong to which post.
    #[must_use]
    pub fn of_posts(
        id: BatchId,
        accepted_at_ms: u64,
        posts: impl ExactSizeIterator<Item = Vec<TenantItems>>,
    ) -> (Self, Shares) {
        let is_shared = posts.len() > 1;
        let (tenants, shares) = merge_posts(posts);
        let batch = Self {
            is_shared,
            ..Self::sealed(id, accepted_at_ms, tenants, None)
        };
        (batch, shares)
    }

    /// Makes a batch without items that carries an operator's loss acceptance.
    #[must_use]
    pub fn accepting(id: BatchId, accepted_at_ms: u64, acceptance: Acceptance) -> Self {
        Self::sealed(id, accepted_at_ms, Vec::new(), Some(acceptance))
    }

    fn sealed(
        id: BatchId,
        accepted_at_ms: u64,
        tenants: Vec<TenantItems>,
        acceptance: Option<Acceptance>,
    ) -> Self {
        let checksum = checksum(&id, accepted_at_ms, &tenants, acceptance.as_ref());
        Self {
            id,
            accepted_at_ms,
            tenants,
            acceptance,
            checksum,
            is_shared: false,
        }
    }

    /// The loss acceptance that the batch carries, if any.
    #[must_use]
    pub fn acceptance(&self) -> Option<&Acceptance> {
        self.acceptance.as_ref()
    }

    /// The batch's id.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// When the batch was sealed, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn accepted_at_ms(&self) -> u64 {
        self.accepted_at_ms
    }

    /// The items, by tenant in ascending order.
    #[must_use]
    pub fn tenants(&self) -> &[TenantItems] {
        &self.tenants
    }

    /// CRC-32 of the whole content. Two batches with the same id and different checksums are a
    /// fork.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Whether the batch is a barrier: it has no content and only marks a position in the log.
    /// Barriers have epochs of their own and are never recorded in a position.
    #[must_use]
    pub fn is_barrier(&self) -> bool {
        self.tenants.is_empty() && self.acceptance.is_none()
    }

    /// The number of items in the batch, with duplicates.
    #[must_use]
    pub fn item_count(&self) -> usize {
        item_count(&self.tenants)
    }

    /// Whether the batch needs to be known item by item which ones were new, because its items
    /// belong to several posts.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// An empty set of marks for the items, if they are [needed](Self::is_shared).
    #[must_use]
    pub fn unmarked(&self) -> Option<Marks> {
        self.is_shared.then(|| Marks::none_of(self.item_count()))
    }
}

/// The number of items in all groups, with duplicates.
#[must_use]
pub fn item_count(groups: &[TenantItems]) -> usize {
    groups.iter().map(|group| group.hashes.len()).sum()
}

/// Sorts `items` by tenant, combines groups of the same tenant, and removes empty groups.
#[must_use]
pub fn merge_by_tenant(mut items: Vec<TenantItems>) -> Vec<TenantItems> {
    items.retain(|group| !group.hashes.is_empty());
    // The sort is stable, so that equal content in the same order of arrival has one form.
    items.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    items.dedup_by(|later, earlier| {
        let same = later.tenant == earlier.tenant;
        if same {
            earlier.hashes.append(&mut later.hashes);
        }
        same
    });
    items
}

fn checksum(
    id: &BatchId,
    accepted_at_ms: u64,
    tenants: &[TenantItems],
    acceptance: Option<&Acceptance>,
) -> u32 {
    let mut crc = Summing::new(item_count(tenants));
    crc.update(&id.partition.0.to_le_bytes());
    crc.update(&id.epoch.0.to_le_bytes());
    crc.update(&id.sequence.to_le_bytes());
    crc.update(&accepted_at_ms.to_le_bytes());
    for group in tenants {
        crc.update(&(group.tenant.as_str().len() as u64).to_le_bytes());
        crc.update(group.tenant.as_str().as_bytes());
        crc.update(&(group.hashes.len() as u64).to_le_bytes());
        for hash in &group.hashes {
            crc.update(&hash.0);
        }
    }
    if let Some(acceptance) = acceptance {
        sum_acceptance(acceptance, &mut crc);
    }
    crc.finish()
}

fn sum_acceptance(acceptance: &Acceptance, crc: &mut Summing) {
    let (kind, named) = match &acceptance.completes {
        Completes::Nobody => (0, &[][..]),
        Completes::Unnamed => (1, &[][..]),
        Completes::Named(named) => (2, named.as_slice()),
    };
    crc.update(&[kind]);
    for (epoch, first, last) in &acceptance.losses {
        crc.update(&epoch.0.to_le_bytes());
        crc.update(&first.to_le_bytes());
        crc.update(&last.to_le_bytes());
    }
    for (name, loss) in named {
        crc.update(&(name.as_str().len() as u64).to_le_bytes());
        crc.update(name.as_str().as_bytes());
        crc.update(&loss.0.to_le_bytes());
    }
}

/// Computes a CRC-32 of many small pieces. It collects them first, because the checksum is several
/// times faster for long input.
struct Summing {
    crc: crc32fast::Hasher,
    gathered: Vec<u8>,
}

impl Summing {
    /// Bytes that are collected before they are added to the checksum.
    const BYTES_MAX: usize = 4096;

    fn new(items: usize) -> Self {
        /// The approximate number of bytes of an item that is the only one of its tenant.
        const ITEM_BYTES: usize = 40;
        let bytes = (items * ITEM_BYTES).min(Self::BYTES_MAX);
        Self {
            crc: crc32fast::Hasher::default(),
            gathered: Vec::with_capacity(bytes),
        }
    }

    fn update(&mut self, piece: &[u8]) {
        self.gathered.extend_from_slice(piece);
        if self.gathered.len() >= Self::BYTES_MAX {
            self.crc.update(&self.gathered);
            self.gathered.clear();
        }
    }

    fn finish(mut self) -> u32 {
        self.crc.update(&self.gathered);
        self.crc.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(tenant: &str, ids: &[&str]) -> TenantItems {
        TenantItems {
            tenant: TenantName::new(tenant).expect("valid"),
            hashes: ids.iter().map(|id| ItemHash::of_id(id)).collect(),
        }
    }

    fn id(sequence: Sequence) -> BatchId {
        BatchId {
            partition: Partition(0),
            epoch: Epoch(7),
            sequence,
        }
    }

    #[test]
    fn tenants_are_sorted_united_and_never_empty() {
        let batch = Batch::new(
            id(1),
            5,
            vec![
                items("b", &["1"]),
                items("c", &[]),
                items("a", &["2"]),
                items("b", &["3"]),
            ],
        );
        assert_eq!(
            batch.tenants(),
            [items("a", &["2"]), items("b", &["1", "3"])]
        );
        assert_eq!(batch.item_count(), 3);
        assert!(!batch.is_barrier());
        assert!(Batch::new(id(1), 5, vec![items("c", &[])]).is_barrier());
    }

    #[test]
    fn checksum_tells_contents_apart() {
        let one = Batch::new(id(1), 5, vec![items("a", &["1"])]);
        assert_eq!(
            one.checksum(),
            Batch::new(id(1), 5, vec![items("a", &["1"])]).checksum()
        );
        assert_ne!(
            one.checksum(),
            Batch::new(id(1), 5, vec![items("a", &["2"])]).checksum()
        );
        assert_ne!(
            one.checksum(),
            Batch::new(id(1), 5, vec![items("b", &["1"])]).checksum()
        );
        assert_ne!(
            one.checksum(),
            Batch::new(id(2), 5, vec![items("a", &["1"])]).checksum()
        );
    }
}
