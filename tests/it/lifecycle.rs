//! Starting and stopping, by signals and by what goes wrong on the disk.
//!
//! Invariant: what was acknowledged before the end is there after it, and exit codes are part of
//! the interface.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Node, PATIENCE, items, run};

#[tokio::test]
async fn sigterm_and_ctrl_c_drain_and_end_with_zero() {
    for signal in ["-TERM", "-INT"] {
        let mut node = Node::start(&[]);
        node.post(&items("a", 0, 5)).await;
        node.signal(signal);
        assert_eq!(node.wait().code(), Some(0), "{signal}");
        let verified = run(&[
            "verify",
            "--data-dir",
            &node.data_dir().display().to_string(),
        ]);
        assert_eq!(verified.stdout, "1 tenants, 5 items: all counts agree\n");
        assert_eq!(verified.status.code(), Some(0));
    }
}

#[tokio::test]
async fn what_is_acknowledged_while_stopping_is_there_afterwards() {
    let mut node = Node::start(&[]);
    let data_dir = node.data_dir().to_owned();
    let posting = {
        let client = crate::node::client_builder().build().expect("a client");
        let url = format!("{}/items", node.url());
        tokio::spawn(async move {
            let mut acknowledged = 0_u64;
            for id in 0.. {
                let item = json!({"id": id.to_string(), "tenant": "a"});
                let sent = client.post(&url).json(&item).send().await;
                match sent {
                    Ok(answer) if answer.status() == 200 => acknowledged += 1,
                    _ => break,
                }
            }
            acknowledged
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while node.count("a").await < 20 {
        assert!(Instant::now() < deadline, "nothing is counted");
    }
    assert_eq!(node.terminate().code(), Some(0));
    let acknowledged = posting.await.expect("joined");
    let again = Node::start_in(&data_dir, &[]);
    let count = again.count("a").await;
    assert!(
        (acknowledged..=acknowledged + 1).contains(&count),
        "{acknowledged} <= {count}"
    );
}

/// Whoever sends requests hears of the end late: from another place that looks at `/readyz` now and
/// then.
#[tokio::test]
async fn readiness_goes_before_the_listener() {
    let mut node = Node::start(&["--shutdown-delay-ms", "1500"]);
    node.post(&items("a", 0, 5)).await;
    let told = Instant::now();
    node.signal("-TERM");
    let gone = crate::kit::wait::until("a node that is not ready", async || {
        match node.get("/readyz").await {
            ready if ready.status == 200 => Err(ready.text),
            gone => Ok(gone),
        }
    })
    .await;
    gone.assert_problem(503, "not-ready");
    // A new connection of a client that has not heard of it.
    let other = crate::node::client_builder().build().expect("a client");
    let url = format!("{}/items", node.url());
    let posted = other.post(&url).json(&items("a", 5, 5)).send().await;
    assert_eq!(posted.expect("an answer").status(), 200);
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(node.count("a").await, 10);
    assert_eq!(node.wait().code(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(1_500));
}

/// What was begun to be sent before the listener closed is taken, though it ends after that.
#[tokio::test]
async fn an_upload_under_way_is_taken_while_stopping() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut node = Node::start(&["--shutdown-delay-ms", "100"]);
    let address = node.url().trim_start_matches("http://").to_owned();
    let body = items("a", 0, 500).to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let head = format!(
        "POST /items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{first}",
        body.len()
    );
    let mut upload = tokio::net::TcpStream::connect(&address)
        .await
        .expect("connected");
    upload.write_all(head.as_bytes()).await.expect("sent");
    // It was received so far: others of the same connection's time are answered.
    assert_eq!(node.count("a").await, 0);
    node.signal("-TERM");
    crate::kit::wait::until("a listener that is closed", async || {
        match tokio::net::TcpStream::connect(&address).await {
            Ok(_) => Err("it is open"),
            Err(_) => Ok(()),
        }
    })
    .await;
    upload.write_all(rest.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(node.wait().code(), Some(0));
    let again = Node::start_in(node.data_dir(), &[]);
    assert_eq!(again.count("a").await, 500);
}

#[tokio::test]
async fn a_second_signal_ends_the_delay_at_once() {
    let mut node = Node::start(&["--shutdown-delay-ms", "3600000"]);
    node.post(&items("a", 0, 5)).await;
    node.signal("-TERM");
    crate::kit::wait::until("a node that is not ready", async || {
        let ready = node.get("/readyz").await;
        (ready.status == 503).then_some(()).ok_or(ready.text)
    })
    .await;
    node.signal("-TERM");
    assert_eq!(node.wait().code(), Some(130));
    let again = Node::start_in(node.data_dir(), &[]);
    assert_eq!(again.count("a").await, 5);
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_stop_for_ever() {
    let mut node = Node::start(&["--drain-timeout-ms", "200"]);
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let head =
        b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head)
        .await
        .expect("sent");
    let mut buffer = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut buffer)
        .await
        .expect("continue");
    let stopped = tokio::time::timeout(Duration::from_secs(30), async { node.terminate() }).await;
    assert_eq!(stopped.expect("in time").code(), Some(0));
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_spoil_the_stop() {
    let mut node = Node::start(&["--drain-timeout-ms", "200"]);
    node.post(&items("a", 0, 1)).await;
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for sent in ["", "GET /healthz HT"] {
        let mut stream = std::net::TcpStream::connect(&address).expect("connected");
        std::io::Write::write_all(&mut stream, sent.as_bytes()).expect("sent");
        idle.push(stream);
    }
    assert_eq!(node.terminate().code(), Some(0));
}

/// A read that meets damage tells which file and where, and the process does not go on as if all
/// were well.
#[tokio::test]
async fn damage_that_a_read_meets_stops_the_process_and_is_named() {
    let mut node = Node::start(&[]);
    node.post(&items("a", 0, 20_000)).await;
    let data_dir = node.data_dir().to_owned();
    // A clean stop leaves everything in a run.
    assert_eq!(node.terminate().code(), Some(0));
    let run = std::fs::read_dir(&data_dir)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.display().to_string().contains("run-"))
        .expect("a run");
    let mut node = Node::start_logged(&data_dir);
    let mut bytes = std::fs::read(&run).expect("read");
    for block in 1..bytes.len() / 4096 {
        bytes[block * 4096 + 1_000] ^= 1;
    }
    std::fs::write(&run, bytes).expect("written");
    let answer = node.get("/items/a/ids/7").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(node.wait().code(), Some(1));
    let log = node.log();
    assert!(
        log.contains(&format!("{} is damaged at byte ", run.display())),
        "{log}"
    );
}

/// A limit on the size of files stands for all but a full disk: the write that would exceed it
/// fails.
#[tokio::test]
async fn a_failed_write_stops_the_process_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let mut node = Node::start_limited(&data_dir, "-f 8192", &[]);
    let mut acknowledged = 0;
    for post in 0..2_000 {
        let request =
            node.request(reqwest::Method::POST, "/items")
                .json(&items("a", post * 500, 500));
        match crate::node::Answer::try_of(request).await {
            Ok(answer) if answer.status == 200 => acknowledged += 500,
            Ok(answer) => {
                answer.assert_problem(503, "outcome-unknown");
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(node.wait().code(), Some(1), "a failed write is fatal");
    assert!(acknowledged > 0);
    let node = Node::start_in(&data_dir, &[]);
    let count = node.count("a").await;
    assert!(
        (acknowledged..=acknowledged + 500).contains(&count),
        "{acknowledged} <= {count}"
    );
}
