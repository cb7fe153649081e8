//! `headcount load`, against real nodes and against what stands in front of them.
//!
//! Invariant: no row is dropped in silence: what was not acknowledged is told with its line, and
//! the status is not 0.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, Ran, headcount, run};

/// A file of this name and content.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("written");
    (folder, path.display().to_string())
}

fn load(url: &str, flags: &[&str], path: &str) -> Ran {
    run(&[&["load", "--url", url], flags, &[path]].concat())
}

fn lines(ids: std::ops::Range<u32>) -> String {
    ids.map(|id| format!("{{\"id\":\"{id}\",\"tenant\":\"a\"}}\n"))
        .collect()
}

/// A request as a server sees it: its first line and its body.
type Request = (String, String);

/// Answers each request with what `answer` makes of it and of how many came before; keeps all of
/// them.
fn server(answer: impl Fn(&Request, usize) -> String + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
    let kept = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let request = receive(&stream);
            let before = kept.lock().len();
            kept.lock().push(request.clone());
            let _ = (&stream).write_all(answer(&request, before).as_bytes());
        }
    });
    Server { url, requests }
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

fn receive(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (first, String::from_utf8(body).expect("UTF-8"))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

/// All of a body's items are accepted.
fn accepted(body: &str) -> String {
    let items = body.lines().count();
    answer("200 OK", "", &json!({"accepted": items}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_quote_is_an_error_and_what_comes_before_it_is_loaded() {
    let node = Node::start(&[]);
    let mut rows = "id,tenant,note\n".to_owned();
    for id in 0..3_000 {
        let note = if id == 999 { "5\" nail" } else { "x" };
        rows.push_str(&format!("{id},q,{note}\n"));
    }
    for (note, why) in [
        ("5\" nail", "there is a quote inside an unquoted field"),
        (
            "\"5 nail",
            "the quote that opens a field here is never closed",
        ),
    ] {
        let (_folder, path) = file("items.CSV", rows.replace("5\" nail", note));
        let loaded = load(node.url(), &[], &path);
        assert_eq!(loaded.status.code(), Some(1));
        let told = format!("headcount: {path}, line 1001: {why}");
        assert!(loaded.stderr.starts_with(&told), "{}", loaded.stderr);
        assert!(
            loaded.stdout.starts_with("Stopped after 999 items in "),
            "{}",
            loaded.stdout
        );
        assert_eq!(node.count("q").await, 999);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_trimmed_in_header_and_fields_and_the_summary_says_so() {
    let node = Node::start(&[]);
    let (_folder, path) = file("items.csv", "id, tenant\n1, acme\n2,acme\n3, acme\n");
    let loaded = load(node.url(), &[], &path);
    assert_eq!(loaded.status.code(), Some(0), "{}", loaded.stderr);
    assert_eq!(node.count("acme").await, 3);
    assert!(
        loaded.stdout.contains(" from 4 lines read, 0 retries\n"),
        "{}",
        loaded.stdout
    );
    assert!(
        loaded
            .stdout
            .ends_with("Spaces around fields were removed on 2 lines of CSV\n"),
        "{}",
        loaded.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_items_are_named_by_line_and_left_out_on_request() {
    let node = Node::start(&[]);
    let mut content = String::new();
    for line in 1..=400 {
        content.push_str(&match line {
            7 => "{\"id\":7,\"tenant\":\"a\"}\n".to_owned(),
            8 => "\n".to_owned(),
            9 => "no JSON\n".to_owned(),
            // More of them than one answer names.
            200..=350 => format!("{{\"id\":\"\",\"tenant\":\"a{line}\"}}\n"),
            _ => format!("{{\"id\":\"{line}\",\"tenant\":\"a\"}}\n"),
        });
    }
    let (_folder, path) = file("items.ndjson", content);
    let stopped = load(node.url(), &[], &path);
    assert_eq!(stopped.status.code(), Some(1));
    assert_eq!(node.count("a").await, 0);
    let loaded = load(node.url(), &["--skip-invalid"], &path);
    assert_eq!(loaded.status.code(), Some(1));
    assert_eq!(node.count("a").await, 399 - 153);
    let named = |line: u32| {
        let told = format!("headcount: {path}, line {line}: ");
        loaded.stderr.contains(&told)
    };
    assert!((200..=350).chain([7, 9]).all(named), "{}", loaded.stderr);
    assert_eq!(loaded.stderr.lines().count(), 154, "{}", loaded.stderr);
    assert!(
        loaded
            .stderr
            .ends_with("headcount: 153 items were rejected\n"),
        "{}",
        loaded.stderr
    );
    let json = load(node.url(), &["--skip-invalid", "--json"], &path);
    assert_eq!(json.status.code(), Some(1));
    let summary: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(summary["loaded"], false);
    assert_eq!(summary["lines"], 400);
    assert_eq!(summary["items"], 399 - 153);
    assert_eq!(summary["refused"], 153);
    let told = json.stderr.lines().map(serde_json::from_str);
    let told: Vec<Value> = told.collect::<Result<_, _>>().expect("JSON");
    assert!(
        told.iter()
            .any(|told| told["line"] == 9 && told["file"] == json!(path))
    );
    assert_eq!(told[153]["error"], "153 items were rejected");
}

#[test]
fn what_a_proxy_answers_for_a_while_is_tried_again_and_told() {
    let server = server(|(_, body), before| match before {
        0 => answer("502 Bad Gateway", "", "<html>"),
        1 => answer("429 Too Many Requests", "retry-after: 1\r\n", ""),
        2 => answer("500 Internal Server Error", "", ""),
        _ => accepted(body),
    });
    let (_folder, path) = file("items.ndjson", lines(0..3));
    let started = std::time::Instant::now();
    let loaded = load(&server.url, &["--connections", "1"], &path);
    assert_eq!(loaded.status.code(), Some(0), "{}", loaded.stderr);
    assert!(started.elapsed().as_millis() >= 1_000);
    assert!(
        loaded.stdout.ends_with(", 3 retries\n"),
        "{}",
        loaded.stdout
    );
    // No terminal shows it, so a line does; the next one would come ten seconds later.
    assert_eq!(
        loaded.stderr,
        "headcount: retrying: answered with 502: Bad Gateway\n"
    );
    assert_eq!(server.requests.lock().len(), 4);
}

#[test]
fn what_is_too_large_or_too_slow_is_halved() {
    for (status, posts) in [("413 Payload Too Large", 3), ("408 Request Timeout", 4)] {
        let server = server(move |(_, body), _| match body.lines().count() {
            0..=25 => accepted(body),
            _ => answer(status, "", ""),
        });
        let (_folder, path) = file("items.ndjson", lines(0..100));
        let flags = ["--connections", "1", "--batch-items", "50"];
        let loaded = load(&server.url, &flags, &path);
        assert_eq!(loaded.status.code(), Some(0), "{}", loaded.stderr);
        let requests = server.requests.lock();
        let taken = requests.iter().map(|(_, body)| body.as_str());
        let taken = taken.filter(|body| body.lines().count() <= 25);
        assert_eq!(
            taken.collect::<String>(),
            lines(0..100),
            "each once, in order"
        );
        // What was too large once is not tried again.
        let refused = requests.len() - 4;
        assert_eq!(refused, posts - 2, "{status}");
    }
}

#[test]
fn a_redirect_is_named_and_not_followed() {
    let target = server(|(_, body), _| accepted(body));
    let location = format!("location: {}/items\r\n", target.url);
    let moved = server(move |_, _| answer("301 Moved Permanently", &location, ""));
    let (_folder, path) = file("items.ndjson", lines(0..3));
    for args in [&["load", &path][..], &["count", "a"], &["health"]] {
        let ran = run(&[args, &["--url", &moved.url]].concat());
        assert_eq!(ran.status.code(), Some(1));
        let told = format!("redirected with 301 to {}/items: ", target.url);
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
    assert!(target.requests.lock().is_empty());
}

#[test]
fn an_answer_that_accepted_something_else_is_no_success() {
    let short = server(|_, _| answer("200 OK", "", "{\"accepted\":2}"));
    let (_folder, path) = file("items.ndjson", lines(0..3));
    let loaded = load(&short.url, &[], &path);
    assert_eq!(loaded.status.code(), Some(1));
    assert!(
        loaded.stderr.contains(
            "lines 1 to 3: the response is not from a coordinator: \
                 it accepted 2 and refused 0 of 3 items"
        ),
        "{}",
        loaded.stderr
    );
    // A coordinator that takes the good ones names the others in a success.
    let partial = server(|_, _| {
        let body =
            json!({"accepted": 2, "errors": [{"index": 1, "pointer": "/id", "detail": "is bad"}]});
        answer("200 OK", "", &body.to_string())
    });
    let loaded = load(&partial.url, &["--skip-invalid"], &path);
    assert_eq!(loaded.status.code(), Some(1));
    assert!(
        loaded
            .stderr
            .starts_with(&format!("headcount: {path}, line 2: is bad\n")),
        "{}",
        loaded.stderr
    );
    assert!(
        partial.requests.lock()[0]
            .0
            .starts_with("POST /items?partial=true ")
    );
}

/// Runs a client's command where the environment names a proxy that nobody can reach.
fn behind_a_proxy(args: &[&str], no_proxy: &str) -> std::process::Output {
    let mut command = headcount();
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    for name in ["no_proxy", "NO_PROXY"] {
        command.env(name, no_proxy);
    }
    command.args(args).output().expect("ran")
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_asked_past_any_proxy_and_others_by_it() {
    let node = Node::start(&[]);
    let (_folder, path) = file("items.ndjson", lines(0..3));
    let port = node.url().rsplit(':').next().expect("a port");
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{port}");
        for args in [
            &["health"][..],
            &["count", "a"],
            &["load", &path],
            &["bench", "--requests", "1", "--warmup-s", "0"],
        ] {
            let output = behind_a_proxy(&[args, &["--url", &url]].concat(), "");
            assert!(
                output.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    // The name is nobody's, so only a proxy would be asked for it.
    let proxy = server(|_, _| answer("200 OK", "", "{\"status\":\"ok\"}"));
    let ask = |no_proxy: &str| {
        let mut command = headcount();
        command
            .env("http_proxy", &proxy.url)
            .env("no_proxy", no_proxy)
            .env("NO_PROXY", no_proxy)
            .env("HEADCOUNT_URL", "http://node.invalid:3000");
        command.arg("health").output().expect("ran").status.code()
    };
    assert_eq!(ask(""), Some(0));
    assert_eq!(ask("other,.invalid"), Some(1));
    assert_eq!(proxy.requests.lock().len(), 1);
}
