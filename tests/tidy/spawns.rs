//! Who may start tasks and threads: the supervisor, and those listed with what they start.
//!
//! Invariant: a task that lives as long as its node is watched, or its end is told to somebody who
//! ends the node.

use crate::Finding;
use crate::source::{Source, is_word};

/// Names of functions that start something, as `tokio::spawn` and `thread::Builder::spawn`.
const STARTERS: [&str; 4] = ["spawn", "spawn_blocking", "spawn_local", "spawn_on"];

/// What a call goes through that is watched.
const WATCHED: &str = "supervisor.";

/// Files, or folders, that start something else, and why that is no task of a node's whole life.
const ALLOWED: [(&str, &str); 10] = [
    ("src/supervisor.rs", "it is the one that watches"),
    (
        "src/cli/",
        "an operator's command, which waits for all that it starts",
    ),
    (
        "src/client/counter.rs",
        "one request, whose caller hears that it is gone",
    ),
    (
        "src/counter/host.rs",
        "the counter's thread, whose panic its host hears, and wakers that do nothing",
    ),
    (
        "src/counter/local.rs",
        "one look-up, whose caller hears of a panic",
    ),
    (
        "src/counter/peer.rs",
        "the reading of one snapshot, which breaks off before its end",
    ),
    ("src/http/", "one connection or one body"),
    ("src/log/amqp/operator.rs", "an operator's command"),
    ("src/log/amqp/remake.rs", "an operator's command"),
    (
        "src/store/disk/writer.rs",
        "the store's threads, whose panic poisons the store",
    ),
];

/// Findings in the code of a file of `src`.
pub fn check(source: &Source) -> Vec<Finding> {
    let is_allowed = |(place, _): &(&str, &str)| {
        source.path == *place || place.ends_with('/') && source.path.starts_with(place)
    };
    if ALLOWED.iter().any(is_allowed) {
        return Vec::new();
    }
    source
        .product()
        .filter(|(_, line)| STARTERS.iter().any(|name| starts(line, name)))
        .map(|(number, _)| {
            let rule =
                "start tasks by `supervisor.spawn`, so that an end that nobody asked for is told";
            Finding::new(&source.path, number, rule)
        })
        .collect()
}

/// Whether `name` stands in `line` as a whole name, and not as a method of the supervisor.
fn starts(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word) && !before.ends_with(WATCHED)
    })
}
