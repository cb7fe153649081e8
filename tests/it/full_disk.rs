//! A full disk, as a real one: reads go on, posts are refused and resume by themselves.
//!
//! Invariant: a refused post counts nothing, not even after a crash, and an acknowledged one counts
//! for ever.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::json;

use crate::kit::small_disk::SmallDisk;
use crate::kit::wait;
use crate::node::{Answer, Node, items, run};

/// Little memory, so that there are many files soon.
const FLAGS: [&str; 2] = ["--memory-mb", "2"];

/// Items of one post.
const POST_ITEMS: u64 = 10_000;

/// Posts new items until they are refused; returns how many were acknowledged before, and the
/// refusal.
async fn post_until_refused(node: &Node, first: u64) -> (u64, Answer) {
    for post in 0..500 {
        let from = first + post * POST_ITEMS;
        let answer = node.post(&items("full", from, POST_ITEMS)).await;
        if answer.status != StatusCode::OK {
            return (from, answer);
        }
    }
    panic!("the disk is larger than it should be");
}

async fn wait_until_ready(node: &Node) {
    wait::until("a node that is ready", async || {
        let answer = node.get("/readyz").await;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(answer.text),
        }
    })
    .await;
}

/// What a full node still does, and what it says.
async fn assert_full(node: &Node, counted: u64) {
    assert_eq!(node.count("full").await, counted);
    let path = "/items/full/count?consistency=strong";
    let strong = node.get(path).await;
    assert_eq!(strong.json["count"], json!(counted), "{}", strong.text);
    assert_eq!(strong.json["exact"], json!(true));
    for (id, is_counted) in [(0, true), (counted, false)] {
        let item = node.get(&format!("/items/full/ids/{id}")).await;
        assert_eq!(item.json["counted"], json!(is_counted), "{}", item.text);
    }
    assert_eq!(node.get("/healthz").await.status, 200);
    let ready = node.get("/readyz").await;
    ready.assert_problem(503, "not-ready");
    assert!(ready.text.contains("no room"), "{}", ready.text);
    let metrics = node.get("/metrics").await.text;
    let says = |line: &str| assert!(metrics.lines().any(|its| its == line), "{line}:\n{metrics}");
    says("headcount_store_full 1");
    let refused = node.post(&items("full", counted, 1)).await;
    refused.assert_problem(503, "disk-full");
}

#[tokio::test]
async fn a_full_disk_keeps_reading_and_posts_resume() {
    let Some(disk) = SmallDisk::mount(14) else {
        return;
    };
    disk.take(6);
    let data_dir = disk.path().join("data");
    let mut node = Node::start_in(&data_dir, &FLAGS);
    let (counted, refused) = post_until_refused(&node, 0).await;
    refused.assert_problem(503, "disk-full");
    assert!(counted > 0);
    assert_full(&node, counted).await;

    // Killed and started again without any room: what was refused has left nothing.
    node.kill();
    disk.fill();
    node = Node::start_in(&data_dir, &FLAGS);
    assert_eq!(node.count("full").await, counted);
    // What the opening gave away.
    disk.fill();
    let (counted, refused) = post_until_refused(&node, counted).await;
    refused.assert_problem(503, "disk-full");
    assert_full(&node, counted).await;
    let stopped = node.terminate();
    assert_eq!(stopped.code(), Some(0), "a clean stop needs no room");
    assert_verifies(&data_dir, counted);

    node = Node::start_in(&data_dir, &FLAGS);
    assert_eq!(node.count("full").await, counted);
    disk.free();
    wait_until_ready(&node).await;
    let resumed = node.post(&items("full", counted, POST_ITEMS)).await;
    assert_eq!(resumed.status, 200, "{}", resumed.text);
    let counted = counted + POST_ITEMS;
    assert_eq!(node.count("full").await, counted);
    assert_eq!(node.terminate().code(), Some(0));
    assert_verifies(&data_dir, counted);
}

#[track_caller]
fn assert_verifies(data_dir: &Path, items: u64) {
    let verified = run(&["verify", "--data-dir", &data_dir.display().to_string()]);
    let expected = format!("1 tenants, {items} items: all counts agree\n");
    assert_eq!(verified.stdout, expected, "{}", verified.stderr);
}
