//! Tests of positions and requirements against models of plain sets.
//!
//! Invariant: see the [module above](super).

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::SEQUENCE_MAX;

fn id(epoch: u128, sequence: Sequence) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    }
}

#[test]
fn redelivery_is_applied_and_other_content_is_a_fork() {
    let mut position = Position::default();
    assert_eq!(position.judge(id(1, 1), 10), Verdict::New);
    position.record(id(1, 1), 10);
    position.record(id(1, 3), 30);
    assert_eq!(position.judge(id(1, 1), 10), Verdict::Applied);
    assert_eq!(position.judge(id(1, 3), 30), Verdict::Applied);
    assert_eq!(position.judge(id(1, 3), 31), Verdict::Fork);
    assert_eq!(position.judge(id(1, 2), 20), Verdict::New);
    assert_eq!(position.judge(id(2, 1), 10), Verdict::New);
    position.record(id(1, 2), 20);
    assert_eq!(
        position.judge(id(1, 3), 30),
        Verdict::Applied,
        "the last checksum stays the last's"
    );
}

#[test]
fn a_union_has_both_sides_sequences_and_the_greater_ones_checksum() {
    let mut ours = Position::default();
    ours.record(id(1, 1), 10);
    ours.record(id(1, 4), 40);
    ours.record(id(2, 1), 11);
    let mut theirs = Position::default();
    theirs.record(id(1, 2), 20);
    theirs.record(id(1, 3), 30);
    theirs.record(id(2, 2), 22);
    theirs.record(id(3, 1), 33);
    let mut union = ours.clone();
    union.unite(&theirs);
    let mut other_way = theirs.clone();
    other_way.unite(&ours);
    assert_eq!(union, other_way);
    for (epoch, last, checksum) in [(1, 4, 40), (2, 2, 22), (3, 1, 33)] {
        let part = union.get(Partition(0), Epoch(epoch)).expect("known");
        assert_eq!(part.sequences, Sequences::up_to(last), "nothing missing");
        assert_eq!(part.last_checksum, checksum);
    }
}

proptest! {
    /// Independent of the order of batches, including the least and greatest sequences, a position
    /// contains exactly the recorded ones, and equals the union of two positions with a part of
    /// them each.
    #[test]
    fn positions_know_what_came_at_both_ends(
        came in prop::collection::vec((0_u128..2, any::<bool>(), 0_u64..9, any::<bool>()), 0..30),
    ) {
        let mut whole = Position::default();
        let mut parts = [Position::default(), Position::default()];
        let mut model = BTreeSet::new();
        for (epoch, low, offset, part) in came {
            let sequence = if low { 1 + offset } else { Sequence::MAX - offset };
            let id = id(epoch, sequence);
            let is_new = sequence <= SEQUENCE_MAX && model.insert((epoch, sequence));
            prop_assert!(!is_new || whole.judge(id, 7) == Verdict::New);
            whole.record(id, 7);
            parts[usize::from(part)].record(id, 7);
        }
        let [mut left, right] = parts;
        left.unite(&right);
        prop_assert_eq!(&left, &whole);
        let requirement = whole.requirement();
        prop_assert!(whole.covers(&requirement, Partition(0)));
        prop_assert_eq!(requirement.count(), model.len() as u64);
        prop_assert!(requirement.minus(&requirement).is_empty());
        let mut everything = requirement.holes();
        everything.unite(&requirement);
        for (_, epoch, sequences) in everything.iter() {
            let last = requirement.get(Partition(0), epoch).map_or(0, Sequences::last);
            prop_assert_eq!(sequences, &Sequences::up_to(last));
        }
    }

    /// Independent of the order and number of additions and unions, a requirement equals a map of
    /// unions.
    #[test]
    fn requirements_behave_like_maps_of_sets(
        parts in prop::collection::vec(prop::collection::vec((0_u128..4, 1_u64..9), 0..6), 0..6),
    ) {
        let mut model: BTreeMap<u128, BTreeSet<Sequence>> = BTreeMap::new();
        let mut whole = Requirement::default();
        for part in &parts {
            let mut requirement = Requirement::default();
            for &(epoch, last) in part {
                requirement.add(Partition(0), Epoch(epoch), last);
                model.entry(epoch).or_default().extend(1..=last);
            }
            whole.unite(&requirement);
            prop_assert!(requirement.is_within(&whole, Partition(0)));
            prop_assert!(requirement.minus(&whole).is_empty());
        }
        let epochs: Vec<u128> = whole.iter().map(|(_, epoch, _)| epoch.0).collect();
        prop_assert_eq!(epochs, model.keys().copied().collect::<Vec<_>>());
        for (epoch, sequences) in &model {
            let held = whole.get(Partition(0), Epoch(*epoch)).expect("added");
            prop_assert_eq!(held.count(), sequences.len() as u64);
        }
        prop_assert_eq!(whole.count(), model.values().map(|of| of.len() as u64).sum::<u64>());
    }
}

#[test]
fn a_hole_stays_uncovered_until_filled() {
    let mut position = Position::default();
    position.record(id(1, 1), 0);
    position.record(id(1, 3), 0);
    let mut requirement = Requirement::default();
    assert!(position.covers(&requirement, Partition(0)));
    requirement.add(Partition(0), Epoch(1), 3);
    requirement.add(Partition(0), Epoch(1), 2);
    assert!(!position.covers(&requirement, Partition(0)));
    assert_eq!(position.holes(), 1);
    position.record(id(1, 2), 0);
    assert!(position.covers(&requirement, Partition(0)));
    requirement.add(Partition(0), Epoch(2), 1);
    assert!(
        !position.covers(&requirement, Partition(0)),
        "an epoch never heard of is not covered"
    );
}
