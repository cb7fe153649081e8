//! The items of an engine run: cheap to generate, the same in every run, with known counts.
//!
//! Invariant: the n-th distinct item is a function of n alone, so that a duplicate needs no memory
//! of earlier items.

use std::ops::Range;

use headcount::model::ItemHash;

use crate::error::BenchError;

/// The odd constant of SplitMix64 (Steele, Lea & Flood, 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The seed that makes an item's tenant independent of its hash.
const TENANT_SEED: u64 = 0x5851_f42d_4c95_7f2d;

/// Items grouped by tenant, in ascending order of tenants.
#[derive(Debug, Default)]
pub struct Batch {
    /// The index of each tenant, and the range of its hashes.
    groups: Vec<(u32, Range<usize>)>,
    hashes: Vec<ItemHash>,
    drawn: Vec<(u32, ItemHash)>,
    new: u64,
}

impl Batch {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The tenants with their hashes.
    pub fn groups(&self) -> impl Iterator<Item = (u32, &[ItemHash])> {
        self.groups
            .iter()
            .map(|(tenant, range)| (*tenant, self.hashes.get(range.clone()).unwrap_or_default()))
    }

    fn group(&mut self) {
        self.drawn.sort_by_key(|(tenant, _)| *tenant);
        self.groups.clear();
        self.hashes.clear();
        for (tenant, hash) in &self.drawn {
            let at = self.hashes.len();
            self.hashes.push(*hash);
            match self.groups.last_mut() {
                Some((last, range)) if last == tenant => range.end = at + 1,
                _ => self.groups.push((*tenant, at..at + 1)),
            }
        }
    }
}

/// Generates batches and knows the expected counts.
#[derive(Debug)]
pub struct Workload {
    duplicates: f64,
    draws: u64,
    distinct: u64,
    expected: Vec<u64>,
}

impl Workload {
    /// Creates a workload over `tenants` in which the fraction `duplicates` of items is repeated.
    pub fn new(tenants: u32, duplicates: f64) -> Self {
        Self {
            duplicates,
            draws: 0,
            distinct: 0,
            expected: vec![0; tenants.max(1) as usize],
        }
    }

    /// Fills `batch` with the next `items`.
    pub fn next_batch(&mut self, items: usize, batch: &mut Batch) {
        batch.drawn.clear();
        batch.new = 0;
        for _ in 0..items {
            self.draws += 1;
            let draw = mix(self.draws.wrapping_mul(GOLDEN));
            let is_duplicate = self.distinct > 0 && unit(draw) < self.duplicates;
            let number = if is_duplicate {
                below(mix(draw), self.distinct)
            } else {
                self.distinct += 1;
                self.distinct - 1
            };
            let (tenant, hash) = self.item(number);
            if !is_duplicate {
                batch.new += 1;
                if let Some(count) = self.expected.get_mut(tenant as usize) {
                    *count += 1;
                }
            }
            batch.drawn.push((tenant, hash));
        }
        batch.group();
    }

    /// Checks that the store found the expected number of new items in `batch`.
    ///
    /// # Errors
    /// The number differs.
    pub fn check(&self, batch: &Batch, new: u64) -> Result<(), BenchError> {
        if new == batch.new {
            return Ok(());
        }
        let detail = format!("{new} of a batch were new to the store, {} are", batch.new);
        Err(BenchError::WrongCount(detail))
    }

    /// The expected count of every tenant.
    pub fn expected(&self) -> &[u64] {
        &self.expected
    }

    /// Number of distinct items generated.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    fn item(&self, number: u64) -> (u32, ItemHash) {
        let tenants = self.expected.len() as u64;
        let tenant = below(mix(number ^ TENANT_SEED), tenants) as u32;
        // `mix` is a bijection on 64 bits, so no two items share a hash.
        let head = mix(number);
        let tail = mix(head);
        let mut hash = [0; 12];
        let (first, last) = hash.split_at_mut(8);
        first.copy_from_slice(&head.to_le_bytes());
        last.copy_from_slice(&tail.to_le_bytes()[..4]);
        (tenant, ItemHash(hash))
    }
}

/// The finalizer of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A uniformly distributed number below `bound`.
fn below(draw: u64, bound: u64) -> u64 {
    ((u128::from(draw) * u128::from(bound)) >> 64) as u64
}

/// A number in [0, 1).
fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn the_expected_counts_are_those_of_a_set() {
        let mut work = Workload::new(7, 0.3);
        let mut batch = Batch::default();
        let mut sets: HashMap<u32, HashSet<ItemHash>> = HashMap::new();
        for _ in 0..50 {
            work.next_batch(100, &mut batch);
            assert_eq!(batch.len(), 100);
            let mut new = 0;
            for (tenant, hashes) in batch.groups() {
                let set = sets.entry(tenant).or_default();
                new += hashes.iter().filter(|hash| set.insert(**hash)).count() as u64;
            }
            work.check(&batch, new).expect("as many are new");
        }
        for (tenant, set) in &sets {
            assert_eq!(work.expected()[*tenant as usize], set.len() as u64);
        }
        let share = work.distinct() as f64 / 5000.0;
        assert!((0.65..0.75).contains(&share), "{share}");
    }

    #[test]
    fn a_tenant_comes_once_in_a_batch() {
        let mut work = Workload::new(3, 0.0);
        let mut batch = Batch::default();
        work.next_batch(1000, &mut batch);
        let tenants: Vec<u32> = batch.groups().map(|(tenant, _)| tenant).collect();
        assert_eq!(tenants, [0, 1, 2]);
    }
}
