//! A batch that the log takes in parts only.
//!
//! Invariant: pure. The parts hold each of the batch's items once, in its order, and none is larger
//! than allowed but for one item.

use headcount_log::{batch_bytes, encoded_bytes};
use headcount_model::{ITEM_HASH_BYTES, ItemHashes, TenantItems};

/// `tenants` in parts, each of which has at most `bytes_max` bytes as a batch.
pub(super) fn parts(tenants: &[TenantItems], bytes_max: usize) -> Vec<Vec<TenantItems>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = batch_bytes(&[]);
    for group in tenants {
        let of_hashes = |hashes: &[_]| TenantItems {
            tenant: group.tenant.clone(),
            hashes: ItemHashes::from_slice(hashes),
        };
        let name_bytes = encoded_bytes(&of_hashes(&[]));
        let mut rest = &group.hashes[..];
        while !rest.is_empty() {
            let room = bytes_max.saturating_sub(bytes + name_bytes) / ITEM_HASH_BYTES;
            if room == 0 && !part.is_empty() {
                parts.push(std::mem::take(&mut part));
                bytes = batch_bytes(&[]);
                continue;
            }
            let (now, later) = rest.split_at(room.clamp(1, rest.len()));
            let items = of_hashes(now);
            bytes += encoded_bytes(&items);
            part.push(items);
            rest = later;
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use headcount_model::{ItemHash, TenantName, item_count, merge_by_tenant};

    fn group(tenant: usize, items: usize) -> TenantItems {
        let hash = |item: usize| ItemHash::of_id(&format!("{tenant}-{item}"));
        TenantItems {
            tenant: TenantName::new(&format!("{tenant:04}")).expect("valid"),
            hashes: (0..items).map(hash).collect(),
        }
    }

    proptest! {
        #[test]
        fn parts_are_the_batch_and_none_is_too_large(
            sizes in prop::collection::vec(1_usize..100, 1..20),
            bytes_max in 0_usize..3_000,
        ) {
            let tenants: Vec<_> = sizes.iter().enumerate().map(|(at, &size)| group(at, size)).collect();
            let parts = parts(&tenants, bytes_max);
            for part in &parts {
                prop_assert!(batch_bytes(part) <= bytes_max || item_count(part) == 1);
            }
            // Nor are there more than it takes.
            for two in parts.windows(2) {
                let first_of_next = TenantItems {
                    hashes: two[1][0].hashes[..1].into(),
                    ..two[1][0].clone()
                };
                let more = [two[0].as_slice(), &[first_of_next]].concat();
                prop_assert!(batch_bytes(&more) > bytes_max);
            }
            prop_assert_eq!(merge_by_tenant(parts.concat()), tenants);
        }
    }
}
