//! Tests of the snapshot format: round trips, damaged streams and faulty readers.
//!
//! Invariant: see the [module above](super).

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::encode::checksum;
use super::*;
use headcount_model::{Epoch, EpochPosition, ItemHash, Partition, SEQUENCE_MAX, Sequences};
use headcount_store::memory::MemoryStore;
use headcount_store::{
    CommittedState, Key, Snapshot, Store, StoreError, StoreReader, StoreShape, WriteBatch,
};

type Items = BTreeMap<String, Vec<ItemHash>>;

fn partitioning() -> Partitioning {
    Partitioning::new(2).expect("valid")
}

/// A snapshot of `items` with a position of `epochs`: the epoch, its prefix and its number of
/// holes.
fn snapshot(items: &Items, epochs: &[(u128, u64, u64)]) -> Snapshot {
    let shape = StoreShape {
        partitioning: partitioning(),
    };
    let mut store = MemoryStore::new(shape);
    for (name, hashes) in items {
        let tenant = TenantName::new(name).expect("valid");
        store
            .insert(Partition(0), &tenant, hashes)
            .expect("inserted");
    }
    store.commit().expect("committed");
    let snapshot = store.reader().snapshot().expect("a snapshot");
    let mut position = Position::default();
    for &(epoch, prefix, holes) in epochs {
        let ranges = (0..holes).map(|at| (prefix + 2 + 3 * at, prefix + 3 + 3 * at));
        let part = EpochPosition {
            sequences: Sequences::from_parts(prefix, ranges.collect()).expect("valid"),
            last_checksum: epoch as u32,
        };
        position.set(Partition(epoch as u16 % 2), Epoch(epoch), part);
    }
    Snapshot {
        committed: snapshot.committed.with_position(position, true),
        keys: snapshot.keys,
    }
}

fn items() -> impl Strategy<Value = Items> {
    prop::collection::btree_map(
        "[a-zé]{1,9}",
        prop::collection::vec(0_u32..50, 1..20),
        0..12,
    )
    .prop_map(|tenants| {
        let hashes = |ids: Vec<u32>| ids.iter().map(|id| hash(*id)).collect();
        let tenants = tenants.into_iter();
        tenants.map(|(name, ids)| (name, hashes(ids))).collect()
    })
}

fn epochs() -> impl Strategy<Value = Vec<(u128, u64, u64)>> {
    // From the last prefix, four ranges end with the greatest sequence.
    let prefix = prop_oneof![0_u64..1000, Just(SEQUENCE_MAX - 12)];
    prop::collection::vec((any::<u128>(), prefix, 0_u64..5), 0..6)
}

fn hash(id: u32) -> ItemHash {
    ItemHash::of_id(&id.to_string())
}

fn encode(items: &Items, epochs: &[(u128, u64, u64)]) -> Vec<Vec<u8>> {
    let frames: Result<_, StoreError> = SnapshotEncoder::new(snapshot(items, epochs)).collect();
    frames.expect("encoded")
}

fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Part>, SnapshotError> {
    let mut decoder = SnapshotDecoder::default();
    let mut parts = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece)?;
        while let Some(part) = decoder.next()? {
            parts.push(part);
        }
    }
    decoder.finish()?;
    Ok(parts)
}

/// The position and the hashes of each tenant, from all parts of a snapshot.
fn gather(parts: Vec<Part>) -> (Position, Items) {
    let mut items = Items::new();
    let mut parts = parts.into_iter();
    let Some(Part::Head {
        partitioning: its,
        position,
    }) = parts.next()
    else {
        panic!("no head");
    };
    assert_eq!(its, partitioning());
    let mut ended = false;
    for part in parts {
        assert!(!ended, "nothing follows the end");
        match part {
            Part::Keys { tenant, hashes } => {
                items.entry(tenant.to_string()).or_default().extend(hashes);
            }
            Part::End => ended = true,
            Part::Head { .. } => panic!("two heads"),
        }
    }
    assert!(ended);
    (position, items)
}

fn check_round_trip(items: &Items, epochs: &[(u128, u64, u64)], piece: usize) {
    let frames = encode(items, epochs);
    let longest = PREAMBLE_BYTES + FRAME_HEAD_BYTES + FRAME_BYTES_MAX;
    assert!(frames.iter().all(|frame| frame.len() <= longest));
    let parts = decode(&frames.concat(), piece).expect("intact");
    let (position, decoded) = gather(parts);
    assert_eq!(&position, snapshot(items, epochs).committed.position());
    let mut expected = items.clone();
    for hashes in expected.values_mut() {
        hashes.sort_unstable();
        hashes.dedup();
    }
    assert_eq!(decoded, expected);
}

proptest! {
    #[test]
    fn snapshots_survive_the_round_trip(
        items in items(),
        epochs in epochs(),
        piece in 1_usize..300,
    ) {
        check_round_trip(&items, &epochs, piece);
    }

    #[test]
    fn changed_bytes_are_noticed(
        items in items(),
        epochs in epochs(),
        at: prop::sample::Index,
        bit in 0_u32..8,
        piece in 1_usize..300,
    ) {
        let mut bytes = encode(&items, &epochs).concat();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes, piece).is_err());
    }

    #[test]
    fn missing_and_surplus_bytes_are_noticed(
        items in items(),
        at: prop::sample::Index,
        piece in 1_usize..300,
    ) {
        let bytes = encode(&items, &[]).concat();
        prop_assert!(decode(&bytes[..at.index(bytes.len())], piece).is_err());
        let surplus = [bytes.as_slice(), &[0]].concat();
        prop_assert!(decode(&surplus, piece).is_err());
    }

    #[test]
    fn any_frames_are_read_without_a_panic(
        contents in prop::collection::vec(prop::collection::vec(0_u8..5, 1..60), 0..6),
        piece in 1_usize..100,
    ) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        for (number, content) in (0..).zip(contents) {
            bytes.extend((content.len() as u32).to_le_bytes());
            bytes.extend(checksum(number, &content).to_le_bytes());
            bytes.extend(content);
        }
        let _ = decode(&bytes, piece);
    }
}

#[test]
fn large_tenants_many_tenants_and_long_positions_take_several_frames() {
    let mut items = Items::new();
    items.insert("large".to_owned(), (0..30_000).map(hash).collect());
    for number in 0..2_000 {
        items.insert(format!("{number}{}", "é".repeat(200)), vec![hash(number)]);
    }
    let mut epochs: Vec<_> = (0..5_000).map(|epoch| (epoch, 7, 0)).collect();
    epochs.push((5_000, 3, 1024));
    epochs.push((5_001, 3, 2500));
    assert!(encode(&items, &epochs).len() > 10);
    check_round_trip(&items, &epochs, 100_000);
}

#[test]
fn frames_lost_repeated_or_out_of_order_are_noticed() {
    let items = Items::from([("large".to_owned(), (0..40_000).map(hash).collect())]);
    let frames = encode(&items, &[(1, 1, 0)]);
    assert!(frames.len() > 5);
    for at in 1..frames.len() {
        let mut lost = frames.clone();
        lost.remove(at);
        assert!(decode(&lost.concat(), 4096).is_err(), "{at} lost");
        let mut repeated = frames.clone();
        repeated.insert(at, frames[at].clone());
        assert!(decode(&repeated.concat(), 4096).is_err(), "{at} repeated");
        let mut swapped = frames.clone();
        if at + 1 < frames.len() {
            swapped.swap(at, at + 1);
            assert!(decode(&swapped.concat(), 4096).is_err(), "{at} swapped");
        }
    }
}

#[test]
fn a_decoder_that_is_not_drained_or_failed_takes_nothing() {
    let items = Items::from([("large".to_owned(), (0..40_000).map(hash).collect())]);
    let bytes = encode(&items, &[]).concat();
    let mut decoder = SnapshotDecoder::default();
    let mut refused = Ok(());
    for piece in bytes.chunks(50_000) {
        refused = decoder.push(piece);
    }
    assert_eq!(refused, Err(SnapshotError::NotDrained));
    assert_eq!(decoder.next(), Err(SnapshotError::NotDrained));
    assert_eq!(decoder.finish(), Err(SnapshotError::NotDrained));
}

#[test]
fn what_is_no_snapshot_or_a_later_one_says_so() {
    assert_eq!(decode(b"<html>", 2), Err(SnapshotError::NotASnapshot));
    assert_eq!(decode(b"", 1), Err(SnapshotError::Truncated));
    let later = [b"HCSN".as_slice(), &9_u32.to_le_bytes()].concat();
    assert_eq!(decode(&later, 3), Err(SnapshotError::Version(9)));
}

#[test]
fn a_snapshot_that_cannot_be_read_never_ends() {
    let mut committed = CommittedState::new(partitioning(), Position::default());
    let mut staged = WriteBatch::default();
    let tenant = TenantName::new("a").expect("valid");
    let number = staged
        .number_or_new(&committed, &tenant)
        .expect("the first");
    staged.add(number, Partition(0), 2);
    committed.apply(&staged);
    let key = Key::new(number, &hash(1));
    let with_keys = |keys: Vec<Result<Key, StoreError>>| Snapshot {
        committed: committed.clone(),
        keys: Box::new(keys.into_iter()),
    };
    let broken = [
        with_keys(vec![Ok(key), Err(StoreError::Poisoned)]),
        with_keys(vec![Ok(key)]),
    ];
    for snapshot in broken {
        let frames: Vec<_> = SnapshotEncoder::new(snapshot).collect();
        assert!(matches!(frames.last(), Some(Err(_))));
        let bytes: Vec<u8> = frames.into_iter().flatten().flatten().collect();
        assert_eq!(decode(&bytes, 64), Err(SnapshotError::Truncated));
    }
}
