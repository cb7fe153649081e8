//! What a counter does, at every connect, before it consumes.
//!
//! Invariant: a counter takes itself for whole only when everything ever published must be in its
//! queue; in every other case it says so, and its store remembers before the broker's facts are
//! changed. A queue is created only by who has said so: what a look has found there may be gone a
//! moment later.

use super::announcement::{Nodes, Role};
use super::generation::Found;
use headcount_log::Standing;
use headcount_model::CounterName;

/// What the broker says of one counter, and what befell its consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub founded: bool,
    pub founding: bool,
    pub started: bool,
    pub lost: bool,
    pub replaced: bool,
    pub removed: bool,
    /// Whether all of its queues are there.
    pub queues: bool,
    /// Whether the broker cancelled its consumer, and no commit remembers that yet.
    pub cancelled: bool,
    /// Whether a queue that a look had found there was gone when it was to be consumed, and no
    /// commit remembers that yet.
    pub vanished: bool,
    /// Whether it has not consumed yet in this life of the process.
    pub first: bool,
    /// Whether a coordinator does not name it, and no commit of this life says what it may have
    /// missed while it was away.
    pub unnamed: bool,
    /// What its generation queue holds.
    pub generation: Found,
}

/// What presence says of the other counters, once it was listened to for long enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Peers {
    /// One that holds a position but has no `started` marker: the broker is younger than its items.
    pub older_than_broker: Option<String>,
    /// One that has started.
    pub started: Option<String>,
    /// One that has not looked yet whether it has started.
    pub unsure: Option<String>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// No coordinator has declared anything yet: wait, and look again.
    Wait {
        /// Whether to leave word first that the broker was replaced.
        replaced: bool,
    },
    /// Listen to the others, then look at everything again.
    Listen,
    /// Stop.
    Refuse(String),
    /// Go on.
    Consume,
    /// Go on; the store stays complete, and the broker is told that it is the younger one.
    Adopt,
    /// Say that everything comes from the beginning, then go on.
    Begin,
    /// Say what may be lost, then go on.
    Lose {
        why: String,
        /// Whether to leave word first that the broker was replaced.
        replaced: bool,
    },
}

impl Decision {
    /// Whether the counter may create its queues before it consumes. If not, a queue that is
    /// missing by now takes it back to where it looks.
    pub(crate) fn may_create(&self) -> bool {
        match self {
            Self::Lose { .. } => true,
            Self::Consume | Self::Adopt | Self::Begin => false,
            Self::Wait { .. } | Self::Listen | Self::Refuse(_) => false,
        }
    }

    /// Whether the store must remember that its first generation on this broker is about to be
    /// placed: what lies in the queue, if there is one, says nothing of it, and nothing was lost.
    pub(crate) fn announces(&self, facts: &Facts) -> bool {
        match self {
            Self::Adopt => true,
            Self::Consume | Self::Begin => !facts.generation.queue,
            Self::Lose { .. } | Self::Wait { .. } | Self::Listen | Self::Refuse(_) => false,
        }
    }
}

/// Decides; `peers` is none until they were listened to.
pub(super) fn decide(
    name: &CounterName,
    facts: Facts,
    standing: Standing,
    peers: Option<&Peers>,
) -> Decision {
    if facts.removed {
        return Decision::Refuse(format!(
            "counter {name} was removed from this cluster and its name is spent: start its successor with a new \
             name and an empty data directory"
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
            // Then the broker is not the one that the store knew: whoever never consumed from that
            // can't tell by itself.
            replaced: standing.generation.is_some_and(|kept| kept.is_placed),
        };
    }
    if facts.started {
        return Decision::Consume;
    }
    decide_first_start(name, facts, peers)
}

/// The store holds items that came by another broker, or by none.
fn decide_on_younger_broker(
    name: &CounterName,
    facts: Facts,
    standing: Standing,
    peers: Option<&Peers>,
) -> Decision {
    if !standing.adopted {
        if !facts.founded {
            return Decision::Wait { replaced: true };
        }
        return Decision::Lose {
            why: format!(
                "counter {name} has a history, but never consumed from this broker: it was replaced"
            ),
            replaced: true,
        };
    }
    let Some(peers) = peers.filter(|peers| peers.unsure.is_none()) else {
        return Decision::Listen;
    };
    if let Some(other) = &peers.started {
        return Decision::Refuse(format!(
            "counter {name} adopts a store with history, but counter {other} has started on this broker already and \
             does not know of that history. Start the adopting counter first, on a virtual host of its own: stop the \
             others, begin with an empty virtual host, and let them start with empty data directories once it runs"
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
            "counter {name} was not among the first: items may have been posted before its queue was there"
        );
        return Decision::Lose {
            why,
            replaced: true,
        };
    }
    Decision::Adopt
}

/// An empty store, and no sign that it ever consumed.
fn decide_first_start(name: &CounterName, facts: Facts, peers: Option<&Peers>) -> Decision {
    if !facts.founding {
        return lose(format!(
            "counter {name} joins a cluster that counts already"
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
            "counter {name} is empty, and counter {other} holds items that never came by this broker"
        )),
        None => Decision::Begin,
    }
}

/// What shows that the queue lost something.
fn loss(name: &CounterName, facts: Facts) -> Option<String> {
    if !facts.queues {
        Some(format!("the queue of counter {name} is not there"))
    } else if facts.lost {
        Some(format!(
            "the queue of counter {name} was missing and has been declared again"
        ))
    } else if facts.vanished {
        Some(format!(
            "the queue of counter {name} vanished when it was about to consume"
        ))
    } else if facts.cancelled {
        Some(format!(
            "the broker cancelled the consumer of counter {name}: was its queue deleted?"
        ))
    } else if facts.unnamed {
        Some(format!(
            "a coordinator does not name counter {name}: what was posted while it was away may have no copy in its queue. \
             Name it in the --counters of all coordinators to keep everything for it"
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

/// What the nodes heard lately (those for which `is_fresh`) mean for counter `name`.
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
#[path = "protocol_generation_tests.rs"]
mod generation_tests;
#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
