//! Borders between crates, and those inside of them that the compiler does not enforce.
//!
//! Invariant: only the composition root names concrete logs and stores.

use std::collections::{BTreeMap, BTreeSet};

use super::files;

/// Modules of the program, with the crates and modules that each may name. `config` builds the
/// limits and options that others define; `node` and `main.rs` compose all, and may name
/// everything.
const PROGRAM: [(&str, &[&str]); 3] = [
    (
        "cli",
        &[
            "client",
            "config",
            "model",
            "node",
            "socket",
            "store",
            "telemetry",
        ],
    ),
    (
        "config",
        &["coordinator", "http", "model", "socket", "telemetry"],
    ),
    ("telemetry", &[]),
];

/// Concrete logs and stores, and the parts of a counter: only the composition root names them,
/// where other product code uses the contracts. With the crates that they are of.
const CONCRETE: [(&str, &str); 8] = [
    ("log::amqp", "log-amqp"),
    ("log::local", "log"),
    ("log_amqp::", "log-amqp"),
    ("store::disk", "store"),
    ("store::memory", "store"),
    ("counter::CounterTask", "counter"),
    ("counter::apply", "counter"),
    ("counter::catch_up", "counter"),
];

/// What product code names beyond its borders inside a crate or of the program. Lines of unit tests
/// at the end of a file, and files of tests, may name anything.
pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let (module, owner) = match parts.as_slice() {
        ["src", "main.rs" | "lib.rs"] | ["src", "node", ..] => return Vec::new(),
        ["src", module, ..] => (module.trim_end_matches(".rs"), ""),
        ["crates", owner, "src", ..] => ("", *owner),
        _ => return Vec::new(),
    };
    let file = parts.last().expect("a name");
    if file.contains("test") || parts.contains(&"tests") || file == &"fuzzing.rs" {
        return Vec::new();
    }
    let allowed = PROGRAM.iter().find(|(name, _)| *name == module);
    let product = text
        .lines()
        .take_while(|line| line.trim_start() != "mod tests {");
    let code = product
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"));
    let mut findings = Vec::new();
    for (index, line) in code {
        for (concrete, of) in CONCRETE.iter().filter(|(_, of)| *of != owner) {
            let names = ["crate::", "headcount_"].map(|before| format!("{before}{concrete}"));
            if names.iter().any(|name| line.contains(name)) {
                let rule = format!("`{concrete}` of `{of}` is named by the composition root only");
                findings.push(format!("{path}:{}: {rule}", index + 1));
            }
        }
        let named = line.split("crate::").skip(1);
        let names = named.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_'));
        for name in names.filter_map(|mut words| words.next()) {
            if allowed.is_some_and(|(_, list)| name != module && !list.contains(&name)) {
                findings.push(format!(
                    "{path}:{}: `{module}` may not name `{name}`",
                    index + 1
                ));
            }
        }
    }
    findings
}

/// Our crates that the manifest `text` depends on, but for its tests.
fn knows(text: &str) -> BTreeSet<&str> {
    let (_, rest) = text.split_once("\n[dependencies]\n").expect("dependencies");
    let section = rest.split("\n[").next().unwrap_or_default();
    let ours = section
        .lines()
        .filter_map(|line| line.strip_prefix("headcount-"));
    ours.filter_map(|line| line.split('.').next()).collect()
}

/// The table "Which crate may know which" of ARCHITECTURE.md, and the manifests.
#[test]
fn crates_know_what_the_architecture_says() {
    let files = files();
    let (_, table) = files["ARCHITECTURE.md"]
        .split_once("| crate | knows |\n|---|---|\n")
        .expect("the table");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let mut told: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let (names, known) = (cells.next().expect("names"), cells.next().expect("crates"));
        let known: BTreeSet<&str> = match known {
            "nothing of ours" => BTreeSet::new(),
            known => known.split(", ").collect(),
        };
        told.extend(names.split(", ").map(|name| (name, known.clone())));
    }
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in &files {
        let parts: Vec<&str> = path.split('/').collect();
        if let ["crates", name, "Cargo.toml"] = parts.as_slice() {
            assert!(
                text.contains("\n[lints]\nworkspace = true\n"),
                "{path} has its own lints"
            );
            found.insert(name, knows(text));
        }
    }
    told.retain(|name, _| *name != "headcount");
    assert_eq!(told, found);
}

#[test]
fn each_border_refuses_something() {
    let border = |path: &str, text: &str| check(path, text).len();
    assert_eq!(border("src/cli/a.rs", "use crate::http::serve;\n"), 1);
    assert_eq!(border("src/cli/a.rs", "use crate::model::Batch;\n"), 0);
    assert_eq!(
        border("src/config/a.rs", "use crate::store::disk::DiskStore;\n"),
        2
    );
    assert_eq!(
        border("src/node/a.rs", "use crate::store::disk::DiskStore;\n"),
        0
    );
    assert_eq!(
        border(
            "crates/counter/src/a.rs",
            "use headcount_store::memory::A;\n"
        ),
        1
    );
    assert_eq!(
        border(
            "crates/counter/src/a.rs",
            "mod tests {\nuse headcount_log::local;\n"
        ),
        0
    );
    assert_eq!(
        border(
            "crates/counter/src/a_tests.rs",
            "use headcount_log::local;\n"
        ),
        0
    );
}
