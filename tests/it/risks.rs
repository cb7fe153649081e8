//! The risks of the system that Headcount replaces, each by its name.
//!
//! Invariant: these names stay; what they prove is what the README claims.

use reqwest::StatusCode;

use crate::node::{Node, long};

/// A counter's memory grew with every item that it held: about 40 bytes and more an item in a hash
/// set.
#[tokio::test]
async fn risk_1_memory_does_not_grow_with_items() {
    const PER_POST: u64 = 20_000;
    let (warm, total) = if long() {
        (1_000_000, 20_000_000)
    } else {
        (400_000, 2_400_000)
    };
    let node = Node::start(&["--memory-mb", "8"]);
    let mut posted = 0;
    let mut resident_before = 0;
    while posted < total {
        if posted == warm {
            resident_before = node.resident_bytes();
        }
        let lines: String = (posted..posted + PER_POST)
            .map(|id| format!("{{\"id\":\"{id}\",\"tenant\":\"t{}\"}}\n", id % 100))
            .collect();
        let answer = node.post_as(Some("application/x-ndjson"), lines).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        posted += PER_POST;
    }
    assert_eq!(node.count("t7").await, total / 100);
    let grown = node.resident_bytes().saturating_sub(resident_before);
    let per_item = grown as f64 / (total - warm) as f64;
    // Filters have their 4 MiB; indexes are about 0.06 bytes an item, and as much again while all
    // runs are merged into one; the rest of the bound is what an allocator may keep.
    let allowance = 16.0 * 1024.0 * 1024.0 / (total - warm) as f64;
    assert!(
        per_item < 0.2 + allowance,
        "{per_item:.1} bytes an item ({grown} in all)"
    );
}

/// All counters down meant that the data was lost. Alone on one machine, "all" is this process.
#[tokio::test]
async fn risk_3_everything_down_nothing_lost() {
    let mut node = Node::start(&[]);
    for id in 0..50 {
        let answer = node.post(&crate::node::items("a", id, 1)).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    node.kill_and_restart(&[]);
    assert_eq!(node.count("a").await, 50);
    node.kill_and_restart(&[]);
    node.kill_and_restart(&[]);
    assert_eq!(node.count("a").await, 50);
    let item = node.get("/items/a/ids/49").await;
    assert_eq!(item.json["counted"], serde_json::json!(true));
}
