//! Tests of the lock: which processes it excludes, and which replacements it detects.
//!
//! Invariant: a hold never accepts another directory as its own, and never rejects its own.

use std::fs;
use std::path::Path;

use super::super::folder::{Access, Folder};
use super::*;

fn open(path: &Path) -> Folder {
    Folder::open(path, Access::Full).expect("there")
}

fn take(path: &Path) -> Hold {
    Hold::take(&open(path)).expect("free")
}

/// Makes a hold as on a file system that does not lock directories.
fn take_lock_only(path: &Path) -> Hold {
    let mut hold = take(path);
    hold._folder = None;
    hold
}

#[track_caller]
fn assert_displaced(hold: &Hold, what: &str) {
    for done in [hold.look(), hold.look()] {
        match done {
            Err(StoreError::Displaced { what: its, .. }) => assert!(its.contains(what), "{its}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Creates a directory `data` in a temporary one, which is deleted at the end of the test.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("data");
    fs::create_dir(&path).expect("made");
    (parent, path)
}

fn copy(from: &Path, to: &Path, how: fn(&Path, &Path)) {
    fs::create_dir(to).expect("made");
    how(&from.join(LOCK), &to.join(LOCK));
}

#[test]
fn the_folder_is_locked_without_its_lock() {
    let (_parent, path) = folder();
    let hold = take(&path);
    hold.look().expect("in its place");
    fs::remove_file(path.join(LOCK)).expect("removed");
    let second = Hold::take(&open(&path));
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    let reader = SharedHold::take(&open(&path));
    assert!(
        matches!(reader, Err(StoreError::InUse { .. })),
        "{reader:?}"
    );
    drop(hold);
    take(&path);
}

#[test]
fn where_folders_are_not_locked_the_first_process_notices() {
    let (_parent, path) = folder();
    let first = take_lock_only(&path);
    let second = Hold::take(&open(&path));
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    fs::remove_file(path.join(LOCK)).expect("removed");
    assert_displaced(&first, "moved or deleted");
    let second = take_lock_only(&path);
    assert_displaced(&first, "has replaced it");
    second.look().expect("it has the folder");
}

#[test]
fn it_tells_what_to_do() {
    let (_parent, path) = folder();
    let hold = take(&path);
    fs::remove_file(path.join(LOCK)).expect("removed");
    let error = hold.look().expect_err("it is gone");
    let told = error.to_string();
    assert!(told.starts_with(&path.display().to_string()), "{told}");
    assert!(told.contains("start again"), "{told}");
}

#[test]
fn a_copy_in_its_place_is_another_folder() {
    let (parent, path) = folder();
    let hold = take(&path);
    hold.shows_nonce().expect("asked for once");
    let copied = parent.path().join("copy");
    copy(&path, &copied, |from, to| {
        fs::copy(from, to).expect("copied");
    });
    fs::rename(&path, parent.path().join("moved")).expect("moved");
    assert_displaced(&hold, "moved or deleted");
    fs::rename(&copied, &path).expect("moved");
    assert_displaced(&hold, "has replaced it");
    fs::rename(&path, &copied).expect("moved");
    fs::rename(parent.path().join("moved"), &path).expect("moved");
    hold.look().expect("it is back");
}

#[test]
fn a_folder_of_links_to_its_files_is_another_folder() {
    let (parent, path) = folder();
    let hold = take(&path);
    let linked = parent.path().join("links");
    copy(&path, &linked, |from, to| {
        fs::hard_link(from, to).expect("linked");
    });
    hold.look().expect("the links are elsewhere");
    fs::rename(&path, parent.path().join("moved")).expect("moved");
    fs::rename(&linked, &path).expect("moved");
    assert_displaced(&hold, "has replaced it");
}

#[test]
fn numbers_that_change_are_no_other_folder() {
    let (_parent, path) = folder();
    let hold = take(&path);
    let other = FileId {
        device: 0,
        number: 0,
    };
    hold.looked.lock().lock = other;
    hold.looked.lock().folder = other;
    hold.look().expect("the nonce decides");
    let looked = hold.looked.lock();
    assert!(looked.lock != other && looked.folder != other, "{looked:?}");
}

#[test]
fn readers_share_a_folder_and_make_nothing() {
    let (_parent, path) = folder();
    let first = SharedHold::take(&open(&path)).expect("free");
    let second = SharedHold::take(&open(&path)).expect("shared");
    assert_eq!(fs::read_dir(&path).expect("read").count(), 0);
    let writer = Hold::take(&open(&path));
    assert!(
        matches!(writer, Err(StoreError::InUse { .. })),
        "{writer:?}"
    );
    drop((first, second));
    let writer = take(&path);
    let reader = SharedHold::take(&open(&path));
    assert!(
        matches!(reader, Err(StoreError::InUse { .. })),
        "{reader:?}"
    );
    drop(writer);
}
