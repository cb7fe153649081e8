//! The hot paths, one a run, for `cargo xtask instructions` to count their instructions under
//! callgrind.
//!
//! Invariant: a case does the same work at every run, and only what is inside [`counted`] is
//! counted.
//!
//! Without an argument it prints each case's name and how often it does its work. With a case's
//! name it does that. The counts to compare with are in `benches/instructions.toml`.

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

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use headcount::coordinator::{AdmissionLimits, Coordinator, CoordinatorOptions, ReadOptions};
use headcount::counter::exchange::{CountsAnswers, CountsGroup, CountsQuery, Message};
use headcount::counter::{CounterTask, Queries, ReadRequirement, apply};
use headcount::http::parse::{parse_json, parse_ndjson};
use headcount::log::wire::{decode, encode};
use headcount::model::{
    BarrierEpochs, Batch, Entropy, Epoch, ItemHash, Partition, Partitioning, Position, TenantName,
    Token,
};
use headcount::store::{Store, StoreReader};
use headcount::supervisor::Supervisor;
use kit::{ITEMS, SMALL_MEMORY_BYTES, SMALL_TABLE_KEYS};

/// Something whose instructions are counted.
struct Case {
    name: &'static str,
    /// How often it does its work.
    iterations: u32,
    run: fn(iterations: u32),
}

/// All of them.
const CASES: [Case; 15] = [
    case("hash_1000", 3, hash),
    case("parse_item", 100, parse_item),
    case("parse_array_1000", 3, parse_array),
    case("parse_ndjson_1000", 3, parse_lines),
    case("seal_encode_1000", 3, seal_encode),
    case("decode_1000", 3, decode_batch),
    case("step_memory_1000", 5, step_memory),
    case("insert_new_1000", 3, insert_new),
    case("insert_duplicates_1000", 3, insert_duplicates),
    case("commit_1000", 3, commit),
    case("snapshot_three_runs", 3, snapshot),
    case("unite_100000", 1, unite),
    case("read_counts", 20, read_counts),
    case("exchange_counts", 20, exchange_counts),
    case("token", 100, token),
];

const fn case(name: &'static str, iterations: u32, run: fn(u32)) -> Case {
    Case {
        name,
        iterations,
        run,
    }
}

fn main() -> ExitCode {
    let Some(wanted) = env::args().nth(1) else {
        for case in &CASES {
            println!("{} {}", case.name, case.iterations);
        }
        return ExitCode::SUCCESS;
    };
    let Some(case) = CASES.iter().find(|case| case.name == wanted) else {
        eprintln!("instructions: there is no case {wanted}");
        return ExitCode::FAILURE;
    };
    (case.run)(case.iterations);
    ExitCode::SUCCESS
}

/// Does what is counted: callgrind collects from its entry to its return, on the thread that calls
/// it.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn hash(iterations: u32) {
    let ids: Vec<String> = (0..ITEMS).map(kit::id).collect();
    for _ in 0..iterations {
        counted(|| {
            for id in &ids {
                black_box(ItemHash::of_id(id));
            }
        });
    }
}

fn parse_item(iterations: u32) {
    let body = kit::item_json(5).into_bytes();
    for _ in 0..iterations {
        counted(|| parse_json(black_box(&body), 1)).expect("an item");
    }
}

fn parse_array(iterations: u32) {
    let body = kit::array();
    for _ in 0..iterations {
        counted(|| parse_json(black_box(&body), ITEMS as usize)).expect("items");
    }
}

fn parse_lines(iterations: u32) {
    let body = kit::ndjson();
    for _ in 0..iterations {
        counted(|| parse_ndjson(black_box(&body), ITEMS as usize)).expect("items");
    }
}

fn seal_encode(iterations: u32) {
    for _ in 0..iterations {
        let groups = kit::groups(0..ITEMS);
        counted(|| encode(&Batch::new(kit::batch_id(1), 0, groups)));
    }
}

fn decode_batch(iterations: u32) {
    let bytes = encode(&kit::batch(0..ITEMS));
    for _ in 0..iterations {
        counted(|| decode(black_box(&bytes))).expect("a batch");
    }
}

/// Batches of [`ITEMS`] items that follow one another from the item `first` on.
fn batches(first: u32, count: u32) -> Vec<Batch> {
    (0..count)
        .map(|number| first + number * ITEMS)
        .map(|first| kit::batch(first..first + ITEMS))
        .collect()
}

fn step_memory(iterations: u32) {
    let first = 10 * ITEMS;
    let mut store = kit::memory_store(first);
    for batch in batches(first, iterations) {
        counted(|| {
            apply(&mut store, &batch)?;
            store.commit()
        })
        .expect("memory never fails");
    }
}

/// Items of a store with three runs and a full table.
const RUNS_ITEMS: u32 = 4 * SMALL_TABLE_KEYS;

fn insert_new(iterations: u32) {
    let mut disk = kit::disk_store(SMALL_MEMORY_BYTES, RUNS_ITEMS);
    assert_eq!(disk.store.reader().stats().runs, 3);
    for batch in batches(RUNS_ITEMS, iterations) {
        counted(|| apply(&mut disk.store, &batch)).expect("applies");
    }
}

fn insert_duplicates(iterations: u32) {
    let mut disk = kit::disk_store(SMALL_MEMORY_BYTES, RUNS_ITEMS);
    for batch in batches(0, iterations) {
        counted(|| apply(&mut disk.store, &batch)).expect("applies");
    }
}

fn commit(iterations: u32) {
    // The table takes all of it: nothing is flushed meanwhile.
    let mut disk = kit::disk_store(2 << 20, ITEMS);
    for batch in batches(ITEMS, iterations) {
        apply(&mut disk.store, &batch).expect("applies");
        counted(|| disk.store.commit()).expect("commits");
    }
}

/// The table is all but empty: its keys come in a random order, and so does the work to sort them.
fn snapshot(iterations: u32) {
    let items = 3 * SMALL_TABLE_KEYS + 10;
    let disk = kit::disk_store(SMALL_MEMORY_BYTES, items);
    let reader = disk.store.reader();
    assert_eq!(reader.stats().runs, 3);
    for _ in 0..iterations {
        let keys = counted(|| reader.snapshot().map(|snapshot| snapshot.keys.count()));
        assert_eq!(keys.expect("a snapshot"), items as usize);
    }
}

/// Sorting, writing and merging of runs, on this thread: the same code as in flushes and merges.
fn unite(iterations: u32) {
    let groups = kit::groups(0..100_000);
    for _ in 0..iterations {
        let mut disk = kit::disk_store(2 << 20, ITEMS);
        counted(|| {
            disk.store.begin_ingest()?;
            for group in &groups {
                disk.store.ingest(&group.tenant, &group.hashes)?;
            }
            disk.store.finish_ingest(&Position::default(), true)
        })
        .expect("united");
    }
}

/// A coordinator's read of ten tenants' counts, answered by a counter of the same thread.
fn read_counts(iterations: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut store = kit::memory_store(ITEMS);
    store.set_complete(true);
    store.commit().expect("memory never fails");
    let (log, deliveries) = headcount::log::local();
    let (task, counter) = CounterTask::new("c".to_owned(), 1, store, deliveries);
    let options = CoordinatorOptions {
        batch_bytes_max: 1 << 20,
        admission: AdmissionLimits {
            waiting_bytes_max: 1 << 20,
            waiting_posts_max: 16,
        },
        accept_timeout: Duration::from_secs(60),
        strong_reads_max: 4,
    };
    let read = ReadOptions {
        consistency: Default::default(),
        after: None,
        timeout: Duration::from_secs(60),
    };
    let tenants: Vec<TenantName> = (0..10).map(kit::tenant).collect();
    let reads = async {
        let named = vec!["c".to_owned()];
        let own = Epoch(1);
        let barriers = BarrierEpochs::new(Epoch(2), Entropy::default);
        let partitioning = Partitioning::SINGLE;
        let supervisor = Supervisor::default();
        let coordinator = Coordinator::new(
            own,
            barriers,
            partitioning,
            &log,
            named,
            options,
            &supervisor,
        );
        coordinator.set_member("c", Arc::new(counter), false);
        let started = coordinator.start(Duration::from_secs(60)).await;
        started.expect("started");
        (coordinator, log)
    };
    let local = tokio::task::LocalSet::new();
    local.spawn_local(task.run());
    let (coordinator, _log) = local.block_on(&runtime, reads);
    for _ in 0..iterations {
        let tenants = tenants.clone();
        let counts = counted(|| runtime.block_on(coordinator.counts(tenants, &read)));
        assert!(counts.expect("an answer").exact);
    }
}

/// A query for ten tenants' counts and its answer, as nodes write and read them.
fn exchange_counts(iterations: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let (_log, deliveries) = headcount::log::local();
    let mut store = kit::memory_store(ITEMS);
    store.set_complete(true);
    store.commit().expect("memory never fails");
    let (_task, counter) = CounterTask::new("c".to_owned(), 1, store, deliveries);
    let query = CountsQuery {
        tenants: (0..10).map(kit::tenant).collect(),
        demand: ReadRequirement {
            requirement: kit_requirement(),
            ..ReadRequirement::default()
        },
    };
    let tenants = Arc::clone(&query.tenants);
    let answer = runtime
        .block_on(counter.counts(tenants, query.demand.clone()))
        .expect("an answer");
    let (group, answers) = (CountsGroup(vec![query]), CountsAnswers(vec![Ok(answer)]));
    for _ in 0..iterations {
        counted(|| {
            let group = CountsGroup::decode(&group.encode()).map(|group| group.0.len());
            let answers = CountsAnswers::decode(&answers.encode());
            group.and_then(|queries| Ok((queries, answers?)))
        })
        .expect("messages");
    }
}

fn kit_requirement() -> headcount::model::Requirement {
    let mut position = Position::default();
    position.record(kit::batch_id(1), 0);
    position.requirement()
}

fn token(iterations: u32) {
    let token = Token {
        epoch: Epoch(7),
        sequences: [(Partition(0), 12_345)].into(),
    };
    for _ in 0..iterations {
        counted(|| Token::decode(&black_box(&token).to_string())).expect("a token");
    }
}
