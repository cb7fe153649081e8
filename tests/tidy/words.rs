//! Words that may not stand in some places: panics, prints, foreign crates, folders of one machine.
//!
//! Invariant: code is searched without comments and texts; texts of all kinds are searched for
//! folders.

use crate::Finding;
use crate::source::{Source, is_word};

/// What ends the process, or was left behind: never outside tests.
const PANICS: [&str; 8] = [
    ".unwrap()",
    ".unwrap_err()",
    ".expect(",
    ".expect_err(",
    "panic!",
    "todo!",
    "unimplemented!",
    "dbg!",
];

/// Output belongs to whoever talks to a person.
const PRINTS: [&str; 4] = ["println!", "eprintln!", "print!", "eprint!"];

/// Where printing is meant.
const PRINTERS: [&str; 3] = ["src/main.rs", "src/cli.rs", "src/cli/"];

/// Names that only one place knows.
const KNOWN_ONLY: [(&str, &[&str], &str); 6] = [
    ("axum", &["src/http/"], "only http knows axum"),
    ("hyper", &["src/http/"], "only http knows hyper"),
    ("hyper_util", &["src/http/"], "only http knows hyper"),
    ("StatusCode", &["src/http/"], "only http knows status codes"),
    (
        "lapin",
        &["src/log/amqp.rs", "src/log/amqp/"],
        "only log/amqp knows lapin",
    ),
    (
        "reqwest",
        &["src/client.rs", "src/client/"],
        "only client knows reqwest",
    ),
];

/// Folders that exist on somebody's machine alone.
pub const MACHINE_FOLDERS: [&str; 5] = ["root", "home", "work", "tmp", "Users"];

/// A file opens with what it is for.
pub fn header(source: &Source) -> Option<Finding> {
    let opens = source
        .raw
        .first()
        .is_some_and(|line| line.starts_with("//! "));
    (!opens).then(|| {
        Finding::new(
            &source.path,
            1,
            "a file opens with `//!`: what it is for, then its invariant",
        )
    })
}

/// Findings in the code of a file of `src`.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.product() {
        for word in PANICS {
            if has_call(line, word) {
                let rule = format!("`{word}` outside tests: return an error");
                findings.push(Finding::new(&source.path, number, rule));
            }
        }
        for word in PRINTS {
            if has_call(line, word) && !is_in(&source.path, &PRINTERS) {
                let rule = format!("`{word}` outside main and cli: use tracing");
                findings.push(Finding::new(&source.path, number, rule));
            }
        }
    }
    for (index, line) in source.code.iter().enumerate() {
        for (name, places, rule) in KNOWN_ONLY {
            if !is_in(&source.path, places) && has_name(line, name) {
                findings.push(Finding::new(&source.path, index + 1, rule));
            }
        }
    }
    findings
}

/// Absolute paths into folders of one machine, in a text of any kind.
pub fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            if has_absolute(line, &format!("/{folder}/")) {
                let rule = format!("`/{folder}/` is a folder of one machine");
                findings.push(Finding::new(path, index + 1, rule));
            }
        }
    }
    findings
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places
        .iter()
        .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

/// Whether `word`, a method or a macro, is called: not the end of a longer name.
fn has_call(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| word.starts_with('.') || !line[..at].ends_with(is_word))
}

/// Whether `name` stands in `line` as a whole name.
fn has_name(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let after = &line[at + name.len()..];
        !line[..at].ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// Whether `folder` begins a path: not the rest of a relative path or of a URL.
fn has_absolute(line: &str, folder: &str) -> bool {
    let inside = |c: char| is_word(c) || "-.})~*".contains(c);
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(inside))
}
