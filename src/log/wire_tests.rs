//! The bytes of a batch: what survives, what is noticed, what is refused.
//!
//! Invariant: see the [module above](super).

use proptest::prelude::*;

use super::*;
use crate::model::SEQUENCE_MAX;

/// Those that a batch may have, the extremes among them.
fn sequences() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(SEQUENCE_MAX), 1..=SEQUENCE_MAX]
}

fn batches() -> impl Strategy<Value = Batch> {
    let name = prop::collection::vec(any::<char>(), 1..8)
        .prop_filter_map("a valid name", |chars| {
            TenantName::new(&chars.into_iter().collect::<String>()).ok()
        });
    let hashes = prop::collection::vec(any::<[u8; ITEM_HASH_BYTES]>().prop_map(ItemHash), 0..5);
    let items = (name, hashes).prop_map(|(tenant, hashes)| TenantItems {
        tenant,
        hashes: hashes.into(),
    });
    let id = (any::<u16>(), any::<u128>(), sequences());
    (id, any::<u64>(), prop::collection::vec(items, 0..6)).prop_map(
        |((partition, epoch, sequence), accepted_at_ms, items)| {
            let id = BatchId {
                partition: Partition(partition),
                epoch: Epoch(epoch),
                sequence,
            };
            Batch::new(id, accepted_at_ms, items)
        },
    )
}

proptest! {
    #[test]
    fn batches_survive_the_round_trip(batch in batches()) {
        let bytes = encode(&batch);
        let tenants: usize = batch.tenants().iter().map(tenant_bytes).sum();
        prop_assert_eq!(bytes.len(), OVERHEAD_BYTES + tenants);
        prop_assert_eq!(decode(&bytes), Ok(batch));
    }

    #[test]
    fn any_flipped_bit_is_noticed(batch in batches(), at: prop::sample::Index, bit in 0_u32..8) {
        let mut bytes = encode(&batch);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_checked_but_malformed_body_is_refused_or_canonical(
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend(body);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        if let Ok(batch) = decode(&bytes) {
            prop_assert_eq!(encode(&batch), bytes);
        }
    }
}

#[test]
fn an_acceptance_survives_the_round_trip() {
    let id = BatchId {
        partition: Partition(1),
        epoch: Epoch(2),
        sequence: 3,
    };
    for complete in [false, true] {
        let losses = vec![(Epoch(9), 1, 4), (Epoch(8), 7, 7)];
        let batch = Batch::accepting(id, 5, Acceptance { losses, complete });
        assert_eq!(decode(&encode(&batch)), Ok(batch));
    }
}

#[test]
fn a_sequence_that_no_batch_can_have_is_refused() {
    for sequence in [0, u64::MAX] {
        let id = BatchId {
            partition: Partition(0),
            epoch: Epoch(1),
            sequence,
        };
        let barrier = Batch::new(id, 0, Vec::new());
        let refused = Err(WireError::Malformed("its sequence is none"));
        assert_eq!(decode(&encode(&barrier)), refused);
    }
}

#[test]
fn an_acceptance_of_no_or_too_many_sequences_is_refused() {
    let decoded = |losses: &[(u64, u64)]| {
        let id = BatchId {
            partition: Partition(0),
            epoch: Epoch(1),
            sequence: 1,
        };
        let losses = losses.iter().map(|&(first, last)| (Epoch(2), first, last));
        let losses = losses.collect();
        let complete = false;
        decode(&encode(&Batch::accepting(
            id,
            0,
            Acceptance { losses, complete },
        )))
        .is_ok()
    };
    assert!(decoded(&[(SEQUENCE_MAX, SEQUENCE_MAX)]));
    assert!(decoded(&[(1, LOSSES_PER_RECORD_MAX)]));
    assert!(decoded(&[(2, LOSSES_PER_RECORD_MAX), (1, 1)]));
    assert!(!decoded(&[(1, LOSSES_PER_RECORD_MAX), (7, 7)]));
    for refused in [
        (0, 1),
        (2, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
        (1, SEQUENCE_MAX),
    ] {
        assert!(!decoded(&[refused]), "{refused:?}");
    }
}

#[test]
fn a_batch_out_of_its_partition_is_refused() {
    let id = BatchId {
        partition: Partition(7),
        epoch: Epoch(1),
        sequence: 1,
    };
    let batch = Batch::new(id, 0, Vec::new());
    let bytes = encode(&batch);
    assert_eq!(decode_of(Partition(7), &bytes), Ok(batch));
    let refused = WireError::Partition {
        found: Partition(7),
        expected: Partition(0),
    };
    assert_eq!(decode_of(Partition(0), &bytes), Err(refused));
}

#[test]
fn a_later_version_says_so() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([9; 60]);
    assert_eq!(decode(&bytes), Err(WireError::Version(9)));
}
