//! Filters stay within their budget for any number of keys.
//!
//! Invariant: the filters of all runs never take more memory than the memtables leave, and a store
//! gives the same answers with filters of any size, or without filters.

use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::super::{DiskOptions, DiskStore};
use super::sim::SimFiles;
use crate::{Store, StoreReader, StoreShape};
use headcount_model::{ItemHash, Partition, Partitioning, TenantName};

const IDS: u64 = 60_000;
const IDS_PER_COMMIT: u64 = 400;
/// Filters of 12 bits per key take 90 KB, and as much again during compactions.
const MEMORY_BYTES: usize = 2 * 1024 * 48;

fn open(files: &SimFiles, memory_bytes_max: usize) -> DiskStore {
    let options = DiskOptions {
        memory_bytes_max,
        segment_bytes_max: 1 << 20,
        journal_ahead_bytes: 4096,
        ..DiskOptions::default()
    };
    let shape = StoreShape {
        partitioning: Partitioning::SINGLE,
    };
    let store = DiskStore::open_files(Arc::new(files.clone()), None, shape, options);
    let store = store.expect("the store opens");
    check_memory(&store);
    store
}

/// Size in bytes of two memtables and a sorted copy of one: 48 per slot, of which keys take seven
/// eighths.
fn tables_bytes(options: &DiskOptions) -> u64 {
    options.table_keys_max() as u64 / 7 * 8 * 48
}

/// Checks the total size of all filters, and returns it in bytes.
fn check_memory(store: &DiskStore) -> u64 {
    let filters = &store.shared.filters;
    let bytes = filters.bytes();
    let options = &store.shared.options;
    let bytes_max = options.memory_bytes_max as u64 - tables_bytes(options);
    assert!(
        bytes <= bytes_max,
        "filters take {bytes} bytes, limit {bytes_max}"
    );
    assert!(store.reader().stats().memory_bytes > 0);
    bytes
}

fn insert(store: &mut DiskStore, ids: std::ops::Range<u64>) -> u64 {
    let tenant = TenantName::new("a").expect("valid");
    let hashes: Vec<_> = ids.map(|id| ItemHash::of_id(&id.to_string())).collect();
    let added = store.insert(Partition(0), &tenant, &hashes);
    let added = added.expect("inserted");
    store.commit().expect("committed");
    check_memory(store);
    added
}

#[test]
fn filters_stay_within_their_budget_and_counts_exact() {
    let files = SimFiles::new();
    let mut store = open(&files, MEMORY_BYTES);
    let shared = Arc::clone(&store.shared);
    let greatest = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for first in (0..IDS).step_by(IDS_PER_COMMIT as usize) {
                // A quarter of the items of each commit are duplicates.
                let from = first.saturating_sub(IDS_PER_COMMIT / 3);
                let added = insert(&mut store, from..first + IDS_PER_COMMIT);
                assert_eq!(added, IDS_PER_COMMIT, "from {first}");
            }
        });
        let mut greatest = 0;
        while !writer.is_finished() {
            greatest = shared.filters.bytes().max(greatest);
            thread::yield_now();
        }
        writer.join().map(|()| greatest)
    });
    let greatest = greatest.expect("written");
    let budget = MEMORY_BYTES as u64 / 2;
    assert!((budget / 2..=budget).contains(&greatest), "{greatest}");
    store.settle().expect("settled");
    assert!(check_memory(&store) > budget / 4);
    store.close().expect("closed");

    // Less memory, very little, and more than enough.
    for memory_bytes in [
        MEMORY_BYTES,
        MEMORY_BYTES / 4,
        2 * 16 * 48,
        MEMORY_BYTES * 16,
    ] {
        let mut store = open(&files, memory_bytes);
        for first in (0..IDS).step_by(7_000) {
            assert_eq!(insert(&mut store, first..first + 100), 0);
        }
        let absent = ItemHash::of_id("none");
        let tenant = TenantName::new("a").expect("valid");
        let contains = store.reader().contains(&tenant, &absent);
        assert!(!contains.expect("read"));
        store.settle().expect("settled");
        assert_eq!(store.reader().committed().items(), IDS);
        check_memory(&store);
    }
}

proptest! {
    #[test]
    fn filters_get_what_the_tables_leave(memory_bytes_max in 2_usize * 16 * 48..1 << 34) {
        let options = DiskOptions { memory_bytes_max, ..DiskOptions::default() };
        let (tables, filters) = (tables_bytes(&options), options.filters_bytes_max());
        prop_assert_eq!(tables + filters, memory_bytes_max as u64);
        // At most half is for memtables, and more than a quarter, because otherwise memtables of
        // twice the size would fit.
        prop_assert!(tables <= filters && filters < 3 * tables);
    }
}
