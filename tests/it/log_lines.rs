//! What the log says, line by line, for a program that reads it.
//!
//! Invariant: in JSON, every line of the log is JSON, and trouble is told with the id of its
//! request.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::node::{Answer, Node, PATIENCE, headcount, wait};

/// Starts a node on `data` whose output and log go to the same file.
fn start_into(log: &File, mut command: Command, data: &Path, flags: &[&str]) -> Child {
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .args(flags)
        .stdout(log.try_clone().expect("a file"))
        .stderr(log.try_clone().expect("a file"));
    command.spawn().expect("the program starts")
}

/// The line by which a node tells that it listens, once it is in its log.
async fn greeting_in(log: &Path) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(log).expect("a log");
        if let Some(line) = text.lines().find(|line| line.contains("is listening on")) {
            return serde_json::from_str::<Value>(line).expect("JSON");
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The messages of a log whose every line is JSON with one.
fn messages(log: &str) -> Vec<String> {
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        line["message"].as_str().expect("a message").to_owned()
    };
    log.lines().map(message).collect()
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let file = File::create(&log).expect("a file");
    let json = ["--log-format", "json"];
    let mut node = start_into(&file, headcount(), &data, &json);
    let greeting = greeting_in(&log).await;
    let url = greeting["url"].as_str().expect("an address");
    assert!(url.starts_with("http://127.0.0.1:"), "{greeting}");
    // Ends that are errors: before the log starts, by misuse, and after.
    for (args, status) in [
        (&["--items-max", "0"][..], 2),
        (&["--nonsense"], 2),
        (&[], 1),
    ] {
        let mut twin = start_into(&file, headcount(), &data, &[&json, args].concat());
        assert_eq!(wait(&mut twin).code(), Some(status));
    }
    // A panic, of a task that debug builds let a test choose.
    let mut command = headcount();
    command
        .env("HEADCOUNT_TEST_PANIC", "metrics-upkeep")
        .env("RUST_BACKTRACE", "1");
    let mut panics = start_into(&file, command, &folder.path().join("panics"), &json);
    assert_eq!(wait(&mut panics).code(), Some(1));
    node.kill().expect("killed");
    node.wait().expect("waited");
    let text = std::fs::read_to_string(&log).expect("a log");
    let lines = messages(&text);
    for told in [
        "items-max is \"0\"",
        "unexpected argument '--nonsense' found",
        "is in use by another process",
        "a thread panicked",
        "the task metrics-upkeep panicked",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(told)),
            "{told} in {text}"
        );
    }
}

/// Asks for a strong count without time, until it is refused for that; gives the request's id,
/// which the answer's head and body both name.
async fn refused_for_want_of_time(node: &Node, id: Option<&str>) -> String {
    // Such a read has no answer, unless it is quicker than that.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = "/items/a/count?consistency=strong&timeout_ms=0";
        let mut request = node.request(reqwest::Method::GET, path);
        if let Some(id) = id {
            request = request.header("X-Request-Id", id);
        }
        let answer = Answer::of(request).await;
        if answer.status == 503 {
            answer.assert_problem(503, "no-majority");
            assert_eq!(
                answer.json["request_id"],
                json!(answer.header("x-request-id"))
            );
            return answer.header("x-request-id").to_owned();
        }
        assert!(Instant::now() < deadline, "{}", answer.text);
    }
}

/// The lines of a node's log that tell of refusals, once they tell of so many.
async fn lines_of_refusals(node: &Node, count: u64) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = node.log();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let refused = lines.filter(|line: &Value| line["message"] == "request failed");
        let refused: Vec<Value> = refused.collect();
        let times = refused.iter().filter_map(|line| line["times"].as_u64());
        if times.sum::<u64>() == count {
            return refused;
        }
        assert!(Instant::now() < deadline, "{log}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn trouble_on_this_side_is_told_with_the_id_of_its_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("made");
    let node = Node::start_logged(&data);
    let ask = async |id: Option<&str>| refused_for_want_of_time(&node, id).await;
    assert_eq!(ask(Some("night-1")).await, "night-1");
    let made = ask(None).await;
    assert!(made.len() > 8, "{made}");
    let mut last = String::new();
    for _ in 0..20 {
        last = ask(None).await;
    }
    assert_ne!(made, last);
    let lines = lines_of_refusals(&node, 22).await;
    assert_eq!(lines[0]["request_id"], "night-1");
    assert_eq!(lines[0]["times"], 1);
    assert_eq!(lines[0]["status"], 503);
    assert_eq!(lines[0]["route"], "/items/{tenant}/count");
    assert_eq!(
        lines.last().map(|line| &line["request_id"]),
        Some(&json!(last))
    );
    assert!(lines.len() < 22, "they are counted: {lines:?}");
    // Success has none.
    let answer = node.get("/items/a/count").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-request-id")),
        (200, "")
    );
}
