//! What earlier releases wrote: their data folders open, their snapshots and batches decode.
//!
//! Invariant: fixtures are never written anew. What a release wrote, every later one reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headcount::counter::snapshot::{Part, SnapshotDecoder, SnapshotEncoder};
use headcount::log::wire::{decode, encode};
use headcount::model::{
    Batch, BatchId, Epoch, ItemHash, Partition, Partitioning, TenantItems, TenantName,
};
use headcount::store::data_dir::{Belonging, DataDir};
use headcount::store::disk::{DiskOptions, DiskStore};
use headcount::store::verify::recount;
use headcount::store::{Store, StoreReader, StoreShape};

use super::harness::{count, tenant};

const EPOCH: Epoch = Epoch(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
const ROUNDS: u32 = 6;
const TENANTS: u32 = 7;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/124013a")
        .join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).expect("a fixture")
}

/// The store of a copy of the released folder.
fn opened(folder: &Path) -> DiskStore {
    for file in fs::read_dir(fixture("folder")).expect("a fixture") {
        let file = file.expect("a file");
        fs::copy(file.path(), folder.join(file.file_name())).expect("copied");
    }
    let belonging = Belonging {
        cluster: None,
        counter: "c1".to_owned(),
        adopt: false,
        partitioning: Partitioning::SINGLE,
        now_ms: 0,
    };
    let shape = StoreShape {
        partitioning: Partitioning::SINGLE,
    };
    let dir = DataDir::open(folder, &belonging).expect("taken");
    DiskStore::open(dir, shape, DiskOptions::default()).expect("opened")
}

/// The ids of a tenant: the rounds' overlap.
fn ids(tenant: u32) -> std::ops::Range<u32> {
    0..(ROUNDS - 1) * 15 + 20 + tenant
}

fn id(sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: EPOCH,
        sequence,
    }
}

fn assert_position(position: &headcount::model::Position) {
    let part = position.get(Partition(0), EPOCH).expect("recorded");
    assert_eq!(part.sequences.prefix(), u64::from(ROUNDS));
    assert_eq!(part.last_checksum, ROUNDS - 1);
    let other = position.get(Partition(0), Epoch(7)).expect("recorded");
    assert!(other.sequences.contains(4) && !other.sequences.contains(3));
    assert_eq!(other.last_checksum, 9);
}

#[test]
fn a_data_folder_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = opened(folder.path());
    let reader = store.reader();
    for number in 0..TENANTS {
        let name = format!("t{number}");
        assert_eq!(count(&reader, &name), u64::from(ids(number).end));
        for id in 0..ids(number).end + 5 {
            let hash = ItemHash::of_id(&id.to_string());
            let is_there = reader.contains(&tenant(&name), &hash).expect("read");
            assert_eq!(is_there, ids(number).contains(&id), "{id} of {name}");
        }
    }
    assert_position(reader.committed().position());
    assert_eq!(recount(&reader).expect("recounted").differences, vec![]);
    // It goes on from there.
    let more = store.insert(
        Partition(0),
        &tenant("t0"),
        &[ItemHash::of_id("0"), ItemHash::of_id("new")],
    );
    assert_eq!(more.expect("inserted"), 1);
    store.commit().expect("committed");
    assert_eq!(count(&reader, "t0"), u64::from(ids(0).end) + 1);
}

#[test]
fn a_snapshot_is_what_was_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let snapshot = opened(folder.path()).reader().snapshot().expect("taken");
    let written: Vec<u8> = SnapshotEncoder::new(snapshot)
        .flat_map(|part| part.expect("encoded"))
        .collect();
    assert!(written == bytes("snapshot.bin"), "the bytes of a snapshot");

    let mut decoder = SnapshotDecoder::default();
    decoder.push(&bytes("snapshot.bin")).expect("taken");
    let mut counts = BTreeMap::new();
    while let Some(part) = decoder.next().expect("decoded") {
        match part {
            Part::Head { position, .. } => assert_position(&position),
            Part::Keys { tenant, hashes } => {
                *counts.entry(tenant.as_str().to_owned()).or_insert(0) += hashes.len() as u32;
            }
            Part::End => {}
        }
    }
    decoder.finish().expect("whole");
    let expected = (0..TENANTS).map(|number| (format!("t{number}"), ids(number).end));
    assert_eq!(counts, expected.collect());
}

#[test]
fn a_batch_is_what_was_written() {
    let of = |name: &str, ids: &[&str]| TenantItems {
        tenant: TenantName::new(name).expect("valid"),
        hashes: ids.iter().map(|id| ItemHash::of_id(id)).collect(),
    };
    let items = vec![of("asd", &["5", "6", "5"]), of("Ünïcode 🦀", &["ü"])];
    for (name, batch) in [
        ("batch.bin", Batch::new(id(3), 1_700_000_000_123, items)),
        ("barrier.bin", Batch::new(id(1), 1_700_000_000_123, vec![])),
    ] {
        assert!(encode(&batch) == bytes(name), "the bytes of {name}");
        assert_eq!(decode(&bytes(name)).expect("decoded"), batch);
    }
}
