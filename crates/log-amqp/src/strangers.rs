//! Nodes that conflict with this one: nodes of another cluster with the same prefix, and a process
//! with this node's name.
//!
//! Invariant: of two conflicting nodes, the one that started later ends and reports why. Until then
//! neither uses anything of the other: nodes of another cluster are heard, but are not peers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{Announcement, Nodes, Role, Sighting};

/// How long a conflicting node must have been heard. A process that is just stopping, because its
/// counter moves, does not conflict.
const HEARD_MIN: Duration = Duration::from_secs(3);
/// How long ago it may have been heard last.
const SILENT_MAX: Duration = Duration::from_secs(3);

/// Whether a node of cluster `theirs` belongs to cluster `ours`. Nodes of releases that do not
/// announce their cluster belong to any.
pub(super) fn belongs(ours: Option<&str>, theirs: &str) -> bool {
    theirs.is_empty() || ours.is_none_or(|ours| ours == theirs)
}

/// Detects conflicting nodes on behalf of one node.
pub struct Strangers {
    node: String,
    own: Announcement,
    /// The times of the first and the last announcement of each conflicting node.
    heard: BTreeMap<String, (Instant, Instant)>,
}

impl Strangers {
    /// Creates the detector of the node `node`, with its announcement at the start.
    #[must_use]
    pub fn new(node: String, own: Announcement) -> Self {
        Self {
            node,
            own,
            heard: BTreeMap::new(),
        }
    }

    /// Why this node must end, given all nodes that were heard; none if it need not.
    pub fn look(&mut self, everybody: &Nodes, now: Instant) -> Option<String> {
        let mut why = None;
        for (node, sighting) in everybody {
            let Some(conflict) = self.conflict(node, sighting, now) else {
                continue;
            };
            let seen_at = sighting.seen_at;
            let (since, last) = self.heard.entry(node.clone()).or_insert((seen_at, seen_at));
            *last = seen_at;
            let heard_for = seen_at.duration_since(*since);
            let they = &sighting.announcement;
            let is_first = (they.started_at_ms, node) < (self.own.started_at_ms, &self.node);
            if heard_for >= HEARD_MIN && is_first {
                why.get_or_insert(conflict);
            }
        }
        // Entries expire by time, not by presence in `everybody`: of two incarnations of a counter,
        // it contains only the one that announced itself last.
        self.heard
            .retain(|_, (_, last)| now.duration_since(*last) <= SILENT_MAX);
        why
    }

    /// Why this node conflicts with another; none if it does not.
    fn conflict(&self, node: &str, sighting: &Sighting, now: Instant) -> Option<String> {
        let (own, they) = (&self.own, &sighting.announcement);
        if node == self.node || now.duration_since(sighting.seen_at) > SILENT_MAX {
            return None;
        }
        let who = format!("{} at {}", they.name, they.url);
        const TWO_CLUSTERS: &str = "Two clusters would become one: give one of them its own \
                                    virtual host or its own --prefix";
        if !own.cluster.is_empty() && !belongs(Some(&own.cluster), &they.cluster) {
            let (ours, theirs) = (&own.cluster, &they.cluster);
            return Some(format!(
                "{who} announces itself on this virtual host with the same prefix for cluster \
                 {theirs:?}, but this node belongs to cluster {ours:?}. {TWO_CLUSTERS}"
            ));
        }
        match (own.role, they.role) {
            (Role::Coordinator, Role::Coordinator) if are_apart(&own.named, &they.named) => {
                Some(format!(
                    "{who} names the counters {}, but this coordinator names {}; they have no \
                     counter in common. {TWO_CLUSTERS}, or give all coordinators the same \
                     --counters",
                    they.named.join(","),
                    own.named.join(",")
                ))
            }
            (Role::Counter, Role::Counter) if they.name == own.name => Some(format!(
                "another process runs as counter {who}; two processes can't share a queue. Stop \
                 one of them, or give this one its own --name and an empty data directory"
            )),
            _ => None,
        }
    }
}

fn are_apart(ours: &[String], theirs: &[String]) -> bool {
    let ours: BTreeSet<&String> = ours.iter().collect();
    !ours.is_empty() && !theirs.is_empty() && !theirs.iter().any(|name| ours.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: Role, name: &str, cluster: &str, started_at_ms: u64) -> Announcement {
        Announcement {
            role,
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            started_at_ms,
            ..Announcement::default()
        }
    }

    /// The result for a node that started at 5, after it has heard another for long enough.
    fn verdict(own: Announcement, they: Announcement) -> Option<String> {
        let start = Instant::now();
        let mut strangers = Strangers::new("own".to_owned(), own.clone());
        let mut why = None;
        for seconds in 0..=HEARD_MIN.as_secs() {
            let seen_at = start + Duration::from_secs(seconds);
            // Of two incarnations of a counter, the one that announces itself replaces the other.
            for (node, announcement) in [("they", &they), ("own", &own)] {
                let sighting = Sighting {
                    announcement: announcement.clone(),
                    seen_at,
                };
                let nodes = Nodes::from([(node.to_owned(), sighting)]);
                let seconds_left = HEARD_MIN.as_secs() - seconds;
                assert!(why.is_none() || seconds_left == 0, "heard for long first");
                why = why.or(strangers.look(&nodes, seen_at));
            }
        }
        why
    }

    #[test]
    fn the_later_node_of_another_cluster_ends() {
        let own = || node(Role::Counter, "c1", "a", 5);
        let theirs = |started| node(Role::Counter, "c9", "b", started);
        let why = verdict(own(), theirs(4)).expect("it ends");
        assert!(why.contains("c9") && why.contains("\"b\"") && why.contains("--prefix"));
        assert_eq!(
            verdict(own(), theirs(6)),
            None,
            "the other one started later"
        );
        assert_eq!(verdict(own(), node(Role::Counter, "c9", "a", 4)), None);
        assert_eq!(
            verdict(own(), node(Role::Counter, "c9", "", 4)),
            None,
            "a release without cluster ids"
        );
    }

    #[test]
    fn coordinators_that_name_none_of_each_others_counters_are_of_two_clusters() {
        let names = |names: &[&str], started| Announcement {
            named: names.iter().map(ToString::to_string).collect(),
            ..node(Role::Coordinator, "k", "a", started)
        };
        assert!(verdict(names(&["c1", "c2"], 5), names(&["d1"], 4)).is_some());
        for theirs in [&["c2", "c3"][..], &[]] {
            assert_eq!(verdict(names(&["c1", "c2"], 5), names(theirs, 4)), None);
        }
    }

    #[test]
    fn the_later_of_two_counters_of_one_name_ends() {
        let own = || node(Role::Counter, "c1", "a", 5);
        assert!(verdict(own(), node(Role::Counter, "c1", "a", 4)).is_some());
        assert_eq!(verdict(own(), node(Role::Counter, "c1", "a", 6)), None);
        assert_eq!(verdict(own(), node(Role::Coordinator, "c1", "a", 4)), None);
    }

    /// A counter that moves may start while its old process sends its last announcement.
    #[test]
    fn one_that_fell_silent_is_no_stranger() {
        let start = Instant::now();
        let mut strangers = Strangers::new("own".to_owned(), node(Role::Counter, "c1", "a", 5));
        let sighting = Sighting {
            announcement: node(Role::Counter, "c1", "a", 4),
            seen_at: start,
        };
        let nodes = Nodes::from([("they".to_owned(), sighting)]);
        for seconds in 0..10 {
            assert_eq!(
                strangers.look(&nodes, start + Duration::from_secs(seconds)),
                None
            );
        }
    }
}
