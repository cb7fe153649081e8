//! The public API's reads, rule by rule: options, tokens, many counts at once, and the listing.
//!
//! Invariant: each sentence of the README's API section has a test here or in `api`.

use serde_json::json;

use crate::node::{Node, items};

#[tokio::test]
async fn reads_honour_their_options() {
    let node = Node::start(&[]);
    let token = node.post(&items("a", 0, 3)).await.json["token"].clone();
    let token = token.as_str().expect("a token");
    for options in [
        String::new(),
        "consistency=session".into(),
        "consistency=strong&timeout_ms=30000".into(),
        format!("after={token}"),
        format!("consistency=strong&after={token}&timeout_ms=20000"),
    ] {
        let answer = node.get(&format!("/items/a/count?{options}")).await;
        assert_eq!(
            answer.json,
            json!({"tenant": "a", "count": 3, "exact": true}),
            "{options}"
        );
    }
    let eventual = node.get("/items/a/count?consistency=eventual").await;
    assert_eq!(
        eventual.json,
        json!({"tenant": "a", "count": 3, "exact": false})
    );
    for bad in [
        "after=x",
        "after=",
        "consistency=weak",
        "timeout_ms=30001",
        "timeout_ms=1.5",
        "timeout_ms=1&timeout_ms=2",
        "timeout=5",
        "consistancy=strong",
        "from=2026-01-01",
        "timeout_ms=%3",
    ] {
        for path in ["/items/a/count", "/items/a/ids/1", "/tenants"] {
            let answer = node.get(&format!("{path}?{bad}")).await;
            answer.assert_problem(400, "invalid-parameter");
        }
    }
}

#[tokio::test]
async fn a_token_that_nobody_covers_is_waited_for_and_then_said_to_be_inexact() {
    let node = Node::start(&[]);
    let stranger = Node::start(&[]);
    node.post(&items("a", 0, 2)).await;
    let token = stranger.post(&items("a", 0, 5)).await.json["token"].clone();
    let token = token.as_str().expect("a token");
    let answer = node
        .get(&format!("/items/a/count?after={token}&timeout_ms=50"))
        .await;
    assert_eq!(
        answer.json,
        json!({"tenant": "a", "count": 2, "exact": false})
    );
}

#[tokio::test]
async fn a_token_outlives_a_restart() {
    let mut node = Node::start(&[]);
    let token = node.post(&items("a", 0, 2)).await.json["token"].clone();
    let token = token.as_str().expect("a token");
    node.kill_and_restart(&[]);
    let answer = node
        .get(&format!("/items/a/count?after={token}&timeout_ms=0"))
        .await;
    assert_eq!(
        answer.json,
        json!({"tenant": "a", "count": 2, "exact": true})
    );
}

#[tokio::test]
async fn many_counts_come_in_one_answer() {
    let node = Node::start(&[]);
    node.post(&items("a", 0, 3)).await;
    node.post(&items("b c", 0, 2)).await;
    let answer = node
        .get("/counts?tenant=b+c&tenant=none&tenant=a&tenant=a")
        .await;
    let row = |tenant: &str, count: u64| json!({"tenant": tenant, "count": count});
    assert_eq!(
        answer.json,
        json!({"counts": [row("b c", 2), row("none", 0), row("a", 3), row("a", 3)], "exact": true})
    );
    node.get("/counts")
        .await
        .assert_problem(400, "invalid-parameter");
    node.get("/counts?tenant=")
        .await
        .assert_problem(400, "invalid-parameter");
    let thousand = vec!["tenant=a"; 1_000].join("&");
    assert_eq!(node.get(&format!("/counts?{thousand}")).await.status, 200);
    let answer = node.get(&format!("/counts?{thousand}&tenant=a")).await;
    answer.assert_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn tenants_are_listed_in_stable_order_in_pages() {
    let node = Node::start(&[]);
    let mut names: Vec<String> = (0..25).map(|n| format!("p{n}")).collect();
    names.extend(["a".into(), "q/é".into(), "P1".into()]);
    for (n, name) in names.iter().enumerate() {
        node.post(&items(name, 0, n as u64 + 1)).await;
    }
    let mut expected: Vec<(String, u64)> = names.into_iter().zip(1..).collect();
    expected.sort();
    for (prefix, limit) in [("", 4), ("p", 7), ("p1", 100), ("z", 5)] {
        let mut listed = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut path = format!("/tenants?prefix={prefix}&limit={limit}");
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", percent(cursor)));
            }
            let page = node.get(&path).await;
            assert_eq!(page.json["exact"], json!(true), "{}", page.text);
            let rows = page.json["tenants"].as_array().expect("tenants");
            assert!(rows.len() <= limit);
            listed.extend(rows.iter().map(|row| {
                let name = row["tenant"].as_str().expect("a name").to_owned();
                (name, row["count"].as_u64().expect("a count"))
            }));
            match page.json["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        let with_prefix = expected.iter().filter(|(name, _)| name.starts_with(prefix));
        assert_eq!(
            listed,
            with_prefix.cloned().collect::<Vec<_>>(),
            "prefix {prefix:?}"
        );
    }
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "offset=5",
    ] {
        node.get(&format!("/tenants?{bad}"))
            .await
            .assert_problem(400, "invalid-parameter");
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
