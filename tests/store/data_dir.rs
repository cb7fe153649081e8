//! The data folder: whose it is.

use std::fs;
use std::path::Path;

use headcount::model::Partitioning;
use headcount::store::data_dir::{Belonging, DataDir, LOCAL_COUNTER};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::{Store, StoreError};
use proptest::prelude::*;

use super::harness::{belonging, count, insert, shape};

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

#[test]
fn an_identity_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(DataDir::open(folder.path(), &belonging()).expect("made"));
    let path = folder.path().join("IDENTITY");
    let mut bytes = fs::read(&path).expect("read");
    bytes[8] = 2;
    fs::write(&path, bytes).expect("written");
    let refused = DataDir::open(folder.path(), &belonging());
    assert!(
        matches!(&refused, Err(StoreError::Version { path: its, found: 2, known: 1 }) if *its == path),
        "{refused:?}"
    );
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
