//! Bodies as clients of all kinds write and pack them, and what is told of the items in them.
//!
//! Invariant: what is counted is what a client meant, or the client hears which item is not.

use std::collections::HashSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Answer, Node, items};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).expect("packed");
    gzip.finish().expect("packed")
}

async fn post(node: &Node, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = node.request(Method::POST, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.body(body)).await
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

#[tokio::test]
async fn half_of_a_surrogate_pair_is_one_items_fault() {
    let node = Node::start(&[]);
    for (body, pointer) in [
        (
            r#"[{"id":"1","tenant":"t"},{"id":"\ud83d","tenant":"t"}]"#,
            "/1/id",
        ),
        (r#"[{"id":"1","tenant":"\udc00x"}]"#, "/0/tenant"),
    ] {
        let answer = node.post_as(Some("application/json"), body).await;
        answer.assert_problem(422, "invalid-items");
        assert_eq!(answer.json["errors"][0]["pointer"], json!(pointer));
    }
    assert_eq!(node.count("t").await, 0);
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_places_are_of_the_body() {
    let node = Node::start(&[]);
    let item = "\u{feff}{\"id\":\"5\",\"tenant\":\"asd\"}";
    let answer = node.post_as(Some("application/json"), item).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = node.post_as(Some("application/x-ndjson"), item).await;
    assert_eq!(answer.json["new"], json!(0), "{}", answer.text);
    let answer = node.post_as(Some("application/json"), "\u{feff}[x").await;
    answer.assert_problem(400, "malformed-body");
    let detail = answer.json["detail"].as_str().expect("a detail");
    assert!(detail.contains("at line 1 column 5"), "{detail}");
}

#[tokio::test]
async fn packed_bodies_are_read_and_bounded() {
    let node = Node::start(&["--body-bytes-max", "100000"]);
    let many = serde_json::to_vec(&items("z", 0, 1_000)).expect("JSON");
    let zipped = gzip(&many);
    let answer = post(
        &node,
        "/items",
        &[JSON, ("Content-Encoding", "gzip")],
        zipped,
    )
    .await;
    assert_eq!(answer.json["accepted"], json!(1_000), "{}", answer.text);
    let packed = zstd::encode_all(&many[..], 3).expect("packed");
    let answer = post(
        &node,
        "/items",
        &[JSON, ("Content-Encoding", "zstd")],
        packed,
    )
    .await;
    assert_eq!(answer.json["new"], json!(0), "{}", answer.text);
    assert_eq!(node.count("z").await, 1_000);

    let before = node.resident_bytes();
    let bombs = [
        ("gzip", gzip(&vec![b' '; 8 << 20])),
        (
            "zstd",
            zstd::encode_all(&vec![b' '; 64 << 20][..], 3).expect("packed"),
        ),
    ];
    for (coding, bomb) in bombs.iter().cycle().take(8) {
        let headers = [JSON, ("Content-Encoding", coding)];
        let answer = post(&node, "/items", &headers, bomb.clone()).await;
        answer.assert_problem(413, "body-too-large");
    }
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    for (coding, body) in [("gzip", many.clone()), ("zstd", many.clone())] {
        let headers = [JSON, ("Content-Encoding", coding)];
        let answer = post(&node, "/items", &headers, body).await;
        answer.assert_problem(400, "unreadable-body");
    }
    assert_eq!(node.count("z").await, 1_000);
}

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

/// Clients that post the same ids at once, in bodies of all sizes: together they are told each id
/// once.
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

/// Index and pointer of each fault that an answer names.
fn faults(answer: &Answer) -> Vec<(u64, String)> {
    let errors = answer.json["errors"].as_array().expect("errors");
    let fault = |fault: &Value| {
        let pointer = fault["pointer"].as_str().expect("a pointer");
        (
            fault["index"].as_u64().expect("an index"),
            pointer.to_owned(),
        )
    };
    errors.iter().map(fault).collect()
}

#[tokio::test]
async fn the_valid_items_of_a_body_count_where_that_is_asked_for() {
    let node = Node::start(&["--items-max", "1000"]);
    let body = json!([
        {"id": "1", "tenant": "p"}, {"id": 2, "tenant": "p"}, {"id": "3", "tenant": "p"}, 4
    ]);
    let body = body.to_string().into_bytes();
    let answer = post(&node, "/items?partial=true", &[JSON], body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.json["accepted"], &answer.json["new"]),
        (&json!(2), &json!(2))
    );
    assert!(answer.json["token"].is_string());
    assert_eq!(faults(&answer), [(1, "/1/id".into()), (3, "/3".into())]);
    assert_eq!(node.count("p").await, 2);

    let lines =
        b"{\"id\":\"5\",\"tenant\":\"p\"}\n{\"id\":\n\n\xff\n{\"id\":\"6\",\"tenant\":\"p\"}\n";
    let answer = post(&node, "/items?partial=true", &[NDJSON], lines.to_vec()).await;
    assert_eq!(answer.json["accepted"], json!(2), "{}", answer.text);
    assert_eq!(faults(&answer), [(1, String::new()), (3, String::new())]);
    assert_eq!(node.count("p").await, 4);

    // Every one is named, however many, and nothing accepted has no token.
    let bad = format!("[{}]", vec!["{}"; 500].join(","));
    let answer = post(&node, "/items?partial=true", &[JSON], bad.into_bytes()).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json["accepted"]),
        (200, &json!(0))
    );
    assert_eq!(faults(&answer).len(), 1_000);
    assert_eq!(answer.json.get("token"), None);
    let answer = post(&node, "/items?partial=true", &[JSON], b"[]".to_vec()).await;
    assert_eq!(answer.json, json!({"accepted": 0, "new": 0, "errors": []}));

    post(&node, "/items?partial=true", &[JSON], b"[{}".to_vec())
        .await
        .assert_problem(400, "malformed-body");
    let many = serde_json::to_vec(&items("p", 0, 1_001)).expect("JSON");
    post(&node, "/items?partial=true", &[JSON], many)
        .await
        .assert_problem(413, "too-many-items");
    post(&node, "/items?partial=false", &[JSON], body.clone())
        .await
        .assert_problem(422, "invalid-items");
    for bad in [
        "partial=yes",
        "partial",
        "partial=true&partial=true",
        "part=true",
    ] {
        post(&node, &format!("/items?{bad}"), &[JSON], body.clone())
            .await
            .assert_problem(400, "invalid-parameter");
    }
    assert_eq!(node.count("p").await, 4);
}

/// Faults take as much room as a body's: a small body may have many.
#[tokio::test]
async fn faults_take_no_more_memory_than_bodies_may() {
    let node = Node::start(&["--body-bytes-max", "30000", "--bodies-bytes-max", "100000"]);
    let bad = format!("[{}]", vec!["0"; 10_000].join(","));
    let answer = post(&node, "/items?partial=true", &[JSON], bad.into_bytes()).await;
    answer.assert_problem(503, "overloaded");
    let few = format!("[{}]", vec!["0"; 100].join(","));
    for _ in 0..20 {
        let few = few.clone().into_bytes();
        let answer = post(&node, "/items?partial=true", &[JSON], few).await;
        assert_eq!(answer.status, 200, "the room comes back: {}", answer.text);
    }
}

#[tokio::test]
async fn unknown_parameters_are_named_with_the_nearest_known_one() {
    let node = Node::start(&[]);
    for (path, nearest) in [
        ("/items/a/count?consistancy=strong", "consistency"),
        ("/items/a/ids/1?timeout=5", "timeout_ms"),
        ("/counts?tenant=a&tenants=b", "tenant"),
        ("/tenants?limits=5", "limit"),
    ] {
        let answer = node.get(path).await;
        answer.assert_problem(400, "invalid-parameter");
        let detail = answer.json["detail"].as_str().expect("a detail");
        let named = format!("The nearest known parameter is {nearest}.");
        assert!(detail.contains(&named), "{detail}");
    }
}
