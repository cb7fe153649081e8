//! Reads that wait, as clients meet them: what they cost others, and how they end with their
//! clients.
//!
//! Invariant: whoever waits here waits for nothing that comes; every test ends long before their
//! time is up.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::waiting::{TIMEOUT, reads, reset, send_all, token, waiting};
use crate::node::{Node, PATIENCE, items};

/// Sends `count` reads of all kinds that wait, and returns once they do.
async fn send_waiting(node: &Node, count: usize) -> Vec<TcpStream> {
    let sent = send_all(node.url(), count);
    wait_for(node, count, PATIENCE).await;
    sent
}

/// Waits until so many reads wait, for at most so long.
async fn wait_for(node: &Node, count: usize, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let waiting = waiting(&node.get("/metrics").await.text);
        if waiting == count {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} wait, not {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn reads_whose_clients_have_gone_are_given_up() {
    let node = Node::start(&[]);
    let waiting = send_waiting(&node, 200).await;
    let begun = Instant::now();
    waiting.into_iter().for_each(reset);
    wait_for(&node, 0, TIMEOUT / 2).await;
    // A socket that was closed looks like one that sends no more, until it is written to.
    drop(send_waiting(&node, 40).await);
    wait_for(&node, 0, TIMEOUT / 2).await;
    assert!(
        begun.elapsed() < TIMEOUT / 2,
        "long before their time is up"
    );
    assert_eq!(node.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_client_that_ends_its_side_is_told_soon_what_is_known() {
    let node = Node::start(&[]);
    assert_eq!(node.post(&items("a", 1, 3)).await.status, 200);
    let begun = Instant::now();
    let mut waiting = send_waiting(&node, 4).await;
    for stream in &waiting {
        stream.shutdown(Shutdown::Write).expect("ended");
    }
    for stream in &mut waiting {
        stream.set_read_timeout(Some(TIMEOUT)).expect("set");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\"exact\":false"), "{answer}");
        assert!(
            answer.contains(":3") || answer.contains("\"counted\":true"),
            "{answer}"
        );
    }
    assert!(
        begun.elapsed() < TIMEOUT / 2,
        "long before their time is up"
    );
    wait_for(&node, 0, PATIENCE).await;
}

#[tokio::test]
async fn reads_that_wait_leave_others_alone() {
    let node = Node::start(&[]);
    let posted = node.post(&items("a", 1, 3)).await;
    let own = posted.json["token"].as_str().expect("a token");
    let _waiting = send_waiting(&node, 300).await;
    for options in [
        "consistency=eventual",
        "",
        "consistency=strong",
        &format!("after={own}"),
    ] {
        let count = node.get(&format!("/items/a/count?{options}")).await;
        assert_eq!(count.json["count"], json!(3), "{}", count.text);
        let item = node.get(&format!("/items/a/ids/1?{options}")).await;
        assert_eq!(item.json["counted"], json!(true), "{}", item.text);
        let page = node.get(&format!("/tenants?{options}")).await;
        assert_eq!(page.json["tenants"][0]["count"], json!(3), "{}", page.text);
        let exact = json!(options != "consistency=eventual");
        for answer in [count, item, page] {
            assert_eq!(answer.json["exact"], exact, "{}", answer.text);
        }
    }
    wait_for(&node, 300, PATIENCE).await;
}

#[tokio::test]
async fn a_token_of_a_partition_that_does_not_exist_is_refused() {
    let node = Node::start(&[]);
    for path in reads(&token(1)) {
        let answer = node.get(&path).await;
        answer.assert_problem(400, "invalid-parameter");
        let detail = answer.json["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("partition 1"), "{detail}");
    }
}
