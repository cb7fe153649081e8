//! Position and requirement: the batches that a store has applied, and those that an answer must
//! include.
//!
//! Invariant: a position only grows. It determines coverage, never counts: the seen-set makes
//! counts exact, so a wrong position could delay or repeat work but not change a count.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{BatchId, Epoch, Partition, Sequence, Sequences};

/// The result of checking a delivered batch against a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The batch is not applied yet.
    New,
    /// The batch was applied before: it is a redelivery, or comes from a clone that is behind. Only
    /// its items show which.
    Applied,
    /// A batch with the same id but other content was applied before: two coordinators share an
    /// epoch, because a machine was cloned.
    Fork,
}

/// The part of a position for one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochPosition {
    /// The applied sequences.
    pub sequences: Sequences,
    /// The checksum of the batch with the greatest sequence.
    pub last_checksum: u32,
}

/// The applied sequences of each partition and epoch. Takes about 24 bytes per epoch; epochs are
/// never removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    epochs: BTreeMap<(Partition, Epoch), EpochPosition>,
}

impl Position {
    /// Checks a delivered batch by its id and checksum.
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

    /// Records a batch as applied.
    pub fn record(&mut self, id: BatchId, checksum: u32) {
        let epoch = self.epochs.entry((id.partition, id.epoch)).or_default();
        if epoch.sequences.insert(id.sequence) && epoch.sequences.last() == id.sequence {
            epoch.last_checksum = checksum;
        }
    }

    /// Sets the part of one epoch, for decoders of stored positions.
    pub fn set(&mut self, partition: Partition, epoch: Epoch, part: EpochPosition) {
        self.epochs.insert((partition, epoch), part);
    }

    /// Adds everything that `other` contains. Of two last checksums, the one of the greater
    /// sequence is kept.
    pub fn unite(&mut self, other: &Self) {
        for (partition, epoch, theirs) in other.iter() {
            let ours = self.epochs.entry((partition, epoch)).or_default();
            if theirs.sequences.last() > ours.sequences.last() {
                ours.last_checksum = theirs.last_checksum;
            }
            ours.sequences.unite(&theirs.sequences);
        }
    }

    /// The parts of all epochs, in order of partition and epoch.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Epoch, &EpochPosition)> {
        self.epochs
            .iter()
            .map(|(&(partition, epoch), part)| (partition, epoch, part))
    }

    /// The part of one epoch.
    #[must_use]
    pub fn get(&self, partition: Partition, epoch: Epoch) -> Option<&EpochPosition> {
        self.epochs.get(&(partition, epoch))
    }

    /// The number of (partition, epoch) pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// Whether no batch was ever applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// The number of holes: ranges of sequences that are missing below later ones.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.epochs
            .values()
            .map(|part| part.sequences.beyond().len())
            .sum()
    }

    /// Converts the whole position to a requirement for another replica.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        let mut requirement = Requirement::default();
        for (partition, epoch, part) in self.iter() {
            requirement.add_all(partition, epoch, &part.sequences);
        }
        requirement
    }

    /// Returns one batch of `partition` that `requirement` includes and that is not applied. It is
    /// the last missing batch of the first epoch with missing batches, because batches mostly come
    /// in order.
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

    /// Whether the position covers `requirement` in `partition`: all its batches are applied.
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

/// A requirement: the batches that an answer must include, as a set of sequences per partition and
/// epoch.
///
/// Every read makes several requirements, nearly always with one epoch. One epoch is stored inline,
/// without an allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    /// In ascending order, without duplicates.
    epochs: SmallVec<[((Partition, Epoch), Sequences); 1]>,
}

impl Requirement {
    /// Adds every sequence up to `sequence`.
    pub fn add(&mut self, partition: Partition, epoch: Epoch, sequence: Sequence) {
        self.add_all(partition, epoch, &Sequences::up_to(sequence));
    }

    /// Adds every sequence of `sequences`.
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

    /// Adds everything that `other` contains.
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

    /// The required sequences, in order of partition and epoch.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Epoch, &Sequences)> {
        self.epochs
            .iter()
            .map(|((partition, epoch), sequences)| (*partition, *epoch, sequences))
    }

    /// The required sequences of one epoch.
    #[must_use]
    pub fn get(&self, partition: Partition, epoch: Epoch) -> Option<&Sequences> {
        let at = self.find(partition, epoch).ok()?;
        self.epochs.get(at).map(|(_, sequences)| sequences)
    }

    /// Returns the part of this requirement that `other` does not contain.
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

    /// Returns the holes: sequences that are missing below later ones.
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

    /// Adds all sequences before the required ones. A coordinator sends a batch only after the
    /// previous one was acknowledged, so a known sequence proves that all earlier sequences of its
    /// epoch exist.
    #[must_use]
    pub fn closed(mut self) -> Self {
        for (_, sequences) in &mut self.epochs {
            *sequences = Sequences::up_to(sequences.last());
        }
        self
    }

    /// Whether there are holes: sequences that are missing below later ones.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.iter()
            .any(|(_, _, sequences)| !sequences.beyond().is_empty())
    }

    /// The number of required sequences, saturating at `u64::MAX`.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.iter().map(|(_, _, sequences)| sequences.count());
        counts.fold(0, u64::saturating_add)
    }

    /// Whether nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().all(|(_, _, sequences)| sequences.last() == 0)
    }

    /// Whether `other` contains everything that this requires in `partition`.
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
#[path = "position_tests.rs"]
mod tests;
