//! The startup protocol: what a counter does at every connect, before it consumes.
//!
//! Invariant: a counter considers itself complete only if its queue must hold everything ever
//! published. In every other case it reports a possible loss, and its store commits that before a
//! fact on the broker changes. A queue is created only after that report, because a queue that a
//! check has found may disappear a moment later.

use super::announcement::{Nodes, Role};
use super::generation::Found;
use headcount_log::StoreStatus;
use headcount_model::CounterName;

/// What the broker stores about one counter, and what happened to its consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub founded: bool,
    pub founding: bool,
    pub started: bool,
    pub lost: bool,
    pub replaced: bool,
    pub removed: bool,
    /// Whether all of its queues exist.
    pub queues: bool,
    /// Whether the broker cancelled its consumer, and no commit records that yet.
    pub cancelled: bool,
    /// Whether a queue that a check had found was missing when it was to be consumed, and no commit
    /// records that yet.
    pub vanished: bool,
    /// Whether it has not consumed yet in this incarnation.
    pub first: bool,
    /// Whether a coordinator does not name it, and no commit of this incarnation records that it
    /// may have missed batches while it was away.
    pub unnamed: bool,
    /// The content of its generation queue.
    pub generation: Found,
}

/// What the announcements of the other counters show, after listening for long enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Peers {
    /// A counter that holds a position but has no `started` marker: the broker is younger than its
    /// items.
    pub older_than_broker: Option<String>,
    /// A counter that has started.
    pub started: Option<String>,
    /// A counter that has not checked yet whether it has started.
    pub unsure: Option<String>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Wait, then check again: no coordinator has bootstrapped the cluster yet.
    Wait {
        /// Whether to declare the `replaced` marker first.
        replaced: bool,
    },
    /// Listen to the other counters, then check everything again.
    Listen,
    /// Stop.
    Refuse(String),
    /// Consume.
    Consume,
    /// Declare the `replaced` marker, then consume. The store stays complete.
    Adopt,
    /// Report that the queue has everything from the beginning, then consume.
    Begin,
    /// Report a possible loss, then consume.
    Lose {
        why: String,
        /// Whether to declare the `replaced` marker first.
        replaced: bool,
    },
}

impl Decision {
    /// Whether the counter may create its queues before it consumes. Otherwise, if a queue is
    /// missing by then, the counter checks everything again.
    pub(crate) fn may_create(&self) -> bool {
        match self {
            Self::Lose { .. } => true,
            Self::Consume | Self::Adopt | Self::Begin => false,
            Self::Wait { .. } | Self::Listen | Self::Refuse(_) => false,
        }
    }

    /// Whether the store must commit that its first generation on this broker is about to be
    /// placed. That is so if nothing was lost and the content of the generation queue, if it
    /// exists, does not refer to this store.
    pub(crate) fn announces(&self, facts: &Facts) -> bool {
        match self {
            Self::Adopt => true,
            Self::Consume | Self::Begin => !facts.generation.queue,
            Self::Lose { .. } | Self::Wait { .. } | Self::Listen | Self::Refuse(_) => false,
        }
    }
}

/// Decides what to do next; `peers` is none until the counter has listened to them.
pub(super) fn decide(
    name: &CounterName,
    facts: Facts,
    standing: StoreStatus,
    peers: Option<&Peers>,
) -> Decision {
    if facts.removed {
        return Decision::Refuse(format!(
            "counter {name} was removed from this cluster, and its name cannot be used again; \
             start its successor under a new name with an empty data directory"
        ));
    }
    if standing.has_history() && !facts.started {
        return decide_on_younger_broker(name, facts, standing, peers);
    }
    if !facts.founded {
        return Decision::Wait { replaced: false };
    }
    if let Some(why) = loss(name, facts) {
        return lose(why);
    }
    let is_empty = !standing.has_history() && !standing.complete;
    if facts.started && is_empty && facts.first {
        let why = format!("counter {name} has consumed before, but its store is empty");
        return lose(why);
    }
    if let Some(why) = facts.generation.mismatch(standing.generation) {
        return Decision::Lose {
            why: format!("counter {name}: {why}"),
            // Then the broker is not the one that the store knew. The marker informs counters that
            // never consumed from that broker and cannot detect this themselves.
            replaced: standing.generation.is_some_and(|kept| kept.is_placed),
        };
    }
    if facts.started {
        return Decision::Consume;
    }
    decide_first_start(name, facts, peers)
}

/// Decides for a store with items that came through another broker, or through none.
fn decide_on_younger_broker(
    name: &CounterName,
    facts: Facts,
    standing: StoreStatus,
    peers: Option<&Peers>,
) -> Decision {
    if !standing.adopted {
        if !facts.founded {
            return Decision::Wait { replaced: true };
        }
        return Decision::Lose {
            why: format!(
                "counter {name} has a history but has never consumed from this broker: the broker \
                 was replaced"
            ),
            replaced: true,
        };
    }
    let Some(peers) = peers.filter(|peers| peers.unsure.is_none()) else {
        return Decision::Listen;
    };
    if let Some(other) = &peers.started {
        return Decision::Refuse(format!(
            "counter {name} adopts a store with a history, but counter {other} has already started \
             on this broker without that history. Start the adopting counter first, on its own \
             virtual host: stop the other counters, use an empty virtual host, and start them with \
             empty data directories once the adopting counter runs"
        ));
    }
    if !facts.founded {
        return Decision::Wait { replaced: true };
    }
    if let Some(why) = loss(name, facts) {
        return Decision::Lose {
            why,
            replaced: true,
        };
    }
    if !facts.founding {
        let why = format!(
            "counter {name} was not part of the bootstrap: items may have been posted before its \
             queue existed"
        );
        return Decision::Lose {
            why,
            replaced: true,
        };
    }
    Decision::Adopt
}

/// Decides for an empty store without a sign that it ever consumed.
fn decide_first_start(name: &CounterName, facts: Facts, peers: Option<&Peers>) -> Decision {
    if !facts.founding {
        return lose(format!(
            "counter {name} joins a cluster that is already in operation"
        ));
    }
    if facts.replaced {
        return lose(format!(
            "counter {name} is empty, and the broker was replaced"
        ));
    }
    let Some(peers) = peers.filter(|peers| peers.unsure.is_none()) else {
        return Decision::Listen;
    };
    match &peers.older_than_broker {
        Some(other) => lose(format!(
            "counter {name} is empty, and counter {other} holds items that did not come through \
             this broker"
        )),
        None => Decision::Begin,
    }
}

/// Why the queue may have lost something; none if nothing shows a loss.
fn loss(name: &CounterName, facts: Facts) -> Option<String> {
    if !facts.queues {
        Some(format!("the queue of counter {name} does not exist"))
    } else if facts.lost {
        Some(format!(
            "the queue of counter {name} was missing and was declared again"
        ))
    } else if facts.vanished {
        Some(format!(
            "the queue of counter {name} disappeared before it could be consumed"
        ))
    } else if facts.cancelled {
        Some(format!(
            "the broker cancelled the consumer of counter {name}; its queue may have been deleted"
        ))
    } else if facts.unnamed {
        Some(format!(
            "a coordinator does not name counter {name}: its queue may lack batches that were \
             appended while the counter was away. Name the counter in --counters of all \
             coordinators, so that its queue receives every batch"
        ))
    } else {
        None
    }
}

fn lose(why: String) -> Decision {
    Decision::Lose {
        why,
        replaced: false,
    }
}

/// What recent announcements, those for which `is_fresh` is true, mean for counter `name`.
pub(super) fn judge_peers(
    name: &CounterName,
    nodes: &Nodes,
    is_fresh: impl Fn(&super::Sighting) -> bool,
) -> Peers {
    let mut peers = Peers::default();
    let fresh = nodes.values().filter(|sighting| is_fresh(sighting));
    for announcement in fresh.map(|sighting| &sighting.announcement) {
        if announcement.role != Role::Counter || announcement.name == name.as_str() {
            continue;
        }
        let slot = match announcement.started {
            Some(true) => &mut peers.started,
            Some(false) if announcement.holds_position => &mut peers.older_than_broker,
            Some(false) => continue,
            None => &mut peers.unsure,
        };
        slot.get_or_insert_with(|| announcement.name.clone());
    }
    peers
}

#[cfg(test)]
#[path = "startup_generation_tests.rs"]
mod generation_tests;
#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
