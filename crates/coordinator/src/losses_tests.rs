//! Tests of what may be dropped from the read requirement and of what is lost.
//!
//! Invariant: the tests know only what counters reported.

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
        loss: None,
    }
}

fn names() -> BTreeSet<&'static str> {
    BTreeSet::from(["a", "b"])
}

fn never(required: &Requirement, heard: &[Heard]) -> Requirement {
    never_while(required, heard, |_| false)
}

fn never_while(
    required: &Requirement,
    heard: &[Heard],
    may_come: impl Fn(Epoch) -> bool,
) -> Requirement {
    let nothing = Requirement::default();
    never_acknowledged(OWN, &names(), required, heard, &nothing, may_come)
}

fn id(epoch: u128, sequence: Sequence) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    }
}

fn lost(epoch: u128, first: Sequence, last: Sequence) -> Loss {
    Loss {
        partition: Partition(0),
        epoch: Epoch(epoch),
        first,
        last,
    }
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
    // Own batches.
    assert_eq!(never(&of(&[(9, &[1])]), &both(&nothing)), nothing);
    // Batches with a successor: two are missing, or a later one is held.
    assert_eq!(never(&of(&[(1, &[1, 2])]), &both(&nothing)), nothing);
    let later = of(&[(1, &[1, 3])]);
    assert_eq!(never(&of(&[(1, &[1, 2, 3])]), &both(&later)), nothing);
    // Another batch of the epoch was dropped before, so this one had a successor.
    let required = of(&[(1, &[1])]);
    let again = |dropped| {
        never_acknowledged(OWN, &names(), &required, &both(&nothing), &dropped, |_| {
            false
        })
    };
    assert_eq!(again(of(&[(1, &[2])])), nothing);
    assert_eq!(
        again(of(&[(1, &[1])])),
        required,
        "but the same one may be dropped twice"
    );
}

#[test]
fn a_plan_names_all_that_is_lost_and_who_might_know_better() {
    let mut a = heard("a", of(&[(1, &[1, 2, 5]), (2, &[1])]));
    a.complete = false;
    a.loss = Some(LossId(4));
    let mut b = heard("b", of(&[(1, &[1, 4, 5])]));
    b.barriers = false;
    let required = of(&[(1, &[7]), (9, &[1, 2])]);
    let names = BTreeSet::from(["a", "b", "c"]);
    let known = Known {
        names: &names,
        required: &required,
        first: &[],
        heard: &[a, b],
    };
    let planned = plan(&known, |_| None, |_| None);
    assert_eq!(planned.lasts, BTreeSet::from([id(1, 7), id(9, 2)]));
    let plan = planned.plan;
    let expected = [lost(1, 3, 3), lost(1, 6, 7), lost(9, 1, 2)];
    assert_eq!(plan.losses, expected);
    let [of] = &plan.incomplete[..] else {
        panic!("{:?}", plan.incomplete);
    };
    assert_eq!((of.name.as_str(), of.loss), ("a", Some(LossId(4))));
    assert!(of.not_yet.is_some(), "the other has 4");
    assert!(plan.not_lost.is_empty());
    assert_eq!(plan.silent, ["b", "c"]);
    assert!(plan.includes(&lost(1, 7, 7)));
    for other in [lost(1, 5, 7), lost(1, 7, 8), lost(2, 1, 1), lost(1, 7, 6)] {
        assert!(!plan.includes(&other), "{other:?}");
    }
}

#[test]
fn nothing_is_dropped_while_its_coordinator_may_bring_it() {
    let required = of(&[(1, &[1]), (2, &[1])]);
    let both = ["a", "b"].map(|name| heard(name, Requirement::default()));
    assert_eq!(never(&required, &both), required);
    let first_is_there = |epoch| epoch == Epoch(1);
    let never = never_while(&required, &both, first_is_there);
    assert_eq!(never, of(&[(2, &[1])]));
}

/// At most one batch of an epoch, the last, can still be in flight. A batch with a successor was
/// acknowledged and is lost.
#[test]
fn only_the_last_of_an_epoch_is_not_lost_while_it_may_come() {
    let required = of(&[(1, &[1, 2, 5]), (2, &[3]), (3, &[2]), (4, &[])]);
    let heard = [heard("a", of(&[(1, &[1]), (3, &[2])]))];
    let names = BTreeSet::from(["a"]);
    let may_come = |id: BatchId| (id.epoch != Epoch(2)).then(|| format!("{}", id.sequence));
    let known = Known {
        names: &names,
        required: &required,
        first: &[],
        heard: &heard,
    };
    let planned = plan(&known, may_come, |_| None);
    let expected = [lost(1, 2, 4), lost(2, 1, 3), lost(3, 1, 1)];
    assert_eq!(planned.plan.losses, expected);
    assert_eq!(planned.lasts, BTreeSet::from([id(2, 3)]));
    let not_lost = NotLost {
        id: id(1, 5),
        why: "5".into(),
    };
    assert_eq!(planned.plan.not_lost, [not_lost]);
    assert!(!planned.plan.includes(&lost(1, 2, 5)));
}

/// Otherwise it would answer exactly without a batch that another counter holds, or without batches
/// that are appended without a copy for it.
#[test]
fn who_lacks_what_another_holds_or_is_passed_by_is_not_complete_yet() {
    let heard = ["a", "b", "c"].map(|name| Heard {
        complete: false,
        loss: Some(LossId(4)),
        ..heard(name, of(&[(1, &[1])]))
    });
    let [mut a, b, c] = heard;
    a.holds = of(&[(1, &[1, 2])]);
    let first = [a.clone(), b.clone(), c.clone()];
    // It has received 3 since. The others may not have reached it in their queues.
    a.holds = of(&[(1, &[1, 2, 3])]);
    let nothing = Requirement::default();
    let known = Known {
        names: &BTreeSet::from(["a", "b", "c"]),
        required: &nothing,
        first: &first,
        heard: &[a, b, c],
    };
    let passes_by = |name: &str| (name == "c" || name == "a").then(|| "k2".to_owned());
    let plan = plan(&known, |_| None, passes_by).plan;
    let why = |at: usize| plan.incomplete[at].not_yet.clone().expect("not yet");
    assert!(why(0).contains("k2 does not publish to its queue"));
    for at in [1, 2] {
        assert!(why(at).contains("it lacks batches (1)"), "{}", why(at));
    }
    let b = CounterName::new("b").expect("a name");
    assert!(!plan.completes(&b, LossId(4)));
}

/// The late counter may just have been started, so what it holds may have been in its queue all the
/// time.
#[test]
fn what_one_holds_that_came_late_everybody_must_hold() {
    let incomplete = |name: &str, holds| Heard {
        complete: false,
        loss: Some(LossId(4)),
        ..heard(name, holds)
    };
    let late = incomplete("a", of(&[(1, &[1])]));
    let other = incomplete("b", Requirement::default());
    let not_there = Heard {
        barriers: false,
        ..incomplete("a", Requirement::default())
    };
    for first in [vec![other.clone()], vec![other.clone(), not_there]] {
        let known = Known {
            names: &BTreeSet::from(["a", "b"]),
            required: &Requirement::default(),
            first: &first,
            heard: &[late.clone(), other.clone()],
        };
        let plan = plan(&known, |_| None, |_| None).plan;
        assert_eq!(plan.incomplete[0].not_yet, None);
        assert!(plan.incomplete[1].not_yet.is_some());
    }
}

#[test]
fn an_aftermath_tells_who_is_complete_and_why_others_are_not() {
    let name = |text: &str| CounterName::new(text).expect("a name");
    let named = [
        (name("a"), LossId(1)),
        (name("b"), LossId(2)),
        (name("c"), LossId(3)),
    ];
    let of = |name: &str, loss: Option<u64>| Heard {
        complete: loss.is_none(),
        loss: loss.map(LossId),
        ..heard(name, Requirement::default())
    };
    let late = Heard {
        barriers: false,
        ..of("e", None)
    };
    let heard = [
        of("a", None),
        of("b", Some(9)),
        of("c", Some(3)),
        of("d", Some(4)),
        late,
    ];
    let names = BTreeSet::from(["a", "b", "c", "d", "e", "f"]);
    let expected = Aftermath {
        complete: vec!["a".into()],
        incomplete: vec![
            ("b".into(), StillIncomplete::LostAgain),
            ("c".into(), StillIncomplete::NotReached),
            ("d".into(), StillIncomplete::NotNamed),
        ],
        silent: vec!["e".into(), "f".into()],
    };
    assert_eq!(aftermath(&names, &named, &heard), expected);
}

proptest! {
    #[test]
    fn records_name_every_counter_once_and_only_last(
        losses in prop::collection::vec((1_u64..9, 0_u64..LOSSES_PER_RECORD_MAX), 0..4),
        counters in 0..3 * COMPLETED_PER_RECORD_MAX,
    ) {
        let losses = losses.into_iter();
        let losses: Vec<_> = losses.map(|(first, more)| lost(1, first, first + more)).collect();
        let named: Vec<_> = (0..counters)
            .map(|at| (CounterName::new(&format!("c{at:05}")).expect("a name"), LossId(at as u64)))
            .collect();
        let records = records(Partition(0), &losses, &named);
        let mut said = Vec::new();
        for record in &records {
            match &record.completes {
                Completes::Named(named) => said.extend_from_slice(named.as_slice()),
                other => {
                    prop_assert_eq!(other, &Completes::Nobody);
                    prop_assert!(said.is_empty() && !record.losses.is_empty());
                }
            }
        }
        prop_assert_eq!(said, named);
        let all: Vec<_> = records.into_iter().flat_map(|record| record.losses).collect();
        let recorded: u64 = all.iter().map(|(_, first, last)| last - first + 1).sum();
        let lost: u64 = losses.iter().map(|loss| loss.last - loss.first + 1).sum();
        prop_assert_eq!(recorded, lost);
    }

    #[test]
    fn records_are_bounded_and_say_exactly_what_is_lost(
        lengths in prop::collection::vec((0_u64..5, 1_u64..2 * LOSSES_PER_RECORD_MAX), 0..5),
        complete: bool,
    ) {
        let named = complete.then(|| (CounterName::new("c1").expect("a name"), LossId(1)));
        let mut next = 1;
        let mut losses = Vec::new();
        for (gap, length) in lengths {
            let first = next + gap;
            next = first + length;
            losses.push(Loss { partition: Partition(0), epoch: Epoch(1), first, last: next - 1 });
        }
        let records = records(Partition(0), &losses, named.as_slice());
        let mut said = Sequences::default();
        let mut total = 0;
        for (at, record) in records.iter().enumerate() {
            let completes = record.completes != Completes::Nobody;
            prop_assert_eq!(completes, complete && at + 1 == records.len());
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
