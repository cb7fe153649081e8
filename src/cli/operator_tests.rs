//! Tests of what an operator is shown and what is sent back.
//!
//! Invariant: the request contains what was shown, and nothing that can't be accepted.

use super::*;
use crate::client::IncompleteCounter;
use crate::model::LossId;

fn counter(name: &str, loss: Option<u64>) -> IncompleteCounter {
    IncompleteCounter {
        name: name.into(),
        loss: loss.map(LossId),
        not_yet: None,
    }
}

fn plan() -> LossPlan {
    LossPlan {
        missing: vec![Loss {
            partition: 0,
            epoch: Epoch(7),
            first: 2,
            last: 5,
        }],
        incomplete: vec![counter("c1", Some(3)), counter("c2", None)],
        silent: vec!["c3".into()],
        not_lost: vec![NotLost {
            partition: 0,
            epoch: Epoch(7),
            sequence: 6,
            why: "its coordinator is there".into(),
        }],
    }
}

#[test]
fn what_is_sent_back_is_what_was_shown() {
    let request = everything(&plan());
    assert_eq!(request.missing, plan().missing);
    let named: Vec<_> = request.counters.iter().collect();
    let name = CounterName::new("c1").expect("a name");
    assert_eq!(named, [(&name, &LossId(3))]);
    assert!(request.complete);
    let text = explain(&request, &plan());
    for shown in [
        "batches 2-5",
        "these counters miss: c1. They",
        "Not lost yet: batch 6 of epoch",
        "its coordinator is there",
        "identify its loss: c2. Upgrade",
        "did not answer and may still have the missing batches: c3",
    ] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}

/// The plan of an old coordinator has no ids: no counter's loss in it can be accepted.
#[test]
fn counters_without_an_id_are_not_accepted() {
    let plan = LossPlan {
        incomplete: vec![counter("c1", None)],
        ..LossPlan::default()
    };
    assert_eq!(everything(&plan), LossRequest::default());
}

#[test]
fn one_range_names_no_counter_and_nothing_that_may_still_come() {
    let epoch = Epoch(7).to_string();
    let request = one_range(&plan(), &epoch, "3-4").expect("planned");
    assert_eq!((request.missing[0].first, request.missing[0].last), (3, 4));
    assert!(!request.complete && request.counters.is_empty());
    let refused = one_range(&plan(), &epoch, "5-6").expect_err("not lost");
    assert!(
        refused.contains("6 is not lost yet: its coordinator is there"),
        "{refused}"
    );
    let refused = one_range(&plan(), &epoch, "8").expect_err("not known");
    assert!(refused.contains("is not lost"), "{refused}");
}

#[test]
fn a_receipt_tells_who_is_complete_who_is_not_and_why() {
    let receipt = LossReceipt {
        accepted: everything(&plan()),
        now_complete: vec!["c1".into(), "c4".into()],
        still_incomplete: vec![("c2".into(), "it was restarted".into())],
        not_heard: vec!["c3".into()],
    };
    let text = told(&receipt);
    for shown in [
        "Batches 2-5 of epoch",
        "Complete: c1, c4.",
        "Not complete: c2: it was restarted.",
        "Did not answer in time (see /counters): c3.",
    ] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}
