//! Reading a stopped store's folder without changing it.
//!
//! Invariant: it shows what opening the store would, whatever a crash left, and no file changes by
//! it.

use std::fs;
use std::path::Path;

use headcount::model::{Generation, ItemHash, KeptGeneration};
use headcount::store::data_dir::{DataDir, ReadOnlyDir};
use headcount::store::disk::DiskReader;
use headcount::store::verify::{Report, recount};
use headcount::store::{Store, StoreError, StoreReader};

use super::harness::{batch, belonging, count, files, insert, open_disk, shape, tenant, tiny};

fn read<T>(folder: &Path, look: impl FnOnce(&DiskReader) -> T) -> Result<T, StoreError> {
    let dir = ReadOnlyDir::open(folder)?;
    Ok(look(&DiskReader::open(&dir, shape(), tiny())?))
}

/// Commits of one id each, from `first` on.
fn work(store: &mut impl Store, first: u32, commits: u32) {
    for id in first..first + commits {
        insert(store, &format!("t{}", id % 3), &[id]).expect("inserted");
        store.record(batch(0, u64::from(id) + 1), id);
        store.commit().expect("committed");
    }
}

fn assert_reads(folder: &Path, ids: u32) {
    let before = files(folder);
    let of_tenant = |name: u32| u64::from((ids + 2 - name) / 3);
    let report = read(folder, |reader| {
        for name in 0..3 {
            assert_eq!(count(reader, &format!("t{name}")), of_tenant(name));
        }
        for id in 0..ids + 3 {
            let hash = ItemHash::of_id(&id.to_string());
            let is_there = reader.contains(&tenant(&format!("t{}", id % 3)), &hash);
            assert_eq!(is_there.expect("read"), id < ids);
        }
        recount(reader).expect("recounted")
    });
    let report = report.expect("opened");
    assert_eq!((report.items, report.differences), (u64::from(ids), vec![]));
    assert!(before == files(folder), "nothing is changed");
}

#[test]
fn it_shows_the_generation() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open_disk(folder.path()).expect("opened");
    let kept = KeptGeneration {
        generation: Generation([7; _]),
        is_placed: false,
    };
    store.set_generation(kept).expect("remembered");
    drop(store);
    let shown = read(folder.path(), StoreReader::generation);
    assert_eq!(shown.expect("opened"), Some(kept));
}

#[test]
fn it_shows_what_a_killed_store_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ids = 0;
    // Less than a table, about a table, runs, merged runs: with journals of any length.
    for commits in [0, 1, 20, 7, 28, 29, 100, 500] {
        let mut store = open_disk(folder.path()).expect("opened");
        work(&mut store, ids, commits);
        ids += commits;
        drop(store);
        assert_reads(folder.path(), ids);
    }
    open_disk(folder.path())
        .expect("opened")
        .close()
        .expect("closed");
    assert_reads(folder.path(), ids);
}

#[test]
fn what_a_crash_left_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open_disk(folder.path()).expect("opened");
    work(&mut store, 0, 60);
    store.settle().expect("settled");
    work(&mut store, 60, 5);
    drop(store);
    for name in ["run-00000000000000ff", "journal-spare.tmp", "MANIFEST.tmp"] {
        fs::write(folder.path().join(name), b"half a file").expect("written");
    }
    let journals = files(folder.path()).into_keys();
    let mut journals = journals.filter(|path| path.to_string_lossy().contains("journal-0"));
    let journal = journals.next_back().expect("a journal");
    let mut bytes = fs::read(&journal).expect("read");
    // The records of this segment have its salt; behind them may be those of an older one.
    let start = [b"HCJR", &bytes[24..32]].concat();
    let mut records = bytes.windows(start.len()).enumerate();
    let last = records.rfind(|(_, bytes)| *bytes == start);
    let last = last.expect("a record").0;
    bytes[last + 60] ^= 1;
    fs::write(&journal, bytes).expect("written");
    assert_reads(folder.path(), 64);
}

#[test]
fn a_folder_without_a_store_yet_is_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &belonging()).expect("made"));
    let before = files(folder.path());
    let report = read(folder.path(), |reader| recount(reader).expect("recounted"));
    assert_eq!(report.expect("opened"), Report::default());
    assert!(before == files(folder.path()), "nothing is changed");
}

#[test]
fn a_store_without_its_manifest_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open_disk(folder.path()).expect("made"));
    let manifest = folder.path().join("MANIFEST");
    fs::remove_file(&manifest).expect("removed");
    match read(folder.path(), |_| ()) {
        Err(StoreError::Damaged { path, .. }) => assert_eq!(path, manifest),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_store_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open_disk(folder.path()).expect("opened");
    for _ in 0..2 {
        let refused = ReadOnlyDir::open(folder.path());
        assert!(
            matches!(refused, Err(StoreError::InUse { .. })),
            "{refused:?}"
        );
        // The folder itself is locked as well.
        let _ = fs::remove_file(folder.path().join("LOCK"));
    }
    drop(store);
    let first = ReadOnlyDir::open(folder.path()).expect("free");
    let second = ReadOnlyDir::open(folder.path()).expect("readers share it");
    let refused = DataDir::open(folder.path(), &belonging());
    assert!(
        matches!(refused, Err(StoreError::InUse { .. })),
        "{refused:?}"
    );
    drop((first, second));
    open_disk(folder.path()).expect("free again");
}
