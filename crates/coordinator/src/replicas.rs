//! Where the broker keeps a counter's queue, and what is wrong with that.
//!
//! Invariant: pure. A warning names the queue, says what would be lost, and what to run.

use std::collections::BTreeSet;

/// Members that a quorum queue should have, where the broker has as many nodes: with three, any one
/// node may be lost.
const MEMBERS_WANTED: usize = 3;

/// Where a counter's queue is, as the broker's management API told it last. Of several queues of a
/// counter it is the one that is worst off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// The queue's name.
    pub queue: String,
    /// The virtual host that it is in.
    pub vhost: String,
    /// All queues of the counter: what is run for one is run for them all.
    pub queues: Vec<String>,
    /// Whether it is a quorum queue.
    pub quorum: bool,
    /// The nodes on which it has members; empty for a classic queue.
    pub members: BTreeSet<String>,
    /// Those of them that answer.
    pub online: BTreeSet<String>,
    /// All nodes of the broker.
    pub nodes: BTreeSet<String>,
    /// Those of them that run.
    pub running: BTreeSet<String>,
}

impl Replicas {
    /// What is wrong with where the queue of `counter` is, and what its operator does about that;
    /// none when nothing is.
    #[must_use]
    pub fn warning(&self, counter: &str) -> Option<String> {
        if !self.quorum {
            return self.classic_warning();
        }
        if self.members.is_empty() {
            return None;
        }
        let majority = self.members.len() / 2 + 1;
        if self.online.len() < majority {
            return Some(self.stuck_warning(counter));
        }
        self.members_warning().or_else(|| self.offline_warning())
    }

    fn classic_warning(&self) -> Option<String> {
        let nodes = self.nodes.len();
        (nodes > 1).then(|| {
            format!(
                "{} is a classic queue: it is on one of the broker's {nodes} nodes, and what is in it is lost with that \
                 node. Use queue-type quorum on a broker of several nodes",
                self.queue
            )
        })
    }

    /// Too few members answer: nothing goes in or out.
    fn stuck_warning(&self, counter: &str) -> String {
        let missing = named(self.members.difference(&self.online));
        format!(
            "{} of {} members of {} answer, which is no majority: it takes and gives nothing. Start {missing} again. If \
             that is impossible since the disk is lost: headcount remake-queue --name {counter}",
            self.online.len(),
            self.members.len(),
            self.queue
        )
    }

    /// Some nodes have no member though they could.
    fn members_warning(&self) -> Option<String> {
        let (members, nodes) = (self.members.len(), self.nodes.len());
        let wanted = nodes.min(MEMBERS_WANTED);
        if members >= wanted {
            return None;
        }
        let without: Vec<&String> = self.nodes.difference(&self.members).collect();
        let (running, down): (Vec<_>, Vec<_>) = without
            .into_iter()
            .partition(|node| self.running.contains(*node));
        let queues: Vec<String> = self.queues.iter().map(|queue| escaped(queue)).collect();
        // One that is down can't be given a member.
        let some = if running.is_empty() { down } else { running };
        let commands = some.into_iter().take(wanted - members).map(|node| {
            format!(
                "rabbitmq-queues grow {node} all --vhost-pattern '^{}$' --queue-pattern '^({})$'",
                escaped(&self.vhost),
                queues.join("|")
            )
        });
        let commands: Vec<String> = commands.collect();
        Some(format!(
            "{} has {members} of {wanted} members on a broker of {nodes} nodes: what is in it is lost with {}. Run: {}",
            self.queue,
            named(&self.members),
            commands.join("; ")
        ))
    }

    /// A member is away, and the queue goes on without it.
    fn offline_warning(&self) -> Option<String> {
        let offline: Vec<&String> = self.members.difference(&self.online).collect();
        (!offline.is_empty()).then(|| {
            let node = named(offline.iter().copied());
            format!(
                "{} of {} members of {} answer. Start {node} again; if its disk is lost: rabbitmqctl forget_cluster_node \
                 {node}, then let a new node join, and rabbitmq-queues grow NODE all",
                self.online.len(),
                self.members.len(),
                self.queue
            )
        })
    }
}

fn named<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.join(" and ")
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn replicas(members: &[&str], online: &[&str], nodes: &[&str], running: &[&str]) -> Replicas {
        Replicas {
            queue: "headcount.items.0.c1".to_owned(),
            vhost: "/".to_owned(),
            queues: ["headcount.items.0.c1", "headcount.generation.c1"]
                .map(str::to_owned)
                .to_vec(),
            quorum: true,
            members: set(members),
            online: set(online),
            nodes: set(nodes),
            running: set(running),
        }
    }

    #[test]
    fn a_member_on_each_of_three_nodes_or_on_the_only_node_is_no_warning() {
        let all = ["r@a", "r@b", "r@c"];
        assert_eq!(replicas(&all, &all, &all, &all).warning("c1"), None);
        let one = ["r@a"];
        assert_eq!(replicas(&one, &one, &one, &one).warning("c1"), None);
        let five = ["r@a", "r@b", "r@c", "r@d", "r@e"];
        assert_eq!(replicas(&all, &all, &five, &five).warning("c1"), None);
        assert_eq!(
            Replicas {
                quorum: false,
                ..replicas(&[], &[], &one, &one)
            }
            .warning("c1"),
            None
        );
    }

    #[test]
    fn fewer_members_than_nodes_is_a_warning_with_the_commands() {
        let all = ["r@a", "r@b", "r@c"];
        let warning = replicas(&["r@a"], &["r@a"], &all, &all).warning("c1");
        assert_eq!(
            warning.as_deref(),
            Some(
                r"headcount.items.0.c1 has 1 of 3 members on a broker of 3 nodes: what is in it is lost with r@a. Run: rabbitmq-queues grow r@b all --vhost-pattern '^/$' --queue-pattern '^(headcount\.items\.0\.c1|headcount\.generation\.c1)$'; rabbitmq-queues grow r@c all --vhost-pattern '^/$' --queue-pattern '^(headcount\.items\.0\.c1|headcount\.generation\.c1)$'"
            )
        );
        // One of the two that could get it is down.
        let warning = replicas(&["r@a", "r@b"], &["r@a", "r@b"], &all, &["r@a", "r@b"]);
        assert!(
            warning
                .warning("c1")
                .expect("told")
                .contains("grow r@c all")
        );
    }

    #[test]
    fn a_queue_without_a_majority_says_how_it_is_made_again() {
        let all = ["r@a", "r@b", "r@c"];
        for (members, online) in [(&["r@a"][..], &[][..]), (&all[..], &["r@c"][..])] {
            let warning = replicas(members, online, &all, &["r@b", "r@c"]).warning("c1");
            let warning = warning.expect("told");
            assert!(warning.contains("no majority"), "{warning}");
            assert!(warning.contains("Start r@a"), "{warning}");
            assert!(
                warning.contains("headcount remake-queue --name c1"),
                "{warning}"
            );
        }
    }

    #[test]
    fn a_member_that_is_away_and_a_classic_queue_of_several_nodes_are_warnings() {
        let all = ["r@a", "r@b", "r@c"];
        let warning = replicas(&all, &["r@a", "r@b"], &all, &["r@a", "r@b"]).warning("c1");
        let warning = warning.expect("told");
        assert!(warning.contains("2 of 3 members"), "{warning}");
        assert!(warning.contains("forget_cluster_node r@c"), "{warning}");
        let classic = Replicas {
            quorum: false,
            ..replicas(&[], &[], &all, &all)
        };
        assert!(classic.warning("c1").expect("told").contains("classic"));
    }
}
