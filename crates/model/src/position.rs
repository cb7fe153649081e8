//! A position: which batches a store has applied, and what an answer must cover.
//!
//! Invariant: a position only grows. It says what is covered, never what is counted: the seen-set
//! makes counting exact, so a wrong position could delay or repeat work but not change a count.

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

    /// Adds everything that `other` has. Of two last checksums the one of the greater sequence
    /// stays.
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

    /// A batch that `requirement` asks for in `partition` and that is not applied: of the first
    /// epoch that misses some, the last, since batches mostly come in order.
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

    /// Asks for everything before what is asked for as well: a coordinator sends a batch only after
    /// the one before it was acknowledged, so a sequence that is known proves all of its epoch
    /// before it.
    #[must_use]
    pub fn closed(mut self) -> Self {
        for (_, sequences) in &mut self.epochs {
            *sequences = Sequences::up_to(sequences.last());
        }
        self
    }

    /// Whether sequences are missing below later ones.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.iter()
            .any(|(_, _, sequences)| !sequences.beyond().is_empty())
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
#[path = "position_tests.rs"]
mod tests;
