//! Which post each item of a batch belongs to, and which items were new.
//!
//! Invariant: each item of a batch belongs to one post. So an item that is new, which is marked
//! once, is reported to one post.

use smallvec::SmallVec;

use super::TenantItems;

/// A bit set of the items of a batch that were new, by the item's index in the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(SmallVec<[u64; 2]>);

impl Marks {
    /// Makes a set for `items` items, without marks.
    #[must_use]
    pub fn none_of(items: usize) -> Self {
        Self(SmallVec::from_elem(0, items.div_ceil(64)))
    }

    /// Marks the item at `place`. An index beyond the batch is ignored.
    pub fn mark(&mut self, place: usize) {
        if let Some(bits) = self.0.get_mut(place / 64) {
            *bits |= 1 << (place % 64);
        }
    }

    /// Marks the first `items` items.
    pub fn mark_first(&mut self, items: usize) {
        for (begin, bits) in (0..items).step_by(64).zip(&mut self.0) {
            *bits |= u64::MAX >> (64 - (items - begin).min(64));
        }
    }

    /// Whether the item at `place` is marked.
    #[must_use]
    pub fn is_marked(&self, place: usize) -> bool {
        let bits = self.0.get(place / 64).copied().unwrap_or_default();
        bits >> (place % 64) & 1 == 1
    }

    /// The number of marked items from `begin` (included) to `end` (excluded).
    fn count(&self, begin: usize, end: usize) -> u64 {
        let mut count = 0;
        let mut place = begin;
        while place < end {
            let bits = self.0.get(place / 64).copied().unwrap_or_default();
            let next = end.min((place / 64 + 1) * 64);
            let kept = u64::MAX >> (64 - (next - place));
            count += u64::from((bits >> (place % 64) & kept).count_ones());
            place = next;
        }
        count
    }
}

/// The items of a batch that were counted for the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewItems {
    /// Their number.
    pub count: u64,
    /// The marks of these items, if the batch [has items of several
    /// posts](super::Batch::is_shared).
    pub marks: Marks,
}

/// The posts of a batch's items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    posts: usize,
    /// A post, by its index in the batch, and the number of consecutive items of the batch that
    /// belong to it.
    runs: Vec<(u32, u32)>,
}

impl Shares {
    /// Returns the number of new items for each post.
    #[must_use]
    pub fn of_posts(&self, marks: &Marks) -> Vec<u64> {
        let mut of_posts = vec![0; self.posts];
        let mut begin = 0;
        for &(post, items) in &self.runs {
            let end = begin + items as usize;
            if let Some(of_post) = of_posts.get_mut(post as usize) {
                *of_post += marks.count(begin, end);
            }
            begin = end;
        }
        of_posts
    }
}

/// Combines the items of all `posts` in the order of [`merge_by_tenant`](super::merge_by_tenant).
/// Also returns which items belong to which post.
pub(super) fn merge_posts(
    posts: impl ExactSizeIterator<Item = Vec<TenantItems>>,
) -> (Vec<TenantItems>, Shares) {
    let mut pieces = Vec::with_capacity(posts.len());
    let mut shares = Shares {
        posts: posts.len(),
        runs: Vec::new(),
    };
    for (post, items) in (0_u32..).zip(posts) {
        let items = items.into_iter().filter(|group| !group.hashes.is_empty());
        pieces.extend(items.map(|group| (post, group)));
    }
    pieces.sort_by(|(_, a), (_, b)| a.tenant.cmp(&b.tenant));
    shares.runs.reserve_exact(pieces.len());
    let mut tenants: Vec<TenantItems> = Vec::with_capacity(pieces.len());
    for (post, mut group) in pieces {
        shares.runs.push((post, group.hashes.len() as u32));
        match tenants.last_mut() {
            Some(last) if last.tenant == group.tenant => last.hashes.append(&mut group.hashes),
            _ => tenants.push(group),
        }
    }
    (tenants, shares)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{ItemHash, TenantName, merge_by_tenant};

    fn group(tenant: u8, ids: &[u8]) -> TenantItems {
        let hash = |id: &u8| ItemHash::of_id(&id.to_string());
        TenantItems {
            tenant: TenantName::new(&format!("t{tenant}")).expect("valid"),
            hashes: ids.iter().map(hash).collect(),
        }
    }

    proptest! {
        /// The model is a plain set: the items of the posts are inserted one by one, in the batch's
        /// order.
        #[test]
        fn an_item_that_is_new_is_told_to_one_post(
            posts in prop::collection::vec(
                prop::collection::vec((0_u8..3, prop::collection::vec(0_u8..9, 0..60)), 0..4),
                0..8,
            ),
        ) {
            let posts: Vec<Vec<TenantItems>> = posts
                .iter()
                .map(|post| post.iter().map(|(tenant, ids)| group(*tenant, ids)).collect())
                .collect();
            let (tenants, shares) = merge_posts(posts.clone().into_iter());
            prop_assert_eq!(&tenants, &merge_by_tenant(posts.concat()));
            let mut seen = HashSet::new();
            let items = tenants.iter().flat_map(|group| {
                group.hashes.iter().map(|hash| (group.tenant.clone(), *hash))
            });
            let items: Vec<_> = items.collect();
            let mut marks = Marks::none_of(items.len());
            for (place, item) in items.into_iter().enumerate() {
                prop_assert!(!marks.is_marked(place));
                if seen.insert(item) {
                    marks.mark(place);
                }
            }
            let of_posts = shares.of_posts(&marks);
            prop_assert_eq!(of_posts.len(), posts.len());
            prop_assert_eq!(of_posts.iter().sum::<u64>(), seen.len() as u64);
            for (post, new) in posts.iter().zip(of_posts) {
                let distinct: HashSet<_> = post
                    .iter()
                    .flat_map(|group| group.hashes.iter().map(|hash| (&group.tenant, hash)))
                    .collect();
                prop_assert!(new <= distinct.len() as u64);
            }
        }
    }
}
