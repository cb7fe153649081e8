//! Tests of the encoding of batches: round trips, detection of damage, rejection of malformed
//! bytes.
//!
//! Invariant: see the [module above](super).

use proptest::prelude::*;

use super::*;
use headcount_model::{COMPLETED_PER_RECORD_MAX, SEQUENCE_MAX};

/// Valid sequences, including the extremes.
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

/// The counters that become complete, in all three forms.
fn completes() -> impl Strategy<Value = Completes> {
    let name = "[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}";
    let named = prop::collection::btree_map(name, any::<u64>(), 1..5).prop_map(|named| {
        let valid = |name: &str| CounterName::new(name).expect("a name");
        let named = named
            .iter()
            .map(|(name, &loss)| (valid(name), LossId(loss)));
        Completes::Named(NamedLosses::new(named.collect()).expect("in order"))
    });
    prop_oneof![Just(Completes::Nobody), Just(Completes::Unnamed), named]
}

fn acceptances() -> impl Strategy<Value = Batch> {
    let range = (any::<u128>(), sequences(), 0_u64..100).prop_map(|(epoch, first, more)| {
        let last = first.saturating_add(more).min(SEQUENCE_MAX);
        (Epoch(epoch), first, last)
    });
    let losses = prop::collection::vec(range, 0..5);
    (batches(), losses, completes()).prop_map(|(batch, losses, completes)| {
        Batch::accepting(
            batch.id(),
            batch.accepted_at_ms(),
            Acceptance { losses, completes },
        )
    })
}

proptest! {
    #[test]
    fn acceptances_survive_the_round_trip_each_in_the_first_version_that_has_it(
        batch in acceptances(),
    ) {
        let bytes = encode(&batch);
        let naming = matches!(batch.acceptance().expect("signed").completes, Completes::Named(_));
        prop_assert_eq!(bytes[MAGIC.len()], if naming { VERSION_NAMING } else { VERSION });
        prop_assert_eq!(decode(&bytes), Ok(batch));
    }

    #[test]
    fn any_flipped_bit_of_an_acceptance_is_noticed(
        batch in acceptances(), at: prop::sample::Index, bit in 0_u32..8,
    ) {
        let mut bytes = encode(&batch);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

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
        version in VERSION..=VERSION_READ_MAX,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = summed([&MAGIC[..], &[version], &body].concat());
        if let Ok(batch) = decode(&bytes) {
            prop_assert_eq!(encode(&batch), bytes);
        }
    }

    /// Varies the part after the tenants; the header is valid.
    #[test]
    fn a_checked_but_malformed_acceptance_is_refused_or_canonical(
        version in VERSION..=VERSION_READ_MAX,
        kind in 0_u8..5,
        ranges in 0_u8..2,
        body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = encode(&Batch::new(id(1), 0, Vec::new()));
        bytes[MAGIC.len()] = version;
        bytes.truncate(HEADER_BYTES);
        bytes.extend([kind, ranges, 0, 0, 0]);
        bytes.extend(body);
        let bytes = summed(bytes);
        if let Ok(batch) = decode(&bytes) {
            prop_assert_eq!(encode(&batch), bytes);
        }
    }
}

fn id(sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    }
}

/// Appends the matching checksum.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn signed(named: &[(&str, u64)]) -> Batch {
    let named = named
        .iter()
        .map(|&(name, loss)| (CounterName::new(name).expect("a name"), LossId(loss)));
    let named = NamedLosses::new(named.collect()).expect("in order");
    let acceptance = Acceptance {
        losses: vec![(Epoch(9), 1, 4), (Epoch(8), 7, 7)],
        completes: Completes::Named(named),
    };
    Batch::accepting(id(3), 5, acceptance)
}

/// The encoding must not change between releases, because a queue keeps batches while its counter
/// is away.
#[test]
fn an_acceptance_that_names_counters_is_what_was_committed() {
    let bytes = include_bytes!("fixtures/acceptance_v2.bin");
    let batch = signed(&[("c1", 0x0102_0304_0506_0708), ("c2", 7)]);
    assert_eq!(encode(&batch), bytes);
    assert_eq!(decode(bytes), Ok(batch));
}

#[test]
fn an_acceptance_of_the_first_version_is_what_was_committed() {
    let bytes = include_bytes!("fixtures/acceptance_v1.bin");
    let acceptance = Acceptance {
        losses: vec![(Epoch(9), 1, 4), (Epoch(8), 7, 7)],
        completes: Completes::Unnamed,
    };
    let batch = Batch::accepting(id(3), 5, acceptance);
    assert_eq!(encode(&batch), bytes);
    assert_eq!(decode(bytes), Ok(batch));
}

#[test]
fn counters_that_are_none_too_many_or_out_of_order_are_refused() {
    let good = encode(&signed(&[("c1", 7)]));
    let at = good.len() - CHECKSUM_BYTES - 8 - 2 - 1 - 2;
    assert_eq!(&good[at..at + 5], b"\x01\0\x02c1", "where they are");
    let with = |count: u16, names: &[&str]| {
        let mut bytes = good[..at].to_vec();
        bytes.extend(count.to_le_bytes());
        for name in names {
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
            bytes.extend([7; 8]);
        }
        decode(&summed(bytes)).map(drop)
    };
    assert_eq!(with(2, &["c1", "c2"]), Ok(()));
    let listed =
        WireError::Malformed("no counters, too many counters, or counters not in ascending order");
    assert_eq!(with(0, &[]), Err(listed));
    assert_eq!(with(2, &["c2", "c1"]), Err(listed));
    assert_eq!(with(2, &["c1", "c1"]), Err(listed));
    let many: Vec<String> = (0..=COMPLETED_PER_RECORD_MAX)
        .map(|at| format!("c{at:04}"))
        .collect();
    let mut many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(with(many.len() as u16, &many), Err(listed));
    many.pop();
    assert_eq!(with(many.len() as u16, &many), Ok(()));
    let name = WireError::Malformed("invalid counter name");
    let long = "c".repeat(65);
    for wrong in ["", "-c", "c.1", "é", &long] {
        assert_eq!(with(1, &[wrong]), Err(name), "{wrong}");
    }
}

#[test]
fn a_kind_of_the_other_version_is_refused() {
    let refused = Err(WireError::Malformed(
        "the kind does not match the format version",
    ));
    let barrier = Batch::new(id(1), 0, Vec::new());
    let old = Acceptance {
        losses: Vec::new(),
        completes: Completes::Unnamed,
    };
    let old = Batch::accepting(id(1), 0, old);
    for (batch, version) in [
        (barrier, VERSION_NAMING),
        (old, VERSION_NAMING),
        (signed(&[("c1", 1)]), VERSION),
    ] {
        let mut bytes = encode(&batch);
        bytes[MAGIC.len()] = version;
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        assert_eq!(decode(&summed(bytes)), refused);
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
        let refused = Err(WireError::Malformed("invalid sequence"));
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
        let acceptance = Acceptance {
            losses: losses.collect(),
            completes: Completes::Nobody,
        };
        decode(&encode(&Batch::accepting(id, 0, acceptance))).is_ok()
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
