//! The cut: the part of a commit that is kept in memory. Dictionary, counts, position.
//!
//! Invariant: a cut changes only by [`Cut::apply`] and [`Cut::unite`], a whole commit at a time, so
//! counts and position shown together belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use hashbrown::HashTable;

use headcount_model::{Epoch, Partition, Partitioning, Position, Requirement, TenantName};

use super::Staged;

/// A tenant's number in one store's dictionary, from 0 in order of first appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantNumber(pub u32);

/// A commit's dictionary, counts and position. About 150 bytes a tenant and 24 an epoch.
#[derive(Debug, Clone)]
pub struct Cut {
    partitioning: Partitioning,
    names: Vec<TenantName>,
    /// The numbers by the hash of their names: every item is looked up here.
    numbers: HashTable<TenantNumber>,
    /// Seeds differ from process to process, so that no client can choose names that collide.
    hasher: RandomState,
    /// The numbers in order of the names' bytes, for lists.
    ordered: BTreeMap<TenantName, TenantNumber>,
    /// A tenant's counts by partition, at its number times the number of partitions.
    counts: Vec<u64>,
    items: u64,
    position: Position,
    live: BTreeSet<(Partition, Epoch)>,
    complete: bool,
}

impl Cut {
    /// A cut without tenants.
    #[must_use]
    pub fn new(partitioning: Partitioning, position: Position) -> Self {
        Self {
            partitioning,
            names: Vec::new(),
            numbers: HashTable::new(),
            hasher: RandomState::new(),
            ordered: BTreeMap::new(),
            counts: Vec::new(),
            items: 0,
            position,
            live: BTreeSet::new(),
            complete: false,
        }
    }

    /// The cut with another position and completeness: for decoders of stored cuts.
    #[must_use]
    pub fn with_position(mut self, position: Position, complete: bool) -> Self {
        self.position = position;
        self.complete = complete;
        self
    }

    /// How the cut's counts are split.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        self.partitioning
    }

    /// A tenant's number; `None` when it has no items.
    #[must_use]
    pub fn number(&self, tenant: &str) -> Option<TenantNumber> {
        let is_it = |number: &TenantNumber| self.names[number.0 as usize].as_str() == tenant;
        self.numbers
            .find(self.hasher.hash_one(tenant), is_it)
            .copied()
    }

    /// All tenants, by number.
    #[must_use]
    pub fn names(&self) -> &[TenantName] {
        &self.names
    }

    /// A tenant's counts, one per partition in order; all zero for an unknown tenant.
    #[must_use]
    pub fn counts(&self, tenant: &str) -> Vec<u64> {
        match self.number(tenant) {
            Some(number) => self.counts_of(number).to_vec(),
            None => vec![0; usize::from(self.partitioning.count())],
        }
    }

    /// The counts of a tenant of the dictionary, one per partition in order.
    #[must_use]
    pub fn counts_of(&self, number: TenantNumber) -> &[u64] {
        let partitions = usize::from(self.partitioning.count());
        let start = number.0 as usize * partitions;
        &self.counts[start..start + partitions]
    }

    /// Up to `limit` tenants whose names start with `prefix` and come after `after`, in ascending
    /// order of their bytes, each with its number.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> impl Iterator<Item = (&'a TenantName, TenantNumber)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.ordered
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .take(limit)
            .map(|(name, &number)| (name, number))
    }

    /// How many tenants have items.
    #[must_use]
    pub fn tenants(&self) -> u64 {
        self.names.len() as u64
    }

    /// How many items are counted, over all tenants.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Which batches are applied.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What this cut covers, as a requirement for another: of the epochs that changed since the
    /// store was opened, or of all.
    #[must_use]
    pub fn covered(&self, all: bool) -> Requirement {
        let mut covered = Requirement::default();
        if all {
            for (partition, epoch, part) in self.position.iter() {
                covered.add_all(partition, epoch, &part.sequences);
            }
            return covered;
        }
        for &(partition, epoch) in &self.live {
            if let Some(part) = self.position.get(partition, epoch) {
                covered.add_all(partition, epoch, &part.sequences);
            }
        }
        covered
    }

    /// Whether the store has everything that it should have.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Takes a commit in.
    pub fn apply(&mut self, staged: &Staged) {
        let partitions = usize::from(self.partitioning.count());
        for name in staged.tenants() {
            self.add_tenant(name);
            self.counts.resize(self.counts.len() + partitions, 0);
        }
        for (number, partition, added) in staged.added() {
            self.add(number, partition, added);
        }
        for &(id, checksum) in staged.records() {
            self.position.record(id, checksum);
            self.live.insert((id.partition, id.epoch));
        }
        if let Some(complete) = staged.complete() {
            self.complete = complete;
        }
    }

    /// Takes a finished unite in: its changes, and the union of both positions.
    pub fn unite(&mut self, staged: &Staged, position: &Position) {
        self.apply(staged);
        for (partition, epoch, part) in position.iter() {
            let known = self.position.get(partition, epoch);
            if known.is_none_or(|known| !known.sequences.includes(&part.sequences)) {
                self.live.insert((partition, epoch));
            }
        }
        self.position.unite(position);
    }

    fn add_tenant(&mut self, name: &TenantName) {
        let number = TenantNumber(self.names.len() as u32);
        self.names.push(name.clone());
        self.ordered.insert(name.clone(), number);
        let (names, hasher) = (&self.names, &self.hasher);
        let hash = |number: &TenantNumber| hasher.hash_one(names[number.0 as usize].as_str());
        self.numbers.insert_unique(hash(&number), number, hash);
    }

    fn add(&mut self, number: TenantNumber, partition: Partition, added: u64) {
        let partitions = usize::from(self.partitioning.count());
        let at = number.0 as usize * partitions + usize::from(partition.0);
        if let Some(count) = self.counts.get_mut(at) {
            *count += added;
            self.items += added;
        }
    }
}
