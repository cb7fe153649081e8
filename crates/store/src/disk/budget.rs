//! Divides the memory for filters among the runs.
//!
//! Invariant: after [`shrink`] and [`admit`], the sum of all filters and half of the largest one is
//! within the budget. So any filter can be folded at any time: its folded copy has at most half its
//! size, and exists beside it for a moment.
//!
//! The cost of an absent key is the number of its block reads: one for each run with a filter that
//! lets it pass. Therefore memory is taken where a byte saves the fewest reads. This is mostly in
//! the largest runs, as in Monkey (Dayan et al., 2017): their filters take the most memory, and
//! each saves at most one read.

use super::filter::{full_bytes, half_bytes, size_within};

/// Minimum number of bits per key. With fewer bits a filter lets nearly every key pass.
const BITS_PER_KEY_MIN: u64 = 2;
/// Number of filter bits that a key sets and a lookup tests.
const BITS_SET: f64 = 8.0;

/// The share of one filter in the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Number of keys of its run; 0 if no lookup needs the filter any more.
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// Whether the filter is being built and cannot be folded.
    pub(super) is_fixed: bool,
}

impl Share {
    /// Approximate fraction of absent keys that pass.
    fn passing(&self) -> f64 {
        if self.keys == 0 {
            return 0.0;
        }
        // A key sets one of the 32 bits in each of the eight words of its block: 256 bits.
        let keys_per_bit = self.keys as f64 / (self.bytes * 8) as f64;
        (1.0 - (-BITS_SET * keys_per_bit).exp()).powf(BITS_SET)
    }

    /// The next smaller share: half the size, or zero.
    fn smaller(&self) -> Self {
        let bytes_min = self.keys.saturating_mul(BITS_PER_KEY_MIN) / 8;
        let bytes = half_bytes(self.bytes).filter(|half| self.keys > 0 && *half >= bytes_min);
        Self {
            bytes: bytes.unwrap_or_default(),
            ..*self
        }
    }

    /// The cost of the next smaller size: the increase of the fraction of absent keys that pass,
    /// per byte that is freed.
    fn cost(&self) -> f64 {
        let smaller = self.smaller();
        (smaller.passing() - self.passing()) / (self.bytes - smaller.bytes) as f64
    }
}

/// Shrinks filters until all are within `bytes_max`.
pub(super) fn shrink(shares: &mut [Share], bytes_max: u64) {
    while room(shares, bytes_max).is_none() {
        // Among filters of equal cost the last is taken, which is the new one.
        let foldable = shares
            .iter_mut()
            .rev()
            .filter(|share| !share.is_fixed && share.bytes > 0);
        let Some(cheapest) = foldable.min_by(|a, b| a.cost().total_cmp(&b.cost())) else {
            return;
        };
        *cheapest = cheapest.smaller();
    }
}

/// Makes room for the filter of a new run of `keys` keys. Returns the size of that filter in bytes,
/// or 0 for none.
pub(super) fn admit(shares: &mut Vec<Share>, keys: u64, bytes_max: u64) -> u64 {
    let full = Share {
        keys,
        bytes: full_bytes(keys),
        is_fixed: false,
    };
    shares.push(full);
    shrink(shares, bytes_max);
    let Some(new) = shares.pop().filter(|new| *new != full) else {
        return full.bytes;
    };
    // Shares only have halved sizes, but the new filter is not built yet, so it can take all the
    // remaining room.
    let room = room(shares, bytes_max).unwrap_or_default();
    let largest = shares.iter().map(|share| share.bytes).max().unwrap_or(0);
    let left = room.min((room + largest / 2) / 3 * 2);
    let bytes = size_within(left.min(full.bytes)).max(new.bytes);
    if bytes >= keys.saturating_mul(BITS_PER_KEY_MIN) / 8 {
        bytes
    } else {
        0
    }
}

/// Number of free bytes, or `None` if the budget is exceeded.
fn room(shares: &[Share], bytes_max: u64) -> Option<u64> {
    let largest = shares.iter().map(|share| share.bytes).max().unwrap_or(0);
    shares
        .iter()
        .try_fold(bytes_max.checked_sub(largest / 2)?, |left, share| {
            left.checked_sub(share.bytes)
        })
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn share(keys: u64, bytes: u64) -> Share {
        Share {
            keys,
            bytes,
            is_fixed: false,
        }
    }

    #[test]
    fn whoever_loses_least_by_it_is_folded() {
        // The shares of runs of 16,384 and 1,024 keys and of a new run of 16,384 keys, by budget.
        let cases = [
            ("all fit", 63_000, [24_576, 1_536], 24_576),
            ("the new filter first", 52_000, [24_576, 1_536], 13_312),
            ("then the other large one", 40_000, [12_288, 1_536], 17_408),
            ("then the new filter again", 33_000, [12_288, 1_536], 12_288),
            ("both large filters are dropped", 6_000, [0, 1_536], 0),
            ("then the small filter is folded", 2_000, [0, 768], 0),
        ];
        for (why, bytes_max, after, granted) in cases {
            let mut shares = vec![share(16_384, 24_576), share(1_024, 1_536)];
            let bytes = admit(&mut shares, 16_384, bytes_max);
            assert_eq!([shares[0].bytes, shares[1].bytes], after, "{why}");
            assert_eq!(bytes, granted, "{why}");
        }
    }

    #[test]
    fn what_nobody_asks_any_more_goes_first() {
        let mut shares = vec![share(4_096, 6_144), share(0, 24_576)];
        assert_eq!(admit(&mut shares, 4_096, 24_576), 6_144);
        assert_eq!(shares, [share(4_096, 6_144), share(0, 0)]);
    }

    #[test]
    fn what_is_being_built_stays() {
        let bytes = full_bytes(8_000);
        let fixed = Share {
            is_fixed: true,
            ..share(8_000, bytes)
        };
        let mut shares = vec![fixed];
        let granted = admit(&mut shares, 8_000, bytes * 2);
        assert_eq!(shares, [fixed]);
        assert!(
            granted >= bytes * 4 / 10 && granted <= bytes / 2,
            "{granted}"
        );
        assert_eq!(admit(&mut shares, 8_000, bytes), 0);
        assert_eq!(shares, [fixed]);
    }

    proptest! {
        #[test]
        fn larger_runs_never_have_more_for_each_key(
            bytes_max in 0_u64..4_000_000,
            runs in prop::collection::vec(1_u64..40, 1..20),
        ) {
            let full = |size: u64| share(size * 4_096, full_bytes(size * 4_096));
            let mut shares: Vec<Share> = runs.iter().copied().map(full).collect();
            shrink(&mut shares, bytes_max);
            shares.sort_by_key(|share| (share.keys, Reverse(share.bytes)));
            let parts = shares.iter().map(|share| share.bytes * 4_096 / share.keys);
            prop_assert!(parts.is_sorted_by(|few, many| few >= many), "{:?}", shares);
        }

        #[test]
        fn filters_and_half_of_the_largest_are_within_the_budget(
            bytes_max in 0_u64..100_000,
            steps in prop::collection::vec((1_u64..50_000, any::<[bool; 2]>(), 0_usize..8), 1..40),
        ) {
            let mut shares: Vec<Share> = Vec::new();
            for (keys, [is_fixed, is_retired], at) in steps {
                let before = shares.clone();
                let bytes = admit(&mut shares, keys, bytes_max);
                prop_assert!(bytes <= full_bytes(keys));
                for (before, after) in before.iter().zip(&shares) {
                    prop_assert!(after.bytes == 0 || before.bytes % after.bytes == 0);
                    prop_assert!(!before.is_fixed || before == after);
                }
                shares.push(Share { keys, bytes, is_fixed });
                let largest = shares.iter().map(|share| share.bytes).max().unwrap_or(0);
                let sum: u64 = shares.iter().map(|share| share.bytes).sum();
                prop_assert!(sum + largest / 2 <= bytes_max, "{:?}", shares);
                if at < shares.len() {
                    shares[at].is_fixed = false;
                    if is_retired {
                        shares[at].keys = 0;
                    }
                }
            }
        }
    }
}
