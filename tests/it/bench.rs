//! `headcount bench`, against a real node and against what is none.
//!
//! Invariant: what it says of a node is what the node says of itself, and a count that can't be is
//! never success.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde_json::Value;

use crate::node::{Node, Ran, run};

/// Runs a short bench that prints JSON.
fn bench(url: &str, flags: &[&str]) -> Ran {
    let common = ["bench", "--url", url, "--json", "--warmup-s", "0.1"];
    run(&[&common, flags].concat())
}

/// The one line of JSON of a bench that succeeded.
#[track_caller]
fn report(ran: &Ran) -> Value {
    assert_eq!(ran.status.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["version"], 1);
    report
}

#[track_caller]
fn number(report: &Value, field: &str) -> f64 {
    report[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} is no number in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_measured_and_counted() {
    let node = Node::start(&[]);
    let flags = ["--duration-s", "0.5", "--tenants", "20", "--settle"];
    let report = report(&bench(node.url(), &flags));
    assert_eq!(report["work"], "items");
    assert_eq!(report["seconds"], 0.5);
    assert_eq!(report["rate"], Value::Null);
    let items = number(&report, "items");
    assert!(items > 0.0, "{report}");
    assert_eq!(number(&report, "requests"), items);
    assert_eq!(number(&report, "distinct"), items);
    assert!((number(&report, "items_per_s") - 2.0 * items).abs() < 1.0);
    let latency = &report["latency_us"];
    let percentiles = ["p50", "p90", "p99", "p999", "max"].map(|name| number(latency, name));
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{latency}");
    assert_eq!(report["checked"]["tenants"], 20);
    assert_eq!(report["checked"]["exact"], true);
    assert_eq!(report["checked"]["wrong"], 0);
    assert!(number(&report, "settled_seconds") >= 0.5, "{report}");
    assert!(number(&report, "settled_items_per_s") > 0.0, "{report}");
    // The counts are there, under the names that the report tells, warm-up included.
    let prefix = report["prefix"].as_str().expect("a prefix");
    let page = node
        .get(&format!("/tenants?prefix={prefix}-t&limit=1000"))
        .await;
    let tenants = page.json["tenants"].as_array().expect("tenants");
    let counts = tenants.iter().map(|tenant| number(tenant, "count"));
    assert!(counts.sum::<f64>() >= items);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_in_arrays_count_once() {
    let node = Node::start(&[]);
    let flags = [
        "--requests",
        "200",
        "--warmup-s",
        "0",
        "--items-per-request",
        "50",
        "--duplicates",
        "0.5",
        "--tenants",
        "9",
        "--zipf",
        "1.2",
        "--threads",
        "2",
        "--prefix",
        "dup",
    ];
    let common = ["bench", "--url", node.url(), "--json"];
    // A second run with the same prefix has other ids, on top of what is there.
    for _ in 0..2 {
        let before = sum(&node).await;
        let report = report(&run(&[&common[..], &flags].concat()));
        assert_eq!(report["requests"], 200);
        assert_eq!(report["items"], 10_000);
        assert_eq!(report["checked"]["exact"], true);
        let distinct = number(&report, "distinct");
        assert!((4_000.0..9_000.0).contains(&distinct), "{distinct}");
        assert_eq!(sum(&node).await, before + distinct);
    }
}

/// The items of all tenants.
async fn sum(node: &Node) -> f64 {
    let page = node.get("/tenants?limit=1000").await;
    let tenants = page.json["tenants"].as_array().expect("tenants");
    tenants.iter().map(|tenant| number(tenant, "count")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_keeps_its_rate() {
    let node = Node::start(&[]);
    let flags = ["--rate", "200", "--duration-s", "1", "--connections", "8"];
    let report = report(&bench(node.url(), &flags));
    assert_eq!(report["rate"], 200.0);
    // What is answered in the measured second counts: on a slow machine some that were due in the
    // warm-up too, and some that are due in it not.
    let requests = number(&report, "requests");
    assert!((100.0..=220.0).contains(&requests), "{report}");
    assert_eq!(report["checked"]["wrong"], 0);
    let flags = ["--rate", "1000", "--requests", "300", "--threads", "2"];
    let counted = self::report(&bench(node.url(), &flags));
    assert_eq!(counted["requests"], 300);
    assert!(number(&counted, "seconds") > 0.25, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_read() {
    let node = Node::start(&[]);
    let flags = ["--work", "counts", "--duration-s", "0.3"];
    let read = report(&bench(node.url(), &flags));
    assert_eq!(read["work"], "counts");
    assert!(number(&read, "requests") > 0.0, "{read}");
    assert_eq!(read["items"], 0);
    assert_eq!(read["not_exact"], 0);
    assert_eq!(read["checked"], Value::Null);
    let weak = report(&bench(
        node.url(),
        &[&flags[..], &["--consistency", "eventual"]].concat(),
    ));
    assert_eq!(weak["not_exact"], weak["requests"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_a_table() {
    let node = Node::start(&[]);
    let ran = run(&[
        "bench",
        "--url",
        node.url(),
        "--requests",
        "50",
        "--warmup-s",
        "0",
    ]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
    for words in [
        "50 ",
        "latency",
        "99.9%",
        "The counts of all 1,000 tenants are exact.",
    ] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_refuses_ends_the_run() {
    let node = Node::start(&["--items-max", "5"]);
    let ran = bench(node.url(), &["--items-per-request", "6"]);
    assert_failed(&ran, "rejected with 413: ");
    let elsewhere = bench(&format!("{}/nowhere", node.url()), &[]);
    assert_failed(&elsewhere, "rejected with 404: ");
}

#[test]
fn nobody_there_is_said_in_one_line() {
    assert_failed(
        &bench("http://127.0.0.1:1", &[]),
        "no answer: 127.0.0.1:1: ",
    );
    assert_failed(&bench("https://127.0.0.1", &[]), "is not a URL");
    let flags = ["--consistency", "strong"];
    assert_failed(
        &bench("http://127.0.0.1:1", &flags),
        "--consistency applies only to --work counts",
    );
}

#[test]
fn a_count_that_cant_be_fails_the_run() {
    let url = fake(9, 0);
    let ran = run(&[
        "bench",
        "--url",
        &url,
        "--json",
        "--warmup-s",
        "0",
        "--requests",
        "10",
        "--connections",
        "2",
        "--tenants",
        "1",
    ]);
    assert_eq!(ran.status.code(), Some(1), "{}", ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["requests"], 10);
    assert_eq!(report["checked"]["wrong"], 1);
    assert!(
        ran.stderr.contains("1 of 1 tenants are wrong: b"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("-t0 has 9 items, not 10"),
        "{}",
        ran.stderr
    );
}

#[track_caller]
fn assert_failed(ran: &Ran, words: &str) {
    assert_eq!(ran.status.code(), Some(1), "{}", ran.stdout);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn what_is_refused_or_closed_is_sent_again() {
    let url = fake(10, 3);
    let flags = ["--requests", "10", "--connections", "2", "--tenants", "1"];
    let common = ["bench", "--url", &url, "--json", "--warmup-s", "0"];
    let report = report(&run(&[&common[..], &flags].concat()));
    assert_eq!(report["requests"], 10);
    assert_eq!(report["refused"], 3);
    assert_eq!(report["in_doubt"], 0);
    // Each answer closed its connection, and two were there to begin with.
    assert_eq!(report["reconnects"], 11);
    assert_eq!(report["checked"]["exact"], true);
}

/// A server that refuses the first `refusals` posts, accepts all others, and always gives the same
/// count. Each answer closes its connection.
fn fake(count: u64, refusals: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let posts = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let posts = posts.clone();
            std::thread::spawn(move || {
                answer(stream, count, || posts.fetch_add(1, SeqCst) < refusals)
            });
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, count: u64, refuses: impl Fn() -> bool) {
    let mut bytes = [0; 4096];
    let read = stream.read(&mut bytes).unwrap_or(0);
    if read == 0 {
        return;
    }
    let request = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let tenant = request.split_once("tenant=").map(|(_, rest)| rest);
    let tenant = tenant.and_then(|rest| rest.split_whitespace().next());
    let (status, body) = match tenant {
        Some(tenant) => {
            let row = format!("{{\"tenant\":\"{tenant}\",\"count\":{count}}}");
            ("200 OK", format!("{{\"counts\":[{row}],\"exact\":true}}"))
        }
        None if refuses() => ("503 Full\r\nRetry-After: 0", String::new()),
        None => ("200 OK", "{\"accepted\":1}".to_owned()),
    };
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
}
