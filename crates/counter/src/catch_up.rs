//! Decides how a counter catches up on batches that it misses. It makes decisions only and does no
//! I/O.
//!
//! Invariant: a counter becomes complete only after a complete peer has given it everything that
//! the peer held, and that peer had applied, from its own queue, a barrier of ours from after the
//! start of the round. A hole that no counter can fill delays nothing else. A counter keeps what it
//! holds, complete or not: even if no counter is complete, all converge to the same batches, so
//! that an operator who accepts the loss of one counter gives up nothing that another has.
//!
//! Catch-up works in rounds. A round first notes what is missing; then a barrier goes through the
//! log. What is still missing when the barrier returns through our own queue will not arrive any
//! more: it is fetched from a counter that has it.

use headcount_model::Requirement;

/// What a counter holds, as its peers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Whether it is complete.
    pub complete: bool,
    /// Its whole position.
    pub position: Requirement,
}

/// A peer's answer in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub holding: Holding,
    /// Whether the round's barrier has passed through the peer's own queue in its current
    /// incarnation.
    pub barrier: bool,
}

/// What is missing at the start of a round; `None` if no round is necessary.
#[must_use]
pub fn notice(own: &Holding, peers: &[PeerView]) -> Option<Requirement> {
    let mut missing = own.position.holes();
    for peer in peers {
        missing.unite(&peer.holding.position.minus(&own.position));
    }
    (!own.complete || !missing.is_empty()).then_some(missing)
}

/// The next action in a round, once its barrier has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Fetch a snapshot from this peer and ingest it.
    Fetch {
        /// The peer.
        peer: String,
        /// The batches that the snapshot must hold at least.
        holding: Requirement,
        /// Whether it makes this counter complete.
        completes: bool,
    },
    /// The round is over.
    Done {
        /// The batches that no reachable counter has.
        unfillable: Requirement,
        /// Whether this counter is complete now.
        complete: bool,
    },
}

/// Decides the next action from what is held now. `tried` are the peers that gave, or failed to
/// give, a snapshot in this round; `reached` is whether all batches that are appended from now on
/// reach this counter's queue.
#[must_use]
pub fn next(
    own: &Holding,
    noticed: &Requirement,
    peers: &[PeerView],
    tried: &[String],
    reached: bool,
) -> Next {
    let missing = noticed.minus(&own.position);
    let gain = |peer: &PeerView| missing.count() - missing.minus(&peer.holding.position).count();
    let completes =
        |peer: &PeerView| !own.complete && reached && peer.barrier && peer.holding.complete;
    let may = |peer: &&PeerView| (completes(peer) || gain(peer) > 0) && !tried.contains(&peer.name);
    let best = peers.iter().filter(may);
    match best.max_by_key(|peer| (completes(peer), gain(peer))) {
        Some(peer) => Next::Fetch {
            peer: peer.name.clone(),
            holding: peer.holding.position.clone(),
            completes: completes(peer),
        },
        None => Next::Done {
            unfillable: missing,
            complete: own.complete,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{Epoch, Partition, Sequences};

    fn position(ranges: &[(u128, u64, u64)]) -> Requirement {
        let mut position = Requirement::default();
        for &(epoch, first, last) in ranges {
            let sequences = Sequences::of_ranges([(first, last)]);
            position.add_all(Partition(0), Epoch(epoch), &sequences);
        }
        position
    }

    fn holding(complete: bool, ranges: &[(u128, u64, u64)]) -> Holding {
        Holding {
            complete,
            position: position(ranges),
        }
    }

    fn peer(name: &str, barrier: bool, holding: Holding) -> PeerView {
        PeerView {
            name: name.into(),
            holding,
            barrier,
        }
    }

    #[test]
    fn holes_and_what_others_have_are_noticed() {
        let own = holding(true, &[(1, 1, 3), (1, 5, 6)]);
        assert_eq!(notice(&own, &[]), Some(position(&[(1, 4, 4)])));
        let other = peer("b", true, holding(false, &[(1, 1, 7), (2, 1, 1)]));
        let missing = position(&[(1, 4, 4), (1, 7, 7), (2, 1, 1)]);
        assert_eq!(notice(&own, &[other]), Some(missing));
        assert_eq!(notice(&holding(true, &[(1, 1, 3)]), &[]), None);
        let empty = Requirement::default();
        assert_eq!(notice(&holding(false, &[]), &[]), Some(empty));
    }

    #[test]
    fn what_came_meanwhile_is_not_fetched() {
        let own = holding(true, &[(1, 1, 7)]);
        let other = peer("b", true, holding(true, &[(1, 1, 9)]));
        let done = Next::Done {
            unfillable: Requirement::default(),
            complete: true,
        };
        assert_eq!(
            next(&own, &position(&[(1, 7, 7)]), &[other], &[], true),
            done
        );
    }

    /// A peer that covers the barrier but lacks the batch would send full snapshots forever.
    #[test]
    fn only_a_peer_that_has_some_of_it_is_asked() {
        let own = holding(true, &[(1, 2, 2)]);
        let noticed = position(&[(1, 1, 1)]);
        let lacking = peer("b", true, holding(true, &[(1, 2, 2)]));
        let done = Next::Done {
            unfillable: noticed.clone(),
            complete: true,
        };
        let peers = [lacking];
        assert_eq!(next(&own, &noticed, &peers, &[], true), done);
        for complete in [true, false] {
            let having = peer("d", false, holding(complete, &[(1, 1, 2)]));
            let fetch = Next::Fetch {
                peer: "d".into(),
                holding: having.holding.position.clone(),
                completes: false,
            };
            let peers = [having];
            assert_eq!(next(&own, &noticed, &peers, &[], true), fetch);
            let tried = ["d".to_owned()];
            assert_eq!(next(&own, &noticed, &peers, &tried, true), done);
        }
    }

    /// Neither counter is complete, and each has what the other lacks.
    #[test]
    fn counters_that_are_not_complete_give_each_other_what_they_have() {
        let own = holding(false, &[(1, 1, 2)]);
        let other = peer("b", false, holding(false, &[(1, 1, 1), (2, 1, 1)]));
        let noticed = notice(&own, std::slice::from_ref(&other)).expect("missing");
        let fetch = Next::Fetch {
            peer: "b".into(),
            holding: other.holding.position.clone(),
            completes: false,
        };
        let done = Next::Done {
            unfillable: Requirement::default(),
            complete: false,
        };
        let united = holding(false, &[(1, 1, 2), (2, 1, 1)]);
        for reached in [true, false] {
            let peers = [other.clone()];
            assert_eq!(next(&own, &noticed, &peers, &[], reached), fetch);
            assert_eq!(next(&united, &noticed, &peers, &[], reached), done);
        }
    }

    /// A barrier that a peer got from a snapshot proves nothing about its queue.
    #[test]
    fn only_a_peer_whose_queue_passed_the_barrier_makes_complete() {
        let own = holding(false, &[]);
        let nothing = Requirement::default();
        let early = peer("b", false, holding(true, &[]));
        let done = Next::Done {
            unfillable: nothing.clone(),
            complete: false,
        };
        assert_eq!(next(&own, &nothing, &[early], &[], true), done);
        let ready = peer("c", true, holding(true, &[]));
        let fetch = Next::Fetch {
            peer: "c".into(),
            holding: nothing.clone(),
            completes: true,
        };
        let peers = [ready];
        assert_eq!(next(&own, &nothing, &peers, &[], true), fetch);
        let passed_by = next(&own, &nothing, &peers, &[], false);
        assert_eq!(passed_by, done, "later batches would not reach it");
    }

    /// A hole that no counter can fill does not hide the others.
    #[test]
    fn an_unfillable_hole_does_not_prolong_a_round() {
        let own = holding(true, &[(1, 2, 2), (2, 2, 2)]);
        let noticed = position(&[(1, 1, 1), (2, 1, 1)]);
        let other = peer("b", false, holding(true, &[(1, 2, 2), (2, 1, 2)]));
        assert!(matches!(
            next(&own, &noticed, &[other], &[], true),
            Next::Fetch { .. }
        ));
        let own = holding(true, &[(1, 2, 2), (2, 1, 2)]);
        let done = Next::Done {
            unfillable: position(&[(1, 1, 1)]),
            complete: true,
        };
        assert_eq!(next(&own, &noticed, &[], &["b".into()], true), done);
    }
}
