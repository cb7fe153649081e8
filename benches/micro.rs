//! Micro-benches of the hot paths, by the clock: `cargo bench`.
//!
//! Invariant: what prepares an iteration is not timed. Commits are durable ones, so they measure
//! the disk below the system's folder for temporary files; all else measures the processor.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "these are tests"
)]

mod kit;

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use headcount::counter::apply;
use headcount::http::parse::{parse_json, parse_ndjson};
use headcount::log::wire::{decode, encode};
use headcount::model::{Batch, ItemHash};
use headcount::store::{Store, StoreReader};
use kit::{Disk, ITEMS, SMALL_MEMORY_BYTES, SMALL_TABLE_KEYS};

/// Items of a store with three runs and a full table.
const RUNS_ITEMS: u32 = 4 * SMALL_TABLE_KEYS;

/// A group with so many items to an iteration.
fn group<'c>(criterion: &'c mut Criterion, name: &str, items: u32) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(u64::from(items)))
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

fn parse(criterion: &mut Criterion) {
    let one = kit::item_json(5).into_bytes();
    group(criterion, "parse", 1).bench_function("one item", |bencher| {
        bencher.iter(|| parse_json(black_box(&one), 1).expect("an item"));
    });
    let (array, ndjson) = (kit::array(), kit::ndjson());
    let items = ITEMS as usize;
    let mut group = group(criterion, "parse", ITEMS);
    group.bench_function("array of 1000", |bencher| {
        bencher.iter(|| parse_json(black_box(&array), items).expect("items"));
    });
    group.bench_function("ndjson of 1000", |bencher| {
        bencher.iter(|| parse_ndjson(black_box(&ndjson), items).expect("items"));
    });
}

fn hash(criterion: &mut Criterion) {
    let id = kit::id(5);
    group(criterion, "hash", 1).bench_function("one id", |bencher| {
        bencher.iter(|| ItemHash::of_id(black_box(&id)));
    });
}

fn batches(criterion: &mut Criterion) {
    let mut group = group(criterion, "batch", ITEMS);
    group.bench_function("seal 1000", |bencher| {
        bencher.iter_batched(
            || kit::groups(0..ITEMS),
            |groups| Batch::new(kit::batch_id(1), 0, groups),
            BatchSize::SmallInput,
        );
    });
    let batch = kit::batch(0..ITEMS);
    group.bench_function("encode 1000", |bencher| {
        bencher.iter(|| encode(black_box(&batch)));
    });
    let bytes = encode(&batch);
    group.bench_function("decode 1000", |bencher| {
        bencher.iter(|| decode(black_box(&bytes)).expect("a batch"));
    });
}

fn step(criterion: &mut Criterion) {
    let first = 10 * ITEMS;
    let batch = kit::batch(first..first + ITEMS);
    let mut group = group(criterion, "step", ITEMS);
    group.bench_function("1000 new, in memory", |bencher| {
        bencher.iter_batched_ref(
            || kit::memory_store(first),
            |store| apply(store, &batch).expect("applies"),
            BatchSize::PerIteration,
        );
    });
    let next = RUNS_ITEMS..RUNS_ITEMS + ITEMS;
    for (name, batch) in [
        ("1000 new, on disk, three runs", kit::batch(next)),
        ("1000 known, on disk, three runs", kit::batch(0..ITEMS)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || kit::disk_store(SMALL_MEMORY_BYTES, RUNS_ITEMS),
                |disk| apply(&mut disk.store, &batch).expect("applies"),
                BatchSize::PerIteration,
            );
        });
    }
}

fn lookup(criterion: &mut Criterion) {
    let disk = kit::disk_store(SMALL_MEMORY_BYTES, RUNS_ITEMS);
    let reader = disk.store.reader();
    let mut group = group(criterion, "lookup", 1);
    // The first table's keys are in the oldest run, which is asked last.
    for (name, first) in [("absent", RUNS_ITEMS), ("present, oldest run", 0)] {
        let items = first..first + ITEMS;
        let hashes: Vec<_> = items
            .map(|item| (kit::tenant(item), ItemHash::of_id(&kit::id(item))))
            .collect();
        let mut hashes = hashes.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (tenant, hash) = hashes.next().expect("for ever");
                reader.contains(tenant, hash).expect("read")
            });
        });
    }
}

fn commit(criterion: &mut Criterion) {
    let mut next = 0;
    for items in [1, ITEMS] {
        // Large enough that no flush falls into a measurement often.
        let mut disk = kit::disk_store(128 << 20, 0);
        group(criterion, "commit", items).bench_function(format!("{items} keys"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    let batch = kit::batch(next..next + items);
                    next += items;
                    apply(&mut disk.store, &batch).expect("applies");
                    let start = std::time::Instant::now();
                    disk.store.commit().expect("commits");
                    took += start.elapsed();
                }
                took
            });
        });
    }
}

fn merge(criterion: &mut Criterion) {
    // The fifth commit flushes the fourth table, and four runs become one.
    let full = 4 * SMALL_TABLE_KEYS;
    let batch = kit::batch(full..full + SMALL_TABLE_KEYS);
    let ready = || {
        let mut disk = kit::disk_store(SMALL_MEMORY_BYTES, full);
        apply(&mut disk.store, &batch).expect("applies");
        disk
    };
    group(criterion, "merge", full)
        .sample_size(20)
        .bench_function("flush a table, merge four runs", |bencher| {
            bencher.iter_batched_ref(
                ready,
                |Disk { store, .. }| {
                    store.commit().expect("commits");
                    store.settle().expect("settles");
                },
                BatchSize::PerIteration,
            );
        });
}

criterion_group!(benches, parse, hash, batches, step, lookup, commit, merge);
criterion_main!(benches);
