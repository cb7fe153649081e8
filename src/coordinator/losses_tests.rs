//! Tests of what may be dropped and what is lost.
//!
//! Invariant: they know only what counters said.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const OWN: Epoch = Epoch(9);

fn set(sequences: &[Sequence]) -> Sequences {
    let mut set = Sequences::default();
    for &sequence in sequences {
        set.insert(sequence);
    }
    set
}

fn of(epochs: &[(u128, &[Sequence])]) -> Requirement {
    let mut requirement = Requirement::default();
    for &(epoch, sequences) in epochs {
        requirement.add_all(Partition(0), Epoch(epoch), &set(sequences));
    }
    requirement
}

fn heard(name: &str, holds: Requirement) -> Heard {
    Heard {
        name: name.into(),
        barriers: true,
        complete: true,
        holds,
    }
}

fn names() -> BTreeSet<&'static str> {
    BTreeSet::from(["a", "b"])
}

fn never(required: &Requirement, heard: &[Heard]) -> Requirement {
    never_acknowledged(OWN, &names(), required, heard, &Requirement::default())
}

#[test]
fn what_only_a_lost_disk_held_is_dropped() {
    let both = [heard("a", of(&[(1, &[1])])), heard("b", of(&[(1, &[1])]))];
    assert_eq!(never(&of(&[(1, &[1, 2])]), &both), of(&[(1, &[2])]));
    assert_eq!(never(&of(&[(2, &[1])]), &both), of(&[(2, &[1])]));
    assert_eq!(never(&of(&[(1, &[1])]), &both), Requirement::default());
}

#[test]
fn nothing_is_dropped_while_anyone_may_still_have_it() {
    let required = of(&[(1, &[1])]);
    let a = heard("a", Requirement::default());
    let nothing = Requirement::default();
    assert_eq!(never(&required, std::slice::from_ref(&a)), nothing);
    let mut b = heard("b", Requirement::default());
    b.barriers = false;
    assert_eq!(never(&required, &[a.clone(), b.clone()]), nothing);
    b.barriers = true;
    b.complete = false;
    assert_eq!(never(&required, &[a.clone(), b.clone()]), nothing);
    b.complete = true;
    assert_eq!(never(&required, &[a, b]), required);
}

#[test]
fn what_was_acknowledged_is_never_dropped() {
    let nothing = Requirement::default();
    let both = |holds: &Requirement| [heard("a", holds.clone()), heard("b", holds.clone())];
    // Our own.
    assert_eq!(never(&of(&[(9, &[1])]), &both(&nothing)), nothing);
    // What has a successor: two are missing, or a later one is held.
    assert_eq!(never(&of(&[(1, &[1, 2])]), &both(&nothing)), nothing);
    let later = of(&[(1, &[1, 3])]);
    assert_eq!(never(&of(&[(1, &[1, 2, 3])]), &both(&later)), nothing);
    // One of the epoch went before, so this one had a successor.
    let required = of(&[(1, &[1])]);
    let again = |dropped| never_acknowledged(OWN, &names(), &required, &both(&nothing), &dropped);
    assert_eq!(again(of(&[(1, &[2])])), nothing);
    assert_eq!(
        again(of(&[(1, &[1])])),
        required,
        "but the same may go twice"
    );
}

#[test]
fn a_plan_names_all_that_is_lost_and_who_might_know_better() {
    let mut a = heard("a", of(&[(1, &[1, 2, 5]), (2, &[1])]));
    a.complete = false;
    let mut b = heard("b", of(&[(1, &[1, 4, 5])]));
    b.barriers = false;
    let required = of(&[(1, &[7]), (9, &[1, 2])]);
    let plan = plan(&BTreeSet::from(["a", "b", "c"]), &required, &[a, b]);
    let lost = |epoch, first, last| Loss {
        partition: Partition(0),
        epoch: Epoch(epoch),
        first,
        last,
    };
    let expected = [lost(1, 3, 3), lost(1, 6, 7), lost(9, 1, 2)];
    assert_eq!(plan.losses, expected);
    assert_eq!(plan.incomplete, ["a"]);
    assert_eq!(plan.silent, ["b", "c"]);
    assert!(plan.includes(&lost(1, 7, 7)));
    for other in [lost(1, 5, 7), lost(1, 7, 8), lost(2, 1, 1), lost(1, 7, 6)] {
        assert!(!plan.includes(&other), "{other:?}");
    }
}

proptest! {
    #[test]
    fn records_are_bounded_and_say_exactly_what_is_lost(
        lengths in prop::collection::vec((0_u64..5, 1_u64..2 * LOSSES_PER_RECORD_MAX), 0..5),
        complete: bool,
    ) {
        let mut next = 1;
        let mut losses = Vec::new();
        for (gap, length) in lengths {
            let first = next + gap;
            next = first + length;
            losses.push(Loss { partition: Partition(0), epoch: Epoch(1), first, last: next - 1 });
        }
        let records = records(Partition(0), &losses, complete);
        let mut said = Sequences::default();
        let mut total = 0;
        for (at, record) in records.iter().enumerate() {
            prop_assert_eq!(record.complete, complete && at + 1 == records.len());
            let mut in_record = 0;
            for &(_, first, last) in &record.losses {
                in_record += last - first + 1;
                let range = Sequences::from_parts(0, vec![(first, last)]);
                said.unite(&range.unwrap_or_else(|| Sequences::up_to(last)));
            }
            prop_assert!(in_record <= LOSSES_PER_RECORD_MAX);
            total += in_record;
        }
        let mut expected = Sequences::default();
        for loss in &losses {
            let range = Sequences::from_parts(0, vec![(loss.first, loss.last)]);
            expected.unite(&range.unwrap_or_else(|| Sequences::up_to(loss.last)));
        }
        prop_assert_eq!(total, losses.iter().map(|loss| loss.last - loss.first + 1).sum::<u64>());
        prop_assert_eq!(said, expected);
        prop_assert_eq!(records.is_empty(), losses.is_empty() && !complete);
    }
}
