//! What nodes say of themselves, and what is made of that.
//!
//! Invariant: what another release says is read as far as it is known, and nothing that is said
//! makes a node count anything.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use headcount_model::{CounterName, Epoch};

/// How long a node that fell silent is remembered while the broker is there.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How long a node that fell silent is taken to be alive: some missed announcements, and a pause of
/// its process.
const LIVES_FOR: Duration = Duration::from_secs(10);
/// How long to listen before every node that is alive was heard.
const HEARD_ALL_AFTER: Duration = Duration::from_secs(3);
/// The most bytes of an announcement; a longer one is not read.
const ANNOUNCEMENT_BYTES_MAX: usize = 64 * 1024;
/// The most nodes remembered.
const NODES_MAX: usize = 4_096;

/// What a node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes posts and answers reads.
    Coordinator,
    /// It counts.
    Counter,
    /// Something that a later release knows.
    #[default]
    #[serde(other)]
    Other,
}

/// What a node says of itself. Fields that a release does not know are passed over; those that it
/// misses are their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcement {
    /// The release.
    pub version: String,
    /// What it is.
    pub role: Role,
    /// A counter's name, or a coordinator's.
    pub name: String,
    /// The cluster that it belongs to; empty in a release before this field.
    pub cluster: String,
    /// When its process started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Its present life: random, new at every start.
    pub life: u64,
    /// Where its internal endpoint is.
    pub url: String,
    /// Whether a counter is complete.
    pub complete: bool,
    /// Whether a counter has applied anything, or consumed from a broker, ever.
    pub holds_position: bool,
    /// Whether a counter's `started` marker is on this broker; absent until it has looked.
    pub started: Option<bool>,
    /// A digest of a counter's position.
    pub position_digest: u64,
    /// The counters that its settings name.
    pub named: Vec<String>,
    /// A counter's tenants.
    pub tenants: u64,
    /// A counter's items.
    pub items: u64,
    /// How old the last batch was when a counter applied it, in milliseconds.
    pub lag_ms: u64,
    /// The newest format of a batch that it reads.
    pub wire_version: u8,
    /// The counters whose queues get every batch that a coordinator appends from now on; all that
    /// it appended before without one of them is confirmed. A release before this field published
    /// to whatever was bound.
    pub reaches: Option<Vec<String>>,
    /// The epoch of a coordinator, as 32 hex digits; none where its release doesn't say.
    #[serde(skip_serializing_if = "Option::is_none", with = "epoch")]
    pub epoch: Option<Epoch>,
}

/// An epoch in JSON; a text that is none is passed over, as if nothing was said.
mod epoch {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use headcount_model::Epoch;

    const HEX_DIGITS: usize = 32;

    pub(super) fn serialize<S: Serializer>(
        epoch: &Option<Epoch>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        epoch.map(|epoch| epoch.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Epoch>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let text = text.filter(|text| {
            text.len() == HEX_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        Ok(text.and_then(|text| u128::from_str_radix(&text, 16).ok().map(Epoch)))
    }
}

/// A node and when it was heard last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What it said.
    pub announcement: Announcement,
    /// When, by the runtime's clock.
    pub seen_at: Instant,
}

/// Every node heard, by its unique name.
pub type Nodes = BTreeMap<String, Sighting>;

/// The counters among `nodes`.
pub(super) fn known_counters(nodes: &Nodes) -> Vec<CounterName> {
    let counters = nodes
        .values()
        .map(|sighting| &sighting.announcement)
        .filter(|announcement| announcement.role == Role::Counter);
    let mut names: Vec<_> = counters
        .filter_map(|announcement| CounterName::new(&announcement.name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Why a batch that somebody appends from now on may not reach `counter`'s queue, as far as one
/// knows who has heard these `nodes`, and has been listening since `listening_since`: the counter
/// may not take itself for complete meanwhile. What was said before `lost_at`, when it lost its
/// queue or looked first, says nothing of the queue that it has now.
#[must_use]
pub fn not_reached(
    nodes: &Nodes,
    counter: &CounterName,
    (listening_since, lost_at): (Option<Instant>, Instant),
    now: Instant,
) -> Option<String> {
    let since = listening_since.map(|since| since.max(lost_at));
    let Some(since) = since.filter(|&since| now.duration_since(since) >= HEARD_ALL_AFTER) else {
        return Some("the coordinators are being listened for".to_owned());
    };
    for Sighting {
        announcement: node,
        seen_at,
    } in coordinators_alive(nodes, now)
    {
        let reaches = |names: &Vec<String>| includes(names, counter);
        let name = &node.name;
        if !node.reaches.as_ref().is_none_or(reaches) {
            return Some(format!("{name} does not publish to its queue yet"));
        }
        if *seen_at < since {
            return Some(format!(
                "{name} has not said since whether it publishes to its queue"
            ));
        }
    }
    None
}

/// Whether a coordinator that is alive `now` does not name `counter`: while that counter was away,
/// it may have acknowledged batches without a copy for it. Releases that don't say whom they reach
/// kept everything that was bound.
pub(super) fn is_unnamed(nodes: &Nodes, counter: &CounterName, now: Instant) -> bool {
    coordinators_alive(nodes, now)
        .map(|sighting| &sighting.announcement)
        .any(|node| node.reaches.is_some() && !includes(&node.named, counter))
}

/// The coordinators that were heard not long before `now`.
fn coordinators_alive(nodes: &Nodes, now: Instant) -> impl Iterator<Item = &Sighting> {
    nodes.values().filter(move |sighting| {
        now.duration_since(sighting.seen_at) < LIVES_FOR
            && sighting.announcement.role == Role::Coordinator
    })
}

fn includes(names: &[String], counter: &CounterName) -> bool {
    names.iter().any(|name| name == counter.as_str())
}

/// What travels: the announcement and who it is from.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub node: String,
    #[serde(flatten)]
    pub announcement: Announcement,
}

/// The message that `bytes` are, if they are one.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Notes a message heard `now` by one who has listened `since`. Nobody is silent while nobody
/// listens, and a counter's new life takes the place of the one before.
pub(super) fn note(nodes: &mut Nodes, message: Message, since: Instant, now: Instant) {
    nodes.retain(|node, sighting| {
        let (known, new) = (&sighting.announcement, &message.announcement);
        let before = (known.role, new.role) == (Role::Counter, Role::Counter)
            && known.name == new.name
            && *node != message.node;
        !before && now.duration_since(sighting.seen_at.max(since)) < SILENCE_MAX
    });
    if nodes.len() >= NODES_MAX && !nodes.contains_key(&message.node) {
        return;
    }
    let sighting = Sighting {
        announcement: message.announcement,
        seen_at: now,
    };
    nodes.insert(message.node, sighting);
}

#[cfg(test)]
#[path = "announcement_tests.rs"]
mod tests;
