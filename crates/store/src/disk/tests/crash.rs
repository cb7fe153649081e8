//! Random workloads with a fault at every operation.
//!
//! Invariant: see the [parent module](super).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{DiskOptions, DiskStore};
use super::sim::{Fault, Random, SimFiles};
use crate::verify::recount;
use crate::vfs::enter_or_make;
use crate::{Key, Store, StoreError, StoreReader, StoreShape};
use headcount_model::{
    BatchId, Epoch, Generation, ItemHash, KeptGeneration, Partition, Partitioning, Position,
    TenantName, Verdict,
};

/// Memtables of 14 keys, so that a short history contains flushes and compactions.
const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes_max: 2 * 16 * 48,
    segment_bytes_max: 4096,
    journal_ahead_bytes: 1024,
    room_interval: Duration::from_millis(1),
};
/// The directory of the store: a nested directory. A process that does not find one of the two
/// makes it.
const FOLDER: [&str; 2] = ["srv", "data"];
const SHAPE: StoreShape = StoreShape {
    partitioning: Partitioning::SINGLE,
};

/// The expected content of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    items: BTreeMap<String, BTreeSet<u64>>,
    commits: u64,
    unites: u64,
}

/// A disk, the state that is committed on it, and the state that may be.
struct World {
    /// The root directory of the disk. The directory of the store is made below it.
    top: SimFiles,
    random: Random,
    committed: State,
    in_doubt: Option<State>,
    generation: Option<KeptGeneration>,
    /// The generation that was being set when a fault occurred.
    generation_in_doubt: Option<KeptGeneration>,
    /// The content of an open ingest.
    aside: Option<BTreeMap<String, BTreeSet<u64>>>,
}

/// The epoch of the batches that are ingested.
const UNITES: Epoch = Epoch(2);

fn batch(sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    }
}

fn hash(id: u64) -> ItemHash {
    ItemHash::of_id(&id.to_string())
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            top: SimFiles::new(),
            random: Random(seed),
            committed: State::default(),
            in_doubt: None,
            generation: None,
            generation_in_doubt: None,
            aside: None,
        }
    }

    /// Opens the store. Only a fault may prevent that: a crash never leaves state that looks like
    /// damage.
    fn open(&self) -> Option<DiskStore> {
        let names = FOLDER.map(OsStr::new);
        let files = enter_or_make(self.top.clone(), names).ok()?;
        match DiskStore::open_files(Arc::new(files), None, SHAPE, OPTIONS) {
            Ok(store) => Some(store),
            Err(StoreError::Io { .. } | StoreError::Full { .. }) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Determines the state of the store, which resolves a commit in doubt. Returns `None` if the
    /// store cannot be read.
    fn settle_doubt(&mut self, store: &DiskStore) -> Option<()> {
        let reader = store.reader();
        let generation = reader.generation();
        if generation.is_some() && generation == self.generation_in_doubt {
            self.generation = generation;
        }
        self.generation_in_doubt = None;
        assert_eq!(
            generation, self.generation,
            "the last generation, or the one that was being set"
        );
        let prefix = |epoch| {
            let committed = reader.committed();
            let part = committed.position().get(Partition(0), epoch);
            part.map_or(0, |part| part.sequences.prefix())
        };
        let (commits, unites) = (prefix(Epoch(1)), prefix(UNITES));
        if let Some(in_doubt) = self.in_doubt.take()
            && (in_doubt.commits, in_doubt.unites) == (commits, unites)
        {
            self.committed = in_doubt;
        }
        assert_eq!(
            (commits, unites),
            (self.committed.commits, self.committed.unites),
            "the last commit or ingest, or the one in flight"
        );
        let committed = reader.committed().clone();
        assert_eq!(committed.tenants(), self.committed.items.len() as u64);
        let mut expected = BTreeSet::new();
        for (name, ids) in &self.committed.items {
            let number = committed.number(name).expect("a committed tenant");
            assert_eq!(committed.counts(name), [ids.len() as u64]);
            expected.extend(ids.iter().map(|id| Key::new(number, &hash(*id))));
        }
        let keys: Result<Vec<Key>, StoreError> = reader.snapshot().ok()?.keys.collect();
        assert_eq!(keys.ok()?, expected.into_iter().collect::<Vec<_>>());
        assert_eq!(recount(&reader).ok()?.differences, []);
        Some(())
    }

    /// Makes up to `commits` commits of random items. Returns `None` if the store failed.
    fn work(&mut self, store: &mut DiskStore, commits: u64) -> Option<()> {
        for _ in 0..commits {
            let mut staged = self.committed.clone();
            staged.commits += 1;
            for _ in 0..self.random.below(3) {
                let name = format!("t{}", self.random.below(5));
                let ids: Vec<u64> = (0..=self.random.below(5))
                    .map(|_| self.random.below(200))
                    .collect();
                let hashes: Vec<ItemHash> = ids.iter().map(|id| hash(*id)).collect();
                let tenant = TenantName::new(&name).expect("valid");
                let known = staged.items.entry(name).or_default();
                let before = known.len();
                known.extend(ids);
                let now = known.len();
                match store.insert(Partition(0), &tenant, &hashes) {
                    Ok(added) => assert_eq!(added, (now - before) as u64),
                    Err(_) => return self.expect_poisoned(store),
                }
            }
            assert_eq!(store.judge(batch(staged.commits), 0), Verdict::New);
            store.record(batch(staged.commits), 0);
            match store.commit() {
                Ok(()) => self.committed = staged,
                Err(error) if error.is_full() => {
                    self.expect_rolled_back(store);
                    continue;
                }
                Err(_) => {
                    self.in_doubt = Some(staged);
                    return self.expect_poisoned(store);
                }
            }
            self.work_at_unite(store)?;
            self.perhaps_renew(store)?;
        }
        Some(())
    }

    /// Sets another generation at random. Returns `None` if the store failed.
    fn perhaps_renew(&mut self, store: &mut DiskStore) -> Option<()> {
        if self.random.below(8) > 0 {
            return Some(());
        }
        let drawn = self.random.next();
        let kept = KeptGeneration {
            generation: Generation(u128::from(drawn).to_le_bytes()),
            is_placed: drawn.is_multiple_of(2),
        };
        match store.set_generation(kept) {
            Ok(()) => self.generation = Some(kept),
            Err(error) if error.is_full() => {}
            Err(_) => {
                self.generation_in_doubt = Some(kept);
                return self.expect_poisoned(store);
            }
        }
        Some(())
    }

    /// Makes a step of an ingest at random. Returns `None` if the store failed.
    fn work_at_unite(&mut self, store: &mut DiskStore) -> Option<()> {
        let step = self.random.below(12);
        let Some(mut aside) = self.aside.take() else {
            if step < 4 {
                if store.begin_ingest().is_err() {
                    return self.expect_poisoned(store);
                }
                self.aside = Some(BTreeMap::new());
            }
            return Some(());
        };
        match step {
            0 => store.abandon_ingest(),
            1..3 => {
                let mut united = self.committed.clone();
                united.unites += 1;
                for (name, ids) in aside {
                    united.items.entry(name).or_default().extend(ids);
                }
                let mut position = Position::default();
                for sequence in 1..=united.unites {
                    let epoch = UNITES;
                    position.record(
                        BatchId {
                            epoch,
                            ..batch(sequence)
                        },
                        0,
                    );
                }
                match store.finish_ingest(&position, false) {
                    Ok(()) => self.committed = united,
                    Err(error) if error.is_full() => self.expect_no_unite(store),
                    Err(_) => {
                        self.in_doubt = Some(united);
                        return self.expect_poisoned(store);
                    }
                }
            }
            _ => {
                // Some tenants are known to the store, some become known later, and some are only
                // in the ingest.
                let name = format!("t{}", self.random.below(8));
                let ids: Vec<u64> = (0..=self.random.below(20))
                    .map(|_| self.random.below(200))
                    .collect();
                let hashes: Vec<ItemHash> = ids.iter().map(|id| hash(*id)).collect();
                let tenant = TenantName::new(&name).expect("valid");
                match store.ingest(&tenant, &hashes) {
                    Ok(()) => {
                        aside.entry(name).or_default().extend(ids);
                        self.aside = Some(aside);
                    }
                    Err(error) if error.is_full() => self.expect_no_unite(store),
                    Err(_) => return self.expect_poisoned(store),
                }
            }
        }
        Some(())
    }

    fn expect_poisoned(&self, store: &mut DiskStore) -> Option<()> {
        // The disk may work again, but the store must not continue.
        self.top.inject(None);
        let tenant = TenantName::new("t0").expect("valid");
        assert!(store.insert(Partition(0), &tenant, &[hash(1)]).is_err());
        store.record(batch(u64::MAX), 0);
        assert!(store.commit().is_err());
        None
    }

    /// One incarnation of the process: it opens the store, works, and ends at random in one of
    /// three ways.
    fn live(&mut self, commits: u64) {
        let Some(mut store) = self.open() else {
            return;
        };
        self.aside = None;
        if self.settle_doubt(&store).is_none() || self.work(&mut store, commits).is_none() {
            return;
        }
        match self.random.below(3) {
            0 => drop(store),
            1 => drop(store.close()),
            _ => drop(store.settle()),
        }
    }

    /// An incarnation without faults: all state must be there, and the store must work.
    fn live_well(&mut self) {
        self.top.inject(None);
        let mut store = self.open().expect("no fault is injected");
        self.aside = None;
        self.settle_doubt(&store).expect("readable");
        self.work(&mut store, 30).expect("no fault is injected");
        store.settle().expect("no fault is injected");
        self.settle_doubt(&store).expect("readable");
        store.close().expect("no fault is injected");
    }

    /// Ends an incarnation. Also crashes the machine if it went down, otherwise at random.
    fn restart(&mut self) {
        if self.top.is_down() || self.random.below(2) == 0 {
            self.top.crash(&mut self.random);
        }
        self.top.inject(None);
    }
}

#[path = "full.rs"]
mod full;

#[test]
fn a_fault_at_every_operation_loses_nothing() {
    let mut well = World::new(1);
    well.live(40);
    let operations = well.top.operations();
    assert!(
        operations > 200,
        "{operations} operations are too few for this test"
    );
    assert!(well.committed.unites > 1, "too few ingests for this test");
    for fault in [Fault::Crash, Fault::Error] {
        for at in 1..=operations {
            lives_through(fault, at);
        }
    }
}

/// A store encounters `fault` at its operation `at`, is opened again, and then survives a crash.
fn lives_through(fault: Fault, at: u64) {
    let mut world = World::new(1);
    world.top.inject(Some((fault, at)));
    world.live(40);
    world.random = Random(at);
    world.restart();
    world.live_well();
    world.top.crash(&mut world.random);
    world.live_well();
}

#[test]
fn what_a_reopened_store_shows_survives_the_next_crash() {
    let mut well = World::new(2);
    well.live(25);
    for at in 1..=well.top.operations() {
        let mut world = World::new(2);
        world.top.inject(Some((Fault::Error, at)));
        world.live(25);
        world.top.inject(None);
        // Only the process has ended, not the machine: unsynced writes and names are still visible.
        let store = world.open().expect("no fault is injected");
        world.settle_doubt(&store).expect("readable");
        drop(store);
        world.random = Random(at);
        world.top.crash(&mut world.random);
        world.live_well();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn many_lives_with_faults_lose_nothing(
        seed: u64,
        faults in prop::collection::vec((0..4_usize, 0..2_000_u64, 1_u64..600), 1..8),
    ) {
        let mut world = World::new(seed);
        for (kind, bytes, at) in faults {
            let full = [Fault::Full(bytes), Fault::FullCopying(bytes)];
            let fault = [Fault::Crash, Fault::Error, full[0], full[1]][kind];
            world.top.inject(Some((fault, at)));
            world.live(25);
            world.restart();
        }
        world.live_well();
        world.top.crash(&mut world.random);
        world.live_well();
    }
}
