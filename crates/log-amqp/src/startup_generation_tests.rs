//! Tests of the startup protocol for every relation between a store and its generation queue.
//!
//! Invariant: see the [module above](super).

use super::*;
use headcount_model::{Generation, KeptGeneration};

const NONE: StoreStatus = StoreStatus {
    holds_position: true,
    complete: true,
    adopted: false,
    generation: None,
};
const ANNOUNCED: StoreStatus = StoreStatus {
    generation: Some(KeptGeneration {
        generation: Generation([7; _]),
        is_placed: false,
    }),
    ..NONE
};
const PLACED: StoreStatus = StoreStatus {
    generation: Some(KeptGeneration {
        generation: Generation([7; _]),
        is_placed: true,
    }),
    ..NONE
};
const NO_QUEUE: Found = Found {
    queue: false,
    own: false,
    founding: false,
    others: false,
};
const NO_MESSAGES: Found = Found {
    queue: true,
    ..NO_QUEUE
};
const FOUNDING: Found = Found {
    founding: true,
    ..NO_MESSAGES
};
const OTHERS: Found = Found {
    others: true,
    ..NO_MESSAGES
};
const OWN: Found = Found {
    own: true,
    ..NO_MESSAGES
};

/// The facts of a counter that ran before, with this content of its generation queue.
fn running(generation: Found) -> Facts {
    Facts {
        founded: true,
        founding: true,
        started: true,
        queues: true,
        first: true,
        generation,
        ..Facts::default()
    }
}

fn decision(facts: Facts, standing: StoreStatus) -> Decision {
    let name = CounterName::new("c1").expect("valid");
    decide(&name, facts, standing, Some(&Peers::default()))
}

/// Whether the `replaced` marker is declared; none if nothing is lost.
fn loses(decision: &Decision) -> Option<bool> {
    match decision {
        Decision::Lose { replaced, why } => {
            assert!(why.contains("counter c1: "), "{why}");
            Some(*replaced)
        }
        Decision::Consume => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_go_together_may_have_lost() {
    // For a store without a generation, one about to place its first, and one with a placed one.
    let table = [
        (NO_QUEUE, [None, None, Some(true)]),
        (NO_MESSAGES, [Some(false), None, Some(true)]),
        (FOUNDING, [None, None, Some(true)]),
        (OTHERS, [Some(false), Some(false), Some(true)]),
        (OWN, [Some(false), None, None]),
    ];
    for (found, expected) in table {
        for (standing, expected) in [NONE, ANNOUNCED, PLACED].into_iter().zip(expected) {
            let found = Found {
                // A store without a generation finds none of its own in the queue.
                own: found.own && standing.generation.is_some(),
                others: found.others || found.own && standing.generation.is_none(),
                ..found
            };
            for complete in [true, false] {
                let standing = StoreStatus {
                    complete,
                    ..standing
                };
                let decided = decision(running(found), standing);
                assert_eq!(loses(&decided), expected, "{found:?} and {standing:?}");
            }
        }
    }
}

/// The store has committed that it may lack items, consumes, and has renewed its generation. Then
/// the broker is restored.
#[test]
fn a_store_that_is_still_empty_may_lose_again() {
    let empty = StoreStatus {
        holds_position: false,
        complete: false,
        ..PLACED
    };
    let later = |found| Facts {
        first: false,
        ..running(found)
    };
    assert_eq!(loses(&decision(later(NO_MESSAGES), empty)), Some(true));
    assert_eq!(loses(&decision(later(OWN), empty)), None);
}

/// The broker was restored from definitions before this counter ever ran.
#[test]
fn a_first_start_needs_the_message_of_the_founding() {
    let empty = StoreStatus {
        holds_position: false,
        complete: false,
        ..NONE
    };
    let first = |found| Facts {
        started: false,
        ..running(found)
    };
    assert_eq!(decision(first(FOUNDING), empty), Decision::Begin);
    assert_eq!(
        decision(first(NO_QUEUE), empty),
        Decision::Begin,
        "bootstrapped by an earlier release"
    );
    for found in [NO_MESSAGES, OTHERS] {
        assert_eq!(loses(&decision(first(found), empty)), Some(false));
    }
    let idle = StoreStatus {
        holds_position: false,
        ..PLACED
    };
    let another_broker = decision(first(FOUNDING), idle);
    assert!(
        matches!(
            &another_broker,
            Decision::Lose { replaced: true, why } if why.contains("never consumed from")
        ),
        "{another_broker:?}"
    );
}

#[test]
fn an_adopted_store_may_come_from_anywhere() {
    for found in [NO_QUEUE, NO_MESSAGES, FOUNDING, OTHERS] {
        for standing in [NONE, ANNOUNCED, PLACED] {
            let facts = Facts {
                started: false,
                ..running(found)
            };
            let adopted = StoreStatus {
                adopted: true,
                ..standing
            };
            let decided = decision(facts, adopted);
            assert_eq!(decided, Decision::Adopt, "{found:?} and {standing:?}");
            assert!(decided.announces(&facts));
        }
    }
}

/// Otherwise a crash between the declaration of the queue and its first message would look like a
/// loss. And announcing it where a loss was not reported yet would hide that loss.
#[test]
fn the_first_generation_is_announced_where_nothing_lies() {
    for (found, announces) in [(NO_QUEUE, true), (FOUNDING, false)] {
        let facts = running(found);
        for decided in [decision(facts, NONE), Decision::Begin] {
            assert_eq!(decided.announces(&facts), announces, "{decided:?}");
        }
    }
    let facts = running(NO_QUEUE);
    assert!(!decision(facts, PLACED).announces(&facts));
}

/// Their number has no divisor in common with the number of combinations of the other facts.
const FOUND: [Found; 7] = [
    NO_QUEUE,
    NO_MESSAGES,
    FOUNDING,
    OTHERS,
    OWN,
    Found {
        own: true,
        ..OTHERS
    },
    Found {
        founding: true,
        ..OTHERS
    },
];

/// All combinations of facts, statuses of the store, and peers, each with one of the queues.
fn every_case() -> impl Iterator<Item = (Facts, StoreStatus, Option<Peers>)> {
    let kept = |is_placed| KeptGeneration {
        generation: Generation([7; _]),
        is_placed,
    };
    let generations = [None, Some(kept(false)), Some(kept(true))];
    fn bit(number: u32, at: u32) -> bool {
        number >> at & 1 == 1
    }
    fn peers(number: u32) -> Peers {
        Peers {
            older_than_broker: bit(number, 0).then(|| "c2".to_owned()),
            started: bit(number, 1).then(|| "c3".to_owned()),
            unsure: bit(number, 2).then(|| "c4".to_owned()),
        }
    }
    (0..3 << 13).flat_map(move |number: u32| {
        let facts = Facts {
            founded: bit(number, 0),
            founding: bit(number, 1),
            started: bit(number, 2),
            lost: bit(number, 3),
            replaced: bit(number, 4),
            removed: bit(number, 5),
            queues: bit(number, 6),
            cancelled: bit(number, 7),
            vanished: bit(number, 8),
            first: bit(number, 9),
            unnamed: false,
            generation: FOUND[number as usize % FOUND.len()],
        };
        let standing = StoreStatus {
            holds_position: bit(number, 10),
            complete: bit(number, 11),
            adopted: bit(number, 12),
            generation: generations[number as usize >> 13],
        };
        let heard = (0..8).map(peers).map(Some).chain([None]);
        heard.map(move |peers| (facts, standing, peers))
    })
}

/// A queue that disappears after the check must not be created as if it had always existed.
#[test]
fn only_who_has_said_what_is_lost_creates_a_queue() {
    let name = CounterName::new("c1").expect("valid");
    for (facts, standing, peers) in every_case() {
        let decision = decide(&name, facts, standing, peers.as_ref());
        let case = format!("{decision:?} of {facts:?}, {standing:?}, {peers:?}");
        match &decision {
            Decision::Lose { .. } => assert!(decision.may_create(), "{case}"),
            Decision::Consume | Decision::Adopt | Decision::Begin => {
                assert!(facts.queues && !decision.may_create(), "{case}");
                assert!(!facts.lost && !facts.cancelled && !facts.vanished, "{case}");
                let mismatch = facts.generation.mismatch(standing.generation);
                assert!(mismatch.is_none() || decision == Decision::Adopt, "{case}");
            }
            _ => assert!(!decision.may_create(), "{case}"),
        }
    }
}
