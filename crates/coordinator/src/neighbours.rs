//! The other nodes as their announcements show them: whose last batch may still come, and who can't
//! read what.
//!
//! Invariant: a coordinator is taken for gone only once this one has heard its own announcements
//! for [`SILENCE_MAX`] without a break, and none of that one. Time is that of what was heard: none
//! passes while nothing is heard.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Coordinator;
use headcount_model::Epoch;

/// How long a coordinator must have been silent, among nodes that are heard, before it is taken for
/// gone. Nodes announce themselves every second; one whose connection is lost without a word takes
/// two heartbeats, 20 s, to notice.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The longest break in this node's own announcements in which it is still taken to have heard the
/// others.
const BREAK_MAX: Duration = Duration::from_secs(10);

/// A node as it announced itself last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its unique name.
    pub name: String,
    /// Its release.
    pub release: String,
    /// Where it is asked.
    pub url: String,
    /// When it was heard.
    pub heard_at: Instant,
    /// What it does with batches.
    pub role: NeighbourRole,
    /// The counters that its settings name.
    pub named: Vec<String>,
    /// The counters whose queues get all that it appends, where it appends and its release says so.
    pub reaches: Option<Vec<String>>,
}

/// What a node does with batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourRole {
    /// It appends them, under this epoch; none where its release doesn't say.
    Appends(Option<Epoch>),
    /// It reads them, up to this version of their format.
    Reads(u8),
}

/// Why an epoch's last batch may still come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MayCome {
    /// It was handed to the log here, and is not confirmed.
    InFlightHere,
    /// Its coordinator announces itself.
    Heard {
        /// Where that is.
        url: String,
    },
    /// A coordinator announces itself without its epoch.
    Unsaid {
        /// Its name.
        name: String,
        /// Its release.
        release: String,
    },
    /// This node has not heard the others for long enough.
    NotHeardLong {
        /// How long it has yet to.
        yet: Duration,
    },
}

impl fmt::Display for MayCome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = SILENCE_MAX.as_secs();
        match self {
            Self::InFlightHere => {
                f.write_str("this coordinator is about to bring it; make a new plan")
            }
            Self::Heard { url } => write!(
                f,
                "its coordinator at {url} is there and may still bring it. Make a plan at that one, which knows what was \
                 acknowledged; or stop it, and make a new plan here {secs} s later"
            ),
            Self::Unsaid { name, release } => write!(
                f,
                "{name}, of release {release}, does not say which epoch it has, and may still bring it. Upgrade or stop \
                 it, and make a new plan {secs} s later"
            ),
            Self::NotHeardLong { yet } => write!(
                f,
                "this coordinator has not listened long enough to know that the one of that epoch is gone; make a new \
                 plan in {} s",
                yet.as_secs() + 1
            ),
        }
    }
}

/// What is known of the other nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    nodes: Vec<Neighbour>,
    /// Since when, and when last, own announcements were heard without a break.
    hearing: Option<(Instant, Instant)>,
}

impl Neighbours {
    /// Takes note of all nodes that are known, of which the coordinator of the epoch `own` is this
    /// one.
    pub(crate) fn note(&mut self, own: Epoch, nodes: Vec<Neighbour>) {
        let echo = |node: &&Neighbour| node.role == NeighbourRole::Appends(Some(own));
        if let Some(heard_at) = nodes.iter().find(echo).map(|node| node.heard_at) {
            let unbroken = |&(_, last): &(Instant, Instant)| heard_at <= last + BREAK_MAX;
            let since = self.hearing.filter(unbroken).map(|(since, _)| since);
            self.hearing = Some((since.unwrap_or(heard_at), heard_at));
        }
        self.nodes = nodes;
    }

    /// The counters that each coordinator names which was heard in the last [`SILENCE_MAX`]: what
    /// it acknowledges has copies with those.
    pub(crate) fn named(&self) -> Vec<BTreeSet<String>> {
        let named = self.coordinators();
        let named = named.map(|node| node.named.iter().cloned().collect());
        named
            .filter(|named: &BTreeSet<String>| !named.is_empty())
            .collect()
    }

    /// A coordinator heard in the last [`SILENCE_MAX`] that appends without a copy for `counter`:
    /// its name.
    pub(crate) fn passes_by(&self, counter: &str) -> Option<&str> {
        let misses = |reaches: &Vec<String>| !reaches.iter().any(|name| name == counter);
        let mut passing = self
            .coordinators()
            .filter(|node| node.reaches.as_ref().is_some_and(misses));
        passing.next().map(|node| node.name.as_str())
    }

    /// The coordinators heard in the last [`SILENCE_MAX`].
    fn coordinators(&self) -> impl Iterator<Item = &Neighbour> {
        let now = Instant::now();
        self.nodes.iter().filter(move |node| {
            matches!(node.role, NeighbourRole::Appends(_)) && node.heard_at + SILENCE_MAX > now
        })
    }

    /// Why the last batch of another coordinator's `epoch` may still come; `None` when that one is
    /// gone.
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

    /// A node that would stand at a batch of `version`.
    pub(crate) fn cannot_read(&self, version: u8) -> Option<&Neighbour> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| matches!(node.role, NeighbourRole::Reads(newest) if newest < version))
    }
}

impl Coordinator {
    /// Takes note of all nodes that announce themselves, this one included.
    pub fn note_neighbours(&self, nodes: Vec<Neighbour>) {
        let inner = &self.inner;
        inner.neighbours.lock().note(inner.epoch, nodes);
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
