//! The data folder: whose it is.

use std::fs;

use headcount::model::Partitioning;
use headcount::store::StoreError;
use headcount::store::data_dir::{Belonging, DataDir};
use proptest::prelude::*;

use super::harness::belonging;

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
