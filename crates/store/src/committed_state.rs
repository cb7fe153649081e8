//! The committed state: the part of a commit that is kept in memory (dictionary, counts, position).
//!
//! Invariant: a committed state changes only by [`CommittedState::apply`] and
//! [`CommittedState::ingest`], one whole commit at a time, so counts and position that are read
//! together belong to the same commit.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use hashbrown::HashTable;

use headcount_model::{Epoch, Partition, Partitioning, Position, Requirement, TenantName};

use super::WriteBatch;

/// A tenant's number in one store's dictionary. Numbers start at 0, in order of first appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantNumber(pub u32);

/// Dictionary, counts and position of one commit. Takes about 150 bytes per tenant and 24 per
/// epoch.
#[derive(Debug, Clone)]
pub struct CommittedState {
    partitioning: Partitioning,
    names: Vec<TenantName>,
    /// Tenant numbers by the hash of the tenant's name. Every item is looked up in this table.
    numbers: HashTable<TenantNumber>,
    /// Each process has a random seed, so that clients cannot choose names that collide.
    hasher: RandomState,
    /// Tenant numbers in byte order of the tenants' names, for listing.
    ordered: BTreeMap<TenantName, TenantNumber>,
    /// Counts by tenant and partition: a tenant's counts start at its number times the number of
    /// partitions.
    counts: Vec<u64>,
    items: u64,
    position: Position,
    live: BTreeSet<(Partition, Epoch)>,
    complete: bool,
}

impl CommittedState {
    /// Makes a committed state without tenants.
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

    /// Replaces position and completeness, for decoders of stored committed states.
    #[must_use]
    pub fn with_position(mut self, position: Position, complete: bool) -> Self {
        self.position = position;
        self.complete = complete;
        self
    }

    /// The partitioning of the counts.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        self.partitioning
    }

    /// Returns a tenant's number, or `None` if the tenant has no items.
    #[must_use]
    pub fn number(&self, tenant: &str) -> Option<TenantNumber> {
        let is_it = |number: &TenantNumber| self.names[number.0 as usize].as_str() == tenant;
        self.numbers
            .find(self.hasher.hash_one(tenant), is_it)
            .copied()
    }

    /// The names of all tenants, by number.
    #[must_use]
    pub fn names(&self) -> &[TenantName] {
        &self.names
    }

    /// Returns a tenant's counts, one per partition in order. An unknown tenant has zeros.
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

    /// Lists up to `limit` tenants with their numbers, in ascending byte order: those with names
    /// that start with `prefix` and are greater than `after`.
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

    /// The number of tenants that have items.
    #[must_use]
    pub fn tenants(&self) -> u64 {
        self.names.len() as u64
    }

    /// The number of counted items of all tenants.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// The applied batches.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Returns the coverage of this state as a requirement for another replica: all epochs if `all`
    /// is true, otherwise only those that changed since the store was opened.
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

    /// Whether the store is complete: whether it has everything that it should have.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Applies one commit.
    pub fn apply(&mut self, staged: &WriteBatch) {
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

    /// Applies a finished ingest: its changes, and the union of both positions.
    pub fn ingest(&mut self, staged: &WriteBatch, position: &Position) {
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
