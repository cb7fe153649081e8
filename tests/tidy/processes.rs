//! Which test programs may start processes: those that lock no folder themselves.
//!
//! Invariant: between its fork and its exec, a child has every descriptor of its parent, and with
//! it the locks. So a test that opens a folder again finds it in use when another test of the same
//! process has just started something.

use std::collections::BTreeMap;

use crate::Finding;
use crate::source::Source;

/// What locks a data folder in the process of the test.
const LOCKS: [&str; 3] = ["DataDir::open", "Hold::take", "DiskStore::open("];

/// What starts processes, or has those in it that do.
const STARTS: [&str; 2] = ["process::Command", "mod kit;"];

/// Findings in all test programs: each folder below `tests`, and the unit tests.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut programs: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        let mut parts = source.path.split('/');
        let program = match (parts.next(), parts.next()) {
            (Some("tests"), Some(program)) => program,
            (Some("src"), _) => "src",
            _ => continue,
        };
        programs.entry(program).or_default().push(source);
    }
    let locks = |sources: &[&Source]| sources.iter().any(|source| first(source, &LOCKS).is_some());
    let locking = programs.into_values().filter(|sources| locks(sources));
    let mut findings = Vec::new();
    for source in locking.flatten() {
        if let Some(line) = first(source, &STARTS) {
            let rule = "a test program that locks data folders starts no processes";
            findings.push(Finding::new(&source.path, line, rule));
        }
    }
    findings
}

/// The first line of code with one of `words`, from 1.
fn first(source: &Source, words: &[&str]) -> Option<usize> {
    let has_one = |code: &String| words.iter().any(|word| code.contains(word));
    Some(source.code.iter().position(has_one)? + 1)
}
