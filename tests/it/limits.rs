//! Limits as a client meets them.
//!
//! Invariant: whatever is too large, too slow or too much is refused by name, and the node goes on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Answer, Node, PATIENCE, items};

/// Sends raw bytes and reads until the node closes or `until` has come.
fn raw(node: &Node, sent: &[u8], until: &str) -> (TcpStream, String) {
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(sent).expect("sent");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(until) {
        match stream.read(&mut buffer).expect("an answer in time") {
            0 => break,
            read => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
        }
    }
    (stream, text)
}

#[tokio::test]
async fn too_many_bytes_or_items_are_refused() {
    let node = Node::start(&["--body-bytes-max", "10000", "--items-max", "10"]);
    assert_eq!(node.post(&items("a", 0, 10)).await.status, 200);
    node.post(&items("a", 0, 11))
        .await
        .assert_problem(413, "too-many-items");
    let ndjson = "{\"id\":\"1\",\"tenant\":\"a\"}\n".repeat(11);
    node.post_as(Some("application/x-ndjson"), ndjson)
        .await
        .assert_problem(413, "too-many-items");
    let long = format!(
        "{{\"id\":\"1\",\"tenant\":\"a\",\"pad\":\"{}\"}}",
        "x".repeat(10_000)
    );
    node.post_as(None, long.clone())
        .await
        .assert_problem(413, "body-too-large");

    // Without an announced length, the limit holds while the body comes.
    let head = "POST /items HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{long}\r\n", long.len());
    let (_, text) = raw(&node, format!("{head}{chunk}").as_bytes(), "\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert_eq!(node.count("a").await, 10);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_times_out() {
    let node = Node::start(&["--body-timeout-ms", "200"]);
    let head = "POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"id\"";
    let (_, text) = raw(&node, head.as_bytes(), "urn:headcount:problem:");
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(
        text.contains("urn:headcount:problem:request-timeout"),
        "{text}"
    );
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let node = Node::start(&["--idle-timeout-ms", "200"]);
    let (_, text) = raw(&node, b"GET /healthz HT", "never");
    assert_eq!(text, "");
}

/// An orchestrator must not kill a node for being in demand.
#[tokio::test]
async fn probes_are_answered_when_as_many_connections_are_open_as_may() {
    let node = Node::start(&["--connections-max", "2"]);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let held: Vec<_> = (0..2)
        .map(|_| raw(&node, ask("/healthz").as_bytes(), "ok").0)
        .collect();
    for _ in 0..3 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let (_, text) = raw(&node, ask(path).as_bytes(), "never");
            assert!(text.starts_with("HTTP/1.1 200 "), "{path}: {text}");
            assert!(text.contains("connection: close"), "{text}");
        }
        let (_, text) = raw(&node, ask("/items/a/count").as_bytes(), "never");
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert!(text.contains("urn:headcount:problem:overloaded"), "{text}");
    }
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while !raw(&node, ask("/items/a/count").as_bytes(), "}")
        .1
        .starts_with("HTTP/1.1 200 ")
    {
        assert!(Instant::now() < deadline, "places come back");
    }
}

/// The probes' own address answers nothing else, and as long as anything is answered.
#[tokio::test]
async fn probes_have_an_address_of_their_own() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let node = Node::start(&["--probe-listen", &address]);
    let url = format!("http://{address}");
    let get =
        async |path: &str| Answer::of(reqwest::Client::new().get(format!("{url}{path}"))).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(path).await.status, 200, "{path}");
    }
    get("/items/a/count").await.assert_problem(404, "not-found");
    assert_eq!(node.get("/healthz").await.status, 200, "there too");
}

/// Somebody's first bytes do not keep a process that is to stop.
#[tokio::test]
async fn a_half_sent_head_does_not_hold_up_the_end() {
    let mut node = Node::start(&["--drain-timeout-ms", "60000"]);
    let (_half, _) = raw(&node, b"GET /healthz HT", "");
    let (mut begun, _) = raw(
        &node,
        b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\n{\"id\"",
        "",
    );
    assert_eq!(node.get("/healthz").await.status, 200, "both have come");
    let started = Instant::now();
    node.signal("-TERM");
    std::thread::sleep(Duration::from_millis(1_500));
    begun
        .write_all(b":\"5\",\"tenant\":\"asd\"}")
        .expect("sent");
    let mut answer = String::new();
    begun.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 503 "),
        "{answer}"
    );
    assert!(node.wait().success());
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn bodies_received_at_once_share_bounded_room() {
    let node = Node::start(&["--body-bytes-max", "10000", "--bodies-bytes-max", "10000"]);
    let item = json!({"id": "1", "tenant": "a", "pad": "x".repeat(2_000)});
    // What is only announced takes no room.
    let head = "POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n";
    let (mut first, _) = raw(&node, head.as_bytes(), "");
    assert_eq!(node.post(&item).await.status, 200);
    first.write_all(&[b' '; 9_000]).expect("sent");
    first.set_nonblocking(true).expect("set");
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let answer = node.post(&item).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the first body takes room");
        // Whichever of the two comes second is refused: if it was the first, it comes again.
        let mut text = [0; 4096];
        if let Ok(read) = first.read(&mut text) {
            assert!(text[..read].starts_with(b"HTTP/1.1 503 "), "{text:?}");
            (first, _) = raw(&node, head.as_bytes(), "");
            first.write_all(&[b' '; 9_000]).expect("sent");
            first.set_nonblocking(true).expect("set");
        }
    };
    refused.assert_problem(503, "overloaded");
    drop(first);
    while node.post(&item).await.status != 200 {
        assert!(Instant::now() < deadline, "the room comes back");
    }
}

/// Files that connections take are not there for the store.
#[tokio::test]
async fn connections_leave_files_to_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let node = Node::start_limited(
        &data_dir,
        "-n 232",
        // Idle ones make room after a while, so that a new connection of this client has its turn
        // too.
        &["--memory-mb", "2", "--idle-timeout-ms", "500"],
    );
    let address = node.url().trim_start_matches("http://").to_owned();
    assert_eq!(node.post(&items("a", 0, 1)).await.status, 200);
    let idle: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(&address).expect("at least in the backlog"))
        .collect();
    // Enough for several files.
    let deadline = Instant::now() + PATIENCE;
    for post in 0..20 {
        let items = items("a", post * 10_000, 10_000);
        loop {
            let request = node.request(reqwest::Method::POST, "/items").json(&items);
            match Answer::try_of(request).await {
                // Its own kept connection may have been idle for too long, and another finds no
                // place: like any client, it tries again.
                Ok(answer) if answer.status == 503 => assert!(Instant::now() < deadline),
                Ok(answer) => break assert_eq!(answer.status, 200, "{}", answer.text),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
    drop(idle);
    assert_eq!(node.count("a").await, 200_000);
}

/// As `nc -N` does: the client ends its side and waits for the answer.
#[tokio::test]
async fn a_client_that_ends_its_side_is_answered() {
    let node = Node::start(&[]);
    let item = r#"{"id":"1","tenant":"a"}"#;
    let head = format!(
        "POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        item.len()
    );
    for _ in 0..20 {
        let (mut stream, _) = raw(&node, format!("{head}{item}").as_bytes(), "");
        stream.shutdown(Shutdown::Write).expect("ended");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }
}

#[tokio::test]
async fn posts_that_would_wait_beyond_the_limit_get_503_and_nothing_is_lost() {
    let node = Node::start(&["--waiting-posts-max", "1"]);
    let posts = (0..64_u64).map(|id| {
        let node = &node;
        async move { node.post(&items("a", id, 1)).await }
    });
    let mut accepted = 0;
    for answer in futures_util::future::join_all(posts).await {
        if answer.status == 200 {
            accepted += 1;
        } else {
            answer.assert_problem(503, "overloaded");
        }
    }
    assert!(
        (1..64).contains(&accepted),
        "{accepted} of 64 were accepted"
    );
    assert_eq!(
        node.count("a").await,
        accepted,
        "a refused post counts nothing"
    );
}
