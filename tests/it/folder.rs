//! The data folder under a running service: locked, moved, replaced, deleted, and copied for
//! reading only.
//!
//! Invariant: nothing is acknowledged that the folder's name no longer stands for, and no process
//! writes into a folder that is not the one that it opened.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use reqwest::Method;

use crate::node::{Answer, Node, headcount, items, run};

/// Posts an item of a tenant that is not asked for otherwise; says whether it was acknowledged.
async fn is_acknowledged(node: &Node) -> bool {
    let request = node
        .request(Method::POST, "/items")
        .json(&items("late", 0, 1));
    match Answer::try_of(request).await {
        Ok(answer) if answer.status == 200 => true,
        Ok(answer) => {
            assert_eq!(answer.status, 503, "{}", answer.text);
            false
        }
        Err(_) => false,
    }
}

/// Expects that a node ends by itself, and that its log says what happened to which folder.
#[track_caller]
fn assert_stops(node: &mut Node) {
    assert_eq!(node.wait().code(), Some(1), "{}", node.log());
    let folder = node.data_dir().display().to_string();
    let log = node.log();
    let told = log
        .lines()
        .any(|line| line.contains(&folder) && line.contains("while this process had it open"));
    assert!(told, "{log}");
}

fn serve(folder: &Path) -> [String; 5] {
    let folder = folder.display().to_string();
    ["serve", "--listen", "127.0.0.1:0", "--data-dir", &folder].map(str::to_owned)
}

/// A running node with five items of the tenant `a`, and the folder that its own is in.
async fn node_with_items() -> (Node, tempfile::TempDir) {
    let parent = tempfile::tempdir().expect("a folder");
    let node = Node::start_logged(&parent.path().join("data"));
    node.post(&items("a", 0, 5)).await;
    assert_eq!(node.count("a").await, 5);
    (node, parent)
}

#[tokio::test]
async fn a_removed_lock_lets_no_second_process_in() {
    let (mut node, _parent) = node_with_items().await;
    let data_dir = node.data_dir().to_owned();
    // It can't notice, and stop, before the second one has tried.
    node.signal("-STOP");
    fs::remove_file(data_dir.join("LOCK")).expect("removed");
    let args = serve(&data_dir);
    let refused = run(&args.each_ref().map(String::as_str));
    assert_eq!(refused.status.code(), Some(1));
    let told = refused.stderr;
    assert!(told.contains("is in use by another process"), "{told}");
    node.signal("-CONT");
    assert!(!is_acknowledged(&node).await);
    assert_stops(&mut node);
    let node = Node::start_in(&data_dir, &[]);
    assert_eq!(node.count("a").await, 5);
}

/// An older release locks `LOCK` only, so it would start on this folder.
#[tokio::test]
async fn a_process_whose_lock_is_another_file_stops() {
    let (mut node, _parent) = node_with_items().await;
    let lock = node.data_dir().join("LOCK");
    fs::rename(&lock, node.data_dir().join("LOCK.old")).expect("renamed");
    fs::write(&lock, b"").expect("written");
    assert!(!is_acknowledged(&node).await);
    assert_stops(&mut node);
}

#[tokio::test]
async fn a_folder_that_was_moved_away_leaves_the_next_one_alone() {
    let (mut node, parent) = node_with_items().await;
    let data_dir = node.data_dir().to_owned();
    let moved = parent.path().join("moved");
    // It is told to close its store when another one is in its place.
    node.signal("-STOP");
    fs::rename(&data_dir, &moved).expect("moved");
    let mut second = Node::start_in(&data_dir, &[]);
    second.post(&items("b", 0, 7)).await;
    let before = contents(&data_dir);
    node.signal("-CONT");
    assert!(!is_acknowledged(&node).await);
    assert_stops(&mut node);
    assert_eq!(contents(&data_dir), before, "it wrote nothing here");
    second.post(&items("b", 7, 1)).await;
    second.kill_and_restart(&[]);
    assert_eq!(second.count("b").await, 8);
    assert_eq!(second.count("a").await, 0);
    let node = Node::start_in(&moved, &[]);
    assert_eq!(node.count("a").await, 5);
}

#[tokio::test]
async fn a_process_whose_folder_has_another_path_now_stops_by_itself() {
    for moved in ["a/b/data", "a/b", "a"] {
        let parent = tempfile::tempdir().expect("a folder");
        let mut node = Node::start_in(&parent.path().join("a/b/data"), &[]);
        fs::rename(parent.path().join(moved), parent.path().join("z")).expect("moved");
        assert_eq!(node.wait().code(), Some(1), "{moved}");
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_folder_is_deleted() {
    let (mut node, _parent) = node_with_items().await;
    fs::remove_dir_all(node.data_dir()).expect("deleted");
    assert!(!is_acknowledged(&node).await);
    assert_stops(&mut node);
}

#[tokio::test]
async fn an_idle_process_stops_when_its_folder_is_deleted() {
    let (mut node, _parent) = node_with_items().await;
    fs::remove_dir_all(node.data_dir()).expect("deleted");
    assert_stops(&mut node);
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_journal_is_deleted() {
    for is_idle in [false, true] {
        let (mut node, _parent) = node_with_items().await;
        fs::remove_file(journal(node.data_dir())).expect("deleted");
        if !is_idle {
            assert!(!is_acknowledged(&node).await);
        }
        assert_stops(&mut node);
    }
}

/// Another process may have the folder by then.
#[tokio::test]
async fn nothing_is_written_once_the_folder_is_anothers() {
    for harm in [
        "rm $d/LOCK",
        "cp -al $d $d.links; mv $d $d.moved; mv $d.links $d",
    ] {
        for is_told_to_end in [false, true] {
            let (mut node, _parent) = node_with_items().await;
            node.signal("-STOP");
            shell(node.data_dir(), harm);
            let before = contents(node.data_dir());
            if is_told_to_end {
                node.signal("-TERM");
            }
            node.signal("-CONT");
            if !is_told_to_end {
                assert!(!is_acknowledged(&node).await, "{harm}");
            }
            assert_stops(&mut node);
            assert_eq!(contents(node.data_dir()), before, "{harm}");
        }
    }
}

/// What is left where a relative path began does not matter; what it led to does.
#[tokio::test]
async fn a_relative_path_is_resolved_once() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().canonicalize().expect("there");
    let working = path.join("working");
    fs::create_dir(&working).expect("made");
    let log = path.join("log");
    let mut node = Node::start_from(&working, Path::new("../data"), &log);
    fs::remove_dir(&working).expect("removed");
    assert!(is_acknowledged(&node).await);
    fs::rename(path.join("data"), path.join("moved")).expect("moved");
    assert!(!is_acknowledged(&node).await);
    assert_eq!(node.wait().code(), Some(1));
    let log = fs::read_to_string(log).expect("a log");
    let told = format!(
        "{}: the directory, one of its parents",
        path.join("data").display()
    );
    assert!(log.contains(&told), "{log}");
}

/// Whether the last name of its path is the link or one above.
#[tokio::test]
async fn a_link_that_leads_elsewhere_stops_a_process() {
    for (target, data_dir) in [("a/data", "link"), ("a", "link/data")] {
        let parent = tempfile::tempdir().expect("a folder");
        let link = parent.path().join("link");
        fs::create_dir_all(parent.path().join("a/data")).expect("made");
        fs::create_dir_all(parent.path().join("b/data")).expect("made");
        symlink(target, &link).expect("linked");
        let log = parent.path().join("log");
        let mut node = Node::start_from(parent.path(), Path::new(data_dir), &log);
        assert!(is_acknowledged(&node).await);
        fs::remove_file(&link).expect("removed");
        symlink(target.replacen('a', "b", 1), &link).expect("linked");
        assert!(!is_acknowledged(&node).await, "{data_dir}");
        assert_eq!(node.wait().code(), Some(1), "{data_dir}");
    }
}

fn journal(folder: &Path) -> PathBuf {
    fs::read_dir(folder)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.display().to_string().contains("/journal-0"))
        .expect("a journal")
}

/// All files of a folder: a checksum of each, and when it was changed last.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, SystemTime)> {
    fs::read_dir(folder)
        .expect("read")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let changed = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let content = fs::read(&path).expect("read");
            (path, (crc32fast::hash(&content), changed.expect("a time")))
        })
        .collect()
}

/// The program for a user who may read and nothing else, whoever runs the tests. The copy lies
/// where that user may go.
fn as_a_reader(folder: &Path) -> std::process::Command {
    let mut command = headcount();
    // Root may do everything, whatever a file's mode says.
    if fs::metadata(folder).expect("there").uid() == 0 {
        let program = folder.join("headcount");
        fs::copy(command.get_program(), &program).expect("copied");
        command = std::process::Command::new(program);
        command.env_clear().uid(65534).gid(65534);
    }
    command
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

#[tokio::test]
async fn verify_reads_a_copy_that_it_may_not_write() {
    let (mut node, parent) = node_with_items().await;
    // Killed, so that there is something to recover.
    node.kill();
    let copy = parent.path().join("copy");
    fs::create_dir(&copy).expect("made");
    for path in contents(node.data_dir()).into_keys() {
        let name = path.file_name().expect("a name");
        // What a backup may leave out.
        if name != "LOCK" {
            fs::copy(&path, copy.join(name)).expect("copied");
            allow(&copy.join(name), 0o444);
        }
    }
    fs::write(copy.join("run-00000000000000ff"), b"cut short").expect("written");
    let before = contents(&copy);
    allow(parent.path(), 0o755);
    allow(&copy, 0o555);
    let output = as_a_reader(parent.path())
        .args(["verify", "--data-dir"])
        .arg(&copy)
        .output()
        .expect("ran");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1 tenants, 5 items: all counts agree\n",
        "{told}"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(contents(&copy), before, "nothing was written");
    allow(&copy, 0o755);
}

#[tokio::test]
async fn verify_writes_nothing_where_it_may() {
    let (mut node, _parent) = node_with_items().await;
    node.kill();
    let data_dir = node.data_dir().to_owned();
    let before = contents(&data_dir);
    let verified = run(&["verify", "--data-dir", &data_dir.display().to_string()]);
    assert_eq!(verified.stdout, "1 tenants, 5 items: all counts agree\n");
    assert_eq!(contents(&data_dir), before);
}

/// Copied in the moment between the making of the folder and of the store in it.
#[tokio::test]
async fn verify_makes_no_store() {
    let (mut node, parent) = node_with_items().await;
    node.kill();
    let identity = node.data_dir().join("IDENTITY");
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).expect("made");
    fs::copy(identity, empty.join("IDENTITY")).expect("copied");
    let before = contents(&empty);
    let refused = run(&["verify", "--data-dir", &empty.display().to_string()]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("MANIFEST"), "{}", refused.stderr);
    assert_eq!(contents(&empty), before);
}

/// Runs a shell command, in which `$j` is the journal and `$d` the folder.
fn shell(folder: &Path, command: &str) {
    let done = std::process::Command::new("sh")
        .args(["-ec", command])
        .env("j", journal(folder))
        .env("d", folder)
        .status();
    assert!(done.expect("ran").success(), "{command}");
}

/// The file has a name in each case, and the journal's name leads to a file in two of them.
#[tokio::test]
async fn nothing_is_acknowledged_once_the_journals_name_leads_elsewhere() {
    for harm in [
        "mv $j $d.journal",
        "mv $j $j.bak",
        "mv $j $d.journal; cp $d.journal $j",
        "cp -al $d $d.backup; cp $j $j.x; mv $j.x $j",
    ] {
        let (mut node, _parent) = node_with_items().await;
        node.signal("-STOP");
        shell(node.data_dir(), harm);
        node.signal("-CONT");
        assert!(!is_acknowledged(&node).await, "{harm}");
        assert_stops(&mut node);
    }
}

#[tokio::test]
async fn verify_says_that_it_may_not_look() {
    let (mut node, parent) = node_with_items().await;
    node.kill();
    let closed = parent.path().join("closed");
    fs::create_dir(&closed).expect("made");
    fs::rename(node.data_dir(), closed.join("data")).expect("moved");
    allow(parent.path(), 0o755);
    let mut verify = as_a_reader(parent.path());
    for folder in [closed.clone(), closed.join("data")] {
        allow(&folder, 0o000);
        verify
            .args(["verify", "--data-dir"])
            .arg(closed.join("data"));
        let output = verify.output().expect("ran");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("Permission denied"), "{told}");
        allow(&folder, 0o755);
        verify = as_a_reader(parent.path());
    }
}
