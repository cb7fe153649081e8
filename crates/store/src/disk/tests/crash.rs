//! Random work, with something going wrong at every operation there is.
//!
//! Invariant: see the [module above](super).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{DiskOptions, DiskStore};
use super::sim::{Fault, Random, SimFiles};
use crate::files::enter_or_make;
use crate::verify::recount;
use crate::{Key, Store, StoreError, StoreReader, StoreShape};
use headcount_model::{
    BatchId, Epoch, Generation, ItemHash, KeptGeneration, Partition, Partitioning, Position,
    TenantName, Verdict,
};

/// Tables of 14 keys, so that a short history has flushes and merges in it.
const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes_max: 2 * 16 * 48,
    segment_bytes_max: 4096,
    journal_ahead_bytes: 1024,
    room_interval: Duration::from_millis(1),
};
/// Where the store is: in a folder of a folder, both made by whoever finds them missing.
const FOLDER: [&str; 2] = ["srv", "data"];
const SHAPE: StoreShape = StoreShape {
    partitioning: Partitioning::SINGLE,
};

/// What a store should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    items: BTreeMap<String, BTreeSet<u64>>,
    commits: u64,
    unites: u64,
}

/// A disk, what is known to be committed on it, and what may be.
struct World {
    /// Its topmost folder. The store's is made below it.
    top: SimFiles,
    random: Random,
    committed: State,
    in_doubt: Option<State>,
    generation: Option<KeptGeneration>,
    /// The one that was being set when something went wrong.
    generation_in_doubt: Option<KeptGeneration>,
    /// What an open unite has set aside.
    aside: Option<BTreeMap<String, BTreeSet<u64>>>,
}

/// The epoch of the batches that come by unites.
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

    /// Opens the store. Only a fault may prevent it: a crash never leaves what looks like damage.
    fn open(&self) -> Option<DiskStore> {
        let names = FOLDER.map(OsStr::new);
        let files = enter_or_make(self.top.clone(), names).ok()?;
        match DiskStore::open_files(Arc::new(files), None, SHAPE, OPTIONS) {
            Ok(store) => Some(store),
            Err(StoreError::Io { .. } | StoreError::Full { .. }) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Looks which state the store is at, which settles what was in doubt; `None` when it can't be
    /// read.
    fn settle_doubt(&mut self, store: &DiskStore) -> Option<()> {
        let reader = store.reader();
        let generation = reader.generation();
        if generation.is_some() && generation == self.generation_in_doubt {
            self.generation = generation;
        }
        self.generation_in_doubt = None;
        assert_eq!(
            generation, self.generation,
            "the last one, or the one being set"
        );
        let prefix = |epoch| {
            let cut = reader.cut();
            let part = cut.position().get(Partition(0), epoch);
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
            "the last commit or unite, or the one in flight"
        );
        let cut = reader.cut().clone();
        assert_eq!(cut.tenants(), self.committed.items.len() as u64);
        let mut expected = BTreeSet::new();
        for (name, ids) in &self.committed.items {
            let number = cut.number(name).expect("a committed tenant");
            assert_eq!(cut.counts(name), [ids.len() as u64]);
            expected.extend(ids.iter().map(|id| Key::new(number, &hash(*id))));
        }
        let keys: Result<Vec<Key>, StoreError> = reader.snapshot().ok()?.keys.collect();
        assert_eq!(keys.ok()?, expected.into_iter().collect::<Vec<_>>());
        assert_eq!(recount(&reader).ok()?.differences, []);
        Some(())
    }

    /// Up to `commits` commits of random items; `None` when the store failed.
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

    /// Perhaps another generation; `None` when the store failed.
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

    /// Perhaps a step of a unite; `None` when the store failed.
    fn work_at_unite(&mut self, store: &mut DiskStore) -> Option<()> {
        let step = self.random.below(12);
        let Some(mut aside) = self.aside.take() else {
            if step < 4 {
                if store.begin_unite().is_err() {
                    return self.expect_poisoned(store);
                }
                self.aside = Some(BTreeMap::new());
            }
            return Some(());
        };
        match step {
            0 => store.abandon_unite(),
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
                match store.finish_unite(&position, false) {
                    Ok(()) => self.committed = united,
                    Err(error) if error.is_full() => self.expect_no_unite(store),
                    Err(_) => {
                        self.in_doubt = Some(united);
                        return self.expect_poisoned(store);
                    }
                }
            }
            _ => {
                // Some tenants that the store knows, some that it will know, some that only come
                // this way.
                let name = format!("t{}", self.random.below(8));
                let ids: Vec<u64> = (0..=self.random.below(20))
                    .map(|_| self.random.below(200))
                    .collect();
                let hashes: Vec<ItemHash> = ids.iter().map(|id| hash(*id)).collect();
                let tenant = TenantName::new(&name).expect("valid");
                match store.unite(&tenant, &hashes) {
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
        // The disk may be well again: the store must not go on.
        self.top.inject(None);
        let tenant = TenantName::new("t0").expect("valid");
        assert!(store.insert(Partition(0), &tenant, &[hash(1)]).is_err());
        store.record(batch(u64::MAX), 0);
        assert!(store.commit().is_err());
        None
    }

    /// One life of a process: opens, works, ends somehow.
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

    /// A life without faults, in which everything must be there and go on.
    fn live_well(&mut self) {
        self.top.inject(None);
        let mut store = self.open().expect("nothing fails any more");
        self.aside = None;
        self.settle_doubt(&store).expect("readable");
        self.work(&mut store, 30).expect("nothing fails any more");
        store.settle().expect("nothing fails any more");
        self.settle_doubt(&store).expect("readable");
        store.close().expect("nothing fails any more");
    }

    /// The end of a life: of the machine too, if it went down or chance says so.
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
        "{operations} operations are too few to mean anything"
    );
    assert!(well.committed.unites > 1, "no unites, no meaning");
    for fault in [Fault::Crash, Fault::Error] {
        for at in 1..=operations {
            lives_through(fault, at);
        }
    }
}

/// A store meets `fault` at its operation `at`, is opened again, and then survives a crash.
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
        // The process is gone, the machine is not: unsynced writes and names can still be seen.
        let store = world.open().expect("nothing fails any more");
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
