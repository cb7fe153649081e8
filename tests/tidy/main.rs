//! The house map and the house rules, enforced: headers, sizes, imports, words, who starts tasks.
//!
//! Invariant: a finding names file, line and rule; each rule is shown in `samples` to refuse
//! something.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "these are tests"
)]

mod imports;
mod processes;
mod samples;
mod sizes;
mod source;
mod spawns;
mod words;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use source::Source;

/// Folders of Rust sources that open with a header.
const RUST_FOLDERS: [&str; 5] = [
    "src/",
    "tests/",
    "bench/src/",
    "xtask/",
    "fuzz/fuzz_targets/",
];

/// Folders whose files and functions are not too long.
const SIZED_FOLDERS: [&str; 3] = ["src/", "bench/src/", "xtask/"];

/// Folders that hold nothing of ours, for a checkout without git.
const FOREIGN_FOLDERS: [&str; 5] = [".git", "target", "artifacts", "coverage", "headcount-data"];

/// A rule that a line breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    path: String,
    line: usize,
    rule: String,
}

impl Finding {
    /// `line` counts from 1.
    pub fn new(path: &str, line: usize, rule: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// All findings in `files`: pairs of a path below the root, with slashes, and the text.
fn check(files: &[(String, String)]) -> Vec<Finding> {
    let mut sources: Vec<Source> = files
        .iter()
        .filter(|(path, _)| {
            path.ends_with(".rs") && RUST_FOLDERS.iter().any(|folder| path.starts_with(folder))
        })
        .map(|(path, text)| Source::parse(path, text))
        .collect();
    mark_test_files(&mut sources);
    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(words::header(source));
        if SIZED_FOLDERS
            .iter()
            .any(|folder| source.path.starts_with(folder))
        {
            findings.extend(sizes::check(source));
        }
        if source.path.starts_with("src/") {
            findings.extend(imports::check(source));
            findings.extend(words::check(source));
            findings.extend(spawns::check(source));
        }
    }
    findings.extend(processes::check(&sources));
    for (path, text) in files {
        findings.extend(words::machine_paths(path, text));
    }
    findings
}

/// A file that another declares by `#[cfg(test)] mod name;` is test code as a whole, with all below
/// it.
fn mark_test_files(sources: &mut [Source]) {
    let roots: HashSet<Vec<String>> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        let module = source.module();
        if roots.iter().any(|root| module.starts_with(root)) {
            source.mark_all_test();
        }
    }
}

/// The files of the checkout: what git tracks or would track, or all when git can't tell.
fn files(root: &Path) -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success());
    let mut paths = Vec::new();
    match listed {
        Some(output) => {
            let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
            paths.extend(
                names
                    .split('\0')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
            );
        }
        None => walk(root, "", &mut paths),
    }
    paths.sort();
    // What is deleted but still tracked, or no text, has nothing to check.
    let text = |path: &String| fs::read_to_string(root.join(path)).ok();
    paths
        .into_iter()
        .filter_map(|path| text(&path).map(|text| (path, text)))
        .collect()
}

fn walk(folder: &Path, prefix: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the checkout can be read") {
        let entry = entry.expect("the checkout can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("the checkout can be read");
        if FOREIGN_FOLDERS.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{prefix}{name}/"), paths);
        } else if kind.is_file() {
            paths.push(format!("{prefix}{name}"));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let files = files(Path::new(env!("CARGO_MANIFEST_DIR")));
    for folder in [
        "src/",
        "tests/",
        "bench/src/",
        "xtask/",
        "fuzz/fuzz_targets/",
    ] {
        let found = files
            .iter()
            .any(|(path, _)| path.starts_with(folder) && path.ends_with(".rs"));
        assert!(found, "no source found in {folder}: nothing was checked");
    }
    let findings: Vec<String> = check(&files).iter().map(Finding::to_string).collect();
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn a_checkout_without_git_has_the_same_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut walked = Vec::new();
    walk(root, "", &mut walked);
    let listed = files(root);
    let missed: Vec<&String> = listed
        .iter()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(".rs") && !walked.contains(path))
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}
