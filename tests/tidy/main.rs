//! House rules that no lint knows: headers, sizes, borders between crates, links, paths of
//! machines.
//!
//! Invariant: a finding names the file, the line and the rule.

#![allow(clippy::expect_used, clippy::panic, reason = "these are tests")]

mod borders;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The most lines of a Rust file.
const FILE_LINES_MAX: usize = 400;

/// The most columns of a line in a Rust file.
const COLUMNS_MAX: usize = 100;

/// Directories that exist on somebody's machine alone.
const MACHINE_DIRECTORIES: [&str; 5] = ["root", "home", "work", "tmp", "Users"];

/// What locks a data directory in the process of the test.
const LOCKS: [&str; 3] = ["DataDir::open", "Hold::take", "DiskStore::open("];

/// What starts processes, or contains modules that do.
const STARTS: [&str; 2] = ["process::Command", "mod kit;"];

/// Directories that contain no files of the project, for a checkout without git.
const FOREIGN_DIRECTORIES: [&str; 5] =
    [".git", "target", "artifacts", "coverage", "headcount-data"];

/// The files of the checkout, by path, as far as they are text: those that git tracks or would
/// track, or all if git cannot tell.
fn files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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
    let names = match listed {
        Some(output) => {
            let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
            names.split('\0').map(str::to_owned).collect()
        }
        None => walked(root),
    };
    // A deleted file is still listed, and a binary file is no text.
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).ok()?;
        Some((name, text))
    };
    names.into_iter().filter_map(read).collect()
}

/// All files below `root` but those of other programs.
fn walked(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{directory}{name}");
            if !entry.file_type().expect("a type").is_dir() {
                names.push(path);
            } else if !FOREIGN_DIRECTORIES.contains(&name.as_str()) {
                directories.push(format!("{path}/"));
            }
        }
    }
    names
}

/// Findings in the Rust file `path`.
fn check_rust(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push(format!(
            "{path}:1: a file opens with `//!`: its purpose, then its invariant"
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{path}: {lines} lines: at most {FILE_LINES_MAX}"));
    }
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            findings.push(format!(
                "{path}:{}: {columns} columns: at most {COLUMNS_MAX}",
                index + 1
            ));
        }
    }
    findings
}

/// Absolute paths into directories of one machine.
fn check_machine_paths(path: &str, text: &str) -> Vec<String> {
    let inside = |c: char| c.is_alphanumeric() || "_-.})~*".contains(c);
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for directory in MACHINE_DIRECTORIES {
            let name = format!("/{directory}/");
            if line
                .match_indices(&name)
                .any(|(at, _)| !line[..at].ends_with(inside))
            {
                findings.push(format!(
                    "{path}:{}: `{name}` exists on one machine",
                    index + 1
                ));
            }
        }
    }
    findings
}

/// Relative links of the Markdown file `path` that lead nowhere.
fn check_links(path: &str, text: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let directory = Path::new(path).parent().unwrap_or(Path::new(""));
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let mut findings = Vec::new();
    for target in targets {
        let target = target.split('#').next().unwrap_or_default();
        if target.is_empty() || target.contains("://") || target.contains(' ') {
            continue;
        }
        let mut joined: Vec<&str> = Vec::new();
        let whole = directory.join(target);
        for part in whole.to_str().unwrap_or_default().split('/') {
            match part {
                ".." => drop(joined.pop()),
                "." | "" => {}
                part => joined.push(part),
            }
        }
        let name = joined.join("/");
        let exists = files
            .keys()
            .any(|file| *file == name || file.starts_with(&format!("{name}/")));
        if !exists {
            findings.push(format!("{path}: the link to {target} leads nowhere"));
        }
    }
    findings
}

/// Test programs that lock data directories and start processes as well: between its fork and its
/// exec a child holds the locks of its parent, so another test would find a directory in use.
fn check_processes(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut programs: BTreeMap<String, Vec<(&String, &String)>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let parts: Vec<&str> = path.split('/').collect();
        let program = match parts.as_slice() {
            // This program names what locks.
            ["tests", "tidy", ..] => continue,
            ["tests", program, ..] => format!("tests/{program}"),
            ["crates", name, part, ..] => format!("crates/{name}/{part}"),
            ["src", ..] => "src".to_owned(),
            _ => continue,
        };
        programs.entry(program).or_default().push((path, text));
    }
    let has = |text: &str, words: &[&str]| words.iter().any(|word| text.contains(word));
    let locking = programs.into_values();
    locking
        .filter(|sources| sources.iter().any(|(_, text)| has(text, &LOCKS)))
        .flatten()
        .filter(|(_, text)| has(text, &STARTS))
        .map(|(path, _)| {
            format!("{path}: a test program that locks data directories starts no processes")
        })
        .collect()
}

#[test]
fn the_house_is_tidy() {
    let files = files();
    let mut findings = check_processes(&files);
    for (path, text) in &files {
        findings.extend(check_machine_paths(path, text));
        if path.ends_with(".rs") {
            findings.extend(check_rust(path, text));
            findings.extend(borders::check(path, text));
        }
        if path.ends_with(".md") {
            findings.extend(check_links(path, text, &files));
        }
    }
    assert!(files.keys().filter(|path| path.ends_with(".rs")).count() > 300);
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn a_checkout_without_git_has_the_same_sources() {
    let walked = walked(Path::new(env!("CARGO_MANIFEST_DIR")));
    let files = files();
    let sources = files.keys().filter(|path| path.ends_with(".rs"));
    let missed: Vec<_> = sources.filter(|path| !walked.contains(path)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn each_rule_refuses_something() {
    let none = BTreeMap::new();
    let header = "//! What it is for.\n";
    assert_eq!(check_rust("a.rs", header), [""; 0]);
    assert_eq!(check_rust("a.rs", "fn a() {}\n").len(), 1);
    assert_eq!(
        check_rust("a.rs", &format!("{header}{}", "\n".repeat(FILE_LINES_MAX))).len(),
        1
    );
    assert_eq!(
        check_rust("a.rs", &format!("{header}// {}\n", "é".repeat(COLUMNS_MAX))).len(),
        1
    );
    let [machine, relative] = ["/", "a/"].map(|before| format!("{before}home/me/a"));
    assert_eq!(check_machine_paths("a.md", &machine).len(), 1);
    assert_eq!(check_machine_paths("a.md", &relative).len(), 0);
    assert_eq!(
        check_links("docs/a.md", "[a](../b.md#c), [d](https://e)", &none).len(),
        1
    );
    let is_there = BTreeMap::from([("b.md".to_owned(), String::new())]);
    assert_eq!(
        check_links("docs/a.md", "[a](../b.md#c)", &is_there).len(),
        0
    );
    let test = format!("{}\n{}", LOCKS[0], STARTS[0]);
    assert_eq!(
        check_processes(&BTreeMap::from([("tests/a/main.rs".to_owned(), test)])).len(),
        1
    );
}
