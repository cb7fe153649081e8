//! The nodes of the broker that hold the queue of a counter, and warnings about them.
//!
//! Invariant: this module is pure. A warning names the queue, what would be lost, and the command
//! to run.

use std::collections::BTreeSet;

/// Desired number of members of a quorum queue, if the broker has that many nodes. With three
/// members, the loss of any one node is tolerated.
const MEMBERS_WANTED: usize = 3;

/// The broker nodes that hold the queue of a counter, as last reported by the broker's management
/// API. If a counter has several queues, this is the one in the worst state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Name of the queue.
    pub queue: String,
    /// Virtual host of the queue.
    pub vhost: String,
    /// All queues of the counter. A command applies to all of them.
    pub queues: Vec<String>,
    /// Whether it is a quorum queue.
    pub quorum: bool,
    /// The nodes that have a member of the queue; empty for a classic queue.
    pub members: BTreeSet<String>,
    /// The members that are online.
    pub online: BTreeSet<String>,
    /// All nodes of the broker.
    pub nodes: BTreeSet<String>,
    /// The nodes that are running.
    pub running: BTreeSet<String>,
}

impl Replicas {
    /// Describes a problem with the members of the queue of `counter` and what the operator must
    /// do; `None` if there is no problem.
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
                "{} is a classic queue on one of the broker's {nodes} nodes: its messages are lost \
                 with that node. Use queue-type quorum on a broker of several nodes",
                self.queue
            )
        })
    }

    /// A majority of the members is not online: the queue neither accepts nor delivers messages.
    fn stuck_warning(&self, counter: &str) -> String {
        let missing = named(self.members.difference(&self.online));
        format!(
            "{} of {} members of {} answer, which is no majority: the queue neither accepts nor \
             delivers messages. Start {missing} again. Only if that is impossible because the disk \
             is lost, run: headcount remake-queue --name {counter}",
            self.online.len(),
            self.members.len(),
            self.queue
        )
    }

    /// The queue has fewer members than it could have.
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
        // A node that is down can't be given a member.
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
            "{} has {members} of {wanted} members on a broker of {nodes} nodes: its messages are \
             lost with {}. Run: {}",
            self.queue,
            named(&self.members),
            commands.join("; ")
        ))
    }

    /// A member is offline. The queue works without it.
    fn offline_warning(&self) -> Option<String> {
        let offline: Vec<&String> = self.members.difference(&self.online).collect();
        (!offline.is_empty()).then(|| {
            let node = named(offline.iter().copied());
            format!(
                "{} of {} members of {} answer. Start {node} again. If its disk is lost, run: \
                 rabbitmqctl forget_cluster_node {node}; then let a new node join and run: \
                 rabbitmq-queues grow NODE all",
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

/// Escapes `text` for a regular expression that matches exactly this text.
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
            Some(concat!(
                "headcount.items.0.c1 has 1 of 3 members on a broker of 3 nodes: ",
                "its messages are lost with r@a. ",
                "Run: rabbitmq-queues grow r@b all --vhost-pattern '^/$' ",
                r"--queue-pattern '^(headcount\.items\.0\.c1|headcount\.generation\.c1)$'; ",
                "rabbitmq-queues grow r@c all --vhost-pattern '^/$' ",
                r"--queue-pattern '^(headcount\.items\.0\.c1|headcount\.generation\.c1)$'"
            ))
        );
        // The only node without a member is down; the command still names it.
        let warning = replicas(&["r@a", "r@b"], &["r@a", "r@b"], &all, &["r@a", "r@b"]);
        assert!(
            warning
                .warning("c1")
                .expect("a warning")
                .contains("grow r@c all")
        );
    }

    #[test]
    fn a_queue_without_a_majority_says_how_it_is_made_again() {
        let all = ["r@a", "r@b", "r@c"];
        for (members, online) in [(&["r@a"][..], &[][..]), (&all[..], &["r@c"][..])] {
            let warning = replicas(members, online, &all, &["r@b", "r@c"]).warning("c1");
            let warning = warning.expect("a warning");
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
        let warning = warning.expect("a warning");
        assert!(warning.contains("2 of 3 members"), "{warning}");
        assert!(warning.contains("forget_cluster_node r@c"), "{warning}");
        let classic = Replicas {
            quorum: false,
            ..replicas(&[], &[], &all, &all)
        };
        let warning = classic.warning("c1").expect("a warning");
        assert!(warning.contains("classic"));
    }
}
