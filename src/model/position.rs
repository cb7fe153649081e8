//! A position: which batches a store has applied, and what an answer must cover.
//!
//! Invariant: a position only grows. It says what is covered, never what is counted: the seen-set makes
//! counting exact, so a wrong position could delay or repeat work but not change a count.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{BatchId, Epoch, Partition, Sequence, Sequences};

/// What a position says of a delivered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not applied yet.
    New,
    /// Applied before: redelivery, or a clone that is behind. Its items tell.
    Applied,
    /// Applied before with other content: two coordinators share an epoch (a cloned machine).
    Fork,
}

/// One epoch's part of a position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochPosition {
    /// The sequences applied.
    pub sequences: Sequences,
    /// The checksum of the batch with the greatest sequence.
    pub last_checksum: u32,
}

/// Per partition and epoch, the sequences applied. About 24 bytes an epoch; never pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    epochs: BTreeMap<(Partition, Epoch), EpochPosition>,
}

impl Position {
    /// Judges a delivered batch by its id and checksum.
    #[must_use]
    pub fn judge(&self, id: BatchId, checksum: u32) -> Verdict {
        let Some(epoch) = self.epochs.get(&(id.partition, id.epoch)) else {
            return Verdict::New;
        };
        if !epoch.sequences.contains(id.sequence) {
            Verdict::New
        } else if id.sequence == epoch.sequences.last() && checksum != epoch.last_checksum {
            Verdict::Fork
        } else {
            Verdict::Applied
        }
    }

    /// Records that the batch is applied.
    pub fn record(&mut self, id: BatchId, checksum: u32) {
        let epoch = self.epochs.entry((id.partition, id.epoch)).or_default();
        if epoch.sequences.insert(id.sequence) && epoch.sequences.last() == id.sequence {
            epoch.last_checksum = checksum;
        }
    }

    /// Sets one epoch's part as a whole: for decoders of stored positions.
    pub fn set(&mut self, partition: Partition, epoch: Epoch, part: EpochPosition) {
        self.epochs.insert((partition, epoch), part);
    }

    /// Adds everything that `other` has. Of two last checksums the one of the greater sequence stays.
    pub fn unite(&mut self, other: &Self) {
        for (partition, epoch, theirs) in other.iter() {
            let ours = self.epochs.entry((partition, epoch)).or_default();
            if theirs.sequences.last() > ours.sequences.last() {
                ours.last_checksum = theirs.last_checksum;
            }
            ours.sequences.unite(&theirs.sequences);
        }
    }

    /// Every epoch's part, in order of partition and epoch.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Epoch, &EpochPosition)> {
        self.epochs
            .iter()
            .map(|(&(partition, epoch), part)| (partition, epoch, part))
    }

    /// One epoch's part.
    #[must_use]
    pub fn get(&self, partition: Partition, epoch: Epoch) -> Option<&EpochPosition> {
        self.epochs.get(&(partition, epoch))
    }

    /// How many (partition, epoch) pairs it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// Whether nothing was ever applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// How many ranges of sequences are missing below later ones.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.epochs
            .values()
            .map(|part| part.sequences.beyond().len())
            .sum()
    }

    /// The whole position as a requirement for another.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        let mut requirement = Requirement::default();
        for (partition, epoch, part) in self.iter() {
            requirement.add_all(partition, epoch, &part.sequences);
        }
        requirement
    }

    /// A batch that `requirement` asks for in `partition` and that is not applied: of the first epoch that misses some,
    /// the last, since batches mostly come in order.
    #[must_use]
    pub fn missing(&self, requirement: &Requirement, partition: Partition) -> Option<BatchId> {
        let of_partition = requirement.iter().filter(|&(of, _, _)| of == partition);
        let mut last_missing = of_partition.map(|(_, epoch, sequences)| BatchId {
            partition,
            epoch,
            sequence: match self.get(partition, epoch) {
                Some(part) => sequences.minus(&part.sequences).last(),
                None => sequences.last(),
            },
        });
        last_missing.find(|id| id.sequence > 0)
    }

    /// Whether everything that `requirement` asks for in `partition` is applied.
    #[must_use]
    pub fn covers(&self, requirement: &Requirement, partition: Partition) -> bool {
        requirement
            .iter()
            .filter(|&(of, _, _)| of == partition)
            .all(|(_, epoch, sequences)| match self.get(partition, epoch) {
                Some(part) => part.sequences.includes(sequences),
                None => sequences.last() == 0,
            })
    }
}

/// What an answer must cover: per partition and epoch, a set of sequences.
///
/// Every read makes several, nearly always of one epoch: that takes no memory of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    /// In ascending order, each once.
    epochs: SmallVec<[((Partition, Epoch), Sequences); 1]>,
}

impl Requirement {
    /// Asks for every sequence up to `sequence` as well.
    pub fn add(&mut self, partition: Partition, epoch: Epoch, sequence: Sequence) {
        self.add_all(partition, epoch, &Sequences::up_to(sequence));
    }

    /// Asks for every sequence of `sequences` as well.
    pub fn add_all(&mut self, partition: Partition, epoch: Epoch, sequences: &Sequences) {
        match self.find(partition, epoch) {
            Ok(at) => self.epochs[at].1.unite(sequences),
            Err(at) => self
                .epochs
                .insert(at, ((partition, epoch), sequences.clone())),
        }
    }

    fn find(&self, partition: Partition, epoch: Epoch) -> Result<usize, usize> {
        self.epochs
            .binary_search_by_key(&(partition, epoch), |(of, _)| *of)
    }

    /// Asks for everything that `other` asks for as well.
    pub fn unite(&mut self, other: &Self) {
        if let [((partition, epoch), sequences)] = other.epochs.as_slice() {
            return self.add_all(*partition, *epoch, sequences);
        }
        let mut ours = std::mem::take(&mut self.epochs).into_iter().peekable();
        for (of, sequences) in &other.epochs {
            while let Some(before) = ours.next_if(|(ours, _)| ours < of) {
                self.epochs.push(before);
            }
            let mut united = ours.next_if(|(ours, _)| ours == of);
            match &mut united {
                Some((_, united)) => united.unite(sequences),
                None => united = Some((*of, sequences.clone())),
            }
            self.epochs.extend(united);
        }
        self.epochs.extend(ours);
    }

    /// What is asked for, in order of partition and epoch.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Epoch, &Sequences)> {
        self.epochs
            .iter()
            .map(|((partition, epoch), sequences)| (*partition, *epoch, sequences))
    }

    /// What is asked for of one epoch.
    #[must_use]
    pub fn get(&self, partition: Partition, epoch: Epoch) -> Option<&Sequences> {
        let at = self.find(partition, epoch).ok()?;
        self.epochs.get(at).map(|(_, sequences)| sequences)
    }

    /// What this asks for and `other` does not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (partition, epoch, sequences) in self.iter() {
            let rest = match other.get(partition, epoch) {
                Some(held) => sequences.minus(held),
                None => sequences.clone(),
            };
            if rest.last() > 0 {
                left.epochs.push(((partition, epoch), rest));
            }
        }
        left
    }

    /// The sequences that are missing below later ones.
    #[must_use]
    pub fn holes(&self) -> Self {
        let mut holes = Self::default();
        for (partition, epoch, sequences) in self.iter() {
            let missing = Sequences::up_to(sequences.last()).minus(sequences);
            if missing.last() > 0 {
                holes.epochs.push(((partition, epoch), missing));
            }
        }
        holes
    }

    /// How many sequences are asked for; at most the greatest number.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.iter().map(|(_, _, sequences)| sequences.count());
        counts.fold(0, u64::saturating_add)
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().all(|(_, _, sequences)| sequences.last() == 0)
    }

    /// Whether this asks for nothing in `partition` that `other` does not ask for.
    #[must_use]
    pub fn is_within(&self, other: &Self, partition: Partition) -> bool {
        self.iter()
            .filter(|&(of, _, _)| of == partition)
            .all(|(_, epoch, sequences)| {
                other
                    .get(partition, epoch)
                    .unwrap_or(&Sequences::default())
                    .includes(sequences)
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::SEQUENCE_MAX;

    fn id(epoch: u128, sequence: Sequence) -> BatchId {
        BatchId {
            partition: Partition(0),
            epoch: Epoch(epoch),
            sequence,
        }
    }

    #[test]
    fn redelivery_is_applied_and_other_content_is_a_fork() {
        let mut position = Position::default();
        assert_eq!(position.judge(id(1, 1), 10), Verdict::New);
        position.record(id(1, 1), 10);
        position.record(id(1, 3), 30);
        assert_eq!(position.judge(id(1, 1), 10), Verdict::Applied);
        assert_eq!(position.judge(id(1, 3), 30), Verdict::Applied);
        assert_eq!(position.judge(id(1, 3), 31), Verdict::Fork);
        assert_eq!(position.judge(id(1, 2), 20), Verdict::New);
        assert_eq!(position.judge(id(2, 1), 10), Verdict::New);
        position.record(id(1, 2), 20);
        assert_eq!(
            position.judge(id(1, 3), 30),
            Verdict::Applied,
            "the last checksum stays the last's"
        );
    }

    #[test]
    fn a_union_has_both_sides_sequences_and_the_greater_ones_checksum() {
        let mut ours = Position::default();
        ours.record(id(1, 1), 10);
        ours.record(id(1, 4), 40);
        ours.record(id(2, 1), 11);
        let mut theirs = Position::default();
        theirs.record(id(1, 2), 20);
        theirs.record(id(1, 3), 30);
        theirs.record(id(2, 2), 22);
        theirs.record(id(3, 1), 33);
        let mut union = ours.clone();
        union.unite(&theirs);
        let mut other_way = theirs.clone();
        other_way.unite(&ours);
        assert_eq!(union, other_way);
        for (epoch, last, checksum) in [(1, 4, 40), (2, 2, 22), (3, 1, 33)] {
            let part = union.get(Partition(0), Epoch(epoch)).expect("known");
            assert_eq!(part.sequences, Sequences::up_to(last), "nothing missing");
            assert_eq!(part.last_checksum, checksum);
        }
    }

    proptest! {
        /// In whatever order batches come, the least and the greatest sequences among them, a position knows just those, and
        /// is the same as the union of two that had some each.
        #[test]
        fn positions_know_what_came_at_both_ends(
            came in prop::collection::vec((0_u128..2, any::<bool>(), 0_u64..9, any::<bool>()), 0..30),
        ) {
            let (mut whole, mut parts) = (Position::default(), [Position::default(), Position::default()]);
            let mut model = BTreeSet::new();
            for (epoch, low, offset, part) in came {
                let sequence = if low { 1 + offset } else { Sequence::MAX - offset };
                let id = id(epoch, sequence);
                let is_new = sequence <= SEQUENCE_MAX && model.insert((epoch, sequence));
                prop_assert!(!is_new || whole.judge(id, 7) == Verdict::New);
                whole.record(id, 7);
                parts[usize::from(part)].record(id, 7);
            }
            let [mut left, right] = parts;
            left.unite(&right);
            prop_assert_eq!(&left, &whole);
            let requirement = whole.requirement();
            prop_assert!(whole.covers(&requirement, Partition(0)));
            prop_assert_eq!(requirement.count(), model.len() as u64);
            prop_assert!(requirement.minus(&requirement).is_empty());
            let mut everything = requirement.holes();
            everything.unite(&requirement);
            for (_, epoch, sequences) in everything.iter() {
                let last = requirement.get(Partition(0), epoch).map_or(0, Sequences::last);
                prop_assert_eq!(sequences, &Sequences::up_to(last));
            }
        }

        /// In whatever order and however often parts are added and united, a requirement is the map of unions.
        #[test]
        fn requirements_behave_like_maps_of_sets(
            parts in prop::collection::vec(prop::collection::vec((0_u128..4, 1_u64..9), 0..6), 0..6),
        ) {
            let mut model: BTreeMap<u128, BTreeSet<Sequence>> = BTreeMap::new();
            let mut whole = Requirement::default();
            for part in &parts {
                let mut requirement = Requirement::default();
                for &(epoch, last) in part {
                    requirement.add(Partition(0), Epoch(epoch), last);
                    model.entry(epoch).or_default().extend(1..=last);
                }
                whole.unite(&requirement);
                prop_assert!(requirement.is_within(&whole, Partition(0)));
                prop_assert!(requirement.minus(&whole).is_empty());
            }
            let epochs: Vec<u128> = whole.iter().map(|(_, epoch, _)| epoch.0).collect();
            prop_assert_eq!(epochs, model.keys().copied().collect::<Vec<_>>());
            for (epoch, sequences) in &model {
                let held = whole.get(Partition(0), Epoch(*epoch)).expect("added");
                prop_assert_eq!(held.count(), sequences.len() as u64);
            }
            prop_assert_eq!(whole.count(), model.values().map(|of| of.len() as u64).sum::<u64>());
        }
    }

    #[test]
    fn a_hole_stays_uncovered_until_filled() {
        let mut position = Position::default();
        position.record(id(1, 1), 0);
        position.record(id(1, 3), 0);
        let mut requirement = Requirement::default();
        assert!(position.covers(&requirement, Partition(0)));
        requirement.add(Partition(0), Epoch(1), 3);
        requirement.add(Partition(0), Epoch(1), 2);
        assert!(!position.covers(&requirement, Partition(0)));
        assert_eq!(position.holes(), 1);
        position.record(id(1, 2), 0);
        assert!(position.covers(&requirement, Partition(0)));
        requirement.add(Partition(0), Epoch(2), 1);
        assert!(
            !position.covers(&requirement, Partition(0)),
            "an epoch never heard of is not covered"
        );
    }
}
