//! A node that listens at a path instead of an address.
//!
//! Invariant: whatever speaks HTTP to a Unix socket is served as over TCP, and the path is free
//! again after any end.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::wait;
use crate::node::{Node, headcount, items, run};

/// A folder, and the address of a socket in it.
fn socket() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    (folder, address)
}

fn path(address: &str) -> &Path {
    Path::new(address.trim_start_matches("unix:"))
}

fn is_socket(address: &str) -> bool {
    std::fs::symlink_metadata(path(address)).is_ok_and(|it| it.file_type().is_socket())
}

/// Runs a command of the program to its end, with `listen` in its environment.
fn run_beside(listen: &str, args: &[&str]) -> Output {
    let mut command = headcount();
    command.env("HEADCOUNT_LISTEN", listen).args(args);
    command.output().expect("the program runs")
}

#[tokio::test]
async fn curl_and_the_commands_reach_a_node_at_a_path() {
    let (folder, address) = socket();
    let node = Node::start_in(&folder.path().join("data"), &["--listen", &address]);
    assert_eq!(node.url(), address);
    let curl = |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--unix-socket"]);
        let output = curl.arg(path(&address)).args(args).output();
        String::from_utf8(output.expect("curl runs").stdout).expect("UTF-8")
    };
    let posted = curl(&[
        "http://any.example/items",
        "--json",
        r#"{"id":"5","tenant":"asd"}"#,
    ]);
    let posted: Value = serde_json::from_str(&posted).expect("JSON");
    assert_eq!(
        (&posted["accepted"], &posted["new"]),
        (&json!(1), &json!(1))
    );
    let count = curl(&["http://localhost/items/asd/count"]);
    assert!(count.contains(r#""count":1"#), "{count}");

    let csv = folder.path().join("items.csv");
    std::fs::write(&csv, "id,tenant\n5,asd\n6,asd\n").expect("written");
    let csv = csv.display().to_string();
    for (args, printed) in [
        (vec!["health", "--url", &address], "ok"),
        (vec!["load", "--url", &address, &csv], "2"),
        (vec!["count", "--url", &address, "asd"], "2"),
        (
            vec![
                "bench",
                "--url",
                &address,
                "--requests",
                "200",
                "--warmup-s",
                "0",
            ],
            "200",
        ),
    ] {
        let ran = run(&args);
        assert!(ran.status.success(), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.contains(printed), "{args:?}: {}", ran.stdout);
    }
    // As in a container, whose health check knows the node's environment.
    let health = run_beside(&address, &["health"]);
    assert!(health.status.success(), "{health:?}");
}

#[tokio::test]
async fn a_path_is_free_after_a_stop_and_after_a_kill() {
    let (folder, address) = socket();
    let data_dir = folder.path().join("data");
    let flags = ["--listen", address.as_str()];
    let mut node = Node::start_in(&data_dir, &flags);
    assert_eq!(node.post(&items("a", 0, 10)).await.status, 200);

    let other = folder.path().join("other").display().to_string();
    let second = run(&["serve", "--listen", &address, "--data-dir", &other]);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("can't listen on {address}: another process listens there");
    assert!(second.stderr.contains(&expected), "{}", second.stderr);
    assert!(!Path::new(&other).exists(), "it touched its folder");

    node.kill();
    assert!(is_socket(&address), "nobody removes it");
    let mut node = Node::start_in(&data_dir, &flags);
    assert_eq!(node.count("a").await, 10);
    assert!(node.terminate().success());
    assert!(!path(&address).exists());

    std::fs::write(path(&address), "precious").expect("written");
    let refused = run(&["serve", "--listen", &address, "--data-dir", &other]);
    assert!(
        refused.stderr.contains("is not a socket"),
        "{}",
        refused.stderr
    );
    let kept = std::fs::read_to_string(path(&address)).expect("a file");
    assert_eq!(kept, "precious");
}

/// Probes can have a path beside an address, and the other way round.
#[tokio::test]
async fn probes_have_a_path_of_their_own() {
    let (folder, address) = socket();
    let _node = Node::start_in(&folder.path().join("data"), &["--probe-listen", &address]);
    for (args, succeeds) in [
        (["health", "--url", &address], true),
        (["count", "--url", &address], false),
    ] {
        assert_eq!(run(&args).status.success(), succeeds, "{args:?}");
    }
}

/// A client that takes nothing of a long answer is given up, though nothing but the node knows of
/// it.
#[tokio::test]
async fn who_takes_no_answer_is_cut_off_at_a_path_too() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let (folder, address) = socket();
    let data_dir = folder.path().join("data");
    let flags = ["--listen", &address, "--idle-timeout-ms", "300"];
    let node = Node::start_in(&data_dir, &flags);
    let mut stuck = UnixStream::connect(path(&address)).expect("connected");
    stuck
        .set_write_timeout(Some(Duration::from_millis(100)))
        .expect("set");
    // As many requests as the node takes before their answers fill the way back.
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    while stuck.write_all(&request).is_ok() {}
    let open = |metrics: &str| {
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with("headcount_http_connections "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    wait::until("a client that is cut off", async || {
        match open(&node.get("/metrics").await.text) {
            Some(connections) if connections > 1.0 => Err(connections),
            _ => Ok(()),
        }
    })
    .await;
    let mut rest = Vec::new();
    // What it had been sent is still there to read; after that comes the end.
    let _ = stuck.read_to_end(&mut rest);
    assert!(!rest.is_empty());
}
