//! The other nodes, as known from their announcements: which coordinators may still append their
//! last batch, and which nodes cannot read a version of the batch format.
//!
//! Invariant: a coordinator is presumed gone only after this node has received its own
//! announcements for [`SILENCE_MAX`] without a break, and none of that coordinator. The clock is
//! the receive time of announcements: while none are received, no time passes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Coordinator;
use headcount_model::Epoch;

/// How long a coordinator must be silent, while this node receives announcements, before it is
/// presumed gone. Nodes announce themselves every second. A node whose connection breaks without
/// being closed needs two heartbeats, 20 s, to notice.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The longest gap between this node's own announcements that does not count as a break in
/// reception.
const BREAK_MAX: Duration = Duration::from_secs(10);

/// A node, as described by its last announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its unique name.
    pub name: String,
    /// Its release.
    pub release: String,
    /// Its URL.
    pub url: String,
    /// When its last announcement was received.
    pub heard_at: Instant,
    /// How it uses batches.
    pub role: NeighbourRole,
    /// The counters that its configuration names.
    pub named: Vec<String>,
    /// The counters whose queues receive every batch that it appends; `None` if it appends none or
    /// its release does not report this.
    pub reaches: Option<Vec<String>>,
}

/// How a node uses batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourRole {
    /// It appends them, under this epoch; `None` if its release does not report the epoch.
    Appends(Option<Epoch>),
    /// It reads them, up to this version of the batch format.
    Reads(u8),
}

/// Why the last batch of an epoch may still arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MayCome {
    /// This coordinator submitted it to the log, and the log has not confirmed it.
    InFlightHere,
    /// Its coordinator announces itself.
    Heard {
        /// URL of that coordinator.
        url: String,
    },
    /// A coordinator announces itself without reporting its epoch.
    Unsaid {
        /// Its name.
        name: String,
        /// Its release.
        release: String,
    },
    /// This node has not received announcements for long enough.
    NotHeardLong {
        /// The remaining time.
        yet: Duration,
    },
}

impl fmt::Display for MayCome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = SILENCE_MAX.as_secs();
        match self {
            Self::InFlightHere => {
                f.write_str("this coordinator is still appending it; make a new plan")
            }
            Self::Heard { url } => write!(
                f,
                "its coordinator at {url} is running and may still append it. Make a plan at that \
                 coordinator, which knows what it acknowledged; or stop it, and make a new plan \
                 here {secs} s later"
            ),
            Self::Unsaid { name, release } => write!(
                f,
                "{name} (release {release}) does not report its epoch and may still append it. \
                 Upgrade or stop it, and make a new plan {secs} s later"
            ),
            Self::NotHeardLong { yet } => write!(
                f,
                "this coordinator has not received announcements for long enough to presume the \
                 coordinator of that epoch gone; make a new plan in {} s",
                yet.as_secs() + 1
            ),
        }
    }
}

/// What is known about the other nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    nodes: Vec<Neighbour>,
    /// The first and the last of this node's own announcements that were received without a break.
    hearing: Option<(Instant, Instant)>,
}

impl Neighbours {
    /// Stores all known nodes. The coordinator of the epoch `own` is this one.
    pub(crate) fn note(&mut self, own: Epoch, nodes: Vec<Neighbour>) {
        let echo = |node: &&Neighbour| node.role == NeighbourRole::Appends(Some(own));
        if let Some(heard_at) = nodes.iter().find(echo).map(|node| node.heard_at) {
            let unbroken = |&(_, last): &(Instant, Instant)| heard_at <= last + BREAK_MAX;
            let since = self.hearing.filter(unbroken).map(|(since, _)| since);
            self.hearing = Some((since.unwrap_or(heard_at), heard_at));
        }
        self.nodes = nodes;
    }

    /// The configured counters of each coordinator that was heard in the last [`SILENCE_MAX`].
    /// Every batch that a coordinator acknowledges has a copy for each of its configured counters.
    pub(crate) fn named(&self) -> Vec<BTreeSet<String>> {
        let named = self.coordinators();
        let named = named.map(|node| node.named.iter().cloned().collect());
        named
            .filter(|named: &BTreeSet<String>| !named.is_empty())
            .collect()
    }

    /// The name of a coordinator that was heard in the last [`SILENCE_MAX`] and that appends
    /// batches without a copy for `counter`.
    pub(crate) fn passes_by(&self, counter: &str) -> Option<&str> {
        let misses = |reaches: &Vec<String>| !reaches.iter().any(|name| name == counter);
        let mut passing = self
            .coordinators()
            .filter(|node| node.reaches.as_ref().is_some_and(misses));
        passing.next().map(|node| node.name.as_str())
    }

    /// The coordinators that were heard in the last [`SILENCE_MAX`].
    fn coordinators(&self) -> impl Iterator<Item = &Neighbour> {
        let now = Instant::now();
        self.nodes.iter().filter(move |node| {
            matches!(node.role, NeighbourRole::Appends(_)) && node.heard_at + SILENCE_MAX > now
        })
    }

    /// Why the last batch of another coordinator's `epoch` may still arrive; `None` if that
    /// coordinator is gone.
    pub(crate) fn may_come(&self, epoch: Epoch) -> Option<MayCome> {
        let (since, now) = self.hearing.unwrap_or_else(|| {
            let now = Instant::now();
            (now, now)
        });
        let is_there = |node: &&Neighbour| node.heard_at + SILENCE_MAX > now;
        let appends = |of: Option<Epoch>| {
            let mut there = self.nodes.iter().filter(is_there);
            there.find(|node| node.role == NeighbourRole::Appends(of))
        };
        if let Some(Neighbour { url, .. }) = appends(Some(epoch)) {
            return Some(MayCome::Heard { url: url.clone() });
        }
        if let Some(Neighbour { name, release, .. }) = appends(None) {
            return Some(MayCome::Unsaid {
                name: name.clone(),
                release: release.clone(),
            });
        }
        let yet = (since + SILENCE_MAX).saturating_duration_since(now);
        (!yet.is_zero()).then_some(MayCome::NotHeardLong { yet })
    }

    /// A node that cannot read a batch of format `version` and would halt at it.
    pub(crate) fn cannot_read(&self, version: u8) -> Option<&Neighbour> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| matches!(node.role, NeighbourRole::Reads(newest) if newest < version))
    }
}

impl Coordinator {
    /// Stores all nodes that announce themselves, including this one.
    pub fn note_neighbours(&self, nodes: Vec<Neighbour>) {
        let inner = &self.inner;
        inner.neighbours.lock().note(inner.epoch, nodes);
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
