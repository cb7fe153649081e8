//! Splits the items of a post by partition.
//!
//! Invariant: this module is pure. Each item is in exactly one part: that of its partition.

use headcount_model::{Partition, Partitioning, TenantItems};

/// Splits `items` by the partition of each hash. Partitions without items are left out.
pub(super) fn split(
    partitioning: Partitioning,
    items: Vec<TenantItems>,
) -> Vec<(Partition, Vec<TenantItems>)> {
    let mut parts: Vec<(Partition, Vec<TenantItems>)> = partitioning
        .all()
        .map(|partition| (partition, Vec::new()))
        .collect();
    for group in items {
        for hash in group.hashes {
            let (_, part) = &mut parts[usize::from(partitioning.of(&hash).0)];
            match part.last_mut() {
                Some(last) if last.tenant == group.tenant => last.hashes.push(hash),
                _ => part.push(TenantItems {
                    tenant: group.tenant.clone(),
                    hashes: [hash].into(),
                }),
            }
        }
    }
    parts.retain(|(_, part)| !part.is_empty());
    parts
}
