//! `GET /healthz`, `GET /readyz`, `GET /metrics`.
//!
//! Invariant: `/readyz` is 200 only while posts are admitted, the log accepts appends, and reads
//! can be exact.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::Problem;
use super::{App, Whole, gauges, json};
use headcount_coordinator::CounterView;
use headcount_rpc::Status;
use headcount_runtime::supervisor::UnaskedEnd;

/// The paths that are served even when the limit of connections is reached.
pub(super) const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The status of a healthy node.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"status": "ok"}))]
pub(crate) struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Returns 200 while the process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    responses((status = 200, description = "The process runs.", body = Health)),
)]
pub(crate) async fn healthz() -> Whole {
    json(&Health { status: "ok" })
}

/// Returns whether this node can accept items and answer reads.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "The node is ready.", body = Health),
        (
            status = 503,
            description = "The node is not ready. `detail` is the reason.",
            body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Result<Whole, Problem> {
    if let Some(end) = app.coordinator.unasked_end() {
        return Err(ends(&end));
    }
    if app.coordinator.is_leaving() || !app.coordinator.is_open() {
        return Err(going_down());
    }
    if !app.coordinator.is_started() {
        let not_yet = "Startup read not finished: earlier acknowledged writes are not known yet";
        return Err(Problem::not_ready(with_refusal(not_yet, (app.refusal)())));
    }
    let log = app.coordinator.log_state();
    if !log.connected {
        let nothing = "The broker cannot be reached, or an operation on it failed";
        return Err(Problem::not_ready(with_refusal(nothing, (app.refusal)())));
    }
    if !log.writable {
        return Err(Problem::not_ready(
            "The broker accepts no messages: it is short of memory or disk.",
        ));
    }
    match counters_lack(&app.coordinator.counters().await) {
        Some(why) => Err(Problem::not_ready(why)),
        None => Ok(json(&Health { status: "ok" })),
    }
}

/// Returns the sentence `what`, followed by one about what the broker refuses.
pub(super) fn with_refusal(what: &str, refusal: Option<String>) -> String {
    match refusal {
        Some(refusal) => format!("{what}. The broker refused an operation: {refusal}."),
        None => format!("{what}."),
    }
}

/// Returns why none of the counters makes the node ready; `None` if one does.
fn counters_lack(counters: &[CounterView]) -> Option<String> {
    let answers = counters.iter().filter_map(|view| view.status.as_ref().ok());
    let complete: Vec<&Status> = answers.filter(|status| status.complete).collect();
    if complete.iter().any(|status| status.problem.is_none()) {
        return None;
    }
    let problem = complete.iter().find_map(|status| {
        let (name, problem) = (&status.name, status.problem.as_ref()?);
        Some(format!(
            "The counter {name} accepts no deliveries: {problem}. Reads continue."
        ))
    });
    let nobody =
        || "No complete counter answers and accepts deliveries. See GET /counters.".to_owned();
    Some(problem.unwrap_or_else(nobody))
}

/// The problem of a node that was told to shut down.
pub(crate) fn going_down() -> Problem {
    Problem::not_ready("The node is shutting down.")
}

/// The problem of a node that shuts down because one of its tasks has ended.
pub(crate) fn ends(end: &UnaskedEnd) -> Problem {
    Problem::not_ready(format!("The node is shutting down: {end}. See its log."))
}

/// Returns metrics in the Prometheus text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((
        status = 200,
        description = "The metrics.",
        body = String,
        content_type = "text/plain",
    )),
)]
pub(crate) async fn get_metrics(State(app): State<Arc<App>>) -> Response {
    for counter in app.coordinator.counters().await {
        gauges::report(&counter);
    }
    app.coordinator.report();
    metrics_text((app.render_metrics)())
}

/// Creates the response with rendered metrics.
pub(crate) fn metrics_text(rendered: String) -> Response {
    let headers = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (headers, rendered).into_response()
}
