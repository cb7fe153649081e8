//! Tests of loss messages: round trips, and compatibility with the previous release.
//!
//! Invariant: see the [module above](super).

use proptest::prelude::*;

use super::*;

fn there_and_back<M: Message>(message: &M) -> M {
    M::decode(&message.encode()).expect("just encoded")
}

proptest! {
    #[test]
    fn losses_survive_the_round_trip(
        missing in prop::collection::vec(
            (any::<u16>(), any::<u128>(), any::<u64>(), any::<u64>()),
            0..4,
        ),
        complete: bool,
        named in prop::collection::btree_map("[a-z0-9]{1,8}", any::<Option<u64>>(), 0..4),
        why: String,
    ) {
        let loss = |(partition, epoch, first, last)| {
            Loss { partition, epoch: Epoch(epoch), first, last }
        };
        let missing: Vec<Loss> = missing.into_iter().map(loss).collect();
        let not_lost = missing.iter().map(|loss| NotLost {
            partition: loss.partition, epoch: loss.epoch, sequence: loss.last, why: why.clone(),
        });
        let incomplete = named.iter().map(|(name, loss)| IncompleteCounter {
            name: name.clone(),
            loss: loss.map(LossId),
            not_yet: loss.is_none().then(|| why.clone()),
        });
        let plan = LossPlan {
            missing: missing.clone(), incomplete: incomplete.collect(), silent: vec!["c2".into()],
            not_lost: not_lost.collect(),
        };
        prop_assert_eq!(there_and_back(&plan), plan);
        let counters = named.iter().map(|(name, loss)| {
            (CounterName::new(name).expect("a name"), LossId(loss.unwrap_or(7)))
        });
        let request = LossRequest { missing, complete, counters: counters.collect() };
        prop_assert_eq!(&there_and_back(&request), &request);
        let receipt = LossReceipt {
            accepted: request, now_complete: vec![why.clone()], not_heard: vec![why.clone()],
            still_incomplete: vec![("c1".into(), why)],
        };
        prop_assert_eq!(there_and_back(&receipt), receipt);
    }
}

/// This release reads the plan, request and receipt of the previous release, which reads ours.
#[test]
fn losses_of_the_release_before_are_read_and_it_reads_ours() {
    let plan = r#"{"missing":[],"incomplete":["c1"],"silent":["c2"]}"#;
    let plan = LossPlan::decode(plan.as_bytes()).expect("read");
    let unknown = IncompleteCounter {
        name: "c1".into(),
        loss: None,
        not_yet: None,
    };
    assert_eq!(plan.incomplete, [unknown]);
    let request = r#"{"missing":[],"complete":true}"#;
    let request = LossRequest::decode(request.as_bytes()).expect("read");
    assert!(request.complete && request.counters.is_empty());
    let receipt = LossReceipt::decode(&request.encode()).expect("read");
    assert_eq!(receipt.accepted, request);

    /// The types as that release declares them.
    #[derive(serde::Deserialize)]
    struct Plan {
        missing: Vec<serde_json::Value>,
        incomplete: Vec<String>,
    }
    #[derive(serde::Deserialize)]
    struct Request {
        missing: Vec<serde_json::Value>,
        complete: bool,
    }
    let plan = LossPlan {
        incomplete: vec![IncompleteCounter {
            name: "c1".into(),
            loss: Some(LossId(0xab)),
            not_yet: None,
        }],
        ..LossPlan::default()
    };
    let text = String::from_utf8(plan.encode()).expect("UTF-8");
    assert!(
        text.contains(r#""loss_ids":{"c1":"00000000000000ab"}"#),
        "{text}"
    );
    let plan: Plan = serde_json::from_str(&text).expect("read");
    assert_eq!(
        (plan.missing.len(), plan.incomplete),
        (0, vec!["c1".into()])
    );
    let request = LossRequest {
        complete: true,
        counters: [(CounterName::new("c1").expect("a name"), LossId(0xab))].into(),
        ..LossRequest::default()
    };
    let receipt = LossReceipt {
        accepted: request.clone(),
        ..LossReceipt::default()
    };
    for bytes in [request.encode(), receipt.encode()] {
        let read: Request = serde_json::from_slice(&bytes).expect("read");
        assert!(read.missing.is_empty() && read.complete);
    }
}
