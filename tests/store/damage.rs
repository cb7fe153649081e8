//! What a disk store does with files that are not as it wrote them.
//!
//! Invariant: damage is refused by the file's name and the place in it, and nothing is changed on
//! disk.

use std::fs;
use std::path::{Path, PathBuf};

use headcount::model::{Generation, KeptGeneration};
use headcount::store::verify::recount;
use headcount::store::{Store, StoreError, StoreReader};

use super::harness::{batch, belonging, count, files, insert, open_disk, shape};

fn only_file(folder: &Path, prefix: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = files(folder)
        .into_keys()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

fn position_of(path: &Path, pattern: &[u8], skip: usize) -> usize {
    let bytes = fs::read(path).expect("read");
    let mut found = bytes
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, at)| *at == pattern);
    found.nth(skip).expect("the pattern is there").0
}

/// A store killed with a few commits in its journal.
fn killed(folder: &Path, commits: u32) {
    let mut store = open_disk(folder).expect("opened");
    for commit in 0..commits {
        insert(&mut store, "a", &[commit]).expect("inserted");
        store.record(batch(0, u64::from(commit) + 1), commit);
        store.commit().expect("committed");
    }
}

/// A store closed with all its keys in a run, and a generation.
fn closed(folder: &Path) {
    killed(folder, 10);
    let mut store = open_disk(folder).expect("opened");
    store.set_generation(generation()).expect("remembered");
    store.close().expect("closed");
}

fn generation() -> KeptGeneration {
    KeptGeneration {
        generation: Generation([7; _]),
        is_placed: true,
    }
}

fn assert_refused(folder: &Path, file: &Path, at: std::ops::RangeInclusive<u64>) {
    let before = files(folder);
    match open_disk(folder).map(|_| ()) {
        Err(StoreError::Damaged { path, offset, .. }) => {
            assert_eq!(path, file);
            assert!(at.contains(&offset), "byte {offset}, not one of {at:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(before, files(folder), "nothing is changed");
}

#[test]
fn a_damaged_commit_before_others_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    killed(folder.path(), 5);
    let journal = only_file(folder.path(), "journal-");
    for part in [4, 20, 40, 90] {
        let start = position_of(&journal, b"HCJR", 2);
        flip(&journal, start + part);
        assert_refused(folder.path(), &journal, start as u64..=start as u64);
        flip(&journal, start + part);
    }
    assert_eq!(
        count(
            &open_disk(folder.path()).expect("intact again").reader(),
            "a"
        ),
        5
    );
}

#[test]
fn a_torn_last_commit_is_no_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    killed(folder.path(), 5);
    let journal = only_file(folder.path(), "journal-");
    let last = position_of(&journal, b"HCJR", 4);
    flip(&journal, last + 60);
    let mut store = open_disk(folder.path()).expect("recovered");
    assert_eq!(count(&store.reader(), "a"), 4);
    assert_eq!(insert(&mut store, "a", &[3, 4]).expect("inserted"), 1);
    store.commit().expect("committed");
    drop(store);
    let store = open_disk(folder.path()).expect("opened");
    assert_eq!(count(&store.reader(), "a"), 5);
    assert_eq!(recount(&store.reader()).expect("recounted").differences, []);
}

/// A segment is never shorter than when it was made, and no crash makes it so.
#[test]
fn a_journal_cut_short_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    killed(folder.path(), 3);
    let journal = only_file(folder.path(), "journal-");
    let last = position_of(&journal, b"HCJR", 2) as u64;
    for len in [last + 50, last, 64, 10, 0] {
        let file = fs::File::options()
            .write(true)
            .open(&journal)
            .expect("opened");
        file.set_len(len).expect("cut");
        assert_refused(folder.path(), &journal, len..=len);
    }
}

#[test]
fn a_folder_whose_store_is_gone_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    killed(folder.path(), 3);
    let manifest = folder.path().join("MANIFEST");
    fs::remove_file(only_file(folder.path(), "journal-")).expect("removed");
    fs::remove_file(&manifest).expect("removed");
    assert_refused(folder.path(), &manifest, 0..=0);
}

/// A store killed while a full table's segment and the next one are both live: [`killed`]'s files
/// with the old segment and manifest put back, as if the flush had not got that far. Returns the
/// old segment.
fn killed_between_segments(folder: &Path) -> PathBuf {
    killed(folder, 28);
    let journal = only_file(folder, "journal-");
    let manifest = only_file(folder, "MANIFEST");
    let early = [journal.clone(), manifest].map(|path| {
        let content = fs::read(&path).expect("read");
        (path, content)
    });
    let mut store = open_disk(folder).expect("opened");
    insert(&mut store, "b", &[1]).expect("inserted");
    store.commit().expect("committed");
    store.settle().expect("settled");
    drop(store);
    assert!(!journal.exists(), "its keys are in a run");
    for (path, content) in early {
        fs::write(path, content).expect("written");
    }
    journal
}

#[test]
fn two_live_segments_are_replayed_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = killed_between_segments(folder.path());
    let store = open_disk(folder.path()).expect("recovered");
    assert_eq!(count(&store.reader(), "a"), 28);
    assert_eq!(count(&store.reader(), "b"), 1);
    store.settle().expect("settled");
    assert!(!old.exists());
    assert_eq!(recount(&store.reader()).expect("recounted").differences, []);
}

#[test]
fn a_last_commit_that_is_lost_before_a_later_segment_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = killed_between_segments(folder.path());
    let last = position_of(&old, b"HCJR", 27);
    flip(&old, last + 50);
    assert_refused(folder.path(), &old, last as u64..=last as u64);
}

#[test]
fn a_damaged_block_is_refused_when_read() {
    let folder = tempfile::tempdir().expect("a folder");
    closed(folder.path());
    let run = only_file(folder.path(), "run-");
    flip(&run, 4096 + 100);
    let is_the_block = |error: &StoreError| match error {
        StoreError::Damaged { path, offset, .. } => *path == run && *offset == 4096,
        _ => false,
    };
    let mut store = open_disk(folder.path()).expect("blocks are checked when they are read");
    let error = recount(&store.reader()).expect_err("damaged");
    assert!(is_the_block(&error), "{error}");
    let error = store.check().expect_err("the writer hears of it too");
    assert!(is_the_block(&error), "{error}");
    let error = store.commit().expect_err("poisoned");
    assert!(matches!(error, StoreError::Poisoned), "{error}");
    drop(store);

    let mut store = open_disk(folder.path()).expect("opened");
    let error = insert(&mut store, "a", &[1]).expect_err("damaged");
    assert!(is_the_block(&error), "{error}");
    let error = insert(&mut store, "b", &[1]).expect_err("poisoned");
    assert!(matches!(error, StoreError::Poisoned), "{error}");
    assert!(store.close().is_err());
}

#[test]
fn a_damaged_index_filter_or_foot_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    closed(folder.path());
    let run = only_file(folder.path(), "run-");
    let len = fs::metadata(&run).expect("there").len();
    for (from_end, at) in [
        (1, len - 48),
        (48, len - 48),
        (60, len - 80),
        (90, len - 96),
    ] {
        flip(&run, (len - from_end) as usize);
        assert_refused(folder.path(), &run, at..=at);
        flip(&run, (len - from_end) as usize);
    }
    flip(&run, 8);
    assert_refused(folder.path(), &run, 0..=0);
}

#[test]
fn a_damaged_manifest_checkpoint_or_generation_is_refused() {
    for prefix in ["MANIFEST", "checkpoint-", "GENERATION"] {
        let folder = tempfile::tempdir().expect("a folder");
        closed(folder.path());
        let file = only_file(folder.path(), prefix);
        let len = fs::metadata(&file).expect("there").len();
        for at in (0..4).chain(8..len as usize) {
            flip(&file, at);
            assert_refused(folder.path(), &file, 0..=len);
            flip(&file, at);
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    for prefix in ["run-", "checkpoint-", "journal-"] {
        let folder = tempfile::tempdir().expect("a folder");
        closed(folder.path());
        let file = only_file(folder.path(), prefix);
        fs::remove_file(&file).expect("removed");
        match open_disk(folder.path()).map(|_| ()) {
            Err(StoreError::Io { path, .. }) => assert_eq!(path, file),
            other => panic!("{other:?}"),
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    closed(folder.path());
    let manifest = folder.path().join("MANIFEST");
    fs::remove_file(&manifest).expect("removed");
    assert_refused(folder.path(), &manifest, 0..=0);
}

#[test]
fn files_of_a_later_release_are_refused() {
    for prefix in ["MANIFEST", "checkpoint-", "run-", "journal-", "GENERATION"] {
        let folder = tempfile::tempdir().expect("a folder");
        closed(folder.path());
        let file = only_file(folder.path(), prefix);
        let mut bytes = fs::read(&file).expect("read");
        bytes[4] = 99;
        fs::write(&file, bytes).expect("written");
        match open_disk(folder.path()).map(|_| ()) {
            Err(StoreError::Version {
                path,
                found: 99,
                known: 1 | 2,
            }) => assert_eq!(path, file),
            other => panic!("{other:?}"),
        }
    }
}

/// As one of a release before it, or of a store that never stood behind a broker.
#[test]
fn a_folder_without_a_generation_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    closed(folder.path());
    let file = only_file(folder.path(), "GENERATION");
    let kept = || {
        open_disk(folder.path())
            .expect("opened")
            .reader()
            .generation()
    };
    assert_eq!(kept(), Some(generation()));
    // What a crash left of the next one goes.
    let temporary = file.with_extension("tmp");
    fs::write(&temporary, b"HCGN").expect("written");
    assert_eq!(kept(), Some(generation()));
    assert!(!temporary.exists());
    fs::remove_file(file).expect("removed");
    assert_eq!(kept(), None);
}

#[test]
fn a_closed_store_opens_without_replaying() {
    let folder = tempfile::tempdir().expect("a folder");
    closed(folder.path());
    let journal = only_file(folder.path(), "journal-");
    let bytes = fs::read(&journal).expect("read");
    assert!(
        !bytes.windows(4).any(|window| window == b"HCJR"),
        "no commit waits in the journal"
    );
    assert_eq!(
        count(&open_disk(folder.path()).expect("opened").reader(), "a"),
        10
    );
}

/// The lock, the identity, the manifest and the generation are not counted.
fn assert_all_bytes_counted(folder: &Path, disk_bytes: u64) {
    let bytes: usize = files(folder).values().map(Vec::len).sum();
    let others = bytes as u64 - disk_bytes;
    assert!(others < 1_000, "{disk_bytes} of {bytes} bytes");
}

#[test]
fn runs_are_merged_and_old_files_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open_disk(folder.path()).expect("opened");
    for id in 0..2_000_u32 {
        insert(&mut store, &format!("t{}", id % 7), &[id, id + 1]).expect("inserted");
        store.commit().expect("committed");
    }
    store.settle().expect("settled");
    let stats = store.reader().stats();
    assert!((1..=12).contains(&stats.runs), "{stats:?}");
    let runs = files(folder.path())
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("run-"));
    assert_eq!(runs.count() as u64, stats.runs);
    assert_all_bytes_counted(folder.path(), stats.disk_bytes);
    drop(store);
    let store = open_disk(folder.path()).expect("opened");
    store.settle().expect("settled");
    assert_all_bytes_counted(folder.path(), store.reader().stats().disk_bytes);
    assert_eq!(recount(&store.reader()).expect("recounted").differences, []);
}

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open_disk(folder.path()).expect("opened");
    let second = open_disk(folder.path()).map(|_| ());
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    let reader = store.reader();
    drop(store);
    open_disk(folder.path()).expect("free again, whoever still reads");
    assert_eq!(reader.committed().partitioning(), shape().partitioning);
    assert_eq!(belonging().partitioning, shape().partitioning);
}
