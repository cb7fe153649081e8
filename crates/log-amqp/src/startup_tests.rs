//! Tests of the startup protocol, case by case.
//!
//! Invariant: each case is one of the design, or a schedule that broke an earlier draft.

use tokio::time::Instant;

use super::super::{Announcement, Sighting};
use super::*;

const EMPTY: StoreStatus = StoreStatus {
    holds_position: false,
    complete: false,
    adopted: false,
    generation: None,
};
const WHOLE: StoreStatus = StoreStatus {
    holds_position: true,
    complete: true,
    adopted: false,
    generation: None,
};
const ADOPTED: StoreStatus = StoreStatus {
    adopted: true,
    ..WHOLE
};
/// The facts right after the bootstrap.
const FOUNDED: Facts = Facts {
    founded: true,
    founding: true,
    queues: true,
    first: true,
    started: false,
    lost: false,
    replaced: false,
    removed: false,
    cancelled: false,
    vanished: false,
    unnamed: false,
    generation: FOUNDING_LIES,
};
/// The queue holds the message of the bootstrap.
const FOUNDING_LIES: Found = Found {
    queue: true,
    own: false,
    founding: true,
    others: false,
};
/// The facts of a counter that ran before.
const RUNNING: Facts = Facts {
    started: true,
    ..FOUNDED
};

fn name() -> CounterName {
    CounterName::new("c1").expect("valid")
}

/// The decision when no other counter is heard.
fn alone(facts: Facts, standing: StoreStatus) -> Decision {
    decide(&name(), facts, standing, Some(&Peers::default()))
}

fn loses(decision: &Decision) -> bool {
    matches!(
        decision,
        Decision::Lose {
            replaced: false,
            ..
        }
    )
}

fn loses_to_a_younger_broker(decision: &Decision) -> bool {
    matches!(decision, Decision::Lose { replaced: true, .. })
}

#[test]
fn a_restart_just_goes_on() {
    assert_eq!(alone(RUNNING, WHOLE), Decision::Consume);
    let healing = StoreStatus {
        complete: false,
        ..WHOLE
    };
    assert_eq!(alone(RUNNING, healing), Decision::Consume);
    let idle = StoreStatus {
        complete: true,
        ..EMPTY
    };
    assert_eq!(
        alone(RUNNING, idle),
        Decision::Consume,
        "nothing was ever posted"
    );
}

/// docs/testing/schedules.md, 3: one counter alone must not wait for a peer.
#[test]
fn a_founding_counter_begins_but_listens_first() {
    assert_eq!(decide(&name(), FOUNDED, EMPTY, None), Decision::Listen);
    assert_eq!(alone(FOUNDED, EMPTY), Decision::Begin);
    let committed = StoreStatus {
        complete: true,
        ..EMPTY
    };
    assert_eq!(
        alone(FOUNDED, committed),
        Decision::Begin,
        "killed before it declared `started`"
    );
}

#[test]
fn nothing_begins_before_the_founding() {
    let unfounded = Facts {
        founded: false,
        founding: false,
        queues: false,
        ..FOUNDED
    };
    assert_eq!(alone(unfounded, EMPTY), Decision::Wait { replaced: false });
    assert_eq!(alone(unfounded, WHOLE), Decision::Wait { replaced: true });
}

/// docs/testing/schedules.md, 4: a counter that lost its disk must not serve zeros.
#[test]
fn an_empty_store_that_had_started_is_a_loss() {
    assert!(loses(&alone(RUNNING, EMPTY)));
    let later = Facts {
        first: false,
        ..RUNNING
    };
    assert_eq!(
        alone(later, EMPTY),
        Decision::Consume,
        "a loss is reported once in an incarnation"
    );
}

/// docs/testing/schedules.md, 19: the queue is deleted before the first start.
#[test]
fn a_founding_counter_without_its_queue_has_lost() {
    let deleted = Facts {
        queues: false,
        ..FOUNDED
    };
    assert!(loses(&alone(deleted, EMPTY)));
}

/// docs/testing/schedules.md, 20: only a position without its own `started` marker disqualifies.
#[test]
fn a_peer_that_has_started_does_not_disqualify() {
    let peers = Peers {
        started: Some("c2".to_owned()),
        ..Peers::default()
    };
    assert_eq!(
        decide(&name(), FOUNDED, EMPTY, Some(&peers)),
        Decision::Begin
    );
    let peers = Peers {
        older_than_broker: Some("c2".to_owned()),
        ..Peers::default()
    };
    assert!(loses(&decide(&name(), FOUNDED, EMPTY, Some(&peers))));
    let peers = Peers {
        unsure: Some("c2".to_owned()),
        ..Peers::default()
    };
    assert_eq!(
        decide(&name(), FOUNDED, EMPTY, Some(&peers)),
        Decision::Listen
    );
}

/// docs/testing/schedules.md, 21: a coordinator declared the queue again before the counter saw
/// that it was missing.
#[test]
fn the_lost_marker_tells_of_a_queue_declared_again() {
    for facts in [FOUNDED, RUNNING] {
        for standing in [EMPTY, WHOLE] {
            let lost = Facts {
                lost: true,
                ..facts
            };
            assert!(matches!(alone(lost, standing), Decision::Lose { .. }));
        }
    }
}

#[test]
fn a_queue_or_a_consumer_that_is_gone_is_a_loss() {
    for facts in [
        Facts {
            queues: false,
            ..RUNNING
        },
        Facts {
            cancelled: true,
            ..RUNNING
        },
        Facts {
            vanished: true,
            ..RUNNING
        },
    ] {
        assert!(loses(&alone(facts, WHOLE)));
    }
}

/// docs/testing/schedules.md, 24: the broker is replaced, and coordinators declare first.
#[test]
fn a_position_without_the_started_marker_means_another_broker() {
    assert!(loses_to_a_younger_broker(&alone(FOUNDED, WHOLE)));
    let marked = Facts {
        replaced: true,
        ..FOUNDED
    };
    assert!(loses_to_a_younger_broker(&alone(marked, WHOLE)));
    assert!(
        loses(&alone(marked, EMPTY)),
        "an empty store does not count as complete"
    );
}

#[test]
fn a_newcomer_is_not_whole() {
    let unknown = Facts {
        founding: false,
        ..FOUNDED
    };
    assert!(loses(&alone(unknown, EMPTY)));
}

/// docs/testing/schedules.md, 18.
#[test]
fn a_removed_counter_stops() {
    for facts in [FOUNDED, RUNNING] {
        let removed = Facts {
            removed: true,
            ..facts
        };
        assert!(matches!(alone(removed, WHOLE), Decision::Refuse(_)));
    }
}

#[test]
fn an_adopted_store_stays_whole_when_it_is_the_first() {
    assert_eq!(decide(&name(), FOUNDED, ADOPTED, None), Decision::Listen);
    assert_eq!(alone(FOUNDED, ADOPTED), Decision::Adopt);
    assert_eq!(
        alone(RUNNING, ADOPTED),
        Decision::Consume,
        "only the first start adopts"
    );
    let peers = Peers {
        started: Some("c2".to_owned()),
        ..Peers::default()
    };
    let refused = decide(&name(), FOUNDED, ADOPTED, Some(&peers));
    assert!(
        matches!(refused, Decision::Refuse(why) if why.contains("Start the adopting counter first"))
    );
    for facts in [
        Facts {
            founding: false,
            ..FOUNDED
        },
        Facts {
            queues: false,
            ..FOUNDED
        },
        Facts {
            lost: true,
            ..FOUNDED
        },
    ] {
        assert!(
            loses_to_a_younger_broker(&alone(facts, ADOPTED)),
            "{facts:?}"
        );
    }
    let empty = StoreStatus {
        adopted: true,
        ..EMPTY
    };
    assert!(
        loses(&alone(RUNNING, empty)),
        "an empty store has nothing to adopt"
    );
}

#[test]
fn only_fresh_counters_other_than_oneself_are_peers() {
    let now = Instant::now();
    let sighting = |name: &str, role, started, holds_position| Sighting {
        announcement: Announcement {
            role,
            name: name.to_owned(),
            started,
            holds_position,
            ..Announcement::default()
        },
        seen_at: now,
    };
    let mut nodes = Nodes::default();
    nodes.insert(
        "1".to_owned(),
        sighting("c1", Role::Counter, Some(false), true),
    );
    nodes.insert("2".to_owned(), sighting("k", Role::Coordinator, None, true));
    nodes.insert(
        "3".to_owned(),
        sighting("c3", Role::Counter, Some(false), false),
    );
    assert_eq!(judge_peers(&name(), &nodes, |_| true), Peers::default());
    nodes.insert(
        "4".to_owned(),
        sighting("c4", Role::Counter, Some(true), true),
    );
    nodes.insert(
        "5".to_owned(),
        sighting("c5", Role::Counter, Some(false), true),
    );
    nodes.insert("6".to_owned(), sighting("c6", Role::Counter, None, false));
    let expected = Peers {
        started: Some("c4".to_owned()),
        older_than_broker: Some("c5".to_owned()),
        unsure: Some("c6".to_owned()),
    };
    assert_eq!(judge_peers(&name(), &nodes, |_| true), expected);
    assert_eq!(judge_peers(&name(), &nodes, |_| false), Peers::default());
}

/// The counter was away while a coordinator that does not name it published.
#[test]
fn a_whole_store_that_a_coordinator_does_not_name_is_told_of_what_it_may_lack() {
    let facts = Facts {
        started: true,
        unnamed: true,
        generation: Found {
            own: true,
            ..FOUNDING_LIES
        },
        ..FOUNDED
    };
    let name = CounterName::new("c4").expect("valid");
    let decision = decide(&name, facts, WHOLE, None);
    assert!(matches!(decision, Decision::Lose { why, .. } if why.contains("--counters")));
}
