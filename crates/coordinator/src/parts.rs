//! Splits a batch that exceeds the size limit of the log into parts.
//!
//! Invariant: this module is pure. The parts contain each item of the batch once, in the order of
//! the batch. A part exceeds the limit only if it is a single item.

use headcount_log::{batch_bytes, encoded_bytes};
use headcount_model::{ITEM_HASH_BYTES, ItemHashes, TenantItems};

/// Splits `tenants` into parts. Each part, encoded as a batch, has at most `bytes_max` bytes.
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
            let groups = sizes.iter().enumerate().map(|(at, &size)| group(at, size));
            let tenants: Vec<_> = groups.collect();
            let parts = parts(&tenants, bytes_max);
            for part in &parts {
                prop_assert!(batch_bytes(part) <= bytes_max || item_count(part) == 1);
            }
            // No part has room for the first item of the next one, so there are no more parts than
            // needed.
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
