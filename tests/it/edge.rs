//! What reaches a node byte by byte: bodies that nobody wants, refusals, origins, hosts and
//! methods.
//!
//! Invariant: a client that sends a whole request gets its answer, whatever that is, and may send
//! the next one unless it is told that the connection is closed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;

use crate::node::{Answer, Node};

/// Sends raw bytes, then reads until the node closes.
fn raw(node: &Node, sent: &str) -> String {
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(sent.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn bytes_that_are_no_request_are_answered_with_a_problem() {
    let node = Node::start(&[]);
    let good = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let path = "a".repeat(70_000);
    let header = format!("X: {}\r\n", "b".repeat(1 << 20));
    let many = "X: 1\r\n".repeat(101);
    for (sent, status, kind) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "invalid-request"),
        ("GET / HTTP/3.7\r\n\r\n".to_owned(), 400, "invalid-request"),
        (
            "GET / HTTP/1.1\r\nHost x\r\n\r\n".to_owned(),
            400,
            "invalid-request",
        ),
        (
            format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n"),
            414,
            "uri-too-long",
        ),
        (
            format!("GET / HTTP/1.1\r\n{header}\r\n"),
            431,
            "head-too-large",
        ),
        (
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            431,
            "head-too-large",
        ),
    ] {
        // Alone, and behind a request on the same connection, in the same packet.
        for before in ["", good] {
            let answers = raw(&node, &format!("{before}{sent}"));
            let at = answers
                .rfind(&format!("HTTP/1.1 {status}"))
                .unwrap_or_default();
            let (head, body) = answers[at..]
                .split_once("\r\n\r\n")
                .unwrap_or_else(|| panic!("{kind}: {answers:?}"));
            for header in [
                "content-type: application/problem+json",
                "server: headcount",
            ] {
                assert!(head.contains(header), "{head}");
            }
            let length = format!("content-length: {}", body.len());
            assert!(head.contains(&length), "{head}");
            let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(problem["type"], format!("urn:headcount:problem:{kind}"));
            assert_eq!(problem["status"], status);
            assert_eq!(answers.matches("HTTP/1.1 200").count(), before.len().min(1));
        }
    }
}

#[tokio::test]
async fn an_unwanted_body_keeps_the_connection_up_to_a_mebibyte() {
    let node = Node::start(&[]);
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (method, path) in [
        ("GET", "/items/a/count"),
        ("GET", "/tenants"),
        ("DELETE", "/items"),
        ("GET", "/nothing"),
        ("POST", "/counters"),
    ] {
        let body = "x".repeat(1 << 20);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let text = raw(&node, &format!("{head}{body}{next}"));
        assert_eq!(
            text.matches("HTTP/1.1 ").count(),
            2,
            "{method} {path}: {text}"
        );
        assert!(text.contains("{\"status\":\"ok\"}"), "{text}");
        let chunked = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\n"
        );
        let text = raw(&node, &format!("{chunked}{next}"));
        assert_eq!(
            text.matches("HTTP/1.1 ").count(),
            2,
            "{method} {path}: {text}"
        );
        let longer = format!("{body}x");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            longer.len()
        );
        let text = raw(&node, &format!("{head}{longer}"));
        assert!(
            text.contains("connection: close"),
            "{method} {path}: {text}"
        );
    }
}

/// One that sends no more than half of what it announced is told so, and soon.
#[tokio::test]
async fn who_stops_in_the_middle_of_a_refused_body_gets_the_refusal() {
    let node = Node::start(&[]);
    let begun = std::time::Instant::now();
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    let head = "POST /items HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\n\
                Content-Length: 100\r\n\r\n<half";
    stream.write_all(head.as_bytes()).expect("sent");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(
        text.starts_with("HTTP/1.1 415 ") && text.contains("connection: close"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_request_has_one_host() {
    let node = Node::start(&[]);
    for head in [
        "GET /healthz HTTP/1.1\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    ] {
        let text = raw(&node, &format!("{head}Connection: close\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(
            text.contains("urn:headcount:problem:invalid-host"),
            "{text}"
        );
    }
    let text = raw(&node, "GET /healthz HTTP/1.0\r\n\r\n");
    assert!(text.starts_with("HTTP/1.0 200 "), "{text}");
}

#[tokio::test]
async fn other_hosts_and_other_pages_are_kept_out() {
    let node = Node::start(&[
        "--cors-origins",
        "https://app.example",
        "--hosts",
        "counts.example",
    ]);
    let item = r#"{"id":"5","tenant":"asd"}"#;
    let post = |name: &'static str, value: &str| {
        let post = node.request(Method::POST, "/items").header(name, value);
        Answer::of(post.body(item))
    };
    post("Host", "evil.example:3000")
        .await
        .assert_problem(421, "foreign-host");
    post("Origin", "https://evil.example")
        .await
        .assert_problem(403, "foreign-origin");
    post("Origin", "null")
        .await
        .assert_problem(403, "foreign-origin");
    assert_eq!(node.count("asd").await, 0, "nothing was done");
    assert_eq!(post("Host", "counts.example:80").await.status, 200);
    assert_eq!(post("Host", "headcount").await.status, 200);
    let own = post("Origin", node.url()).await;
    assert_eq!(own.status, 200);
    assert_eq!(own.header("access-control-allow-origin"), "");

    let shared = post("Origin", "https://app.example").await;
    assert_eq!(shared.status, 200);
    assert_eq!(
        shared.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(shared.header("vary"), "origin");
    let asked = node
        .request(Method::OPTIONS, "/items")
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type");
    let asked = Answer::of(asked).await;
    assert_eq!(asked.status, 204);
    assert!(
        asked
            .header("access-control-allow-methods")
            .contains("POST")
    );
    assert!(
        asked
            .header("access-control-allow-headers")
            .contains("content-type")
    );
    let other = node
        .request(Method::OPTIONS, "/items")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    Answer::of(other)
        .await
        .assert_problem(403, "foreign-origin");
}

#[tokio::test]
async fn methods_are_those_of_the_resource() {
    let node = Node::start(&[]);
    let ask = |method: Method, path: &str| Answer::of(node.request(method, path));
    let allowed = ask(Method::OPTIONS, "/items").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.header("allow")),
        (204, "POST,OPTIONS")
    );
    let allowed = ask(Method::OPTIONS, "/items/a/count").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.header("allow")),
        (204, "GET,HEAD,OPTIONS")
    );
    ask(Method::OPTIONS, "/nothing")
        .await
        .assert_problem(404, "not-found");
    let text = raw(
        &node,
        "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(
        text.starts_with("HTTP/1.1 204 ") && text.contains("allow: "),
        "{text}"
    );
    for path in ["/items/a/count", "/healthz", "/tenants"] {
        let text = raw(
            &node,
            &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        );
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: "),
            "{head}"
        );
        assert!(
            head.contains("\r\ndate: ") && head.contains("\r\nserver: headcount"),
            "{head}"
        );
        assert_eq!(body, "");
    }
    ask(Method::DELETE, "/items")
        .await
        .assert_problem(405, "method-not-allowed");
}
