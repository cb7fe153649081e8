//! Tests that compare the fast path with the router.
//!
//! Invariant: see the [module above](super).

use std::time::Duration;

use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;

use super::*;
use crate::{BodyLimits, HttpLimits, router};
use headcount_coordinator::{AdmissionLimits, Coordinator, CoordinatorOptions};
use headcount_counter::CounterTask;
use headcount_log::local;
use headcount_model::{BarrierEpochs, Entropy, Epoch, Partitioning};
use headcount_runtime::supervisor::{Ended, Supervisor, Task};
use headcount_store::memory::MemoryStore;
use headcount_store::{Store, StoreShape};

const BODY_BYTES_MAX: usize = 200;
const LONG: Duration = Duration::from_secs(30);

async fn app() -> Arc<App> {
    watched_app(&Supervisor::default()).await
}

async fn watched_app(supervisor: &Supervisor) -> Arc<App> {
    let shape = StoreShape {
        partitioning: Partitioning::SINGLE,
    };
    let mut store = MemoryStore::new(shape);
    store.set_complete(true);
    store.commit().expect("commits");
    let (log, deliveries) = local();
    let (task, counter) = CounterTask::new("c".into(), 1, store, deliveries);
    tokio::spawn(task.run());
    let options = CoordinatorOptions {
        batch_bytes_max: 1 << 20,
        admission: AdmissionLimits {
            waiting_bytes_max: 1 << 20,
            waiting_posts_max: 10,
        },
        accept_timeout: LONG,
        strong_reads_max: 1,
    };
    let coordinator = Coordinator::new(
        Epoch(1),
        BarrierEpochs::new(Epoch(2), Entropy::default),
        Partitioning::SINGLE,
        &log,
        vec!["c".into()],
        options,
        supervisor,
    );
    coordinator.set_member("c", Arc::new(counter), false);
    coordinator.start(LONG).await.expect("starts");
    let limits = HttpLimits {
        items_max: 2,
        bodies: BodyLimits {
            body_bytes_max: BODY_BYTES_MAX,
            bodies_bytes_max: 1 << 20,
            body_timeout: LONG,
        },
    };
    let app = App::new(coordinator, limits, Box::new(String::new));
    Arc::new(app)
}

/// Sends a request.
pub(crate) async fn call(
    routes: &Routes,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> axum::response::Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Body::from(body.to_owned()))
        .expect("a request");
    let answered = routes.clone().answer(request, Caller::default()).await;
    let response = answered.unwrap_or_else(|never| match never {});
    response.map(Body::new)
}

/// Sends a request and returns the comparable parts of its response: without the content length,
/// which the HTTP library adds, and without the token, which differs for each post.
async fn seen(
    routes: &Routes,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Vec<(String, String)>, String) {
    let mut response = call(routes, method, path, headers, body).await;
    response.headers_mut().remove(CONTENT_LENGTH);
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| (name.to_string(), format!("{value:?}")))
        .collect();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("whole");
    let mut text = String::from_utf8(bytes.to_bytes().to_vec()).expect("UTF-8");
    if let Some(token) = text.find("\"token\":") {
        text.truncate(token);
    }
    (status, headers, text)
}

/// Requests without a body, for the fast path, for the router only, and for no route.
const REQUESTS: [(&str, &str); 25] = [
    ("GET", "/items/a%2Fb/count"),
    ("GET", "/items/%C3%A9/count?consistency=strong"),
    ("GET", "/items/é/count"),
    (
        "GET",
        "/items/nobody/count?consistency=eventual&timeout_ms=0",
    ),
    ("GET", "/items/%ff/count"),
    ("GET", "/items/%2e/count"),
    ("GET", "/items/a%00/count"),
    ("GET", "/items/a/count?timeout_ms=x"),
    ("GET", "/items/a/count?x=%ff"),
    ("GET", "/items/%ff/count?timeout_ms=x"),
    ("GET", "/items/%zz/count"),
    ("GET", "/items/100%/count"),
    ("GET", "/items/a/count?consistancy=strong"),
    ("GET", "/items/a/count?timeout_ms=1&timeout_ms=1"),
    ("GET", "/items/a/count?after=%"),
    ("GET", "/items//count"),
    ("GET", "/items/count"),
    ("GET", "/items/a/b/count"),
    ("GET", "/items/a/count/"),
    ("HEAD", "/items/a%2Fb/count"),
    ("PUT", "/items"),
    ("GET", "/items"),
    ("POST", "/items/"),
    ("DELETE", "/items/a/count"),
    ("OPTIONS", "/items/a/count"),
];

#[tokio::test]
async fn an_answer_does_not_tell_which_way_its_request_took() {
    let app = app().await;
    let measures = Arc::<Measures>::default();
    let through = Routes::new(router(Arc::clone(&app), &measures));
    let past = Routes::of_coordinator(
        Arc::clone(&app),
        Arc::clone(&measures),
        router(app, &measures),
    );
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    let item = r#"{"id":"5","tenant":"a/b"}"#;
    let three = format!("[{item},{item},{item}]");
    let ndjson = ("content-type", "application/x-ndjson");
    let zipped = ("content-encoding", "gzip");
    let posts: [(&[(&str, &str)], &str); 10] = [
        (&[], item),
        (
            &[],
            r#"[{"id":"6","tenant":"a/b"},{"id":"5","tenant":"é"}]"#,
        ),
        (&[], "[]"),
        (&[ndjson], item),
        (&[zipped], item),
        (&[("content-type", "text/plain")], item),
        (&[], "{"),
        (&[], r#"{"id":5,"tenant":""}"#),
        (&[], &three),
        (&[], &long),
    ];
    for (headers, body) in posts {
        for path in [
            "/items",
            "/items?partial=true",
            "/items?x=1",
            "/items?partial=%",
        ] {
            let [one, other] = [&past, &through];
            let mut past = seen(one, "POST", path, headers, body).await;
            let through = seen(other, "POST", path, headers, body).await;
            // Items that were new in the first post are duplicates in the second.
            past.2 = past.2.replace("\"new\":1", "\"new\":0");
            past.2 = past.2.replace("\"new\":2", "\"new\":0");
            assert_eq!(past, through, "{path} {body}");
        }
    }
    let (status, headers, _) = seen(&past, "POST", "/items", &[("x-of-request", "1")], item).await;
    let json = ("content-type".to_owned(), "\"application/json\"".to_owned());
    let server = ("server".to_owned(), "\"headcount\"".to_owned());
    assert_eq!(
        (status, headers),
        (200, vec![json, server]),
        "no header of the request"
    );
    for (method, path) in REQUESTS {
        let [one, other] = [&past, &through];
        let past = seen(one, method, path, &[], "").await;
        let through = seen(other, method, path, &[], "").await;
        assert_eq!(past, through, "{method} {path}");
    }
}

#[tokio::test]
async fn a_node_is_not_ready_from_the_moment_that_a_task_ends_unasked() {
    let supervisor = Supervisor::default();
    let app = watched_app(&supervisor).await;
    let routes = Routes::new(router(app, &Arc::default()));
    let (status, _, text) = seen(&routes, "GET", "/readyz", &[], "").await;
    assert_eq!(status, 200, "{text}");
    let task = supervisor.spawn(Task::Tending, async { Ended::GaveUp("no reason".into()) });
    task.await.expect("joined");
    let (status, _, text) = seen(&routes, "GET", "/readyz", &[], "").await;
    assert_eq!(status, 503);
    assert!(
        text.contains("the task tending gave up: no reason"),
        "{text}"
    );
}

/// Errors of all kinds are problems, whichever layer detects them.
#[tokio::test]
async fn every_error_is_a_problem() {
    let routes = Routes::new(router(app().await, &Arc::default()));
    for (method, path, expected) in [
        ("GET", "/docs/%ff", 400),
        ("GET", "/docs/%zz", 400),
        ("GET", "/docs/none", 404),
        ("GET", "/nowhere%", 400),
        ("GET", "/nowhere", 404),
        ("GET", "/items/%ff/ids/1", 400),
        ("GET", "/items/a/ids/%4", 400),
        ("GET", "/tenants?offset=5", 400),
        ("GET", "/counts?tenants=a", 400),
        ("GET", "/items/a/ids/1?exact=true", 400),
        ("POST", "/items?dry_run=1", 400),
        ("DELETE", "/docs/index.html", 405),
    ] {
        let response = call(&routes, method, path, &[], "[]").await;
        let kind = response.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let seen = (response.status().as_u16(), kind);
        assert_eq!(seen, (expected, Some("application/problem+json")), "{path}");
    }
    for path in ["/healthz?x=1", "/metrics?name=y", "/counters?z"] {
        let response = call(&routes, "GET", path, &[], "").await;
        assert_eq!(response.status(), 200, "{path} takes no parameters");
    }
}

#[test]
fn only_posts_and_counts_go_past_the_router() {
    let known = |method, path| FastRoute::of(&method, path);
    assert_eq!(known(Method::POST, "/items"), Some(FastRoute::PostItems));
    assert_eq!(
        known(Method::GET, "/items/a%2Fb/count"),
        Some(FastRoute::GetCount("a%2Fb"))
    );
    for (method, path) in [
        (Method::GET, "/items"),
        (Method::POST, "/items/"),
        (Method::POST, "/items/a/count"),
        (Method::HEAD, "/items/a/count"),
        (Method::GET, "/items//count"),
        (Method::GET, "/items/count"),
        (Method::GET, "/items/a/b/count"),
        (Method::GET, "/items/a/ids/count"),
    ] {
        assert_eq!(known(method, path), None, "{path}");
    }
}
