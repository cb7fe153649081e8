//! The commands that are clients of a running node.
//!
//! Invariant: they say what happened, and running them again is safe.

use std::fmt::Write;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::kit::reaper;
use crate::node::{Node, PATIENCE, headcount, items, run, wait};

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
        gone.stderr.starts_with("headcount: no response: "),
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
async fn health_is_what_the_node_says_of_itself() {
    let mut node = Node::start(&[]);
    for flags in [&[][..], &["--ready"]] {
        let well = run(&[&["health", "--url", node.url()], flags].concat());
        assert_eq!(well.stdout, "ok\n");
        assert_eq!(well.status.code(), Some(0), "{}", well.stderr);
    }
    // Something that answers is not yet a node.
    let other = run(&["health", "--url", &format!("{}/docs", node.url())]);
    assert_eq!(other.status.code(), Some(1));
    node.kill();
    let dead = run(&["health", "--url", node.url()]);
    assert_eq!(dead.status.code(), Some(1));
    assert!(dead.stderr.contains("no response"), "{}", dead.stderr);
    assert_eq!(dead.stdout, "");
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

/// A pipe's end that nobody reads.
fn broken_pipe() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

/// Starts `load` of standard input.
fn load_stdin(url: &str, batch_items: &str) -> (Child, ChildStdin) {
    let mut child = headcount()
        .args(["load", "--url", url, "--batch-items", batch_items, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdin = child.stdin.take().expect("piped");
    (child, stdin)
}

fn lines(ids: std::ops::Range<u32>) -> String {
    ids.map(|id| format!("{{\"id\":\"{id}\",\"tenant\":\"a\"}}\n"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn load_from_standard_input_outlives_the_node() {
    let address = format!("127.0.0.1:{}", reaper::free_port());
    let flags = ["--listen", &address];
    let mut node = Node::start(&flags);
    let (mut child, mut stdin) = load_stdin(node.url(), "50");
    stdin.write_all(lines(0..1_000).as_bytes()).expect("read");
    let deadline = Instant::now() + PATIENCE;
    while node.count("a").await == 0 {
        assert!(Instant::now() < deadline, "nothing was loaded");
    }
    node.kill();
    // In the node's place, a listener that answers nothing: the load certainly met the gap.
    let gap = tokio::net::TcpListener::bind(&address).await.expect("free");
    stdin
        .write_all(lines(1_000..2_000).as_bytes())
        .expect("read");
    let met = tokio::time::timeout(PATIENCE, gap.accept()).await;
    drop(met.expect("in time").expect("a connection"));
    reaper::stop_listening(gap);
    node.kill_and_restart(&flags);
    stdin
        .write_all(lines(1_500..3_000).as_bytes())
        .expect("read");
    drop(stdin);
    assert_eq!(wait(&mut child).code(), Some(0));
    let output = child.wait_with_output().expect("output");
    let summary = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(summary.starts_with("Loaded 3,500 items in "), "{summary}");
    assert!(!summary.contains(" 0 retries"), "{summary}");
    assert_eq!(node.count("a").await, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_load_while_its_input_stays_open() {
    let node = Node::start(&[]);
    let (mut child, mut stdin) = load_stdin(node.url(), "1");
    stdin.write_all(b"\n{\"id\":\n").expect("read");
    assert_eq!(wait(&mut child).code(), Some(1));
    drop(stdin);
    let output = child.wait_with_output().expect("output");
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains("line 2: "), "{error}");
    assert!(!error.contains("line index"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_says_that_it_stopped_at_a_missing_file() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let good = folder.path().join("good.ndjson").display().to_string();
    std::fs::write(&good, lines(0..3)).expect("written");
    let loaded = run(&["load", "--url", node.url(), &good, "/none.ndjson"]);
    assert_eq!(loaded.status.code(), Some(1));
    assert!(
        loaded.stdout.starts_with("Stopped after 3 items in "),
        "{}",
        loaded.stdout
    );
    assert_eq!(node.count("a").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_have_gone_stop_neither_server_nor_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://127.0.0.1:{}", reaper::free_port());
    let mut server = headcount()
        .args([
            "serve",
            "--log",
            "debug",
            "--listen",
            &url[7..],
            "--data-dir",
        ])
        .arg(folder.path().join("data"))
        .stdout(broken_pipe())
        .stderr(broken_pipe())
        .spawn()
        .expect("the program starts");
    let good = folder.path().join("good.ndjson").display().to_string();
    std::fs::write(&good, lines(0..3)).expect("written");
    // It tries again until the server listens.
    let loaded = run(&["load", "--url", &url, "--retry-for-s", "30", &good]);
    assert_eq!(loaded.status.code(), Some(0), "{}", loaded.stderr);
    assert_eq!(run(&["count", "--url", &url, "a"]).stdout, "a\t3\n");
    let mut count = headcount()
        .args(["count", "--url", &url, "a"])
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    assert_eq!(wait(&mut count).code(), Some(1));
    let output = count.wait_with_output().expect("output");
    assert_eq!(String::from_utf8(output.stderr).expect("UTF-8"), "");
    let pid = server.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(wait(&mut server).code(), Some(0));
}
