//! Each rule refuses something and lets its neighbour pass, so that none passes everything in
//! silence.
//!
//! Invariant: a sample breaks exactly the rules that its test names.

use crate::sizes::{FILE_LINES_MAX, FUNCTION_LINES_MAX};
use crate::words::MACHINE_FOLDERS;
use crate::{check, source};

const HEADER: &str = "//! A sample.\n";

/// The findings in one file, as `line: rule`.
fn findings(path: &str, code: &str) -> Vec<String> {
    findings_in(&[(path, code)])
}

fn findings_in(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, String)> = files
        .iter()
        .map(|(path, code)| ((*path).to_owned(), format!("{HEADER}{code}")))
        .collect();
    check(&files).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(path: &str, code: &str, rule: &str) {
    let findings = findings(path, code);
    assert!(
        findings.len() == 1
            && findings[0].starts_with(&format!("{path}:"))
            && findings[0].contains(rule),
        "expected one finding about {rule:?} in {path}:\n{code}\nbut found {findings:#?}"
    );
}

#[track_caller]
fn passes(path: &str, code: &str) {
    let findings = findings(path, code);
    assert!(
        findings.is_empty(),
        "in {path}:\n{code}\nfound {findings:#?}"
    );
}

#[test]
fn a_file_without_header_is_refused() {
    for path in [
        "src/a.rs",
        "xtask/src/a.rs",
        "tests/it/main.rs",
        "fuzz/fuzz_targets/a.rs",
    ] {
        for text in ["", "// A comment.\n", "\n//! Late.\n", "use std::fs;\n"] {
            let found = check(&[(path.to_owned(), text.to_owned())]);
            assert_eq!(found.len(), 1, "{path}: {text:?}: {found:?}");
            assert_eq!(found[0].line, 1);
        }
    }
}

#[test]
fn a_long_file_is_refused() {
    let lines = |count: usize| "// A line.\n".repeat(count);
    passes("src/model/a.rs", &lines(FILE_LINES_MAX - 1));
    refused(
        "src/model/a.rs",
        &lines(FILE_LINES_MAX),
        "a file has at most",
    );
    refused(
        "xtask/src/a.rs",
        &lines(FILE_LINES_MAX),
        "a file has at most",
    );
}

#[test]
fn a_long_function_is_refused() {
    let function =
        |head: &str, lines: usize| format!("{head} {{\n{}}}\n", "    step();\n".repeat(lines - 2));
    let heads = [
        "fn a()",
        "pub(crate) async fn a<T>(x: [u8; 4]) -> T",
        "    const fn a()\n    where\n        T: X,",
    ];
    for head in heads {
        let body = FUNCTION_LINES_MAX - head.matches('\n').count();
        passes("src/model/a.rs", &function(head, body));
        refused("src/model/a.rs", &function(head, body + 1), "fn a has");
    }
    // Neither a declaration nor a pointer's type is a body, and braces in texts and comments don't
    // count.
    let far = "// {\n".repeat(FUNCTION_LINES_MAX);
    passes(
        "src/model/a.rs",
        &format!("trait T {{\n    fn a(&self);\n{far}}}\n"),
    );
    passes("src/model/a.rs", &format!("type F = fn (u8);\n{far}"));
    passes(
        "src/model/a.rs",
        &format!("fn a() -> &str {{\n    \"{{\"\n}}\n{far}"),
    );
    passes(
        "src/model/a.rs",
        &format!("fn a() -> char {{\n    '{{'\n}}\n{far}"),
    );
}

#[test]
fn imports_against_the_table_are_refused() {
    for (path, code) in [
        ("src/model/a.rs", "use crate::store::Store;\n"),
        ("src/store/a.rs", "use crate::log::Log;\n"),
        ("src/log/a.rs", "use crate::store::Store;\n"),
        ("src/log/mod.rs", "use crate::counter::Queries;\n"),
        ("src/counter/a.rs", "use crate::coordinator::Reads;\n"),
        ("src/coordinator/a.rs", "use crate::store::Store;\n"),
        ("src/http/items.rs", "use crate::log::Log;\n"),
        ("src/client/a.rs", "use crate::coordinator::Reads;\n"),
        ("src/config.rs", "use crate::store::Store;\n"),
        ("src/config.rs", "use crate::node::NodeLimits;\n"),
        ("src/cli.rs", "use crate::http::router;\n"),
        ("src/cli/a.rs", "use crate::http::router;\n"),
        ("src/telemetry.rs", "use crate::model::Batch;\n"),
        ("src/supervisor.rs", "use crate::log::Log;\n"),
        ("src/http/mod.rs", "use crate::node::Node;\n"),
        (
            "src/model/a.rs",
            "pub use crate::{\n    model::Batch,\n    store::{self, Store},\n};\n",
        ),
        ("src/model/a.rs", "use crate::{model as m, node as n};\n"),
        ("src/model/a.rs", "fn a() -> crate::store::Kind {}\n"),
        (
            "src/model/a.rs",
            "fn a(x: crate::model::B<crate::store::Kind>) {}\n",
        ),
        ("src/model/a.rs", "use super::super::store::Store;\n"),
        ("src/model/mod.rs", "use super::store::Store;\n"),
    ] {
        if code.contains("{self, Store}") {
            assert_eq!(findings(path, code).len(), 2, "{code}");
        } else {
            refused(path, code, "may not import");
        }
    }
}

#[test]
fn imports_in_the_table_pass() {
    for (path, code) in [
        ("src/store/a.rs", "use crate::model::{Batch, Position};\n"),
        (
            "src/store/disk/a.rs",
            "use super::super::Store;\nuse super::runs::Run;\n",
        ),
        (
            "src/counter/a.rs",
            "use crate::{log::Log, model::Batch, store::Store, supervisor, telemetry};\n",
        ),
        (
            "src/coordinator/a.rs",
            "use crate::log::{Log, LogError};\nuse crate::counter::Queries;\n",
        ),
        (
            "src/http/a.rs",
            "use crate::coordinator::{self, Reads as R};\n",
        ),
        (
            "src/config.rs",
            "use crate::http::HttpLimits;\nfn a() { crate::store::DiskLimits::default(); }\n",
        ),
        (
            "src/node.rs",
            "use crate::log::local::LocalLog;\nuse crate::store::disk::DiskStore;\n",
        ),
        (
            "src/cli.rs",
            "use crate::node;\nuse crate::config::Config;\n",
        ),
        ("src/lib.rs", "pub use crate::node::run;\n"),
        (
            "src/model/a.rs",
            "// See crate::store::Store.\nconst A: &str = \"crate::store::Store\";\n",
        ),
        (
            "src/model/a.rs",
            "pub(crate) fn a() { mycrate::store::a(); }\n",
        ),
    ] {
        passes(path, code);
    }
}

#[test]
fn modules_off_the_map_are_refused() {
    refused(
        "src/model/a.rs",
        "use crate::util::A;\n",
        "not on the house map",
    );
    refused("src/model/a.rs", "use crate::*;\n", "not on the house map");
    refused(
        "src/model/a.rs",
        "use crate::{self as all};\n",
        "not on the house map",
    );
    refused(
        "src/util.rs",
        "use crate::model::Batch;\n",
        "not on the house map",
    );
}

#[test]
fn implementations_are_refused_where_the_contract_is_meant() {
    refused(
        "src/coordinator/a.rs",
        "use crate::log::local::LocalLog;\n",
        "not its `local`",
    );
    refused(
        "src/coordinator/a.rs",
        "use crate::log::{Log, amqp::A};\n",
        "not its `amqp`",
    );
    refused(
        "src/counter/a.rs",
        "use crate::log::amqp;\n",
        "not its `amqp`",
    );
    refused(
        "src/counter/a.rs",
        "use crate::store::disk::DiskStore;\n",
        "not its `disk`",
    );
    refused(
        "src/http/a.rs",
        "use crate::counter::step::apply;\n",
        "not its `step`",
    );
    refused(
        "src/log/local.rs",
        "use crate::log::amqp::topology;\n",
        "don't know each other",
    );
    refused(
        "src/log/local.rs",
        "use super::amqp::topology;\n",
        "don't know each other",
    );
    refused(
        "src/log/amqp/a.rs",
        "use super::super::local::LocalLog;\n",
        "don't know each other",
    );
    passes(
        "src/log/amqp/a.rs",
        "use super::topology;\nuse super::super::wire;\n",
    );
}

#[test]
fn foreign_crates_are_refused_out_of_their_place() {
    refused("src/node.rs", "use axum::Router;\n", "only http knows axum");
    refused(
        "src/client/a.rs",
        "fn a(s: reqwest::StatusCode) {}\n",
        "status codes",
    );
    refused(
        "src/node.rs",
        "use hyper_util::rt::TokioIo;\n",
        "only http knows hyper",
    );
    refused("src/log/local.rs", "use lapin::Channel;\n", "only log/amqp");
    refused("src/http/a.rs", "use reqwest::Client;\n", "only client");
    refused(
        "src/http/a.rs",
        "#[cfg(test)]\nmod tests {\n    use reqwest::Client;\n}\n",
        "only client",
    );
    passes(
        "src/http/a.rs",
        "use axum::Router;\nuse hyper::StatusCode;\n",
    );
    passes("src/log/amqp/a.rs", "use lapin::Channel;\n");
    passes(
        "src/client.rs",
        "use reqwest::Client;\n// As axum does.\nfn taxum() {}\n",
    );
}

#[test]
fn panics_are_refused_outside_tests() {
    for call in [
        "a.unwrap()",
        "a.expect(\"b\")",
        "panic!(\"b\")",
        "todo!()",
        "unimplemented!()",
        "dbg!(a)",
    ] {
        let code = format!("fn a() {{\n    {call};\n}}\n");
        refused("src/model/a.rs", &code, "outside tests");
        refused("src/main.rs", &code, "outside tests");
        assert!(findings("src/model/a.rs", &code)[0].starts_with("src/model/a.rs:3: "));
        passes(
            "src/model/a.rs",
            &format!("#[cfg(test)]\nmod tests {{\n{code}}}\n"),
        );
        passes(
            "src/model/a.rs",
            &format!("#[cfg(test)]\npub fn b<A, B>() {{\n    {call};\n}}\n"),
        );
        passes("xtask/src/a.rs", &code);
        // The next item is no test any more.
        refused(
            "src/model/a.rs",
            &format!("#[cfg(test)]\nuse std::fs;\n{code}"),
            "outside tests",
        );
        refused(
            "src/model/a.rs",
            &format!("#[cfg(test)]\nmod tests {{\n}}\n{code}"),
            "outside tests",
        );
        refused(
            "src/model/a.rs",
            &format!("#[cfg(any(test, unix))]\n{code}"),
            "outside tests",
        );
    }
    passes(
        "src/model/a.rs",
        "fn a() {\n    b.unwrap_or(1);\n    self.expected(2);\n    c.unwrap_or_default();\n}\n",
    );
    passes(
        "src/model/a.rs",
        "// a.unwrap()\n/* panic!() /* todo!() */ dbg!() */\n",
    );
    passes(
        "src/model/a.rs",
        "const A: &str = r#\"a \" panic!() \"#;\nconst B: &str = \"\\\" panic!()\";\n",
    );
    refused(
        "src/model/a.rs",
        "fn a<'a>(b: &'a str) { ('\"', '\\'', '\\\\', panic!()) }\n",
        "outside tests",
    );
}

#[test]
fn a_file_of_tests_is_test_code() {
    let tests = "fn a() {\n    b.unwrap();\n}\n";
    let declared = "#[cfg(test)]\nmod tests;\n";
    let files = [
        ("src/model/mod.rs", declared),
        ("src/model/tests.rs", tests),
    ];
    assert_eq!(findings_in(&files), Vec::<String>::new());
    let deeper = [
        ("src/model/a.rs", declared),
        ("src/model/a/tests/deep.rs", tests),
    ];
    assert_eq!(findings_in(&deeper), Vec::<String>::new());
    let named = "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;\n";
    let beside = [("src/model/a.rs", named), ("src/model/a_tests.rs", tests)];
    assert_eq!(findings_in(&beside), Vec::<String>::new());
    let undeclared = [
        ("src/model/mod.rs", "mod tests;\n"),
        ("src/model/tests.rs", tests),
    ];
    assert_eq!(findings_in(&undeclared).len(), 1);
}

#[test]
fn prints_are_refused_outside_main_and_cli() {
    for call in [
        "println!()",
        "eprintln!(\"a\")",
        "print!(\"a\")",
        "eprint!(\"a\")",
    ] {
        let code = format!("fn a() {{\n    {call};\n}}\n");
        refused("src/node.rs", &code, "outside main and cli");
        for path in [
            "src/main.rs",
            "src/cli.rs",
            "src/cli/bench.rs",
            "xtask/src/a.rs",
        ] {
            passes(path, &code);
        }
    }
}

#[test]
fn tasks_that_nobody_watches_are_refused() {
    for call in [
        "tokio::spawn(b())",
        "tokio::task::spawn_blocking(b)",
        "std::thread::spawn(b)",
        "std::thread::Builder::new().spawn(b)",
        "Handle::current().spawn(b())",
        "tasks.spawn_on(b(), &handle)",
    ] {
        let code = format!("fn a() {{\n    {call};\n}}\n");
        refused("src/counter/a.rs", &code, "supervisor.spawn");
        passes("src/supervisor.rs", &code);
        passes("src/cli/a.rs", &code);
    }
    refused("src/log/a.rs", "use tokio::spawn;\n", "supervisor.spawn");
    passes(
        "src/log/a.rs",
        "fn a() {\n    options.supervisor.spawn(Task::B, b());\n    respawn(spawned);\n}\n",
    );
}

#[test]
fn folders_of_one_machine_are_refused() {
    for folder in MACHINE_FOLDERS {
        for text in [
            format!("see /{folder}/notes\n"),
            format!("PATH=/{folder}/x:/bin\n"),
            format!("`/{folder}/`\n"),
        ] {
            refused("docs/a.md", &text, "one machine");
            refused("src/model/a.rs", &format!("// {text}"), "one machine");
        }
        passes(
            "docs/a.md",
            &format!("target/{folder}/a ./{folder}/a ${{HERE}}/{folder}/a host.org/{folder}/a\n"),
        );
    }
}

#[test]
fn a_path_names_its_module() {
    let module = |path: &str| source::Source::parse(path, HEADER).module().join("::");
    assert_eq!(module("src/main.rs"), "");
    assert_eq!(module("src/lib.rs"), "");
    assert_eq!(module("src/cli.rs"), "cli");
    assert_eq!(module("src/cli/mod.rs"), "cli");
    assert_eq!(module("src/log/amqp/topology.rs"), "log::amqp::topology");
}

#[test]
fn a_test_program_that_locks_folders_starts_no_processes() {
    let locks = "fn a() { let dir = DataDir::open(path, &belonging); }\n";
    let starts = "use std::process::Command;\n";
    let kit = "#[path = \"../kit/mod.rs\"]\nmod kit;\n";
    for (path, code) in [("tests/a/b.rs", starts), ("tests/a/main.rs", kit)] {
        let found = findings_in(&[("tests/a/locks.rs", locks), (path, code)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(&format!("{path}:")), "{found:#?}");
        assert!(found[0].contains("starts no processes"), "{found:#?}");
        // Another program, or one that locks nothing.
        let found = findings_in(&[("tests/other/locks.rs", locks), (path, code)]);
        assert_eq!(found, [""; 0]);
        passes(path, code);
    }
}
