//! Random histories against a naive model, and what readers see after every step.
//!
//! Invariant: the model is too simple to be wrong: a set of ids for each tenant.

use std::collections::{BTreeMap, BTreeSet};

use headcount::model::{ItemHash, Marks, Position, TenantItems, Verdict};
use headcount::store::verify::recount;
use headcount::store::{Snapshot, Store, StoreReader};
use proptest::prelude::*;

use super::harness::{Harness, InMemory, OnDisk, batch, count, insert, shape, tenant};

const TENANTS: u8 = 12;
const IDS: u32 = 150;

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Vec<u32>),
    /// Of several tenants at once, each new item marked.
    InsertAll(Vec<(u8, Vec<u32>)>),
    Record(u16, u64, u32),
    Complete(bool),
    Commit,
    Crash,
    Close,
    TakeSnapshot,
    ReadSnapshot,
    Contains(u8, u32),
    BeginUnite,
    Unite(u8, Vec<u32>),
    FinishUnite(u16, u64, bool),
    AbandonUnite,
}

/// A tenant, and fewer than `end` ids.
fn items_of_one(end: usize) -> impl Strategy<Value = (u8, Vec<u32>)> {
    (0..TENANTS, prop::collection::vec(0..IDS, 0..end))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => items_of_one(25).prop_map(|(t, ids)| Step::Insert(t, ids)),
        8 => prop::collection::vec(items_of_one(25), 0..5).prop_map(Step::InsertAll),
        2 => (0_u16..3, 1_u64..6, any::<u32>()).prop_map(|(p, s, c)| Step::Record(p, s, c)),
        1 => any::<bool>().prop_map(Step::Complete),
        6 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
        1 => Just(Step::TakeSnapshot),
        1 => Just(Step::ReadSnapshot),
        2 => (0..TENANTS, 0..IDS).prop_map(|(t, id)| Step::Contains(t, id)),
        2 => Just(Step::BeginUnite),
        6 => items_of_one(60).prop_map(|(t, ids)| Step::Unite(t, ids)),
        2 => (0_u16..3, 1_u64..6, any::<bool>()).prop_map(|(p, s, c)| Step::FinishUnite(p, s, c)),
        1 => Just(Step::AbandonUnite),
    ]
}

#[derive(Debug, Clone, Default)]
struct State {
    items: BTreeMap<String, BTreeSet<u32>>,
    batches: BTreeMap<(u16, u64), u32>,
    complete: bool,
}

fn name(number: u8) -> String {
    format!("tenant-{number}")
}

/// The model's last commit, what is staged on top, and a snapshot with the state it was taken of.
#[derive(Default)]
struct Model {
    committed: State,
    staged: State,
    snapshot: Option<(Snapshot, State)>,
    /// What an open unite has set aside.
    aside: Option<BTreeMap<String, BTreeSet<u32>>>,
}

fn check_reader(reader: &impl StoreReader, state: &State) {
    let committed = reader.committed();
    assert_eq!(committed.tenants(), state.items.len() as u64);
    assert_eq!(
        committed.items(),
        state
            .items
            .values()
            .map(|ids| ids.len() as u64)
            .sum::<u64>()
    );
    assert_eq!(committed.complete(), state.complete);
    for number in 0..TENANTS {
        let name = name(number);
        let mut counts = vec![0; usize::from(shape().partitioning.count())];
        for id in state.items.get(&name).into_iter().flatten() {
            let owner = shape().partitioning.of(&ItemHash::of_id(&id.to_string()));
            counts[usize::from(owner.0)] += 1;
        }
        assert_eq!(committed.counts(&name), counts, "{name}");
    }
    for partition in 0..3 {
        for sequence in 1..6 {
            let verdict = committed.position().judge(batch(partition, sequence), 0);
            let is_known = state.batches.contains_key(&(partition, sequence));
            assert_eq!(
                verdict != Verdict::New,
                is_known,
                "batch {partition} {sequence}"
            );
        }
    }
}

fn check_snapshot(snapshot: Snapshot, state: &State) {
    let mut expected = BTreeSet::new();
    for (name, ids) in &state.items {
        let number = snapshot
            .committed
            .number(name)
            .expect("a tenant with items");
        for id in ids {
            expected.insert(headcount::store::Key::new(
                number,
                &ItemHash::of_id(&id.to_string()),
            ));
        }
        assert_eq!(
            snapshot.committed.counts(name).iter().sum::<u64>(),
            ids.len() as u64
        );
    }
    let keys: Vec<_> = snapshot.keys.map(|key| key.expect("intact")).collect();
    assert_eq!(keys, expected.into_iter().collect::<Vec<_>>());
}

fn check_contains(reader: &impl StoreReader, state: &State, name: &str, id: u32) {
    let hash = ItemHash::of_id(&id.to_string());
    let known = state.items.get(name).is_some_and(|ids| ids.contains(&id));
    let found = reader.contains(&tenant(name), &hash);
    assert_eq!(found.expect("read"), known, "{name} {id}");
}

/// The store after a crash or a close; the same one when it has no disk.
fn reopen<H: Harness>(
    harness: &mut H,
    store: H::Store,
    model: &mut Model,
    step: &Step,
) -> H::Store {
    let again = match step {
        Step::Crash => harness.crash(store),
        _ => harness.close(store),
    };
    if again.is_ok() {
        model.staged = model.committed.clone();
        model.aside = None;
    }
    match again {
        Ok(store) | Err(store) => store,
    }
}

/// Inserts items of one tenant; as many are new as the model did not know.
fn insert_one(store: &mut impl Store, model: &mut Model, name: &str, ids: &[u32]) {
    let items = &mut model.staged.items;
    let known = items.get(name).map_or(0, BTreeSet::len);
    if !ids.is_empty() {
        items.entry(name.to_owned()).or_default().extend(ids);
    }
    let now = items.get(name).map_or(0, BTreeSet::len);
    let added = insert(store, name, ids).expect("inserted");
    assert_eq!(added, (now - known) as u64);
}

/// Records a batch, unless it is judged as known, as the model knows it.
fn record_batch(store: &mut impl Store, model: &mut Model, of: (u16, u64), checksum: u32) {
    let (partition, sequence) = of;
    let id = batch(partition, sequence);
    let known = model.staged.batches.contains_key(&of);
    assert_eq!(store.judge(id, checksum) != Verdict::New, known);
    if !known {
        store.record(id, checksum);
        model.staged.batches.insert(of, checksum);
    }
}

/// Inserts the items of several tenants, of one partition after the other; which of them are new is
/// told of each.
fn insert_all(store: &mut impl Store, model: &mut Model, groups: &[(u8, Vec<u32>)]) {
    for partition in shape().partitioning.all() {
        let mut items = Vec::new();
        let mut expected = Vec::new();
        for (number, ids) in groups {
            let name = name(*number);
            let mut hashes = Vec::new();
            for id in ids {
                let hash = ItemHash::of_id(&id.to_string());
                if shape().partitioning.of(&hash) == partition {
                    hashes.push(hash);
                    let known = model.staged.items.entry(name.clone()).or_default();
                    expected.push(known.insert(*id));
                }
            }
            items.push(TenantItems {
                tenant: tenant(&name),
                hashes: hashes.into(),
            });
        }
        let mut marks = Marks::none_of(expected.len());
        let added = store.insert_all_marking(partition, &items, &mut marks);
        let new = expected.iter().filter(|is_new| **is_new).count();
        assert_eq!(added.expect("inserted"), new as u64);
        let marked: Vec<_> = (0..expected.len()).map(|at| marks.is_marked(at)).collect();
        assert_eq!(marked, expected, "{groups:?}");
    }
}

/// A step of a unite; those that need an open one are skipped without.
fn apply_unite(store: &mut impl Store, model: &mut Model, step: &Step) {
    match step {
        Step::BeginUnite => {
            store.begin_ingest().expect("begun");
            model.aside = Some(BTreeMap::new());
        }
        Step::Unite(number, ids) => {
            let Some(aside) = &mut model.aside else {
                return;
            };
            let hashes: Vec<ItemHash> = ids
                .iter()
                .map(|id| ItemHash::of_id(&id.to_string()))
                .collect();
            let name = name(*number);
            store.ingest(&tenant(&name), &hashes).expect("set aside");
            if !ids.is_empty() {
                aside.entry(name).or_default().extend(ids);
            }
        }
        Step::FinishUnite(partition, sequence, complete) => {
            let Some(aside) = model.aside.take() else {
                return;
            };
            let mut position = Position::default();
            position.record(batch(*partition, *sequence), 0);
            store.finish_ingest(&position, *complete).expect("finished");
            for (name, ids) in aside {
                model.staged.items.entry(name).or_default().extend(ids);
            }
            let batches = &mut model.staged.batches;
            batches.entry((*partition, *sequence)).or_insert(0);
            model.staged.complete |= *complete;
            model.committed = model.staged.clone();
        }
        _ => {
            store.abandon_ingest();
            model.aside = None;
        }
    }
}

fn apply<H: Harness>(
    harness: &mut H,
    mut store: H::Store,
    model: &mut Model,
    step: &Step,
) -> H::Store {
    match step {
        Step::Insert(number, ids) => insert_one(&mut store, model, &name(*number), ids),
        Step::InsertAll(groups) => insert_all(&mut store, model, groups),
        Step::Record(partition, sequence, checksum) => {
            record_batch(&mut store, model, (*partition, *sequence), *checksum);
        }
        Step::Complete(complete) => {
            store.set_complete(*complete);
            model.staged.complete = *complete;
        }
        Step::Commit => {
            store.commit().expect("committed");
            model.committed = model.staged.clone();
        }
        Step::Crash | Step::Close => store = reopen(harness, store, model, step),
        Step::BeginUnite | Step::Unite(..) | Step::FinishUnite(..) | Step::AbandonUnite => {
            apply_unite(&mut store, model, step);
        }
        Step::TakeSnapshot => {
            let snapshot = store.reader().snapshot().expect("a snapshot");
            model.snapshot = Some((snapshot, model.committed.clone()));
        }
        Step::ReadSnapshot => {
            if let Some((snapshot, state)) = model.snapshot.take() {
                check_snapshot(snapshot, &state);
            }
        }
        Step::Contains(number, id) => {
            check_contains(&store.reader(), &model.committed, &name(*number), *id);
        }
    }
    store
}

fn run<H: Harness>(steps: &[Step]) {
    let (mut harness, mut store) = H::make();
    let mut model = Model::default();
    for step in steps {
        store = apply(&mut harness, store, &mut model, step);
        check_reader(&store.reader(), &model.committed);
    }
    if let Some((snapshot, state)) = model.snapshot.take() {
        check_snapshot(snapshot, &state);
    }
    let report = recount(&store.reader()).expect("recounted");
    assert_eq!(report.differences, []);
    check_snapshot(
        store.reader().snapshot().expect("a snapshot"),
        &model.committed,
    );
    for name in model.committed.items.keys() {
        assert_eq!(
            count(&store.reader(), name),
            model.committed.items[name].len() as u64
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_store_behaves_like_the_model(steps in prop::collection::vec(step(), 1..80)) {
        run::<InMemory>(&steps);
    }

    #[test]
    fn disk_store_behaves_like_the_model(steps in prop::collection::vec(step(), 1..120)) {
        run::<OnDisk>(&steps);
    }
}
