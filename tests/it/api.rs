//! The public API, rule by rule: what is posted, how names and paths are written, and what a node
//! says of itself.
//!
//! Invariant: each sentence of the README's API section has a test here or in `reads`.

use reqwest::Method;
use serde_json::json;

use crate::node::{Answer, Node, items};

#[tokio::test]
async fn an_item_counts_once_for_each_tenant() {
    let node = Node::start(&[]);
    assert_eq!(node.count("asd").await, 0, "an unknown tenant has count 0");
    let answer = node.post(&json!({"id": "5", "tenant": "asd"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json["accepted"], json!(1));
    assert!(answer.json["token"].is_string());
    assert_eq!(node.count("asd").await, 1);
    for _ in 0..2 {
        let again = node.post(&json!({"id": "5", "tenant": "asd"})).await;
        assert_eq!(again.json["accepted"], json!(1), "a duplicate is a success");
    }
    assert_eq!(node.count("asd").await, 1);
    node.post(&json!({"id": "6", "tenant": "asd"})).await;
    node.post(&json!({"id": "5", "tenant": "other"})).await;
    assert_eq!(node.count("asd").await, 2);
    assert_eq!(node.count("other").await, 1);
}

#[tokio::test]
async fn a_body_sent_with_a_get_is_ignored() {
    let node = Node::start(&[]);
    node.post(&json!({"id": "5", "tenant": "asd"})).await;
    let request = node
        .request(Method::GET, "/items/asd/count")
        .header("Content-Type", "application/json")
        .body(r#"{"id":"2","tenant":"asd"}"#);
    let answer = Answer::of(request).await;
    assert_eq!(
        answer.json,
        json!({"tenant": "asd", "count": 1, "exact": true})
    );
}

/// Index, pointer and detail of each fault that an answer names.
fn faults(answer: &Answer) -> Vec<(Option<u64>, Option<&str>, Option<&str>)> {
    answer.json["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|fault| {
            (
                fault["index"].as_u64(),
                fault["pointer"].as_str(),
                fault["detail"].as_str(),
            )
        })
        .collect()
}

#[tokio::test]
async fn arrays_and_ndjson_are_all_or_nothing() {
    let node = Node::start(&[]);
    let answer = node.post(&items("a", 0, 1_000)).await;
    assert_eq!(answer.json["accepted"], json!(1_000));
    let ndjson =
        "{\"id\":\"1000\",\"tenant\":\"a\"}\n\n{\"id\":\"1\",\"tenant\":\"b\",\"more\":[]}\r\n";
    let answer = node
        .post_as(Some("application/x-ndjson; charset=utf-8"), ndjson)
        .await;
    assert_eq!(answer.json["accepted"], json!(2));
    assert_eq!(node.count("a").await, 1_001);
    assert_eq!(node.post(&json!([])).await.json["accepted"], json!(0));
    assert_eq!(
        node.post_as(Some("application/x-ndjson"), "\n").await.json["accepted"],
        json!(0)
    );

    let bad =
        json!([{"id": "x", "tenant": "a"}, {"id": 7, "tenant": "a"}, {"id": "", "tenant": "\n"}]);
    let answer = node.post(&bad).await;
    answer.assert_problem(422, "invalid-items");
    assert_eq!(
        faults(&answer),
        [
            (
                Some(1),
                Some("/1/id"),
                Some("id must be a string, not a number")
            ),
            (Some(2), Some("/2/id"), Some("id must not be empty")),
            (
                Some(2),
                Some("/2/tenant"),
                Some("tenant must not contain control characters")
            ),
        ]
    );
    assert_eq!(
        node.count("a").await,
        1_001,
        "no item of a bad batch counts"
    );

    let broken = "{\"id\":\"y\",\"tenant\":\"a\"}\n{\"id\":";
    let answer = node.post_as(Some("application/x-ndjson"), broken).await;
    answer.assert_problem(400, "malformed-body");
    assert_eq!(answer.json["errors"][0]["index"], json!(1));
    node.post_as(Some("application/json"), "[{]")
        .await
        .assert_problem(400, "malformed-body");
    let twice = r#"{"id":"1","id":"2","tenant":"a"}"#;
    node.post_as(Some("application/json"), twice)
        .await
        .assert_problem(422, "invalid-items");
    assert_eq!(node.count("a").await, 1_001);
}

#[tokio::test]
async fn content_types_and_methods_and_paths_are_checked() {
    let node = Node::start(&[]);
    let item = r#"{"id":"1","tenant":"a"}"#;
    assert_eq!(
        node.post_as(None, item).await.status,
        200,
        "without a type it is JSON"
    );
    for other in [
        "text/plain",
        "application/xml",
        "application/json; charset=utf-16",
        "nonsense",
    ] {
        node.post_as(Some(other), item)
            .await
            .assert_problem(415, "unsupported-media-type");
    }
    let answer = node.post_as(Some("text/plain"), item).await;
    assert_eq!(answer.header("accept-encoding"), "", "not that is wrong");
    for json in ["", "text/json", "application/vnd.acme+json"] {
        assert_eq!(node.post_as(Some(json), item).await.status, 200, "{json}");
    }
    for lines in [
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    ] {
        let two = format!("{item}\n{item}\n");
        let answer = node.post_as(Some(lines), two).await;
        assert_eq!(answer.json["accepted"], json!(2), "{lines}");
    }
    let compressed = node
        .request(Method::POST, "/items")
        .header("Content-Encoding", "br")
        .body("x");
    let answer = Answer::of(compressed).await;
    answer.assert_problem(415, "unsupported-media-type");
    assert_eq!(answer.header("accept-encoding"), "gzip, zstd");

    node.get("/item").await.assert_problem(404, "not-found");
    node.get("/items/a/count/")
        .await
        .assert_problem(404, "not-found");
    for (method, path, allow) in [
        (Method::DELETE, "/items", "POST"),
        (Method::POST, "/items/a/count", "GET,HEAD"),
        (Method::PUT, "/tenants", "GET,HEAD"),
    ] {
        let answer = Answer::of(node.request(method, path)).await;
        answer.assert_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allow);
    }
}

#[tokio::test]
async fn names_are_percent_decoded_and_compared_byte_for_byte() {
    let node = Node::start(&[]);
    for (tenant, path) in [
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("é", "%C3%A9"),
        ("e\u{301}", "e%CC%81"),
        (" a ", "%20a%20"),
        ("A+b?c#", "A+b%3Fc%23"),
    ] {
        node.post(&json!({"id": "an id/ü", "tenant": tenant})).await;
        let count = node.get(&format!("/items/{path}/count")).await;
        assert_eq!(
            count.json,
            json!({"tenant": tenant, "count": 1, "exact": true})
        );
        let item = node
            .get(&format!("/items/{path}/ids/an%20id%2F%C3%BC"))
            .await;
        assert_eq!(
            item.json,
            json!({"tenant": tenant, "id": "an id/ü", "counted": true, "exact": true})
        );
    }
    assert_eq!(node.count("a").await, 0);
    let other = node.get("/items/a%2Fb/ids/other").await;
    assert_eq!(other.json["counted"], json!(false));
    for bad in [
        "/items/%ff/count",
        "/items/%00/count",
        "/items/a/ids/%0A",
        "/docs/%ff",
    ] {
        node.get(bad).await.assert_problem(400, "invalid-parameter");
    }
    let long = format!("/items/{}/count", "x".repeat(257));
    node.get(&long)
        .await
        .assert_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn the_counter_health_and_metrics_are_shown() {
    let node = Node::start(&[]);
    node.post(&items("a", 0, 7)).await;
    node.post(&items("a", 0, 7)).await;
    let counters = node.get("/counters").await.json;
    let counter = &counters["counters"][0];
    assert_eq!(counter["name"], json!("local"));
    assert_eq!(counter["state"], json!("complete"));
    assert_eq!(
        (&counter["tenants"], &counter["items"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(counter["position"]["holes"], json!(0));
    assert!(counter["lag_ms"].is_u64() && counter["last_seen_ms"].is_u64());
    for none in ["redeliveries", "snapshots", "forks"] {
        assert_eq!(counter[none], json!(0), "{none}");
    }
    let fields = counter.as_object().expect("an object");
    for remote in ["queue_messages", "lag_batches", "last_seen_ms_ago", "url"] {
        assert_eq!(fields.get(remote), Some(&json!(null)), "{remote}");
    }
    assert_eq!(node.get("/healthz").await.json, json!({"status": "ok"}));
    assert_eq!(node.get("/readyz").await.json, json!({"status": "ok"}));

    let metrics = node.get("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    for line in [
        "headcount_items_accepted_total 14",
        "headcount_items_counted_total 7",
        "headcount_items_duplicate_total 7",
        "headcount_items 7",
        "headcount_tenants 1",
        "headcount_counter_up{counter=\"local\"} 1",
        "headcount_counter_complete{counter=\"local\"} 1",
        "headcount_counter_items{counter=\"local\"} 7",
        "headcount_posts_waiting 0",
        "headcount_http_requests_total{route=\"/items\",method=\"POST\",status=\"200\"} 2",
        "headcount_http_request_duration_seconds_count{route=\"/items\",method=\"POST\"} 2",
        "headcount_batch_items_sum 14",
    ] {
        assert!(
            metrics.text.lines().any(|given| given == line),
            "{line} in\n{}",
            metrics.text
        );
    }
    for name in [
        "headcount_commit_duration_seconds_bucket",
        "headcount_append_duration_seconds_bucket",
        "headcount_store_disk_bytes",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.text.contains(name), "{name} in\n{}", metrics.text);
    }
    assert!(
        !metrics.text.contains("summary"),
        "histograms, not summaries"
    );
}

#[tokio::test]
async fn the_api_describes_itself_without_any_other_host() {
    let node = Node::start(&[]);
    let description = node.get("/openapi.json").await;
    assert!(
        description.json["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    let page = node.get("/docs").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("swagger-ui"));
    for file in [
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        let file = node.get(&format!("/docs/{file}")).await;
        assert_eq!(file.status, 200);
    }
    let script = node.get("/docs/swagger-initializer.js").await;
    assert!(script.text.contains("/openapi.json"));
    assert!(
        !page.text.contains("https://"),
        "nothing is loaded from elsewhere"
    );
    node.get("/docs/none.js")
        .await
        .assert_problem(404, "not-found");
}
