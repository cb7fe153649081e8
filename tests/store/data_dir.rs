//! The data folder: whose it is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use headcount::model::{ItemHash, Partitioning, Position};
use headcount::store::data_dir::{Belonging, DataDir, LOCAL_COUNTER};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::{Store, StoreError};
use proptest::prelude::*;

use super::harness::{belonging, count, insert, open_disk, shape, tenant};

#[test]
fn a_folder_is_made_and_known_again() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("deep/data");
    let first = DataDir::open(&path, &belonging()).expect("made");
    let identity = first.identity().clone();
    assert_eq!(identity.created_at_ms, belonging().now_ms);
    drop(first);
    let later = Belonging {
        now_ms: 5,
        cluster: Some(identity.cluster),
        ..belonging()
    };
    assert_eq!(
        DataDir::open(&path, &later).expect("opened").identity(),
        &identity
    );
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = DataDir::open(folder.path(), &belonging()).expect("opened");
    let second = DataDir::open(folder.path(), &belonging());
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    drop(first);
    DataDir::open(folder.path(), &belonging()).expect("free again");
}

/// The writer hears of it at its next commit, and whoever waits for one without anything to commit.
#[test]
fn a_store_whose_folder_is_gone_commits_nothing() {
    let harms: [fn(&Path); 4] = [
        |folder| fs::remove_dir_all(folder).expect("deleted"),
        |folder| fs::rename(folder, folder.with_extension("moved")).expect("moved"),
        |folder| fs::remove_file(folder.join("LOCK")).expect("deleted"),
        |folder| {
            let journal = folder.join("journal-0000000000000001");
            fs::remove_file(journal).expect("deleted");
        },
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        for is_staged in [true, false] {
            let parent = tempfile::tempdir().expect("a folder");
            let path = parent.path().join("data");
            let mut store = open_disk(&path).expect("made");
            insert(&mut store, "a", &[1]).expect("inserted");
            store.commit().expect("committed");
            store.commit().expect("nothing to commit");
            harm(&path);
            if is_staged {
                insert(&mut store, "a", &[2]).expect("inserted");
            }
            let refused = store.commit();
            let Err(StoreError::Displaced { path: its, .. }) = &refused else {
                panic!("{number}: {refused:?}");
            };
            assert!(its.starts_with(&path), "{number}: {refused:?}");
            assert_eq!(count(&store.reader(), "a"), 1, "{number}");
            let after = store.commit();
            assert!(matches!(after, Err(StoreError::Poisoned)), "{after:?}");
        }
    }
}

/// A unite is no commit, and is acknowledged as one is.
#[test]
fn a_store_whose_folder_is_gone_takes_no_snapshot_in() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("data");
    let mut store = open_disk(&path).expect("made");
    store.begin_ingest().expect("begun");
    let hashes = [ItemHash::of_id("1")];
    store.ingest(&tenant("a"), &hashes).expect("set aside");
    fs::rename(&path, parent.path().join("moved")).expect("moved");
    let refused = store.finish_ingest(&Position::default(), true);
    assert!(
        matches!(refused, Err(StoreError::Displaced { .. })),
        "{refused:?}"
    );
    assert_eq!(count(&store.reader(), "a"), 0);
    assert!(!path.exists(), "nothing was made in its place");
}

#[test]
fn another_counters_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &belonging()).expect("made"));
    let others = [
        Belonging {
            counter: "counter-2".to_owned(),
            ..belonging()
        },
        Belonging {
            cluster: Some(1),
            ..belonging()
        },
        Belonging {
            partitioning: Partitioning::SINGLE,
            ..belonging()
        },
    ];
    for other in others {
        let refused = DataDir::open(folder.path(), &other);
        assert!(
            matches!(refused, Err(StoreError::Foreign { .. })),
            "{refused:?}"
        );
    }
    DataDir::open(folder.path(), &belonging()).expect("still ours");
}

/// What `serve` made.
fn local() -> Belonging {
    Belonging {
        counter: LOCAL_COUNTER.to_owned(),
        ..belonging()
    }
}

fn adopting(counter: &str) -> Belonging {
    Belonging {
        counter: counter.to_owned(),
        adopt: true,
        ..belonging()
    }
}

fn refusal(path: &Path, expected: &Belonging) -> String {
    let before = fs::read(path.join("IDENTITY")).ok();
    let refused = DataDir::open(path, expected);
    assert!(
        matches!(refused, Err(StoreError::Foreign { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(path.join("IDENTITY")).ok(), before);
    refused.map_or_else(|error| error.to_string(), |_| String::new())
}

#[test]
fn a_counter_adopts_what_serve_made_when_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let options = DiskOptions::default();
    let made = DataDir::open(path, &local()).expect("made");
    let cluster = made.identity().cluster;
    let mut store = DiskStore::open(made, shape(), options).expect("made");
    insert(&mut store, "a", &[1, 2, 3]).expect("inserted");
    store.commit().expect("committed");
    drop(store);

    let c1 = Belonging {
        adopt: false,
        ..adopting("c1")
    };
    let told = refusal(path, &c1);
    assert!(told.contains("headcount counter --adopt"), "{told}");
    let other_shape = Belonging {
        partitioning: Partitioning::SINGLE,
        ..adopting("c1")
    };
    refusal(path, &other_shape);

    // Once adopted it is the counter's, told to adopt or not.
    for expected in [adopting("c1"), adopting("c1"), c1] {
        let dir = DataDir::open(path, &expected).expect("its own");
        assert_eq!(dir.identity().counter, "c1");
        assert_eq!(dir.identity().cluster, cluster);
        assert_eq!(dir.identity().created_at_ms, local().now_ms);
        let store = DiskStore::open(dir, shape(), options).expect("opened");
        assert_eq!(count(&store.reader(), "a"), 3);
    }
    let told = refusal(path, &local());
    assert!(told.contains("headcount counter --name c1"), "{told}");
    refusal(path, &adopting(LOCAL_COUNTER));
    let told = refusal(path, &adopting("c2"));
    assert!(told.contains("catch up from its peers"), "{told}");
}

#[test]
fn adoption_takes_the_cluster_on_once() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &local()).expect("made"));
    let of_cluster = |cluster| Belonging {
        cluster: Some(cluster),
        ..adopting("c1")
    };
    let adopted = DataDir::open(folder.path(), &of_cluster(7)).expect("adopted");
    assert_eq!(adopted.identity().cluster, 7);
    drop(adopted);
    refusal(folder.path(), &of_cluster(8));
}

#[test]
fn an_interrupted_adoption_is_finished() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &local()).expect("made"));
    fs::write(folder.path().join("IDENTITY.tmp"), b"HC").expect("written");
    drop(DataDir::open(folder.path(), &local()).expect("still its own"));
    let adopted = DataDir::open(folder.path(), &adopting("c1")).expect("adopted");
    assert_eq!(adopted.identity().counter, "c1");
}

#[test]
fn nothing_is_adopted_where_there_is_nothing() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("mistyped");
    let told = refusal(&path, &adopting("c1"));
    assert!(told.contains("--adopt"), "{told}");
    assert!(!path.exists());
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("photo.jpg"), b"x").expect("written");
    let refused = DataDir::open(folder.path(), &belonging());
    assert!(
        matches!(refused, Err(StoreError::Foreign { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
}

#[test]
fn an_interrupted_creation_is_finished() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("LOCK"), b"").expect("written");
    fs::write(folder.path().join("IDENTITY.tmp"), b"HC").expect("written");
    fs::create_dir(folder.path().join("lost+found")).expect("made");
    DataDir::open(folder.path(), &belonging()).expect("made");
}

/// What systems and file systems put into a folder of anybody.
#[test]
fn hidden_names_do_not_stop_a_first_start() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [".snapshot", ".zfs", "lost+found"] {
        fs::create_dir(folder.path().join(name)).expect("made");
    }
    for name in [".DS_Store", ".nfs000000000000001f"] {
        fs::write(folder.path().join(name), b"x").expect("written");
    }
    for _ in 0..2 {
        let mut store = open_disk(folder.path()).expect("opened");
        insert(&mut store, "a", &[1]).expect("inserted");
        store.commit().expect("committed");
    }
    let kept = fs::read(folder.path().join(".DS_Store")).expect("left alone");
    assert_eq!(kept, b"x");
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("there");
    metadata.permissions().mode() & 0o777
}

#[test]
fn what_is_made_is_for_its_owner_only() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("deep/data");
    // A full table more than once: there are runs and checkpoints too.
    let mut store = open_disk(&path).expect("made");
    for id in 0..100 {
        insert(&mut store, "a", &[id]).expect("inserted");
        store.commit().expect("committed");
    }
    store.close().expect("closed");
    assert_eq!([mode(&parent.path().join("deep")), mode(&path)], [0o700; 2]);
    let mut files = 0;
    for entry in fs::read_dir(&path).expect("listed") {
        let file = entry.expect("listed").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        files += 1;
    }
    assert!(files >= 5, "{files} files");
    // What its operator has made is left as it is.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("set");
    drop(open_disk(&path).expect("opened"));
    assert_eq!(mode(&path), 0o750);
}

#[test]
fn a_folder_is_found_by_a_link() {
    let parent = tempfile::tempdir().expect("a folder");
    let (place, link) = (parent.path().join("place"), parent.path().join("link"));
    fs::create_dir(&place).expect("made");
    symlink(&place, &link).expect("linked");
    let mut store = open_disk(&link.join("deep/data")).expect("made");
    insert(&mut store, "a", &[1]).expect("inserted");
    store.commit().expect("committed");
    let second = open_disk(&place.join("deep/data")).map(|_| ());
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
}

#[test]
fn an_identity_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &belonging()).expect("made"));
    let path = folder.path().join("IDENTITY");
    let mut bytes = fs::read(&path).expect("read");
    bytes[8] = 2;
    fs::write(&path, bytes).expect("written");
    let refused = DataDir::open(folder.path(), &belonging());
    let Err(StoreError::Version {
        path: its,
        found,
        known,
    }) = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((its, *found, *known), (&path, 2, 1), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn identities_survive_the_round_trip_and_damage_is_noticed(
        counter in "[a-zé-]{0,20}",
        cluster: u128,
        partitions in 1_u16..=1024,
        at: prop::sample::Index,
        flip in 1_u8..=255,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let expected = Belonging {
            cluster: Some(cluster),
            counter,
            adopt: false,
            partitioning: Partitioning::new(partitions).expect("valid"),
            now_ms: 3,
        };
        drop(DataDir::open(folder.path(), &expected).expect("made"));
        drop(DataDir::open(folder.path(), &expected).expect("opened"));
        let path = folder.path().join("IDENTITY");
        let mut bytes = fs::read(&path).expect("read");
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, &bytes).expect("written");
        let refused = DataDir::open(folder.path(), &expected);
        let is_refused =
            matches!(refused, Err(StoreError::Damaged { .. } | StoreError::Version { .. }));
        prop_assert!(is_refused, "{refused:?}");
        prop_assert_eq!(fs::read(&path).expect("read"), bytes);
    }
}
