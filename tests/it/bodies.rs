//! Bodies as clients of all kinds write and pack them, and what is told of the items in them.
//!
//! Invariant: what is counted is what a client meant, or the client hears which item is not.

use std::collections::HashSet;

use serde_json::json;

use crate::node::{Node, items};

#[tokio::test]
async fn a_post_is_told_what_was_new() {
    let mut node = Node::start(&[]);
    let body = json!([
        {"id": "1", "tenant": "n"},
        {"id": "2", "tenant": "n"},
        {"id": "1", "tenant": "n"},
    ]);
    for new in [2, 0] {
        let answer = node.post(&body).await.json;
        assert_eq!(
            (&answer["accepted"], &answer["new"]),
            (&json!(3), &json!(new))
        );
    }
    assert_eq!(node.post(&json!([])).await.json["new"], json!(0));
    // What was counted before a crash is not claimed again.
    node.kill_and_restart(&[]);
    assert_eq!(node.post(&body).await.json["new"], json!(0));
}

/// Clients that post the same ids at once, in bodies of all sizes: together they are told each id once.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_new_is_told_to_one_post() {
    const CLIENTS: u64 = 16;
    const POSTS: u64 = 20;
    let node = Node::start(&[]);
    let posts = (0..CLIENTS).map(|client| {
        let node = &node;
        async move {
            let mut told = 0;
            let mut ids = HashSet::new();
            for post in 0..POSTS {
                let (first, count) = (post * 10 + client % 3, 1 + (client + post) % 40);
                let answer = node.post(&items("n", first, count)).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                let new = answer.json["new"].as_u64().expect("told");
                assert!(new <= count);
                told += new;
                ids.extend(first..first + count);
            }
            (told, ids)
        }
    });
    let told = futures_util::future::join_all(posts).await;
    let ids: HashSet<u64> = told.iter().flat_map(|(_, ids)| ids).copied().collect();
    let told: u64 = told.iter().map(|(told, _)| told).sum();
    assert_eq!(told, ids.len() as u64);
    assert_eq!(node.count("n").await, told);
}
