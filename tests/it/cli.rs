//! The commands that are clients of a running node.
//!
//! Invariant: they say what happened, and running them again is safe.

use std::fmt::Write;

use serde_json::json;

use crate::node::{Node, items, run};

#[tokio::test(flavor = "multi_thread")]
async fn count_prints_a_line_a_tenant() {
    let node = Node::start(&[]);
    node.post(&items("a b", 0, 3)).await;
    let counted = run(&["count", "--url", node.url(), "a b", "none"]);
    assert_eq!(counted.stdout, "a b\t3\nnone\t0\n");
    assert_eq!(counted.status.code(), Some(0));
    let weak = run(&[
        "count",
        "--url",
        node.url(),
        "--consistency",
        "eventual",
        "a b",
    ]);
    assert_eq!(weak.stdout, "a b\t3\tnot exact\n");
    let many: Vec<String> = (0..1_200).map(|n| format!("t{n}")).collect();
    let mut args = vec!["count", "--url", node.url()];
    args.extend(many.iter().map(String::as_str));
    assert_eq!(run(&args).stdout.lines().count(), 1_200);
}

#[test]
fn a_coordinator_that_is_not_there_is_said_in_one_line() {
    let gone = run(&["count", "--url", "http://127.0.0.1:1", "a"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        gone.stderr.starts_with("headcount: no answer: "),
        "{}",
        gone.stderr
    );
    assert_eq!(gone.stderr.lines().count(), 1);
    let wrong = run(&["count", "--url", "nonsense", "a"]);
    assert!(
        wrong.stderr.contains("is not the URL of a coordinator"),
        "{}",
        wrong.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn load_posts_files_and_may_be_run_again() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let ndjson = folder.path().join("items.ndjson").display().to_string();
    let csv = folder.path().join("items.csv").display().to_string();
    let mut lines = String::new();
    let mut rows = "tenant,id\n".to_owned();
    for id in 0..25_000 {
        writeln!(
            lines,
            "{}",
            json!({"id": id.to_string(), "tenant": format!("t{}", id % 7)})
        )
        .expect("text");
        writeln!(rows, "c,{}", id % 1_000).expect("text");
    }
    std::fs::write(&ndjson, lines).expect("written");
    std::fs::write(&csv, rows).expect("written");
    for _ in 0..2 {
        let loaded = run(&[
            "load",
            "--url",
            node.url(),
            "--batch-items",
            "1000",
            &ndjson,
            &csv,
        ]);
        assert_eq!(loaded.status.code(), Some(0), "{}", loaded.stderr);
        assert!(
            loaded.stdout.starts_with("Loaded 50,000 items in "),
            "{}",
            loaded.stdout
        );
        assert_eq!(node.count("t0").await, 3_572);
        assert_eq!(node.count("c").await, 1_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_names_the_lines_that_are_refused() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.ndjson").display().to_string();
    let good = "{\"id\":\"1\",\"tenant\":\"a\"}\n";
    std::fs::write(
        &path,
        format!("{good}\n{good}{{\"id\":1,\"tenant\":\"a\"}}\n"),
    )
    .expect("written");
    let refused = run(&["load", "--url", node.url(), "--batch-items", "1", &path]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused
            .stderr
            .contains("line 4: id must be a string, not a number"),
        "{}",
        refused.stderr
    );
    let missing = run(&["load", "--url", node.url(), "/none.ndjson"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        missing.stderr.contains("/none.ndjson: No such file"),
        "{}",
        missing.stderr
    );
}
