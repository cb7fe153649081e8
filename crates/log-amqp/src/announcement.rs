//! Announcements of nodes, and what a node concludes from them.
//!
//! Invariant: an announcement of another release is read as far as its fields are known, and no
//! announcement changes a count.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use headcount_model::{CounterName, Epoch};

/// How long a silent node is remembered while the broker is connected.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How long a silent node is taken to be alive: it allows for some missed announcements and a pause
/// of its process.
const LIVES_FOR: Duration = Duration::from_secs(10);
/// How long to listen until every node that is alive must have been heard.
const HEARD_ALL_AFTER: Duration = Duration::from_secs(3);
/// The most bytes of an announcement; a longer one is ignored.
const ANNOUNCEMENT_BYTES_MAX: usize = 64 * 1024;
/// The most nodes that are remembered.
const NODES_MAX: usize = 4_096;

/// The role of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It accepts posts and answers reads.
    Coordinator,
    /// It counts items.
    Counter,
    /// A role of a later release.
    #[default]
    #[serde(other)]
    Other,
}

/// What a node announces about itself. Unknown fields are ignored, and missing fields have their
/// defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcement {
    /// The release.
    pub version: String,
    /// The role.
    pub role: Role,
    /// The name of the counter or coordinator.
    pub name: String,
    /// The id of its cluster; empty in releases that do not have this field.
    pub cluster: String,
    /// When its process started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Its incarnation: random, new at every start.
    pub life: u64,
    /// The URL of its internal endpoint.
    pub url: String,
    /// Whether a counter is complete.
    pub complete: bool,
    /// Whether a counter has ever applied anything, or consumed from a broker.
    pub holds_position: bool,
    /// Whether a counter's `started` marker is on this broker; absent until it has checked.
    pub started: Option<bool>,
    /// A digest of a counter's position.
    pub position_digest: u64,
    /// The counters that its settings name.
    pub named: Vec<String>,
    /// The number of a counter's tenants.
    pub tenants: u64,
    /// The number of a counter's items.
    pub items: u64,
    /// The age of the last batch when a counter applied it, in milliseconds.
    pub lag_ms: u64,
    /// The newest batch format that it reads.
    pub wire_version: u8,
    /// The counters to whose queues a coordinator publishes every batch from now on. All batches
    /// that it appended without one of them are confirmed. Releases without this field published
    /// to whatever queues were bound.
    pub reaches: Option<Vec<String>>,
    /// The epoch of a coordinator, as 32 hex digits; absent in releases without this field.
    #[serde(skip_serializing_if = "Option::is_none", with = "epoch")]
    pub epoch: Option<Epoch>,
}

/// An epoch in JSON. Text that is not an epoch is treated as absent.
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

/// A node's last announcement and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The announcement.
    pub announcement: Announcement,
    /// When it arrived, by the clock of the runtime.
    pub seen_at: Instant,
}

/// The nodes that were heard, by their unique names.
pub type Nodes = BTreeMap<String, Sighting>;

/// The counters among `nodes`, sorted.
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

/// Returns why a batch that some coordinator appends from now on may not reach the queue of
/// `counter`. While there is a reason, the counter must not consider itself complete.
///
/// `nodes` were heard since `listening_since`. An announcement from before `lost_at`, when the
/// counter lost its queue or first checked it, is ignored: it does not refer to the present queue.
#[must_use]
pub fn not_reached(
    nodes: &Nodes,
    counter: &CounterName,
    (listening_since, lost_at): (Option<Instant>, Instant),
    now: Instant,
) -> Option<String> {
    let since = listening_since.map(|since| since.max(lost_at));
    let Some(since) = since.filter(|&since| now.duration_since(since) >= HEARD_ALL_AFTER) else {
        return Some("still listening for announcements of coordinators".to_owned());
    };
    for Sighting {
        announcement: node,
        seen_at,
    } in coordinators_alive(nodes, now)
    {
        let reaches = |names: &Vec<String>| includes(names, counter);
        let name = &node.name;
        if !node.reaches.as_ref().is_none_or(reaches) {
            return Some(format!(
                "coordinator {name} does not publish to this counter's queue yet"
            ));
        }
        if *seen_at < since {
            return Some(format!(
                "coordinator {name} has not yet announced whether it publishes to this counter's \
                 queue"
            ));
        }
    }
    None
}

/// Whether a coordinator that is alive at `now` does not name `counter`. While the counter was
/// away, such a coordinator may have acknowledged batches without a copy for it. Releases that do
/// not announce `reaches` published to all bound queues, so they do not count.
pub(super) fn is_unnamed(nodes: &Nodes, counter: &CounterName, now: Instant) -> bool {
    coordinators_alive(nodes, now)
        .map(|sighting| &sighting.announcement)
        .any(|node| node.reaches.is_some() && !includes(&node.named, counter))
}

/// The coordinators that are taken to be alive at `now`.
fn coordinators_alive(nodes: &Nodes, now: Instant) -> impl Iterator<Item = &Sighting> {
    nodes.values().filter(move |sighting| {
        now.duration_since(sighting.seen_at) < LIVES_FOR
            && sighting.announcement.role == Role::Coordinator
    })
}

fn includes(names: &[String], counter: &CounterName) -> bool {
    names.iter().any(|name| name == counter.as_str())
}

/// The message that is sent: an announcement and the name of its node.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub node: String,
    #[serde(flatten)]
    pub announcement: Announcement,
}

/// Decodes a message; none if `bytes` are too long or not a message.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Records a message that arrived at `now`. The receiver has listened since `since`, and time
/// without a listener does not count as silence. A counter's new incarnation replaces the earlier
/// one.
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
