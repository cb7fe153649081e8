//! Tests of a counter node as other nodes and operators see it.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::fast_path::tests::call;
use headcount_counter::{CounterTask, LocalCounter};
use headcount_log::{Deliveries, Delivery, DeliveryError, DeliveryTag, LocalLog, local};
use headcount_model::{ItemHash, Partitioning, TenantName};
use headcount_rpc::{Contains, Counts, ListQuery, Listing, Queries, SnapshotStream, Status};
use headcount_runtime::supervisor::{Ended, Task};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreShape};

pub(crate) const SECRET: &str = "0123456789abcdef";
pub(crate) const LIMITS: BodyLimits = BodyLimits {
    body_bytes_max: 1 << 20,
    bodies_bytes_max: 1 << 20,
    body_timeout: Duration::from_secs(30),
};

/// A counter with endless snapshots, which counts their frames.
struct Endless {
    inside: LocalCounter<MemoryReader>,
    frames: Arc<AtomicUsize>,
}

impl Queries for Endless {
    fn name(&self) -> &str {
        self.inside.name()
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        self.inside.counts(tenants, demand)
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>> {
        self.inside.contains(tenant, hash, demand)
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        self.inside.list(query, demand)
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        self.inside.status()
    }
}

impl Peer for Endless {
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>> {
        let frames = Arc::clone(&self.frames);
        let frame = move || {
            frames.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from(vec![0; 1_000]))
        };
        std::future::ready(Ok(stream::repeat_with(frame).boxed())).boxed()
    }
}

/// A log whose deliveries cannot be decoded.
struct Unreadable;

impl Deliveries for Unreadable {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        Err(DeliveryError::Undecodable {
            queue: "q".into(),
            detail: "version 99".into(),
        })
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::ZERO
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, _: DeliveryTag) {}
}

struct Node {
    routes: Routes,
    frames: Arc<AtomicUsize>,
    log: Option<LocalLog>,
    supervisor: Supervisor,
}

impl Node {
    fn start(complete: bool, secret: Option<&str>) -> Self {
        let (log, deliveries) = local();
        Self {
            log: Some(log),
            ..Self::over(deliveries, complete, secret)
        }
    }

    fn over(deliveries: impl Deliveries, complete: bool, secret: Option<&str>) -> Self {
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        store.set_complete(complete);
        store.commit().expect("commits");
        let (task, inside) = CounterTask::new("c1".into(), 1, store, deliveries);
        tokio::spawn(task.run());
        let frames = Arc::<AtomicUsize>::default();
        let counter = Endless {
            inside,
            frames: Arc::clone(&frames),
        };
        let secret = secret.map(|text| ClusterSecret::new(text).expect("allowed"));
        let render = Box::new(|| "metrics\n".to_owned());
        let supervisor = Supervisor::default();
        let app = CounterApp::new(
            Arc::new(counter),
            LIMITS,
            secret,
            render,
            supervisor.clone(),
        );
        Self {
            routes: counter_routes(app),
            supervisor,
            frames,
            log: None,
        }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        call(&self.routes, "GET", path, headers, "").await
    }

    async fn until_unready(&self) -> Response {
        let ready = async {
            loop {
                let answer = self.get("/readyz", &[]).await;
                if answer.status() != StatusCode::OK {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), ready).await;
        waited.expect("it stops")
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        call(&self.routes, "POST", path, headers, body).await
    }
}

pub(crate) async fn text(response: Response) -> String {
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

pub(crate) async fn problem(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let json: Value = serde_json::from_str(&text(response).await).expect("JSON");
    assert!(
        json["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty())
    );
    let kind = json["type"].as_str().expect("a type");
    (
        status,
        kind.rsplit(':').next().unwrap_or_default().to_owned(),
    )
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
const NO_QUERY: &str = r#"{"requirements":[],"queries":[]}"#;

#[tokio::test]
async fn without_the_secret_nothing_between_nodes_answers() {
    let node = Node::start(true, Some(SECRET));
    let right = ("authorization", "Bearer 0123456789abcdef");
    let wrong = ("authorization", "Bearer 0123456789abcdeX");
    for headers in [&[JSON][..], &[JSON, wrong]] {
        for path in [STATUS_PATH, SNAPSHOT_PATH] {
            let refused = node.get(path, headers).await;
            assert_eq!(refused.headers()["www-authenticate"], "Bearer");
            assert_eq!(problem(refused).await, (401, "unauthorized".into()));
        }
        for path in [COUNTS_PATH, CONTAINS_PATH, LIST_PATH] {
            let refused = node.post(path, headers, NO_QUERY).await;
            assert_eq!(problem(refused).await, (401, "unauthorized".into()));
        }
    }
    assert_eq!(
        node.get(STATUS_PATH, &[right]).await.status(),
        StatusCode::OK
    );
    let counts = node.post(COUNTS_PATH, &[JSON, right], NO_QUERY).await;
    assert_eq!(text(counts).await, r#"{"covers":[],"answers":[]}"#);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(node.get(open, &[]).await.status(), StatusCode::OK, "{open}");
    }

    let open = Node::start(true, None);
    assert_eq!(
        open.get(STATUS_PATH, &[wrong]).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_problem() {
    let node = Node::start(true, None);
    let other = [(COUNTER_HEADER, "c2")];
    assert_eq!(
        problem(node.get(STATUS_PATH, &other).await).await,
        (421, "misdirected".into())
    );
    let own = [(COUNTER_HEADER, "c1")];
    assert_eq!(node.get(STATUS_PATH, &own).await.status(), StatusCode::OK);
    assert_eq!(
        problem(node.post(COUNTS_PATH, &[], NO_QUERY).await).await,
        (415, "unsupported-media-type".into())
    );
    for (path, body) in [(COUNTS_PATH, "{}"), (CONTAINS_PATH, ""), (LIST_PATH, "[")] {
        let refused = node.post(path, &[JSON], body).await;
        assert_eq!(problem(refused).await, (400, "unreadable-body".into()));
    }
    let long = "x".repeat(LIMITS.body_bytes_max + 1);
    let refused = node.post(COUNTS_PATH, &[JSON], &long).await;
    assert_eq!(problem(refused).await, (413, "body-too-large".into()));
    assert_eq!(
        problem(node.get("/internal/v1/none", &[]).await).await,
        (404, "not-found".into())
    );
    assert_eq!(
        problem(node.get(COUNTS_PATH, &[]).await).await,
        (405, "method-not-allowed".into())
    );
}

#[tokio::test]
async fn ready_is_a_counter_that_runs_and_is_complete() {
    let mut node = Node::start(true, None);
    assert_eq!(node.get("/readyz", &[]).await.status(), StatusCode::OK);
    assert_eq!(text(node.get("/metrics", &[]).await).await, "metrics\n");
    drop(node.log.take());
    let stopped = problem(node.until_unready().await).await;
    assert_eq!(stopped, (503, "not-ready".into()));
    assert_eq!(
        problem(node.get(STATUS_PATH, &[]).await).await,
        (503, "counter-stopped".into())
    );
    assert_eq!(node.get("/healthz", &[]).await.status(), StatusCode::OK);

    let without = Node::start(true, None);
    let task = without.supervisor.spawn(Task::AntiEntropy, async {
        std::panic::panic_any("oh") as Ended
    });
    task.await.expect("joined");
    let answer = text(without.get("/readyz", &[]).await).await;
    assert!(answer.contains("the task healer panicked: oh"), "{answer}");

    let leaving = Node::start(true, None);
    leaving.supervisor.leave();
    let refused = problem(leaving.get("/readyz", &[]).await).await;
    assert_eq!(refused, (503, "not-ready".into()));
    let asked = leaving.get(STATUS_PATH, &[]).await;
    assert_eq!(asked.status(), StatusCode::OK, "it still answers");

    let halted = Node::over(Unreadable, true, None);
    let told = text(halted.until_unready().await).await;
    assert!(
        told.contains("not-ready") && told.contains("skip-poison"),
        "{told}"
    );
    let asked = halted.get(STATUS_PATH, &[]).await;
    assert_eq!(asked.status(), StatusCode::OK);
    assert!(text(asked).await.contains(r#""problem":"#));

    let incomplete = Node::start(false, None);
    let (status, kind) = problem(incomplete.get("/readyz", &[]).await).await;
    assert_eq!((status, kind.as_str()), (503, "not-ready"));
}

#[tokio::test]
async fn only_a_few_snapshots_are_sent_at_once_and_no_faster_than_they_are_taken() {
    let node = Node::start(true, None);
    let mut first = node.get(SNAPSHOT_PATH, &[]).await;
    assert_eq!(first.headers()["content-type"], "application/octet-stream");
    let second = node.get(SNAPSHOT_PATH, &[]).await;
    let third = node.get(SNAPSHOT_PATH, &[]).await;
    assert_eq!(problem(third).await, (503, "overloaded".into()));
    for taken in 1..=5 {
        let frame = first.body_mut().frame().await.expect("a frame");
        assert_eq!(
            frame.expect("intact").into_data().expect("data").len(),
            1_000
        );
        assert!(node.frames.load(Ordering::Relaxed) <= taken + 1);
    }
    drop(second);
    assert_eq!(node.get(SNAPSHOT_PATH, &[]).await.status(), StatusCode::OK);
}
