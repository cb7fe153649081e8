//! A set of sequences of one epoch, stored as a contiguous prefix and ranges beyond it.
//!
//! Invariant: `beyond` is sorted, its ranges are not empty and touch neither each other nor the
//! prefix. No sequence in the set is greater than [`SEQUENCE_MAX`], so the successor of each is a
//! valid number.

use super::{SEQUENCE_MAX, Sequence};

/// The applied sequences of one (epoch, partition): 1 to `prefix`, and the ranges of `beyond`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    prefix: Sequence,
    beyond: Vec<(Sequence, Sequence)>,
}

impl Sequences {
    /// The set of all sequences up to and including `prefix`, but at most up to [`SEQUENCE_MAX`].
    #[must_use]
    pub fn up_to(prefix: Sequence) -> Self {
        Self {
            prefix: prefix.min(SEQUENCE_MAX),
            beyond: Vec::new(),
        }
    }

    /// Makes a set from the values of [`Self::prefix`] and [`Self::beyond`]. `None` when they break
    /// the invariant above, so that a decoder can reject them.
    #[must_use]
    pub fn from_parts(prefix: Sequence, beyond: Vec<(Sequence, Sequence)>) -> Option<Self> {
        let mut floor = prefix;
        for &(first, last) in &beyond {
            if first > last || floor.checked_add(1).is_none_or(|next| first <= next) {
                return None;
            }
            floor = last;
        }
        (floor <= SEQUENCE_MAX).then_some(Self { prefix, beyond })
    }

    /// The last sequence of the contiguous part from 1; 0 when 1 itself is missing.
    #[must_use]
    pub fn prefix(&self) -> Sequence {
        self.prefix
    }

    /// The ranges beyond the prefix, first and last included, ascending.
    #[must_use]
    pub fn beyond(&self) -> &[(Sequence, Sequence)] {
        &self.beyond
    }

    /// The greatest sequence in the set; 0 when it is empty.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.beyond.last().map_or(self.prefix, |&(_, last)| last)
    }

    /// Whether `sequence` is in the set (0 always is).
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        sequence <= self.prefix
            || self
                .beyond
                .iter()
                .any(|&(first, last)| (first..=last).contains(&sequence))
    }

    /// Whether every sequence from 1 to `sequence` is in the set.
    #[must_use]
    pub fn covers(&self, sequence: Sequence) -> bool {
        sequence <= self.prefix
    }

    /// Whether every sequence of `other` is in the set.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        let within = |first: Sequence, last: Sequence| {
            last <= self.prefix
                || self
                    .beyond
                    .iter()
                    .any(|&(from, to)| from <= first && last <= to)
        };
        other.prefix <= self.prefix
            && other
                .beyond
                .iter()
                .all(|&(first, last)| within(first, last))
    }

    /// Adds `sequence` and returns whether it was absent. A number that no batch can have is not
    /// added.
    pub fn insert(&mut self, sequence: Sequence) -> bool {
        if self.contains(sequence) || sequence > SEQUENCE_MAX {
            return false;
        }
        let at = self.beyond.partition_point(|&(first, _)| first < sequence);
        self.beyond.insert(at, (sequence, sequence));
        self.normalise();
        true
    }

    /// Adds every sequence of `other`.
    pub fn unite(&mut self, other: &Self) {
        self.prefix = self.prefix.max(other.prefix);
        self.beyond.extend_from_slice(&other.beyond);
        self.beyond.sort_unstable();
        self.normalise();
    }

    /// The set of some ranges, first and last included, in any order. Empty ranges and numbers that
    /// no batch can have are ignored.
    #[must_use]
    pub fn of_ranges(ranges: impl IntoIterator<Item = (Sequence, Sequence)>) -> Self {
        let ranges = ranges
            .into_iter()
            .map(|(first, last)| (first.max(1), last.min(SEQUENCE_MAX)));
        let mut beyond: Vec<_> = ranges.filter(|(first, last)| first <= last).collect();
        beyond.sort_unstable();
        let mut set = Self { prefix: 0, beyond };
        set.normalise();
        set
    }

    /// All ranges of the set in ascending order, including the prefix.
    pub fn ranges(&self) -> impl Iterator<Item = (Sequence, Sequence)> {
        let prefix = (self.prefix > 0).then_some((1, self.prefix));
        prefix.into_iter().chain(self.beyond.iter().copied())
    }

    /// The sequences of the set that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut taken = other.ranges().peekable();
        for (mut first, last) in self.ranges() {
            while let Some(&(from, to)) = taken.peek() {
                if to < first {
                    taken.next();
                    continue;
                }
                if from > last {
                    break;
                }
                if from > first {
                    left.push((first, from - 1));
                }
                // Sequences are less than the greatest number, so a saturated successor is beyond
                // every range.
                first = to.saturating_add(1);
                if first > last {
                    break;
                }
            }
            if first <= last {
                left.push((first, last));
            }
        }
        Self::of_ranges(left)
    }

    /// The number of sequences in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges().map(|(first, last)| last - first + 1).sum()
    }

    /// The missing ranges below the greatest sequence: batches that exist but are not applied.
    #[must_use]
    pub fn holes(&self) -> Vec<(Sequence, Sequence)> {
        let mut floor = self.prefix;
        let mut holes = Vec::with_capacity(self.beyond.len());
        for &(first, last) in &self.beyond {
            holes.push((floor + 1, first - 1));
            floor = last;
        }
        holes
    }

    /// Restores the invariant from sorted, possibly touching ranges.
    fn normalise(&mut self) {
        let mut merged: Vec<(Sequence, Sequence)> = Vec::with_capacity(self.beyond.len());
        for &(first, last) in &self.beyond {
            if first <= self.prefix.saturating_add(1) {
                self.prefix = self.prefix.max(last);
                continue;
            }
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        self.beyond = merged;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Maps small numbers to both ends of the range of sequences: 1 to 39 stay, and 40 and above
    /// become the greatest ones.
    fn at_the_ends(small: Sequence) -> Sequence {
        match small {
            ..40 => small,
            _ => SEQUENCE_MAX - 79 + small,
        }
    }

    proptest! {
        /// Holds at both ends of the range of sequences: no overflow, no endless loop.
        #[test]
        fn the_extremes_are_sequences_like_any(
            left in prop::collection::vec((1_u64..80, 0_u64..5), 0..10),
            right in prop::collection::vec((1_u64..80, 0_u64..5), 0..10),
        ) {
            let set = |ranges: &[(u64, u64)]| {
                let range = |&(first, more)| {
                    let first = at_the_ends(first);
                    (first, first.saturating_add(more))
                };
                Sequences::of_ranges(ranges.iter().map(range))
            };
            let (left, right) = (set(&left), set(&right));
            let difference = left.minus(&right);
            let mut union = left.clone();
            union.unite(&right);
            let interesting = (0..50).chain(SEQUENCE_MAX - 50..=Sequence::MAX);
            for sequence in interesting {
                let (in_left, in_right) = (left.contains(sequence), right.contains(sequence));
                prop_assert_eq!(union.contains(sequence), in_left || in_right);
                let in_difference = sequence == 0 || in_left && !in_right;
                prop_assert_eq!(difference.contains(sequence), in_difference);
            }
            for set in [&left, &right, &difference, &union] {
                prop_assert!(set.last() <= SEQUENCE_MAX);
                let again = Sequences::from_parts(set.prefix(), set.beyond().to_vec());
                prop_assert_eq!(again.as_ref(), Some(set));
                let all = Sequences::up_to(SEQUENCE_MAX);
                prop_assert!(all.includes(set));
                let missing = Sequences::up_to(set.last()).minus(set);
                prop_assert_eq!(missing.ranges().collect::<Vec<_>>(), set.holes());
                prop_assert_eq!(missing.count() + set.count(), set.last());
            }
        }

        #[test]
        fn minus_is_the_sets_difference(
            left in prop::collection::vec((1_u64..40, 0_u64..5), 0..10),
            right in prop::collection::vec((1_u64..40, 0_u64..5), 0..10),
        ) {
            let set = |ranges: &[(u64, u64)]| {
                let range = |&(first, more)| (first, first + more);
                Sequences::of_ranges(ranges.iter().map(range))
            };
            let (left, right) = (set(&left), set(&right));
            let difference = left.minus(&right);
            for sequence in 1..60 {
                let expected = left.contains(sequence) && !right.contains(sequence);
                prop_assert_eq!(difference.contains(sequence), expected);
            }
            let count = (1..60).filter(|&sequence| difference.contains(sequence)).count();
            prop_assert_eq!(difference.count(), count as u64);
        }

        #[test]
        fn behaves_like_a_plain_set(
            left in prop::collection::vec(1_u64..40, 0..40),
            right in prop::collection::vec(1_u64..40, 0..40),
        ) {
            let mut set = Sequences::default();
            let mut model = BTreeSet::new();
            for &sequence in &left {
                prop_assert_eq!(set.insert(sequence), model.insert(sequence));
            }
            let mut other = Sequences::default();
            for &sequence in &right {
                other.insert(sequence);
            }
            set.unite(&other);
            model.extend(right);

            let last = model.last().copied().unwrap_or(0);
            prop_assert_eq!(set.last(), last);
            let mut missing = BTreeSet::new();
            for sequence in 1..=40 {
                prop_assert_eq!(set.contains(sequence), model.contains(&sequence));
                prop_assert_eq!(set.covers(sequence), (1..=sequence).all(|s| model.contains(&s)));
                if sequence < last && !model.contains(&sequence) {
                    missing.insert(sequence);
                }
            }
            let holes: BTreeSet<u64> = set.holes().into_iter().flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(holes, missing);
            prop_assert!(set.includes(&other));
            let includes = (1..=40).all(|s| other.contains(s) || !set.contains(s));
            prop_assert_eq!(other.includes(&set), includes);
            let again = Sequences::from_parts(set.prefix(), set.beyond().to_vec());
            prop_assert_eq!(again, Some(set));
        }
    }

    #[test]
    fn what_no_batch_can_have_is_in_no_set() {
        let mut set = Sequences::default();
        assert!(!set.insert(u64::MAX));
        assert!(set.insert(SEQUENCE_MAX));
        assert_eq!(set.holes(), [(1, SEQUENCE_MAX - 1)]);
        assert_eq!(Sequences::up_to(u64::MAX).last(), SEQUENCE_MAX);
        let all = Sequences::of_ranges([(0, u64::MAX)]);
        assert_eq!(all, Sequences::up_to(SEQUENCE_MAX));
        assert_eq!(all.minus(&all).count(), 0);
        assert_eq!(all.minus(&set).last(), SEQUENCE_MAX - 1);
    }

    #[test]
    fn parts_that_break_the_invariant_are_refused() {
        assert_eq!(Sequences::from_parts(3, vec![(4, 5)]), None);
        assert_eq!(Sequences::from_parts(3, vec![(6, 5)]), None);
        assert_eq!(Sequences::from_parts(0, vec![(2, 3), (4, 4)]), None);
        assert_eq!(Sequences::from_parts(u64::MAX, vec![(1, 1)]), None);
        assert_eq!(Sequences::from_parts(u64::MAX, Vec::new()), None);
        assert_eq!(Sequences::from_parts(0, vec![(9, u64::MAX)]), None);
        assert!(Sequences::from_parts(0, vec![(9, SEQUENCE_MAX)]).is_some());
        assert!(Sequences::from_parts(0, vec![(2, 3), (5, 5)]).is_some());
    }
}
