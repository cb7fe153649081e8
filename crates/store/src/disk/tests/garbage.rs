//! Arbitrary bytes in the files of a store.
//!
//! Invariant: no content of any file makes the store panic, or return data that was never
//! committed. The store opens at a commit, or rejects the file.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::{DiskOptions, DiskStore};
use super::sim::SimFiles;
use crate::verify::recount;
use crate::vfs::{Files, TEMPORARY};
use crate::{Store, StoreError, StoreReader, StoreShape};
use headcount_model::{BatchId, Epoch, ItemHash, Partition, Partitioning, TenantName};

const ITEMS: u64 = 100;

fn open(files: &SimFiles) -> Result<DiskStore, StoreError> {
    let options = DiskOptions {
        memory_bytes_max: 2 * 64 * 48,
        segment_bytes_max: 1 << 20,
        journal_ahead_bytes: 512,
        ..DiskOptions::default()
    };
    let shape = StoreShape {
        partitioning: Partitioning::SINGLE,
    };
    DiskStore::open_files(Arc::new(files.clone()), None, shape, options)
}

/// Makes the files of a killed store with a run or two and some commits in its journal.
fn store() -> SimFiles {
    let files = SimFiles::new();
    let mut store = open(&files).expect("made");
    for id in 0..ITEMS {
        let tenant = TenantName::new(&format!("t{}", id % 3)).expect("valid");
        let hash = ItemHash::of_id(&id.to_string());
        store
            .insert(Partition(0), &tenant, &[hash])
            .expect("inserted");
        let (partition, epoch, sequence) = (Partition(0), Epoch(4), id + 1);
        store.record(
            BatchId {
                partition,
                epoch,
                sequence,
            },
            0,
        );
        store.commit().expect("committed");
    }
    store.settle().expect("settled");
    files
}

/// Returns the number of items in the store. Fails if the store does not open or a key cannot be
/// read.
fn items(files: &SimFiles) -> Result<u64, StoreError> {
    let store = open(files)?;
    let reader = store.reader();
    let report = recount(&reader)?;
    assert_eq!(report.differences, []);
    let commits = reader
        .committed()
        .position()
        .get(Partition(0), Epoch(4))
        .map(|part| part.sequences.last());
    assert_eq!(
        commits,
        Some(report.items),
        "counts and position are of one commit"
    );
    Ok(report.items)
}

/// Lists the files that the store needs: not unfinished and spare files.
fn names(files: &SimFiles) -> Vec<String> {
    let mut names = files.list().expect("listed");
    names.retain(|name| !name.ends_with(TEMPORARY));
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_overwritten_bytes_change_an_answer(
        file: prop::sample::Index,
        at: prop::sample::Index,
        bytes in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let files = store();
        let names = names(&files);
        let name = &names[file.index(names.len())];
        let file = files.open(name).expect("there");
        let len = file.len().expect("known");
        let at = at.index(len as usize) as u64;
        file.write_at(&bytes, at).expect("written");
        match items(&files) {
            // The end of the journal cannot be distinguished from a commit in flight. The bytes
            // that are written here are shorter than a record, so they reach at most two records.
            Ok(items) => {
                let is_journal = name.starts_with("journal-");
                let is_expected = items == ITEMS || (is_journal && items >= ITEMS - 2);
                prop_assert!(is_expected, "{name} {items}");
            }
            Err(StoreError::Damaged { path, .. } | StoreError::Version { path, .. }) => {
                prop_assert_eq!(path, files.folder().join(name));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn garbage_is_refused(
        file: prop::sample::Index,
        bytes in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let files = store();
        let names = names(&files);
        let name = &names[file.index(names.len())];
        let file = files.create(name).expect("made");
        file.write_at(&bytes, 0).expect("written");
        prop_assert!(items(&files).is_err());
    }
}
